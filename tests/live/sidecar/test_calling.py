"""smartclient and the real HAProxy of a sidecar: one understands what the other says, and neither loses a call."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import smartclient
from atlas.model import Instance as Known, Service
from atlas.world import World
from sidecar.model import Route, Side
from smartclient.errors import CallRefused, ConnectionFailed, NoInstances, UnknownService
from smartclient.runtime import Mesh, Options
from smartrealm.headers import CallContext, enter_call, leave_call
from smartservice.splits import Edge
from tests.faults import FaultServer, answer as fault_answer
from tests.live.sidecar.rendered import Instance, Proxy, running, server
from tests.processes import Callers, Child, accepts, free_port, wait_until

pytestmark = pytest.mark.needs("haproxy")

TOKEN = "the-token-of-orders"
SPLIT = "2.*=10%"


@pytest.fixture
def instances() -> Iterator[tuple[Instance, Instance]]:
    """An instance of version 1 and one of version 2."""
    with Instance("1.0") as one, Instance("2.0") as two:
        yield one, two


@pytest.fixture
def proxy(instances: tuple[Instance, Instance]) -> Iterator[Proxy]:
    """HAProxy with a split service, and with some that cannot be called."""
    one, two = (server(instance.port) for instance in instances)
    routes = [
        Route("identity", (one,), (Side(1000, (two,)),)),
        Route("empty"),
        Route("dead", (server(free_port()),)),
        Route("guarded", (one,), callers=("billing",)),
    ]
    with running({route.service: route for route in routes}) as started:
        yield started


def world_of(instances: tuple[Instance, Instance]) -> World:
    """The map that says of `identity` what HAProxy was told."""
    places = [Known("identity", "127.0.0.1", one.port, version=one.name) for one in instances]
    return World(
        services={"identity": Service("identity", split=SPLIT)},
        instances={"identity": {place.address: place for place in places}},
    )


@pytest.fixture
def session_of(tmp_path: Path) -> Iterator[Callable[..., smartclient.Session]]:
    """Makes a session that calls through a sidecar, with a map beside it or without one."""
    meshes: list[Mesh] = []

    def make(url: str | None, world: World | None = None, **options: Any) -> smartclient.Session:
        mesh = Mesh(
            Options(state_dir=str(tmp_path / "state"), sidecar_url=url, caller="orders", **options),
            world=None if world is None else lambda: world,
        )
        meshes.append(mesh)
        return smartclient.Session(mesh=mesh)

    yield make
    for mesh in meshes:
        mesh.close()


def url_of(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}"


@pytest.mark.parametrize(
    ("service", "error", "told"),
    [
        ("nowhere", UnknownService, "the sidecar knows no such service"),
        ("empty", NoInstances, "no instance of it takes calls now"),
        ("dead", (ConnectionFailed, NoInstances), "the sidecar"),  # the second, once HAProxy has found it down
        ("guarded", CallRefused, "orders is not on its allow list"),
    ],
)
@pytest.mark.parametrize("method", ["get", "post"])
def test_what_haproxy_refuses_is_an_error_that_says_why(
    proxy: Proxy,
    session_of: Callable[..., smartclient.Session],
    method: str,
    service: str,
    error: type[Exception] | tuple[type[Exception], ...],
    told: str,
) -> None:
    """Each of its own answers has its error, by every method."""
    with pytest.raises(error, match=told):
        getattr(session_of(url_of(proxy)), method)(f"service://{service}/", retries=0)


def test_a_service_cannot_speak_for_the_sidecar(session_of: Callable[..., smartclient.Session]) -> None:
    """One that relays what a sidecar said elsewhere gives an ordinary answer: a POST is not sent again for it."""
    with FaultServer(react=lambda seen: fault_answer(503, headers=["Smart-Service: empty"])) as relaying:
        with running({"identity": Route("identity", (server(relaying.port),))}) as proxy:
            response = session_of(url_of(proxy)).post("service://identity/", data=b"x")
        assert response.status_code == 503
        assert "Smart-Service" not in response.headers
        assert len(relaying.seen) == 1


def test_a_sidecar_that_asks_for_tokens_lets_through_who_has_one(
    instances: tuple[Instance, Instance], session_of: Callable[..., smartclient.Session]
) -> None:
    """Without one the error names the setting; the instance never sees it."""
    tokens = {hashlib.sha256(TOKEN.encode()).hexdigest(): "orders"}
    route = Route("identity", (server(instances[0].port),), callers=("orders",))
    with running({"identity": route}, tokens=tokens) as proxy:
        for wrong in ("", "another"):
            with pytest.raises(CallRefused, match="SIDECAR_TOKEN"):
                session_of(url_of(proxy), sidecar_token=wrong).get("service://identity/")
        seen = session_of(url_of(proxy), sidecar_token=TOKEN).get("service://identity/").json()["headers"]
        assert "smart-sidecar-token" not in dict(seen)


def test_directly_and_through_the_sidecar_a_caller_is_on_the_same_side(
    proxy: Proxy, instances: tuple[Instance, Instance], session_of: Callable[..., smartclient.Session]
) -> None:
    """The bucket of the request decides, and goes on with the call by its port, by its socket and directly."""
    ways = [
        session_of(url_of(proxy)),
        session_of(f"unix://{proxy.settings.calls_socket}"),
        session_of("", world_of(instances)),
    ]
    for bucket in (0, 999, 1000, 9999):
        token = enter_call(CallContext("id", bucket=bucket))
        try:
            said = [way.get("service://identity/").json() for way in ways]
        finally:
            leave_call(token)
        assert {one["instance"] for one in said} == {"2.0" if bucket < 1000 else "1.0"}
        assert {dict(one["headers"])["smart-bucket"] for one in said} == {str(bucket)}


@pytest.mark.parametrize(
    "headers",
    [
        [("Smart-User", "alice")],
        [("X-User-Id", "7")],
        [("X-User-Id", "7"), ("Smart-User", "alice")],
        [("Smart-User", ""), ("X-User-Id", "7")],
        [("Smart-User", "zoë, the second")],
        [("Smart-User", '"quoted"; x=1')],
        [("Cookie", "session=abc.def; other=1")],
        [("Cookie", "other=1; session=a=b==")],
        [("Cookie", "xsession=1; session=2")],
        [("Cookie", "session=abc"), ("X-User-Id", "7")],
        [("Cookie", 'session="quoted"')],
    ],
)
def test_a_service_at_the_edge_computes_the_bucket_that_haproxy_computes(
    proxy: Proxy, headers: list[tuple[str, str]]
) -> None:
    """Of the same headers and cookies, byte for byte."""
    environ = {"HTTP_" + name.upper().replace("-", "_"): text.encode().decode("latin-1") for name, text in headers}
    edge = Edge(headers=proxy.settings.key_headers, cookies=proxy.settings.key_cookies, salt=proxy.settings.realm)
    assert proxy.ask("identity", headers=headers).seen["smart-bucket"] == str(edge.bucket(environ))


def test_connections_to_haproxy_are_kept(proxy: Proxy, session_of: Callable[..., smartclient.Session]) -> None:
    """Of twenty calls the first one alone connects."""
    session = session_of(url_of(proxy))
    for _ in range(20):
        session.post("service://identity/", data=b"x", retries=0)
    assert session.mesh is not None
    assert [len(idle) for idle in session.mesh.pools._idle.values()] == [1]


class Load(Callers):
    """Calls without a pause, GET and POST in turn; what was lost, and by how many calls which way was taken."""

    def __init__(self, session: smartclient.Session) -> None:
        self.lost: list[str] = []
        self.calls = 0
        self.last = ""
        self._session = session
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(method,)) for method in ("get", "post")]

    def _run(self, method: str) -> None:
        while not self._stop.is_set():
            try:
                response = getattr(self._session, method)("service://identity/", data=b"x")
                self.last = response.attempts[-1].instance
                if response.status_code != 200:
                    self.lost.append(f"{method} {response.status_code}")
            except smartclient.RequestException as error:
                self.lost.append(f"{method} {error}")
            self.calls += 1


def test_haproxy_may_stop_and_come_back_without_a_call_lost(
    proxy: Proxy, instances: tuple[Instance, Instance], session_of: Callable[..., smartclient.Session]
) -> None:
    """While it takes no connections calls go directly, GET and POST; soon after it is back they go through it again."""
    session = session_of(url_of(proxy), world_of(instances))
    through = f"127.0.0.1:{proxy.port}"
    with Load(session) as load:
        wait_until(lambda: load.calls > 50 and load.last == through, what="calls through HAProxy")
        proxy.child.signal(signal.SIGUSR1)  # a soft stop
        wait_until(lambda: load.last not in ("", through), what="calls past HAProxy")
        proxy.child.process.wait(30)
        log = proxy.settings.directory / "second.log"
        with Child(["haproxy", "-db", "-f", proxy.settings.proxy_config], output=log) as second:
            second.wait_ready(lambda: accepts(proxy.port))
            begun = time.monotonic()
            wait_until(lambda: load.last == through, what="calls through HAProxy again")
            assert time.monotonic() - begun < 10
            load.__exit__()
            assert load.lost == []


def test_a_killed_haproxy_costs_no_call_that_may_be_repeated(
    proxy: Proxy, instances: tuple[Instance, Instance], session_of: Callable[..., smartclient.Session]
) -> None:
    """kill -9: at most the POST that was under way, and the next one when it still got a connection to what was dying."""
    with Load(session_of(url_of(proxy), world_of(instances))) as load:
        wait_until(lambda: load.calls > 50, what="calls through HAProxy")
        proxy.child.signal(signal.SIGKILL)
        wait_until(lambda: load.last not in ("", f"127.0.0.1:{proxy.port}"), what="calls past HAProxy")
    assert [one for one in load.lost if one.startswith("get")] == []
    assert len(load.lost) <= 2
