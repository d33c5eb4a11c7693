"""What one process shares for its calls to services: the mesh, which mesh is in force, and what it tells its observer."""

from __future__ import annotations

import math
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import requests
import requests.adapters

from atlas.world import World
from smartclient import breaker as breakers
from smartclient.balance import Settings as BalanceSettings
from smartclient.budget import Budget
from smartclient.errors import Attempt, NoInstances, UnknownService
from smartclient.peers import Peer as Peer, Route
from smartclient.routing import from_virtual
from smartclient.sidecar import Sidecar, Way, place_of
from smartclient.transport import Pools
from smartrealm import on_fork
from smartrealm.calling import current_caller
from smartrealm.errors import ConfigurationError
from smartrealm.places import sidecar_directory

if TYPE_CHECKING:
    from atlas.directory import Directory
    from atlas.reader import Reader

REVIEW_SECONDS = 1.0
"""How often rulings that expire by themselves are looked at, when nothing else changes the map."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a process calls services."""

    caller: str = ""
    """The name of the calling service, told to those it calls."""
    realm: str = "local"
    zone: str = ""
    """When set, instances of this zone are preferred while at least half of them are well."""
    sidecar_url: str | None = None
    """`http://host:port` or `unix:///path` of a sidecar's HAProxy. Empty: instances are called directly, as the map says. None:
    through the sidecar that lives in `sidecar_dir`, directly while there is none."""
    sidecar_dir: str | None = None
    """Where the sidecar of this host says how it is reached: see `smartrealm.places.sidecar_directory`. None: nobody looks."""
    sidecar_token: str = field(default="", repr=False)
    """Shows the sidecar who calls. It is sent to the sidecar only."""
    deadline_seconds: float = 10.0
    """Of a call for which neither the caller nor the map names one."""
    retries: int = 2
    """How often a call may be tried again, at most."""
    connect_seconds: float = 1.0
    attempt_seconds: float | None = None
    """How long one attempt of a repeatable call may take; None: half of the time that is left, the last one all of it."""
    limit: int | None = None
    """Calls to one service under way at once in this process; None: adapts itself."""
    tags: tuple[str, ...] = ()
    """Which tags of a request flow on to the services called; empty: all that the request has, which were allowed when it
    came in."""
    state_dir: str | None = None
    """Where the retry budget is shared; None: a folder of this user in memory."""
    ready_seconds: float = 2.0
    """How long the first call waits for the map."""
    breaker: breakers.Settings = field(default_factory=breakers.Settings)
    balance: BalanceSettings = field(default_factory=BalanceSettings)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Options:
        """The options that SERVICE_NAME, REALM, ZONE, SIDECAR_URL, SIDECAR_DIR and SIDECAR_TOKEN say."""
        environ = os.environ if environ is None else environ
        realm = environ.get("REALM") or "local"
        return cls(
            caller=environ.get("SERVICE_NAME", ""),
            realm=realm,
            zone=environ.get("ZONE", ""),
            sidecar_url=environ.get("SIDECAR_URL"),
            sidecar_dir=str(sidecar_directory(environ, realm)),
            sidecar_token=environ.get("SIDECAR_TOKEN", ""),
        )


class Observer:
    """Told of everything that happens to calls; does nothing itself. Called from any thread; must be quick."""

    def attempt(self, service: str, attempt: Attempt) -> None:
        """One attempt has ended."""

    def call(self, service: str, method: str, outcome: str, seconds: float, attempts: int) -> None:
        """One logical call has ended: `ok`, `failed` (an answer of 5xx or 429), `fallback`, or the code of its error."""

    def breaker(self, service: str, state: str) -> None:
        """A breaker is now `open`, `half-open` or `closed`."""

    def ejected(self, service: str, instance: str, seconds: float) -> None:
        """An instance gets no calls from this process for so long."""

    def refused(self, service: str, why: str) -> None:
        """Something was not sent: `budget` (a retry), `breaker`, `limit`, `deadline`."""

    def detour(self, service: str) -> None:
        """A call goes directly, since the sidecar takes no connections."""


