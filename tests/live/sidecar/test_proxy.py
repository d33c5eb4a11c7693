"""The HAProxy process: started, adopted, reloaded, killed, upgraded, with calls going through."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.model import Route
from sidecar.probe import is_listened_on
from sidecar.proxy import Proxy, command, program_version
from sidecar.render import Files
from smartrealm.errors import ConfigurationError, Unavailable
from tests.live.sidecar.steered import Clients, Instance, Steered, is_alive, route, steered
from tests.processes import Child, wait_until

pytestmark = pytest.mark.needs("haproxy")


def with_nonsense(files: Files, service: str) -> Files:
    """Files in which HAProxy finds something wrong with one service."""
    head = f"backend {service} from _service\n"
    assert head in files.config
    return replace(files, config=files.config.replace(head, f"{head}    nonsense on stilts\n"))


def test_reloads_under_load_lose_no_call(one: Steered, two: list[Instance]) -> None:
    """Twenty reloads, each with a new worker, while four clients call on kept connections and repeat nothing."""
    one.begin(route("orders", *two))
    workers = {one.proxy.processes().worker}
    with Clients(one, "orders") as clients:
        for _ in range(20):
            one.proxy.reload()
            workers.add(one.runtime.info().pid)
            clients.wait_for(20)
    assert clients.lost == []
    assert len(workers) == 21


def test_a_reload_takes_over_what_the_file_says_and_keeps_the_call_under_way(one: Steered, two: list[Instance]) -> None:
    """A call that the old worker has is ended by it, and counted all the same; new ones follow the new file."""
    slow, other = two
    slow.answers.clear()
    one.begin(route("orders", slow))
    answer: list[tuple[int, bytes]] = []
    call = threading.Thread(target=lambda: answer.append(one.get("orders")))
    call.start()
    try:
        wait_until(lambda: slow.calls, 5, what="the call at its instance")
        one.proxy.write(one.files(route("orders", other)))
        one.proxy.reload()
        assert one.get("orders") == (200, str(other.port).encode())
        server = ("orders", slow.server.name)
        assert one.proxy.sessions([server]) == {server: 1}
    finally:
        slow.answers.set()
        call.join(30)
    assert answer == [(200, str(slow.port).encode())]
    assert one.proxy.sessions([server]) == {server: 0}


def test_after_a_reload_idle_connections_follow_what_changes(one: Steered, two: list[Instance]) -> None:
    """The old worker, to which nothing can be told any more, passes the last request of each connection on to the new one."""
    one.begin(route("orders", *two))
    idle = [http.client.HTTPConnection("127.0.0.1", one.settings.port, timeout=10) for _ in range(10)]

    def call(connection: http.client.HTTPConnection, service: str = "orders") -> tuple[int, bytes]:
        connection.request("POST", "/", b"x", {"Smart-Service": service})
        response = connection.getresponse()
        return response.status, response.read()

    for connection in idle:
        assert call(connection)[0] == 200
    one.proxy.reload()
    one.read()
    assert one.steer(route("orders", two[1]), route("new", two[0])) == []
    assert {call(connection) for connection in idle[:8]} == {(200, str(two[1].port).encode())}
    assert call(idle[8], "new") == (200, str(two[0].port).encode())
    assert call(idle[9], "nosuch")[0] == 404
    for connection in idle:
        connection.close()


def test_a_refused_file_is_told_in_haproxys_words_and_the_old_worker_goes_on(one: Steered, two: list[Instance]) -> None:
    """The error names the service; calls go on, the runtime socket too; the next good file is loaded."""
    one.begin(route("orders", *two), route("billing", two[0]))
    good = one.files(route("orders", *two), route("billing", two[0]))
    worker = one.runtime.info().pid
    one.proxy.write(with_nonsense(good, "billing"))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"backend billing: .*nonsense") as raised:
            one.proxy.reload()
        assert raised.value.details["backends"] == ("billing",)
    assert one.get("orders")[0] == 200
    assert (one.runtime.info().pid, one.proxy.is_running()) == (worker, True)
    one.proxy.write(good)
    one.proxy.reload()
    assert one.runtime.info().pid != worker


def test_a_file_is_checked_before_it_is_in_place(one: Steered, two: list[Instance]) -> None:
    """HAProxy's complaint comes with the service that it stands in, so that one alone is set aside; nothing is written."""
    files = one.files(route("orders", *two), route("billing", two[0]))
    assert one.proxy.check(files) == ()
    problems = one.proxy.check(with_nonsense(files, "billing"))
    assert [problem.backend for problem in problems] == ["billing"]
    assert "nonsense" in problems[0].says
    assert not one.settings.proxy_config.exists()


