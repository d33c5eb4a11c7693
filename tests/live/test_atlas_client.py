"""The map over HTTP, from the client's side: failover, what is repeated and what is not, errors, and the token that nobody sees."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from atlas import wire
from atlas.client import HttpDirectory
from atlas.model import Author, Lease, Override, Ruling, Service
from atlas.replicas import Patience, why_never_sent
from atlas.world import Delta, Position, World
from smartrealm import errors
from smartrealm.errors import ConfigurationError, SmartError, Unavailable, ValidationFailed
from tests.processes import free_port

BY = Author("anna", "because")
TOKEN = "t1.never-to-be-shown"
QUICK = Patience(connect=0.5, answer=0.3, beyond_poll=0.3, pause=0.001)


class Replica:
    """A server that answers what the test says: `answers` are taken in turn, the last one stays."""

    def __init__(self) -> None:
        self.answers: list[Any] = [(200, {"revision": 1}, {})]
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        replica = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                replica.asked.append((self.command, self.path, dict(self.headers), json.loads(body) if body else None))
                said = replica.answers.pop(0) if len(replica.answers) > 1 else replica.answers[0]
                if said == "break off":
                    self.close_connection = True
                    return
                if said == "say nothing":
                    replica.silence.wait(0.5)
                    self.close_connection = True
                    return
                status, data, headers = said
                content = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *args: object) -> None:
                pass

        self.silence = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.origin = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=lambda: self.server.serve_forever(0.01), daemon=True).start()

    def close(self) -> None:
        self.silence.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def replicas() -> Iterator[tuple[Replica, Replica]]:
    """Two of them."""
    with contextlib.ExitStack() as stack:
        made = (Replica(), Replica())
        for one in made:
            stack.callback(one.close)
        yield made


Connect = Callable[..., HttpDirectory]


@pytest.fixture
def connect(replicas: tuple[Replica, Replica]) -> Iterator[Connect]:
    """A client of the first replica, then the second; or of `to=`."""
    with contextlib.ExitStack() as stack:

        def make(*, to: str | None = None, token: str | None = TOKEN, **options: Any) -> HttpDirectory:
            url = to or "http://" + ",".join(one.origin for one in replicas)
            made = HttpDirectory(url, token=token, patience=QUICK, spread=lambda: 0.0, **options)
            return stack.enter_context(made)

        yield make


EMPTY: tuple[int, dict[str, Any], dict[str, str]] = (200, {"complete": True, "position": "e.1.1", "items": []}, {})
BROKEN = ["break off", "say nothing", (503, {"code": "unavailable"}, {}), (502, b"<html>bad gateway</html>", {})]


@pytest.mark.parametrize("failure", BROKEN, ids=["breaks off", "is silent", "cannot answer", "is a proxy without one"])
def test_a_read_goes_on_with_the_next_replica_and_stays_there(
    failure: Any, connect: Connect, replicas: tuple[Replica, Replica]
) -> None:
    """However the first one fails; later questions do not go back to it."""
    one, two = replicas
    one.answers, two.answers = [failure], [EMPTY]
    directory = connect()
    for _ in range(3):
        assert directory.world() == World(Position("e", 1, 1))
    assert (len(one.asked), len(two.asked)) == (1, 3)


@pytest.mark.parametrize("failure", BROKEN[:3], ids=["breaks off", "is silent", "cannot answer"])
def test_a_write_that_may_have_been_received_is_repeated_only_where_that_changes_nothing(
    failure: Any, connect: Connect, replicas: tuple[Replica, Replica]
) -> None:
    """Setting something twice is setting it; a token made twice is two tokens, and what is removed cannot be removed again.

    Whether it is repeated depends on the kind of write, not on how the first one failed: all kinds are tried with the
    failure that costs no time, two of each with the others.
    """
    one, two = replicas
    tried = slice(None) if failure == "break off" else slice(2)
    writes: tuple[Callable[[HttpDirectory], object], ...] = (
        lambda directory: directory.create_token("reader", "x", by=BY),
        lambda directory: directory.revoke_token("t1", by=BY),
        lambda directory: directory.unset_override("web", "A", by=BY),
        lambda directory: directory.remove_service("web", by=BY),
        lambda directory: directory.import_([{}]),
    )
    for write in writes[tried]:
        one.answers = [failure]
        with pytest.raises(Unavailable):
            write(connect())
    assert two.asked == []
    repeatables: tuple[Callable[[HttpDirectory], object], ...] = (
        lambda directory: directory.put_service(Service("web"), by=BY),
        lambda directory: directory.set_override("web", "A", 1, by=BY),
        lambda directory: directory.rule(Ruling("web", "h", 1), by=BY),
        lambda directory: directory.rollback(1, by=BY),
        lambda directory: directory.hold(Lease("h", "i")),
        lambda directory: directory.release("h", "i"),
    )
    for repeatable in repeatables[tried]:
        one.answers = [failure]
        repeatable(connect())
    assert len(two.asked) == len(repeatables[tried])


def test_whatever_was_never_received_is_sent_to_the_next_replica(
    connect: Connect, replicas: tuple[Replica, Replica]
) -> None:
    """A replica that is not there has made nothing."""
    two = replicas[1]
    two.answers = [(201, {"id": "t1", "role": "reader", "subject": "x", "created_at": 1.0, "token": "text"}, {})]
    directory = connect(to=f"http://127.0.0.1:{free_port()},{two.origin}")
    text, kept = directory.create_token("reader", "x", by=BY)
    assert (text, kept.id, len(kept.digest)) == ("text", "t1", 64)


def test_the_only_replica_is_asked_twice(connect: Connect, replicas: tuple[Replica, Replica]) -> None:
    """A connection that the server closed meanwhile costs nothing but that."""
    one = replicas[0]
    one.answers = ["break off", EMPTY]
    assert connect(to=f"http://{one.origin}").world() == World(Position("e", 1, 1))
    one.answers = ["break off"]
    with pytest.raises(Unavailable, match="broke off"):
        connect(to=f"http://{one.origin}").world()


ERRORS = [
    (400, "bad-request", errors.BadRequest),
    (401, "unauthorized", errors.Unauthorized),
    (403, "forbidden", errors.Forbidden),
    (404, "not-found", errors.NotFound),
    (409, "conflict", errors.Conflict),
    (422, "validation-failed", errors.ValidationFailed),
    (503, "unavailable", errors.Unavailable),
    (503, "overloaded", errors.Overloaded),
    (500, "internal", errors.Unavailable),
    (404, None, errors.NotFound),
    (429, None, errors.Unavailable),
    (302, None, errors.Unavailable),
]


@pytest.mark.parametrize(("status", "code", "kind"), ERRORS, ids=[f"{status} {code}" for status, code, _ in ERRORS])
def test_an_error_of_the_server_is_the_same_error_here(
    status: int, code: str | None, kind: type[SmartError], connect: Connect, replicas: tuple[Replica, Replica]
) -> None:
    """Its class, its sentence, its members; one without a body by its status."""
    said = {"code": code, "detail": "what is wrong", "near": ["web"], "errors": [{"pointer": "#/a", "detail": "no"}]}
    for one in replicas:
        one.answers = [(status, said if code else b"nonsense", {"Retry-After": "3"})]
    with pytest.raises(kind) as caught:
        connect().world()
    assert type(caught.value) is kind
    if code and status < 500:
        assert caught.value.message == "what is wrong"
        assert caught.value.details["near"] == ["web"]
    if isinstance(caught.value, ValidationFailed):
        assert caught.value.errors == ({"pointer": "#/a", "detail": "no"},)
    if isinstance(caught.value, Unavailable) and status == 503:
        assert caught.value.retry_after_seconds == 3


def test_the_token_is_sent_and_never_shown(
    connect: Connect, replicas: tuple[Replica, Replica], caplog: pytest.LogCaptureFixture
) -> None:
    """Not in a repr, a message or a log line, whatever goes wrong."""
    caplog.set_level("DEBUG")
    shown = []
    for said in [*BROKEN, (401, {"code": "unauthorized", "detail": "unknown"}, {}), (200, b"nonsense", {})]:
        for one in replicas:
            one.answers = [said]
        directory = connect()
        with pytest.raises(SmartError) as caught:
            directory.world()
        shown += [str(caught.value), repr(caught.value), repr(directory), repr(vars(directory))]
    assert replicas[0].asked[0][2]["Authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in caplog.text + "".join(shown)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://", "no host"),
        ("http://a,,b", "no host"),
        ("http://a:port", "no host"),
        ("ftp://a", "no URL"),
        ("http://user:secret@a", "ATLAS_TOKEN"),
        ("http://a?token=secret", "no URL"),
        ("http://a,https://b", "no URL"),
        ("http://a/x,http://b/x", "no URL"),
    ],
)
def test_a_url_that_cannot_be_understood_is_explained(url: str, said: str) -> None:
    """Before anything is connected, and without repeating what may be a credential."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        HttpDirectory(url)
    assert "secret" not in str(caught.value)