class Transport(Protocol):
    """Stands in for the network: takes a request for a service and gives its answer within `seconds`.

    What it raises is raised to the caller: an exception of requests counts as a failed attempt.
    """

    def __call__(self, request: requests.PreparedRequest, *, service: str, seconds: float) -> requests.Response: ...


Listener: TypeAlias = Callable[[requests.PreparedRequest, requests.Response, str], None]


class _Library:
    """A library that has replaced `HTTPAdapter.send`, such as `responses`: it is given requests under their service:// URL."""

    def __init__(self, send: object) -> None:
        self.send = send

    def __call__(self, request: requests.PreparedRequest, *, service: str, seconds: float) -> requests.Response:
        shown = request.copy()
        shown.url = from_virtual(request.url or "")
        return requests.adapters.HTTPAdapter().send(shown, stream=False, timeout=seconds)


_NO_LIBRARY = frozenset(["requests.adapters", "smartclient.recorder", "smartclient.testing"])
"""Where `HTTPAdapter.send` is from while no library has replaced it. Compared by name: this module may be imported first
while one has."""


def _library() -> Transport | None:
    global _known_library
    send = requests.adapters.HTTPAdapter.send
    if getattr(send, "__module__", "") in _NO_LIBRARY:
        return None
    if _known_library is None or _known_library.send is not send:
        _known_library = _Library(send)
    return _known_library


_known_library: _Library | None = None


