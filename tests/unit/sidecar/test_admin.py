"""The sidecar over HTTP: reading for everybody on the host, doing for its owner, nothing for pages from elsewhere."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.admin import Admin, Source
from sidecar.audit import Audit
from sidecar.control import Control, why_path
from sidecar.facts import Rate
from sidecar.http_server import Listener, Request, Response, json_answer
from smartrealm.errors import ConfigurationError, NotFound, Unavailable, ValidationFailed
from tests.unit.sidecar.scene import NOW, WELL, FakeSource, guarded

HERE = {"host": "127.0.0.1:4001"}


@pytest.fixture
def source(tmp_path: Path) -> FakeSource:
    return FakeSource(tmp_path)


def no_exporter(path: Path, target: str) -> str:
    raise Unavailable("HAProxy's exporter does not answer.")


def admin(source: Source, exporter: Callable[[Path, str], str] = no_exporter) -> Admin:
    return Admin(source, wall_clock=lambda: NOW, exporter=exporter)


def get(source: Source, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Response:
    """What the loopback port answers."""
    name, _, query = path.partition("?")
    asked = {"scope": query.split("&")} if query else {}
    values = {key: [one.partition("=")[2] for one in found] for key, found in asked.items()}
    return admin(source).answer(Request(method, name, values, HERE if headers is None else headers))


def post(source: Source, path: str, document: Any, *, local: bool = True, uid: int | None = None) -> Response:
    """What the control socket answers."""
    return admin(source).answer(Request("POST", path, {}, HERE, json.dumps(document).encode(), local, uid))


def problem(answer: Response) -> dict[str, Any]:
    assert answer.content_type == "application/problem+json"
    body: dict[str, Any] = json.loads(answer.body)
    assert body["status"] == answer.status
    return body


def audit(source: FakeSource) -> list[dict[str, Any]]:
    path = source.settings.state / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v1/status",
        "/v1/routes",
        "/v1/routes/identity",
        "/v1/rates",
        "/v1/why/identity",
        "/healthcheck",
        "/healthcheck/live",
    ],
)
def test_everything_can_be_read_on_the_port(source: FakeSource, path: str) -> None:
    """GET and HEAD answer 200 with JSON."""
    answer = get(source, path)
    assert answer.status == 200
    assert isinstance(json.loads(answer.body), dict)
    assert get(source, path, method="HEAD").status == 200


def test_the_name_of_a_file_that_is_no_text_blinds_nobody(tmp_path: Path) -> None:
    """Whoever may announce may name a file in bytes that are no UTF-8: the status and the health are told all the same."""
    name = os.fsdecode(b"announce/bad\xff.json")
    blind = FakeSource(tmp_path, replace(WELL, unusable={name: "Its name cannot be."}))
    for path in ("/v1/status", "/healthcheck", "/healthcheck/ready"):
        assert isinstance(json.loads(get(blind, path).body), dict)


def test_an_address_in_a_path_may_be_encoded(source: FakeSource) -> None:
    """`/v1/why/SERVICE/ADDRESS`, as the command asks it."""
    document = json.loads(get(source, why_path("identity", "10.0.0.7:8000")).body)
    assert [one["address"] for one in document["instances"]] == ["10.0.0.7:8000"]


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v1/routes/zzz",
        "/healthcheck/nonsense",
        "/page/../admin.py",
        "/page/%2e%2e%2fadmin.py",
        "/page/nothing.js",
    ],
)
def test_what_is_not_there_is_404(source: FakeSource, path: str) -> None:
    """As a problem; nothing outside of the page's folder can be read."""
    assert problem(get(source, path))["code"] == "not-found"


def test_the_page_lets_a_browser_load_nothing_from_elsewhere(source: FakeSource) -> None:
    """Each file has the policy, its type, and a tag with which it is not sent twice."""
    for path in (
        "/",
        "/page/page.js",
        "/page/page.css",
        "/page/icon.svg",
        "/page/frame.css",
        "/page/frame.js",
        "/page/words.js",
    ):
        answer = get(source, path)
        assert answer.status == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert get(source, path, {**HERE, "if-none-match": answer.headers["ETag"]}).status == 304