def test_the_scheme_may_stand_before_each_host() -> None:
    """Whoever writes the replicas as whole URLs means the same replicas."""
    written = HttpDirectory("https://a:1, https://b/atlas")
    assert repr(written) == repr(HttpDirectory("https://a:1,b/atlas"))
    assert "https://b" in repr(written)


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "schlüssel"])
def test_a_token_that_is_none_is_refused_without_repeating_it(token: str) -> None:
    """A line break that came along in a file would end in the header."""
    with pytest.raises(ConfigurationError, match="ATLAS_TOKEN") as caught:
        HttpDirectory("http://a", token=token)
    assert token not in str(caught.value)


def test_replicas_may_have_ports_and_a_path(connect: Connect, replicas: tuple[Replica, Replica]) -> None:
    """`http://a:1,b:2/atlas` asks under /atlas/v1/."""
    one = replicas[0]
    one.answers = [EMPTY]
    connect(to=f"http://{one.origin}/atlas/").world()
    assert one.asked[0][1] == "/atlas/v1/world"


@pytest.mark.parametrize("text", ["anna", "Jürgen", "a\nb", "100% sure", "50%25", "日本", "a\r\nX-Evil: 1"])
def test_any_name_and_reason_arrives_as_it_was_said(
    text: str, connect: Connect, replicas: tuple[Replica, Replica]
) -> None:
    """Whatever characters it has; none of them becomes another header."""
    connect().put_service(Service("web"), by=Author(text, text))
    headers = replicas[0].asked[0][2]
    assert wire.read_header(headers[wire.AUTHOR]) == text
    assert wire.read_header(headers[wire.WHY]) == text
    assert "X-Evil" not in headers


