"""Calls through a sidecar over real sockets: what it is told, what its answers mean, and what happens when it is away."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import smartclient
from smartclient.errors import CallRefused, ConnectionFailed, NoInstances, UnknownService
from smartclient.runtime import Mesh, Observer, Options
from smartrealm.headers import CallContext, enter_call, leave_call
from tests.faults import FaultServer, answer, close, half, hang, reset, world_of

TOKEN = "the-token-of-orders"


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """An instance of `identity`."""
    with FaultServer() as serving:
        yield serving


@pytest.fixture
def proxy() -> Iterator[FaultServer]:
    """What stands for the sidecar's HAProxy."""
    with FaultServer() as serving:
        yield serving


class Heard(Observer):
    def __init__(self) -> None:
        self.detours: list[str] = []
        self.breakers: list[str] = []

    def detour(self, service: str) -> None:
        self.detours.append(service)

    def breaker(self, service: str, state: str) -> None:
        self.breakers.append(state)


@pytest.fixture
def session_of(tmp_path: Path) -> Iterator[Callable[..., smartclient.Session]]:
    """Makes a session that calls through a sidecar; with `servers` it has a map as well."""
    meshes: list[Mesh] = []

    def make(proxy: str, *servers: FaultServer, **options: object) -> smartclient.Session:
        known = world_of([one.address for one in servers])
        mesh = Mesh(
            Options(state_dir=str(tmp_path / "state"), sidecar_url=proxy, caller="orders", **options),  # type: ignore[arg-type]
            world=(lambda: known) if servers else None,
            observer=Heard(),
        )
        meshes.append(mesh)
        return smartclient.Session(mesh=mesh)

    yield make
    for mesh in meshes:
        mesh.close()


def heard_by(session: smartclient.Session) -> Heard:
    assert session.mesh is not None
    assert isinstance(session.mesh.observer, Heard)
    return session.mesh.observer


def nobody() -> str:
    """The URL of a sidecar that takes no connections."""
    with FaultServer() as gone:
        return f"http://{gone.address}"


def test_a_sidecar_is_told_which_service_for_whom_and_by_whom(
    session_of: Callable[..., smartclient.Session], proxy: FaultServer
) -> None:
    """Name, caller, bucket and token; the token is neither in the request that the program sees nor in a repr."""
    session = session_of(f"http://{proxy.address}", sidecar_token=TOKEN)
    token = enter_call(CallContext("id", bucket=77))
    try:
        response = session.get("service://identity/teams")
    finally:
        leave_call(token)
    seen = proxy.seen[0].headers
    told = [seen[name] for name in ("smart-service", "smart-caller", "smart-bucket", "smart-sidecar-token")]
    assert told == ["identity", "orders", "77", TOKEN]
    assert "Smart-Sidecar-Token" not in response.request.headers
    assert TOKEN not in repr(session.mesh) + repr(response.attempts)  # type: ignore[attr-defined]


def test_outside_of_a_request_the_sidecar_draws_the_bucket(
    session_of: Callable[..., smartclient.Session], proxy: FaultServer
) -> None:
    """It knows the keys of the realm; a bucket that was made up here would put them out of force."""
    session_of(f"http://{proxy.address}").get("service://identity/")
    assert "smart-bucket" not in proxy.seen[0].headers


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("retries", [0, 2])
def test_a_sidecar_that_refuses_is_gone_around_at_once(
    session_of: Callable[..., smartclient.Session], server: FaultServer, method: str, retries: int
) -> None:
    """Nothing was sent, so that it holds for every method and takes none of the retries. The token stays at home."""
    session = session_of(nobody(), server, sidecar_token=TOKEN)
    begun = time.monotonic()
    response = getattr(session, method)("service://identity/", retries=retries)
    assert time.monotonic() - begun < 5
    assert response.status_code == 200
    assert [one.outcome for one in response.attempts] == ["refused", "ok"]
    assert "smart-sidecar-token" not in server.seen[0].headers
    assert len(getattr(session, method)("service://identity/", retries=retries).attempts) == 1
    assert heard_by(session).detours == ["identity", "identity"]
    assert heard_by(session).breakers == []