def test_the_routes_are_asked_for_again_only_when_they_changed(source: FakeSource) -> None:
    """`routes_version` stays while plan, ejections and conditions do."""
    one = admin(source)
    versions = [json.loads(one.answer(Request("GET", "/v1/status", {}, HERE)).body)["routes_version"] for _ in range(2)]
    source.now_plan = guarded()
    versions.append(json.loads(one.answer(Request("GET", "/v1/status", {}, HERE)).body)["routes_version"])
    assert versions[0] == versions[1] != versions[2]


def test_haproxy_is_asked_for_rates_once_a_second_at_most(source: FakeSource) -> None:
    """However many look at the page."""
    now = [100.0]
    one = Admin(source, wall_clock=lambda: NOW, clock=lambda: now[0])
    for _ in range(5):
        one.answer(Request("GET", "/v1/rates", {}, HERE))
    assert source.asked_for_rates == 1
    now[0] += 1.1
    one.answer(Request("GET", "/v1/rates", {}, HERE))
    assert source.asked_for_rates == 2


def test_a_proxy_that_hangs_is_asked_by_one_and_holds_up_nobody(source: FakeSource) -> None:
    """While its figures are waited for the status is answered; who waited with the first does not begin to wait anew."""
    begun, go_on = threading.Event(), threading.Event()

    class Hanging(FakeSource):
        def rates(self) -> Mapping[str, Rate]:
            self.asked_for_rates += 1
            begun.set()
            go_on.wait(5)
            raise Unavailable("HAProxy does not answer.")

    hanging = Hanging(source.settings.directory.parent)
    one = Admin(hanging, wall_clock=lambda: NOW, clock=lambda: 100.0)
    found: list[int] = []

    def ask() -> None:
        found.append(one.answer(Request("GET", "/v1/rates", {}, HERE)).status)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    assert one.answer(Request("GET", "/v1/status", {}, HERE)).status == 200
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert found == [503] * 4
    assert hanging.asked_for_rates == 1


def test_rates_without_haproxy_are_503(source: FakeSource) -> None:
    """And nothing else is hurt by it."""
    source.now_rates = None
    assert problem(get(source, "/v1/rates"))["code"] == "unavailable"
    assert get(source, "/v1/status").status == 200


def test_the_metrics_join_those_of_haproxy(source: FakeSource) -> None:
    """Its exporter is asked for the scopes that were asked for; when it is away, ours are told all the same."""
    asked = []

    def exporter(path: Path, target: str) -> str:
        asked.append((path, target))
        return "haproxy_process_uptime_seconds 5\n"

    one = admin(source, exporter)
    text = one.answer(Request("GET", "/metrics", {}, HERE)).body.decode()
    assert "sidecar_ready 1\n" in text
    assert text.endswith("haproxy_process_uptime_seconds 5\n")
    assert asked == [(source.settings.exporter_socket, "/metrics?scope=global&scope=frontend&scope=backend")]
    assert "sidecar_exporter_up 0" in get(source, "/metrics").body.decode()
    assert "exporter_up" not in get(source, "/metrics?scope=none").body.decode()
    assert problem(get(source, "/metrics?scope=secret"))["status"] == 400