def test_names_in_paths_stay_one_part(connect: Connect, replicas: tuple[Replica, Replica]) -> None:
    """`*`, brackets and dots are written so that nobody on the way resolves them; a slash is refused."""
    directory = connect()
    directory.set_override("*", "A", 1, by=BY)
    directory.rule(Ruling("web", "::1", 80), by=BY)
    directory.hold(Lease("web@h:1", "i"))
    directory.revoke_token("..", by=BY)
    paths = [path for _, path, _, _ in replicas[0].asked]
    assert paths == ["/v1/config/%2A/A", "/v1/rulings/web/%5B::1%5D:80", "/v1/leases/web@h:1", "/v1/tokens/%2E%2E"]
    with pytest.raises(ValidationFailed):
        directory.revoke_token("a/b", by=BY)


DELTA = {"complete": False, "since": "e.1.1", "position": "e.2.1", "edits": [["override", "web/A", None]]}


def test_a_wait_asks_until_there_is_news(connect: Connect, replicas: tuple[Replica, Replica]) -> None:
    """Answers without news before the time is over are asked again; compressed ones are read."""
    zipped = gzip.compress(json.dumps(DELTA).encode())
    replicas[0].answers = [(204, {}, {}), (204, {}, {}), (200, zipped, {"Content-Encoding": "gzip"})]
    update = connect(service="web").wait(Position("e", 1, 1), 10)
    assert isinstance(update, Delta)
    assert (update.position, update.edits[0].key) == (Position("e", 2, 1), "web/A")
    assert "position=e.1.1&wait=" in replicas[0].asked[2][1]
    assert replicas[0].asked[2][1].endswith("&service=web")