def test_reloads_keep_their_distance(one: Steered, two: list[Instance]) -> None:
    """The first one waits for a moment, the next one until the time is over."""
    now = [1_000.0]
    one.begin(route("orders", *two))
    proxy = Proxy(one.settings, clock=lambda: now[0], sleep=lambda seconds: None, random=lambda: 0.5)
    assert proxy.reload_due_in() == 3.0
    now[0] += 3
    assert proxy.reload_due_in() == 0.0
    proxy.reload()
    assert proxy.reload_due_in() == 60.0
    now[0] += 59
    assert proxy.reload_due_in() == 1.0


@pytest.mark.parametrize("victim", ["worker", "master"])
def test_a_killed_haproxy_is_started_again(one: Steered, two: list[Instance], victim: str) -> None:
    """Whichever of its processes is killed, nothing is left of it that is in the way, and the next start serves at once."""
    one.begin(route("orders", *two))
    known = one.proxy.processes()
    os.kill(known.master if victim == "master" else known.worker or 0, signal.SIGKILL)
    wait_until(lambda: not one.proxy.is_running(), 5, what="the end of HAProxy")
    assert one.proxy.start()
    assert one.get("orders")[0] == 200
    assert not is_alive(known.master)
    assert not is_alive(known.worker or 0)


def test_a_running_haproxy_is_adopted_by_whoever_comes(one: Steered, two: list[Instance]) -> None:
    """It outlives the process that started it (a killed one), and the next agent changes and reloads it as its own."""
    one.proxy.write(one.files(route("orders", two[0])))
    code = (
        "import os, sys; from pathlib import Path; from sidecar.proxy import Proxy; from sidecar.settings import Settings;"
        "d = Path(sys.argv[1]); s = Settings(directory=d, state=d / 'state', port=int(sys.argv[2]));"
        "assert Proxy(s).start(); os.kill(os.getpid(), 9)"
    )
    arguments = [str(one.settings.directory), str(one.settings.port)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=False, timeout=20, env={**os.environ, "ATLAS_TOKEN": "s3cret"}
    )
    assert done.returncode == -signal.SIGKILL
    assert one.proxy.is_running()
    assert not one.proxy.start()
    one.adopt()
    assert one.steer(route("orders", two[1])) == []
    assert one.get("orders") == (200, str(two[1].port).encode())
    master = one.proxy.processes().master
    assert os.getsid(master) == master, "what ends the terminal of the agent would end HAProxy"
    assert b"s3cret" not in Path(f"/proc/{master}/environ").read_bytes()
    one.proxy.reload()


def test_one_that_systemd_started_is_used_and_its_signals_are_haproxys(one: Steered, two: list[Instance]) -> None:
    """External: it is never started by us, only waited for; USR2 to the master reloads, TERM ends it at once."""
    one.proxy.write(one.files(route("orders", *two)))
    outside = Proxy(one.settings, external=True, start_seconds=0.05)
    with pytest.raises(Unavailable, match="systemctl"):
        outside.start()
    with Child(command(one.settings, notify=True), output=one.settings.directory / "unit.log") as unit:
        wait_until(outside.is_running, 10, what="HAProxy of the unit")
        assert not outside.start()
        worker = one.runtime.info().pid
        unit.signal(signal.SIGUSR2)
        wait_until(lambda: outside.is_running() and one.runtime.info().pid != worker, 10, what="the new worker")
        assert one.get("orders")[0] == 200
        unit.stop()
    assert not outside.is_running()


def test_two_agents_that_start_at_once_start_one_haproxy(one: Steered, two: list[Instance]) -> None:
    """Exactly one of them starts it, the other ones adopt it: two would share the port, and half of the calls."""
    one.proxy.write(one.files(route("orders", *two)))
    started: list[bool] = []
    agents = [threading.Thread(target=lambda: started.append(Proxy(one.settings).start())) for _ in range(4)]
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.join(30)
    assert sorted(started) == [False, False, False, True]


def test_a_frozen_haproxy_is_neither_doubled_nor_cleaned_away(one: Steered, two: list[Instance]) -> None:
    """One that is alive and silent keeps its sockets and its port; the error names where its pid is."""
    one.begin(route("orders", *two))
    known = one.proxy.processes()
    fresh = Proxy(one.settings, look_seconds=0.05, clock=iter(range(10_000)).__next__, sleep=lambda seconds: None)
    os.kill(known.worker or 0, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match=r"haproxy\.pid"):
            fresh.start()
        assert is_listened_on(one.settings.runtime_socket)
    finally:
        os.kill(known.worker or 0, signal.SIGCONT)
    assert one.get("orders")[0] == 200


def test_a_haproxy_that_cannot_start_says_why(one: Steered, two: list[Instance]) -> None:
    """HAProxy's own words, or what to install; no process is left behind."""
    one.proxy.write(with_nonsense(one.files(route("orders", *two)), "orders"))
    with pytest.raises(Unavailable, match="unknown keyword 'nonsense'"):
        one.proxy.start()
    assert not is_listened_on(one.settings.runtime_socket)
    with pytest.raises(ConfigurationError, match="SIDECAR_HAPROXY"):
        Proxy(replace(one.settings, haproxy="/nosuch/haproxy")).start()


