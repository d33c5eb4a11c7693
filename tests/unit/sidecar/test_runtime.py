"""What is read from HAProxy's runtime socket, and what is made of its answers; HAProxy is a thread here."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.diff import Command
from sidecar.model import Server
from sidecar.runtime import (
    LONGEST_COMMAND,
    Info,
    Runtime,
    fits,
    map_files,
    parse_backends,
    parse_info,
    parse_map,
    parse_servers,
    parse_sessions,
    parse_sessions_of_streams,
    without_secrets,
)
from smartrealm.errors import Unavailable

HEADER = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change"
    " srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id"
    " srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port"
)


def line(
    backend: str, name: str, *, host: str = "10.0.0.1", operation: int = 2, admin: int = 0, weight: int = 100
) -> str:
    return f"3 {backend} 1 {name} {host} {operation} {admin} {weight} 100 5 6 3 4 6 0 0 0 - 8000 - 0 0 - - 0"


def told(*lines: str) -> str:
    return "\n".join(["1", HEADER, *lines])


def say(text: str, expects: str = "", about: str = "orders") -> Command:
    return Command(text, expects, about)


@contextmanager
def haproxy(answer: Callable[[str], str | None]) -> Iterator[Path]:
    """A runtime socket in interactive mode that answers each line with `answer(line)`; None: it hangs up."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, socket.socket(socket.AF_UNIX) as listening:
        path = Path(directory) / "haproxy.sock"
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, connection.makefile("rwb") as stream:
                    for received in stream:
                        text = received.decode().strip()
                        said = "" if text == "prompt" else answer(text)
                        if said is None:
                            break
                        stream.write(f"{said}\n> ".encode())
                        stream.flush()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield path
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(30)


def ordinary(text: str, pid: int = 7) -> str:
    """What a worker answers, as far as these tests ask."""
    if text == "show info":
        return f"Name: HAProxy\nVersion: 2.6.12\nPid: {pid}\nStopping: 0\n"
    return "No such server.\n" if "nosuch" in text else ""


def test_servers_are_read_with_their_place_weight_and_standing() -> None:
    """A server is what HAProxy calls, with its weight; one with `.b` behind its name is a backup, one in drain is draining."""
    backends, conditions, leaving = parse_servers(
        told(
            line("orders", "10.0.0.1:8000", weight=30),
            line("orders", "::1:8000.b", host="::1"),
            line("billing", "10.0.0.1:8000", admin=8),
        )
    )
    assert {
        "orders": {
            "10.0.0.1:8000": Server("10.0.0.1:8000", "10.0.0.1", 8000, 30),
            "::1:8000.b": Server("::1:8000.b", "::1", 8000, backup=True),
        },
        "billing": {"10.0.0.1:8000": Server("10.0.0.1:8000", "10.0.0.1", 8000, draining=True)},
    } == backends
    assert conditions == {"orders": {"10.0.0.1:8000": "up", "::1:8000.b": "up"}, "billing": {"10.0.0.1:8000": "drain"}}
    assert leaving == {}


@pytest.mark.parametrize(
    ("operation", "admin", "condition"),
    [
        (0, 0, "down"),
        (1, 0, "starting"),
        (2, 0, "up"),
        (2, 8, "drain"),
        (0, 8, "down"),
        (0, 1, "maint"),
        (2, 0x20, "maint"),
    ],
)
def test_the_condition_of_a_server_is_read_from_two_numbers(operation: int, admin: int, condition: str) -> None:
    """HAProxy's operational and administrative state are one word here."""
    conditions = parse_servers(told(line("orders", "a", operation=operation, admin=admin)))[1]
    assert condition == conditions["orders"]["a"]


def test_servers_in_maintenance_are_leaving_and_no_part_of_the_state() -> None:
    """A server in maintenance is not known as one that works; it is named as leaving."""
    backends, _, leaving = parse_servers(told(line("orders", "a", operation=0, admin=1), line("orders", "b")))
    assert (list(backends["orders"]), leaving) == (["b"], {"orders": ("a",)})


def test_columns_are_found_by_their_names() -> None:
    """A column that a later version puts in between changes nothing."""
    header = HEADER.replace("srv_name", "srv_new srv_name")
    text = f"1\n{header}\n3 orders 1 what a 10.0.0.1 2 0 7 100 5 6 3 4 6 0 0 0 - 8000 - 0 0 - - 0"
    assert {"orders": {"a": Server("a", "10.0.0.1", 8000, 7)}} == parse_servers(text)[0]


@pytest.mark.parametrize("text", ["", "Unknown command", "1\n# be_id be_name"])
def test_an_unreadable_list_of_servers_is_no_empty_one(text: str) -> None:
    """What cannot be read is never taken for a HAProxy without servers."""
    with pytest.raises(Unavailable):
        parse_servers(text)


def test_names_of_maps_and_backends_are_read() -> None:
    """Maps of the file are told from those that HAProxy makes itself, backends from HAProxy's own."""
    said = "# id (file) description\n-1 (/etc/x.map) pattern loaded by 'map'\n3 (maps/routes.map) pattern loaded from file 'maps/routes.map' used by map\n4 () pattern for acl 'known'"
    assert [Path("/etc/x.map"), Path("maps/routes.map")] == map_files(said)
    assert parse_backends("# name\norders\norders:1\n<HTTPCLIENT>\n") == ["orders", "orders:1"]


def test_of_a_key_that_is_there_twice_the_first_counts() -> None:
    """A map reads as HAProxy looks it up."""
    assert parse_map("0x1 orders orders\n0x2 billing _spare_001\n0x3 orders other\n") == {
        "orders": "orders",
        "billing": "_spare_001",
    }