def test_a_wait_ends_after_its_time(connect: Connect, replicas: tuple[Replica, Replica]) -> None:
    """With None; a long one is asked in parts that the server allows."""
    now = [0.0]
    replicas[0].answers = [(204, {}, {})]

    def sleep(seconds: float) -> None:
        now[0] += 40

    directory = connect(clock=lambda: now[0], sleep=sleep)
    assert directory.wait(Position("e", 1, 1), 100) is None
    assert [path.rpartition("wait=")[2] for _, path, _, _ in replicas[0].asked] == [
        "60.000",
        "60.000",
        "20.000",
        "0.000",
    ]


def test_a_wait_leaves_a_replica_that_is_about_to_stop(connect: Connect, replicas: tuple[Replica, Replica]) -> None:
    """The next question goes to the other one."""
    one, two = replicas
    one.answers = [(204, {}, {wire.DRAINING: "yes"})]
    two.answers = [(200, DELTA, {})]
    assert isinstance(connect().wait(Position("e", 1, 1), 10), Delta)
    assert (len(one.asked), len(two.asked)) == (1, 1)


def test_an_export_that_breaks_off_is_an_error(connect: Connect, replicas: tuple[Replica, Replica]) -> None:
    """Never taken for the whole map."""
    replicas[0].answers = [(200, b'{"format":1}\n{"kind":', {"Transfer-Encoding": "chunked"})]
    with pytest.raises(Unavailable):
        list(connect().export())


def test_a_secret_is_not_in_the_repr_of_what_was_read(connect: Connect, replicas: tuple[Replica, Replica]) -> None:
    """An override keeps its value to itself."""
    item = ["override", "web/A", Override("web", "A", "hush", secret=True).to_json()]
    replicas[0].answers = [(200, {"complete": True, "position": "e.1.1", "items": [item]}, {})]
    world = connect().world()
    assert world.overrides["web/A"].value == "hush"
    assert "hush" not in repr(world) + repr(world.overrides)


@pytest.mark.parametrize("text", ["", "x", "0", "70000", "1-", "5-x", "8000-8999,", "1-65535,1-65535"])
def test_ports_that_are_none_are_refused(text: str) -> None:
    """With the form that they have."""
    with pytest.raises(ValidationFailed, match="8000-8999"):
        wire.read_ports(text)


def test_ports_keep_their_order(connect: Connect) -> None:
    """They are tried as they were given."""
    ports = [9000, *range(8000, 8003), 7]
    assert wire.ports_text(ports) == "9000,8000-8002,7"
    assert wire.read_ports(wire.ports_text(ports)) == ports


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NameResolutionError("atlas-1", HTTPConnection("atlas-1"), socket.gaierror()), "no host of this name is known"),
        (ConnectTimeoutError("too late"), "is the host up"),
        (NewConnectionError(HTTPConnection("atlas-1"), "refused"), "is `atlas serve` running there"),
    ],
)
def test_why_a_map_cannot_be_reached_is_told(error: Exception, told: str) -> None:
    """A name that does not exist, a host that is silent and a port where nobody listens lead to three different next steps."""
    assert told in why_never_sent(error)