def test_two_realms_never_share_a_port(one: Steered, two: list[Instance]) -> None:
    """A second HAProxy on the same port says so and ends: with both, every second call would reach the wrong realm."""
    one.begin(route("orders", two[0]))
    with steered() as other:
        other.settings = replace(other.settings, port=one.settings.port)
        other.proxy.write(other.files(route("orders", two[1])))
        with pytest.raises(Unavailable, match=rf"Address already in use.*{one.settings.port}"):
            other.proxy.start()
        assert {one.get("orders")[1] for _ in range(8)} == {str(two[0].port).encode()}


def test_a_stop_ends_what_is_under_way_and_is_bounded(one: Steered, two: list[Instance]) -> None:
    """A call that ends in time gets its answer; one that does not is cut off, and HAProxy is gone."""
    slow = two[0]
    slow.answers.clear()
    one.begin(route("orders", slow))
    answers: list[int] = []
    call = threading.Thread(target=lambda: answers.append(one.get("orders")[0]))
    call.start()
    wait_until(lambda: slow.calls, what="the call at its instance")
    threading.Timer(0.3, slow.answers.set).start()
    assert one.proxy.stop(30)
    call.join(30)
    assert answers == [200]
    slow.answers.clear()
    assert one.proxy.start()

    def call_in_vain() -> None:
        with suppress(OSError, http.client.HTTPException):
            one.get("orders")

    doomed = threading.Thread(target=call_in_vain)
    doomed.start()
    wait_until(lambda: slow.calls == 2, 5, what="the second call")
    assert not one.proxy.stop(0.1)
    assert not one.proxy.is_running()
    doomed.join(30)
    assert one.proxy.stop(0.1), "there is nothing left to stop"


def test_files_are_written_where_they_differ_and_the_ones_before_are_kept(one: Steered, two: list[Instance]) -> None:
    """Only what changed is written, readable by its owner alone."""
    before = one.files(route("orders", two[0]))
    assert "haproxy.cfg" in one.proxy.write(before)
    assert one.proxy.write(before) == ()
    after = one.files(route("orders", two[1]))
    assert one.proxy.write(after) == ("haproxy.cfg",)
    assert one.settings.proxy_config.read_text() == after.config
    assert one.settings.proxy_config.with_name("haproxy.cfg.previous").read_text() == before.config
    modes = {path.stat().st_mode & 0o777 for path in one.settings.directory.rglob("*") if path.is_file()}
    assert modes == {0o600}


def test_a_full_disk_leaves_the_files_as_they_were(one: Steered, two: list[Instance]) -> None:
    """Where there is room for half of it nothing changes, and nothing is left lying about."""
    one.proxy.write(one.files(route("orders", two[0])))
    before = {path: path.read_bytes() for path in one.settings.directory.rglob("*") if path.is_file()}
    many = one.files(*(route(f"service-{number}", *two) for number in range(40)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        with pytest.raises(Unavailable, match="Make room"):
            one.proxy.write(many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert {path: path.read_bytes() for path in one.settings.directory.rglob("*") if path.is_file()} == before


def test_the_log_stays_below_its_bound(one: Steered, two: list[Instance]) -> None:
    """HAProxy's output is cut with each start and reload, its end kept beside it."""
    one.proxy.write(one.files(route("orders", *two)))
    log = one.proxy.log
    log.write_bytes(b"old\n" * 300_000)
    assert one.proxy.start()
    assert log.stat().st_size < 10_000
    assert 0 < log.with_name("haproxy.log.previous").stat().st_size <= 500_000


def test_versions_are_those_of_the_running_one(one: Steered, two: list[Instance]) -> None:
    """Before it runs, the program's; afterwards what answers."""
    version = program_version("haproxy")
    assert one.proxy.version() == version
    one.begin(route("orders", *two))
    assert one.proxy.version() == version
    assert one.proxy.dynamic_backends is (tuple(map(int, version.split(".")[:2])) >= (3, 4))


@pytest.mark.skipif("HAPROXY_NEWER" not in os.environ, reason="HAPROXY_NEWER names no HAProxy of 3.4 or later")
def test_a_newer_haproxy_makes_backends_while_it_runs(two: list[Instance]) -> None:
    """From 3.4 on a service that is new needs neither a spare backend nor a reload, and its backend goes with it."""
    with steered(os.environ["HAPROXY_NEWER"]) as one:
        one.begin(Route("orders"))
        assert one.proxy.dynamic_backends
        assert one.steer(route("orders", two[0]), *(route(f"new-{number}", two[1]) for number in range(9))) == []
        assert one.get("new-8") == (200, str(two[1].port).encode())
        assert one.steer(route("orders", two[0])) == []
        one.tidy()
        assert one.get("new-8")[0] == 404