class Mesh:
    """Everything that the calls of one process share: where instances are, breakers, balancers, limits, budget, connections.

    Made cheaply and without connecting; the map is opened by the first call. Safe from any thread, and after a fork, where
    the child begins with what is known and without connections. `directory` opens the map; `reader` is one that somebody
    else closes; `world` hands a map in directly.
    """

    def __init__(
        self,
        options: Options | None = None,
        *,
        directory: Callable[[], Directory] | None = None,
        reader: Reader | None = None,
        world: Callable[[], World] | None = None,
        observer: Observer | None = None,
        transport: Transport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.options = options or Options()
        self.observer = observer or Observer()
        self.transport = transport
        self.clock = clock
        self.sleep = sleep
        self.spread = spread
        self.pools = Pools()
        self.budget = Budget(self.options.state_dir, self.options.realm)
        self._open_directory = directory
        self._directory: Directory | None = None
        self._reader: Reader | None = reader
        self._reader_is_ours = reader is None
        self._world = world
        self._peers: dict[str, Peer] = {}
        self._stand_in: Transport | None = None
        self._stand_in_peers: dict[str, Peer] = {}
        self._lock = threading.Lock()
        self._sidecar = _sidecar_of(self.options, clock)
        on_fork(self, Mesh._begin_anew)

    def world(self) -> World | None:
        """The map as it is known now; None when this mesh has none (behind a sidecar it needs none)."""
        if self._world is not None:
            return self._world()
        if self._reader is None and self._open_directory is None:
            return None
        return self.reader().world

    def reader(self) -> Reader:
        """What keeps the map current, started."""
        reader = self._reader
        if reader is None:
            from atlas.reader import Reader

            with self._lock:
                if self._reader is None:
                    assert self._open_directory is not None
                    self._directory = self._open_directory()
                    self._reader = Reader(self._directory)
                reader = self._reader
        return reader.start()

    def peer(self, name: str, until: float = math.inf) -> Peer:
        """What is known of a service, as of now: see `route`."""
        return self.route(name, until).peer

    def route(self, name: str, until: float = math.inf, *, detour: bool = False) -> Route:
        """Whom a call to a service goes to; waits no longer than `until` for a map that was not read yet. `detour`: not through
        the sidecar. Raises UnknownService and NoInstances."""
        stand_in = self.stand_in()
        if stand_in is not None:
            return Route(self._stand_in_peer(name, stand_in))
        if recording is not None and self._has_no_way():
            return _made_of_environment().route(
                name, until
            )  # a service under test has no map; what is recorded is real
        now, sidecar = self.clock(), self._sidecar
        if sidecar is not None:
            way = None if detour else sidecar.way(now, alone=not self.has_map)
            if way is not None:
                return Route(self._peer_beside(name, way, now), way)
            if sidecar.known is not None:
                self.observer.detour(name)
        world = self.world()
        peer = self._peers.get(name)
        if peer is None or world is not peer.world or (world is not None and now >= peer.review_at):
            peer = self._review(name, world, now, until)
        return Route(peer)

    @property
    def has_map(self) -> bool:
        """Whether calls can go directly."""
        return self._world is not None or self._reader is not None or self._open_directory is not None

    @property
    def sidecar(self) -> Sidecar | None:
        """The way through a sidecar; None where calls never take it."""
        return self._sidecar

    def _has_no_way(self) -> bool:
        """Whether there is neither a map nor a sidecar that could say where services are."""
        return not self.has_map and self._sidecar is None

    def known_peers(self) -> tuple[Peer, ...]:
        """The services called so far, for metrics."""
        return tuple(self._peers.values())

    def stand_in(self) -> Transport | None:
        """What stands in for the network now, if anything does."""
        return self.transport or _intercepting or _library()

    def close(self) -> None:
        """Let go of connections, the map and the budget file. The mesh may be used again."""
        self.pools.close()
        with self._lock:
            reader = self._reader if self._reader_is_ours else None
            if self._reader_is_ours:
                self._reader = None
            directory, self._directory = self._directory, None
            self._peers = {}
            self.budget.close()
            self.pools = Pools()
        if reader is not None:
            reader.close()
        if directory is not None:
            directory.close()

    def _stand_in_peer(self, name: str, stand_in: Transport) -> Peer:
        """Every name is known to what stands in for the network, and it shares nothing with the real service."""
        with self._lock:
            if self._stand_in is not stand_in:
                self._stand_in, self._stand_in_peers = stand_in, {}
            peer = self._stand_in_peers.get(name)
            if peer is None:
                bucket = Budget.own_bucket(self.clock)
                peer = self._stand_in_peers[name] = Peer(name, self.options, bucket, self.spread)
                peer.balancer.update((place_of("http://stand-in:80"),), self.clock())
        return peer

    def _peer_beside(self, name: str, way: Way, now: float) -> Peer:
        """A service that is called through the sidecar. The map is not waited for: HAProxy knows the instances."""
        try:
            world = self.world()
        except ConfigurationError:  # a script without ATLAS_URL, which needs none here
            self._open_directory = world = None
        peer = self._peers.get(name)
        if peer is None or peer.way is not way or peer.world_beside is not world:
            with self._lock:
                peer = self._known_or_new(name)
                peer.go_through(way, world, now)
        return peer

    def _review(self, name: str, world: World | None, now: float, until: float) -> Peer:
        if world is not None and not world.knows(name):
            world = self._wait_for(name, world, until - now)
        if world is None:
            raise NoInstances(
                f"Where {name} runs is not known: there is no map. Set ATLAS_URL, or SIDECAR_URL for the local sidecar; "
                "in a test the fixture service_calls answers.",
                service=name,
            )
        with self._lock:
            peer = self._known_or_new(name)
            gone = peer.go_by(world, now, time.time())
            peer.review_at = now + REVIEW_SECONDS
        if gone:
            self.pools.forget(gone)
        return peer

    def _known_or_new(self, name: str) -> Peer:
        """Under the lock."""
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = Peer(name, self.options, self.budget.bucket(name), self.spread)
        return peer

    def _wait_for(self, name: str, world: World, seconds: float) -> World:
        """The map once it knows the service: it may not have been read yet. Raises UnknownService."""
        reader = self._reader
        seconds = min(self.options.ready_seconds, seconds)
        if reader is not None and not reader.ready and not reader.wait_ready(seconds):
            why = f": {reader.failure.rstrip('.')}" if reader.failure else ""
            end = "" if why.endswith("?") else "."
            raise NoInstances(
                f"Where {name} runs is not known: the map of realm {self.options.realm} could not be read yet{why}{end} "
                "Check ATLAS_URL and ATLAS_TOKEN.",
                service=name,
            )
        world = reader.world if reader is not None else world
        if not world.knows(name):
            raise unknown(name, self.options.realm, world)
        return world

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self.budget.begin_anew()
        for peer in self._peers.values():
            for balancer in peer.balancers():
                balancer.begin_anew()
            peer.limit.begin_anew()
            peer.breaker.begin_anew()

    def __repr__(self) -> str:
        way = self._sidecar and self._sidecar.known
        route = f"sidecar {way.url}" if way else "direct"
        return f"<Mesh of {self.options.caller or 'nobody'} in {self.options.realm}, {route}>"


def unknown(name: str, realm: str, world: World | None) -> UnknownService:
    """The error for a name that nobody has, with the names that look like it."""
    if world is None:
        return UnknownService(
            f"{name} is not registered in realm {realm}: the sidecar knows no such service.", service=name
        )
    if world.knows(name):
        return UnknownService(
            f"{name} is in the map of realm {realm}, and the sidecar of this host does not know it yet: see `sidecar why {name}`.",
            service=name,
        )
    known = sorted({*world.services, *world.instances})
    if not known:
        return UnknownService(
            f"{name} is not registered in realm {realm}: its map is empty. Check that ATLAS_URL names the map that the "
            "others use, and that one of them runs.",
            service=name,
        )
    near = world.near(name)
    hint = f"did you mean {' or '.join(near)}?" if near else f"registered here: {', '.join(known[:20])}."
    return UnknownService(f"{name} is not registered in realm {realm}; {hint}", service=name)


def _sidecar_of(options: Options, clock: Callable[[], float]) -> Sidecar | None:
    if options.sidecar_url == "" or (options.sidecar_url is None and options.sidecar_dir is None):
        return None
    return Sidecar(options.sidecar_url, directory=options.sidecar_dir, realm=options.realm, clock=clock)


def _nobody() -> None:
    return None


_entered: ContextVar[Mesh | None] = ContextVar("smartclient_mesh", default=None)
_default: Callable[[], Mesh | None] = _nobody
_from_environment: Mesh | None = None
_intercepting: Transport | None = None
recording: Listener | None = None
"""Who is given each answer; see `record`."""
_making = threading.Lock()


def current() -> Mesh:
    """The mesh entered in this context, else the default of the process, else that of the service whose code runs here,
    else one made of the environment."""
    mesh = _entered.get() or _default()
    if mesh is None:
        caller = current_caller()
        mesh = _made_of_environment() if caller is None else caller.mesh
    return mesh


def enter(mesh: Mesh) -> Token[Mesh | None]:
    """Make a mesh the current one of this execution context; gives the token for `leave`."""
    return _entered.set(mesh)


def leave(token: Token[Mesh | None]) -> None:
    """Undo `enter`."""
    _entered.reset(token)


def use(mesh: Mesh | None) -> None:
    """Make a mesh the default of the process for as long as somebody holds it; None: back to the one made of the
    environment."""
    global _default
    _default = _nobody if mesh is None else weakref.ref(mesh)


def intercept(transport: Transport | None) -> Transport | None:
    """From now on every mesh of this process hands its requests to `transport`; None: to the network. Gives what stood in
    before. For tests."""
    global _intercepting
    before, _intercepting = _intercepting, transport
    return before


def record(listener: Listener | None) -> Listener | None:
    """From now on `listener` is given every answer that comes over the network from a service, with its request
    and the instance's address; None: nobody is. Gives who was before. For tests."""
    global recording
    before, recording = recording, listener
    return before


def _made_of_environment() -> Mesh:
    global _from_environment
    with _making:
        if _from_environment is None:
            import atlas

            options = Options.from_environment()
            wants_map = not options.sidecar_url or bool(os.environ.get("ATLAS_URL"))
            _from_environment = Mesh(options, directory=atlas.open if wants_map else None)
        return _from_environment