# -- who may ask -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1", "[::1]:4001"])
def test_this_host_is_answered_under_its_own_names(source: FakeSource, host: str) -> None:
    """With any port, since somebody may have tunnelled here."""
    assert get(source, "/v1/status", {"host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "127.0.0.1@evil.example"},
        {**HERE, "origin": "http://evil.example"},
        {**HERE, "origin": "null"},
        {**HERE, "origin": "http://127.0.0.1:3000"},
        {**HERE, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
        {**HERE, "sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"},
        {**HERE, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ],
)
def test_pages_from_elsewhere_are_refused(source: FakeSource, headers: dict[str, str]) -> None:
    """A name that was bent to point here, another origin, a frame: 403, and nothing of the map in the answer."""
    answer = get(source, "/v1/status", headers)
    assert problem(answer)["code"] == "forbidden"
    assert b"identity" not in answer.body


def test_a_link_from_elsewhere_opens_the_page(source: FakeSource) -> None:
    """Somebody who follows a link in a chat sees the page; a request without any host is none."""
    visit = {**HERE, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert get(source, "/", visit).status == 200
    assert get(source, "/", {}).status == 400


@pytest.mark.parametrize("path", ["/v1/accept", "/v1/reload"])
def test_nothing_can_be_done_through_the_port(source: FakeSource, path: str) -> None:
    """Whatever is sent, nothing reaches the agent and nothing is on record."""
    assert problem(post(source, path, {"service": "identity", "why": "x"}, local=False))["status"] == 403
    assert get(source, path).status == 403
    assert source.told == []
    assert audit(source) == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_reading_takes_get_alone(source: FakeSource, method: str) -> None:
    """405 says which methods there are; the socket is as strict."""
    answer = get(source, "/v1/status", method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert admin(source).answer(Request("GET", "/v1/accept", local=True)).headers["Allow"] == "POST"


# -- doing -------------------------------------------------------------------------------------------------------------


def test_an_override_is_on_record_with_who_when_why_and_what(source: FakeSource) -> None:
    """The system vouches for the login; what they call themselves is told beside it."""
    source.now_plan = guarded()
    told = {"service": "identity", "why": "rack 3 burned", "by": "anna"}
    answer = post(source, "/v1/accept", told, uid=os.getuid())
    assert json.loads(answer.body)["let_go"] == ["10.0.0.8:8000", "10.0.0.9:8000"]
    (entry,) = audit(source)
    assert (entry["at"], entry["what"], entry["why"]) == (NOW, "accept", "rack 3 burned")
    assert entry["by"].startswith("anna (as ")
    assert entry["addresses"] == ["10.0.0.8:8000", "10.0.0.9:8000"]
    assert stat.S_IMODE((source.settings.state / "audit.jsonl").stat().st_mode) == 0o600
    assert [one[:2] for one in source.told] == [("accept", "identity")]


def test_what_cannot_be_recorded_is_not_done(source: FakeSource) -> None:
    """A disk that refuses the record refuses the override."""
    source.now_plan = guarded()
    source.settings.state.parent.mkdir(exist_ok=True)
    source.settings.state.write_text("in the way")
    answer = post(source, "/v1/accept", {"service": "identity", "why": "x"})
    assert "Nothing was done" in problem(answer)["detail"]
    assert source.told == []


def test_nothing_held_is_nothing_to_accept(source: FakeSource) -> None:
    """404, and no line in the record."""
    assert post(source, "/v1/accept", {"service": "identity", "why": "x"}).status == 404
    assert audit(source) == []


@pytest.mark.parametrize(
    ("document", "wrong"),
    [
        ({"service": "identity"}, "why"),
        ({"service": "identity", "why": "  "}, "why"),
        ({"service": "No Name", "why": "x"}, "service"),
        ({"service": "identity", "why": "x", "force": True}, "force"),
        ({"service": 7, "why": 8}, "service"),
        ([], "object"),
        ("text", "object"),
    ],
)
def test_a_body_that_cannot_be_is_422(source: FakeSource, document: Any, wrong: str) -> None:
    """Every mistake is named."""
    body = problem(post(source, "/v1/accept", document))
    assert body["status"] == 422
    assert wrong in body["detail"]


def test_a_reload_reaches_the_agent_with_who_and_why(source: FakeSource) -> None:
    """It is asked for, and on record."""
    assert post(source, "/v1/reload", {"why": "a try", "by": "anna"}).status == 200
    ((what, why),) = source.told
    assert (what, why.partition(" (")[0]) == ("reload", "a try")
    assert why.startswith("a try (anna")
    assert [entry["what"] for entry in audit(source)] == ["reload"]


def test_an_agent_that_is_busy_is_told(tmp_path: Path) -> None:
    """Not as a request that did not arrive: what was asked for may still be done."""

    class Busy(FakeSource):
        def reload(self, *, why: str) -> None:
            raise TimeoutError

    body = problem(post(Busy(tmp_path), "/v1/reload", {"why": "x"}))
    assert (body["status"], body["code"]) == (504, "deadline-exceeded")


def test_two_writers_do_not_mix_their_records(tmp_path: Path) -> None:
    """Each line is whole, however many write at once."""
    one = Audit(tmp_path, wall_clock=lambda: NOW)
    threads = [threading.Thread(target=one.write, args=("x",), kwargs={"by": "a", "why": "y" * 3000}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [json.loads(line)["what"] for line in one.path.read_text().splitlines()] == ["x"] * 8


# -- the sockets -------------------------------------------------------------------------------------------------------


@pytest.fixture
def listening(source: FakeSource) -> Iterator[Control]:
    """The control socket of a running admin server."""
    one = admin(source).start()
    try:
        yield Control(source.settings.control_socket)
    finally:
        one.close()


def test_the_control_socket_is_for_its_owner(source: FakeSource, listening: Control) -> None:
    """Nobody else may open it, and what asks through it need not name a host."""
    assert stat.S_IMODE(source.settings.control_socket.stat().st_mode) == 0o600
    assert listening.get("/v1/status")["state"] == "well"


def test_errors_come_out_as_they_went_in(listening: Control) -> None:
    """The client raises what the agent raised."""
    with pytest.raises(NotFound, match="The guard holds nothing of identity"):
        listening.post("/v1/accept", {"service": "identity", "why": "x"})
    with pytest.raises(ValidationFailed) as raised:
        listening.post("/v1/accept", {"service": "identity"})
    assert raised.value.errors[0]["pointer"] == "#/why"


def test_a_socket_that_was_left_behind_is_replaced(source: FakeSource) -> None:
    """After a crash the next agent listens under the same name; whoever closes takes away its own socket alone."""
    first = admin(source).start()
    second = admin(source).start()
    first.close()
    assert Control(source.settings.control_socket).get("/v1/status")["state"] == "well"
    second.close()
    assert not source.settings.control_socket.exists()
    with pytest.raises(Unavailable, match="No sidecar runs here"):
        Control(source.settings.control_socket).get("/v1/status")


def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    """With its length and what to set, instead of an error of the system."""
    source = FakeSource(tmp_path / ("x" * 100))
    with pytest.raises(ConfigurationError, match="at most 107: set SIDECAR_DIR"):
        admin(source).start()


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    """With the variable to set; the control socket is not left behind."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        source = FakeSource(tmp_path, admin_port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="SIDECAR_ADMIN_PORT"):
            admin(source).start()
    assert not source.settings.control_socket.exists()


def say_yes(request: Request) -> Response:
    return json_answer({"local": request.local})


@pytest.fixture
def port() -> Iterator[int]:
    """A listener that answers two at once, and waits 50 ms for a request."""
    one = Listener(say_yes, local=False, most=2, read_seconds=0.05).listen_on_port(0)
    try:
        yield one.port
    finally:
        one.close()


def exchange(port: int, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as asking:
        asking.sendall(sent)
        said = b""
        while chunk := asking.recv(65536):
            said += chunk
    return said


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, 413),
        (b"GET / HTTP/1.1\r\nHost: local", 408),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab", 408),
    ],
)
def test_what_is_no_request_is_answered_and_survived(port: int, sent: bytes, status: int) -> None:
    """Broken, too long or unfinished: an answer with its status within the time, and the next one is served."""
    said = exchange(port, sent)
    assert said.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Connection: close" in said
    assert (said.partition(b"\r\n\r\n")[2] == b"") == sent.startswith(b"HEAD")
    assert exchange(port, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_beyond_the_bound_callers_are_told_to_come_again() -> None:
    """One who says nothing yet takes a place; the next one gets an answer at once instead of waiting for it."""
    one = Listener(say_yes, local=False, most=1).listen_on_port(0)
    try:
        with socket.create_connection(("127.0.0.1", one.port), timeout=5) as slow:
            assert b"come again" in exchange(one.port, b"GET / HTTP/1.1\r\n\r\n")
            slow.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert slow.recv(100).startswith(b"HTTP/1.1 200 ")
    finally:
        one.close()


def test_a_byte_now_and_then_is_no_way_to_stay(port: int) -> None:
    """The time is for the whole request, however often something comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as dripping:
        sent = 0
        while not select.select([dripping], [], [], 0.005)[0]:
            dripping.sendall(b"x")
            sent += 1
        assert dripping.recv(100).startswith(b"HTTP/1.1 408 ")
    assert sent <= 11


def test_a_handler_that_fails_is_told_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets a problem without what failed; the next request is served."""

    def fail(request: Request) -> Response:
        raise RuntimeError("s3cret")

    one = Listener(fail, local=False).listen_on_port(0)
    try:
        said = exchange(one.port, b"GET / HTTP/1.1\r\n\r\n")
    finally:
        one.close()
    assert said.startswith(b"HTTP/1.1 500 ")
    assert b"s3cret" not in said
    assert "s3cret" in caplog.text