def test_the_way_around_takes_no_retry(session_of: Callable[..., smartclient.Session], server: FaultServer) -> None:
    """After it a call may be repeated as often as ever."""
    server.react = lambda seen: answer(503) if len(server.seen) < 3 else None
    response = session_of(nobody(), server).get("service://identity/", retries=2)
    assert [one.outcome for one in response.attempts] == ["refused", "status", "status", "ok"]  # type: ignore[attr-defined]


def test_a_sidecar_that_refuses_says_nothing_about_the_service(
    session_of: Callable[..., smartclient.Session], server: FaultServer
) -> None:
    """However often it was tried, the breaker of the service stays closed."""
    session = session_of(nobody(), server)
    assert session.mesh is not None
    assert session.mesh.sidecar is not None
    for _ in range(40):
        session.mesh.sidecar._again_at = 0.0
        assert len(session.get("service://identity/").attempts) == 2  # type: ignore[attr-defined]
    assert heard_by(session).breakers == []


def test_a_body_that_can_be_read_once_goes_around_whole(
    session_of: Callable[..., smartclient.Session], server: FaultServer
) -> None:
    """Not a byte of it was read for the sidecar."""
    session = session_of(nobody(), server)
    assert session.post("service://identity/", data=iter([b"one", b"two"])).status_code == 200
    assert server.seen[0].body == b"onetwo"


def test_a_socket_that_is_not_there_is_gone_around(
    session_of: Callable[..., smartclient.Session], server: FaultServer, tmp_path: Path
) -> None:
    """As a port on which nobody listens."""
    session = session_of(f"unix://{tmp_path}/calls.sock", server)
    assert [one.outcome for one in session.get("service://identity/").attempts] == ["refused", "ok"]  # type: ignore[attr-defined]


def test_without_a_map_a_sidecar_that_refuses_is_a_failure(session_of: Callable[..., smartclient.Session]) -> None:
    """There is no way around it, and the error names its address."""
    session = session_of(nobody())
    with pytest.raises(ConnectionFailed, match=r"refused.*127\.0\.0\.1"):
        session.get("service://identity/", retries=0)


def test_calls_return_to_a_sidecar_that_answers_again(
    session_of: Callable[..., smartclient.Session], server: FaultServer, tmp_path: Path
) -> None:
    """After its second one call tries it; with the answer all do."""
    path = f"{tmp_path}/s"
    session = session_of(f"unix://{path}", server)
    session.get("service://identity/")
    with FaultServer() as proxy, _also_at(path, proxy):
        assert session.get("service://identity/").attempts[0].instance == server.address  # type: ignore[attr-defined]
        assert session.mesh is not None
        assert session.mesh.sidecar is not None
        session.mesh.sidecar._again_at = time.monotonic()  # its second has passed
        for _ in range(2):
            assert session.get("service://identity/").attempts[0].instance == f"unix:{path}"  # type: ignore[attr-defined]
        assert len(proxy.seen) == 2


def test_calls_go_through_a_socket(
    session_of: Callable[..., smartclient.Session], proxy: FaultServer, tmp_path: Path
) -> None:
    """A unix socket carries the same requests, and its connections are kept."""
    path = f"{tmp_path}/s"
    with _also_at(path, proxy):
        session = session_of(f"unix://{path}")
        for _ in range(3):
            assert session.post("service://identity/", data=b"x").status_code == 200
    assert [one.headers["host"] for one in proxy.seen] == ["identity.smart-service"] * 3