def test_calls_under_way_are_read_by_the_name_of_their_column() -> None:
    """`scur` is what a server is busy with; an unknown backend has none."""
    table = "# pxname,svname,qcur,qmax,scur,smax\norders,a,0,0,3,9\norders,b,0,0,0,9\n"
    assert parse_sessions(table) == {("orders", "a"): 3, ("orders", "b"): 0}
    assert parse_sessions("Unknown proxy name.") == {}


def test_calls_of_an_old_worker_are_counted_by_server() -> None:
    """Each stream counts for the server that it is at."""
    said = (
        "0x5: proto=tcpv4 src=127.0.0.1:4 fe=_calls be=orders srv=a ts=00\n"
        "0x6: proto=tcpv4 src=127.0.0.1:5 fe=_calls be=orders srv=a ts=00\n"
        "0x7: proto=unix_stream src=unix:1 fe=GLOBAL be=<NONE> srv=<none> ts=00\n"
    )
    assert parse_sessions_of_streams(said)["a"] == 2


def test_info_tells_who_answers() -> None:
    """Pid, version and whether it is an old worker; anything else is no HAProxy."""
    assert Info(7, "3.4.7", 12, True, 3) == parse_info(
        "Pid: 7\nVersion: 3.4.7\nUptime_sec: 12\nStopping: 1\nCurrConns: 3"
    )
    with pytest.raises(Unavailable):
        parse_info("HTTP/1.1 400 Bad Request")


@pytest.mark.parametrize(
    ("answer", "expects", "good"),
    [
        ("", "", True),
        ("\n", "", True),
        ("No such server.", "", False),
        ("New server registered.\n", "New server registered.", True),
        ("Server deleted.\nBackend deleted.", "Backend deleted.", True),
        ("", "New server registered.", False),
        ("Not: New server registered.", "New server registered.", False),
    ],
)
def test_an_answer_is_the_expected_one_or_ends_with_it(answer: str, expects: str, good: bool) -> None:
    """Whatever else HAProxy says is a refusal."""
    assert good is fits(answer, expects)


def test_a_refused_command_is_reported_and_the_others_are_carried_out() -> None:
    """The refusal names service, command and HAProxy's words; what stands behind it is done all the same."""
    seen: list[str] = []

    def answer(text: str) -> str:
        seen.append(text)
        return ordinary(text)

    with haproxy(answer) as path:
        refused = Runtime(path).run([say("one"), say("nosuch", about="billing"), say("three")])
    assert [str(refusal) for refusal in refused] == ["billing: 'nosuch' was refused: No such server."]
    assert seen == ["show info", "one", "nosuch", "three", "show info"]


def test_every_answer_is_matched_with_its_command_however_they_arrive() -> None:
    """Thousands of commands go ahead of their answers, and the wrong one is found."""
    commands = [say(f"{'nosuch' if number == 2718 else 'set'} {number}", about=f"s{number}") for number in range(3_000)]
    with haproxy(ordinary) as path:
        assert [refusal.about for refusal in Runtime(path).run(commands)] == ["s2718"]


@pytest.mark.parametrize("text", ["a; b", "a\nb", "add map x <<", "x" * (LONGEST_COMMAND + 1)])
def test_what_haproxy_would_read_as_something_else_is_not_sent(text: str) -> None:
    """A command that is more than one, or too long, is refused here: HAProxy would drop it without a word, or do half of it."""
    seen: list[str] = []

    def answer(said: str) -> str:
        seen.append(said)
        return ordinary(said)

    with haproxy(answer) as path:
        refused = Runtime(path).run([say(text), say("good")])
    assert (len(refused), seen) == (1, ["show info", "good", "show info"])


def test_tokens_are_masked_in_refusals() -> None:
    """Neither the fingerprint of a token nor the whole of HAProxy's help reaches a log."""
    digest = "0123456789abcdef" * 4
    assert digest not in without_secrets(f"add map maps/tokens.map {digest} billing")
    assert len(without_secrets("x " * 900)) == 300


def test_another_worker_than_the_one_that_was_read_is_told_nothing() -> None:
    """After a reload `run` says that what is known has to be read again, before it sends anything."""
    seen: list[str] = []

    def answer(text: str) -> str:
        seen.append(text)
        return ordinary(text, pid=8)

    with haproxy(answer) as path:
        runtime = Runtime(path)
        runtime.worker = 7
        with pytest.raises(Unavailable, match=r"worker 8 .* worker 7"):
            runtime.run([say("one")])
    assert seen == ["show info"]


def test_a_worker_that_is_told_to_stop_meanwhile_is_no_success() -> None:
    """Commands that an old worker has taken are lost, and `run` says so."""
    stopping = iter("01")

    def answer(text: str) -> str:
        return f"Pid: 7\nStopping: {next(stopping)}" if text == "show info" else ""

    with haproxy(answer) as path, pytest.raises(Unavailable, match="read it again"):
        Runtime(path).run([say("one")])


def test_a_worker_that_hangs_up_in_the_middle_is_unavailable() -> None:
    """A connection that ends before the last answer is an error, not a success."""
    answer = lambda text: None if text == "two" else ordinary(text)  # noqa: E731
    with haproxy(answer) as path, pytest.raises(Unavailable, match="does not answer on"):
        Runtime(path).run([say("one"), say("two")])


def test_a_frozen_worker_is_waited_for_no_longer_than_said(tmp_path: Path) -> None:
    """A socket that takes connections and answers none is told from one that nobody listens on."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, socket.socket(socket.AF_UNIX) as listening:
        path = Path(directory) / "haproxy.sock"
        listening.bind(str(path))
        listening.listen()
        with pytest.raises(Unavailable, match="frozen or overloaded"):
            Runtime(path, timeout_seconds=0.02).info()
    with pytest.raises(Unavailable, match="not running"):
        Runtime(path).info()