@pytest.mark.parametrize(
    ("status", "word", "error", "told"),
    [
        (404, "unknown", UnknownService, "the sidecar knows no such service"),
        (401, "unauthorized", CallRefused, "SIDECAR_TOKEN"),
        (403, "refused", CallRefused, "orders is not on its allow list.*atlas callers"),
    ],
)
def test_what_the_sidecar_refuses_is_an_error_that_says_what_to_do(
    session_of: Callable[..., smartclient.Session],
    proxy: FaultServer,
    status: int,
    word: str,
    error: type[Exception],
    told: str,
) -> None:
    """It is sent once, and never by another way."""
    proxy.react = lambda seen: answer(status, headers=[f"Smart-Service: {word}"])
    session = session_of(f"http://{proxy.address}", sidecar_token=TOKEN)
    with pytest.raises(error, match=told) as caught:
        session.get("service://identity/")
    assert TOKEN not in str(caught.value)
    assert len(proxy.seen) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_what_a_service_answers_itself_is_an_answer(
    session_of: Callable[..., smartclient.Session], proxy: FaultServer, status: int
) -> None:
    """Without the mark of the sidecar the status is the service's."""
    proxy.react = lambda seen: answer(status)
    assert session_of(f"http://{proxy.address}").get("service://identity/", retries=0).status_code == status


@pytest.mark.parametrize(("word", "error"), [("empty", NoInstances), ("unreached", ConnectionFailed)])
def test_what_no_instance_has_got_is_tried_again_whatever_its_method(
    session_of: Callable[..., smartclient.Session], proxy: FaultServer, word: str, error: type[Exception]
) -> None:
    """The sidecar says so; in the end it is an error that names the reason."""
    proxy.react = lambda seen: answer(503, headers=[f"Smart-Service: {word}"]) if len(proxy.seen) < 3 else None
    session = session_of(f"http://{proxy.address}")
    response = session.post("service://identity/", data=b"x")
    assert [one.outcome for one in response.attempts] == [word, word, "ok"]  # type: ignore[attr-defined]
    proxy.react = lambda seen: answer(503, headers=[f"Smart-Service: {word}"])
    with pytest.raises(error, match="the sidecar"):
        session.post("service://identity/", data=b"x", retries=1)


def test_an_unknown_service_is_asked_for_all_the_same(
    session_of: Callable[..., smartclient.Session], proxy: FaultServer, server: FaultServer
) -> None:
    """The sidecar may have heard of a new service before this process has; when it has not, the near names are told."""
    session = session_of(f"http://{proxy.address}", server)
    assert session.get("service://billing/").status_code == 200
    proxy.react = lambda seen: answer(404, headers=["Smart-Service: unknown"])
    with pytest.raises(UnknownService, match="did you mean identity"):
        session.get("service://identiti/")
    with pytest.raises(UnknownService, match="does not know it yet"):
        session.get("service://identity/")


def test_a_connection_that_the_sidecar_closes_with_its_answer_loses_nothing(
    session_of: Callable[..., smartclient.Session], proxy: FaultServer
) -> None:
    """As HAProxy does after a reload: the next request takes another connection, POST as well."""
    proxy.react = lambda seen: answer(headers=["Connection: close"])
    session = session_of(f"http://{proxy.address}")
    for _ in range(20):
        assert session.post("service://identity/", data=b"x", retries=0).status_code == 200
    assert len(proxy.seen) == 20


@pytest.mark.parametrize("fault", [reset, close, half, hang(5)])
def test_what_may_have_been_executed_is_not_sent_by_another_way(
    session_of: Callable[..., smartclient.Session], proxy: FaultServer, server: FaultServer, fault: Callable[..., None]
) -> None:
    """A connection that breaks after the request was sent is no refusal: a POST fails."""
    proxy.react = lambda seen: fault
    session = session_of(f"http://{proxy.address}", server)
    with pytest.raises(smartclient.RequestException):
        session.post("service://identity/", data=b"x", deadline=0.3)
    assert server.seen == []


class _also_at:
    """A unix socket whose connections a FaultServer serves as its own."""

    def __init__(self, path: str, server: FaultServer) -> None:
        self._path = path
        self._server = server

    def __enter__(self) -> None:
        import threading

        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen(50)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        import threading

        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._server._serve, args=(connection,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.unlink(self._path)
        self._thread.join(30)
