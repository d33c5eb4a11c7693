"""The agent: one loop that takes the map, plans, and steers HAProxy; around it the threads that wake it.

Follower (the map) -.
Local (instances) --+--> wake --> plan --> steer --> report in the lease of this host
Events (HAProxy) ---'
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

import atlas
from atlas.announcement import Carrier, Sidecar
from atlas.model import Report
from atlas.remembered import RememberedWorld
from atlas.world import Position, World
from sidecar.admin import Admin
from sidecar.events import Event, Events
from sidecar.follower import Follower
from sidecar.held_checks import HeldChecks, held_addresses
from sidecar.lease import HostLease, carried_by
from sidecar.local import Local
from sidecar.memory import MemoryFile, read_file
from sidecar.model import Plan
from sidecar.plan import Planner
from sidecar.proxy import Proxy
from sidecar.resolve import Resolver
from sidecar.runtime import Runtime
from sidecar.settings import Settings
from sidecar.steering import Steering
from sidecar.tokens import TokensFile
from sidecar.view import Parts, View

MOST_LINES = 10
"""So many services are logged one by one."""

_log = logging.getLogger("sidecar")
T = TypeVar("T")


class _Inbox:
    """What wakes the loop, and what other threads have it do."""

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._asked: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def wake(self) -> None:
        """Let the loop look now what is to be done."""
        self._wake.set()

    def soon(self, do: Callable[[], T]) -> Future[T]:
        """Let the loop do something."""
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(do())
            except BaseException as error:
                future.set_exception(error)

        self._asked.put(work)
        self.wake()
        return future

    def do_all(self) -> None:
        """Do what was asked for, in the thread of the loop."""
        while True:
            try:
                self._asked.get_nowait()()
            except Empty:
                return

    def wait(self, seconds: float) -> None:
        """Wait until somebody wakes the loop."""
        self._wake.wait(seconds)
        self._wake.clear()


class Agent:
    """The sidecar of one host. `start`, then `run` until `stop`; `close` ends its threads. HAProxy goes on without it.

    `view` answers whoever asks what it does.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        external: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._clock, self._wall_clock = clock, wall_clock
        self._inbox = inbox = _Inbox()
        self._stop = threading.Event()
        self._carrier = Carrier(settings.directory)
        self._directory = atlas.open(settings.atlas_url, token=settings.atlas_token or None)
        remembered = RememberedWorld(settings.state, url=settings.atlas_url or "", realm=settings.realm)
        self._follower = Follower(self._directory, remembered, self._heard, clock=clock)
        self._resolver = Resolver(inbox.wake)
        self._planner = Planner(zone=settings.zone, resolve=self._resolver.resolve, clock=clock, wall_clock=wall_clock)
        self._memory = MemoryFile(settings.memory, self._planner.remember, clock=clock)
        self._local = Local(settings, on_change=self._local_changed, resolver=self._resolver)
        self._lease = HostLease(settings, self._directory, self._local, self._report)
        tokens = TokensFile(settings.tokens_file)
        proxy, runtime = Proxy(settings, external=external), Runtime(settings.runtime_socket)
        self._steering = Steering(settings, proxy, runtime, tokens=tokens.read, clock=clock, wall_clock=wall_clock)
        self._events = Events(settings.events_socket, self._event)
        self._held = HeldChecks(
            lambda: self._plan.guards,
            lambda *key: inbox.soon(lambda: self._planner.silent(*key)),
            lambda *key: inbox.soon(lambda: self._planner.answered(*key)),
        )
        self.view = View(self._parts(tokens), accept=self._accept, soon=inbox.soon, clock=clock, wall_clock=wall_clock)
        self._admin = Admin(self.view)
        self._plan = Plan()
        self._planned: World | None = None
        self._accepted = 0
        self._news_at: float | None = None

    # -- living --------------------------------------------------------------------------------------------------------

    def start(self) -> Agent:
        """Take the directory, learn what was known, and begin. Raises Conflict when another agent has it, ConfigurationError
        for a port or a socket that cannot be had."""
        # The services of this host may be other users: they find their way in here, the sockets and files are guarded themselves.
        self.settings.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._carrier.take()
        try:
            self._events.start()
            self._admin.start()
        except BaseException:
            self.close()
            raise
        kept = self._follower.start()
        self._planner.restore(read_file(self.settings.memory))
        self._follower.kept = None if kept is None else self._planner.without_held(kept)
        self._local.inherit(carried_by(self.settings.host, kept))
        self._local.start()
        self._lease.start()
        self._held.start()
        self._steering.begin()
        return self

    def run(self, started: Callable[[], object] = lambda: None) -> None:
        """Work until `stop`; `started` is called once HAProxy takes calls."""
        said = False
        while not self._stop.is_set():
            seconds = self._turn_whatever_happens()
            if not said and self._steering.applied is not None:
                said = True
                self._tell_services()
                started()
            self._inbox.wait(seconds)

    def stop(self) -> None:
        """Let `run` end."""
        self._stop.set()
        self._inbox.wake()

    def close(self, *, leave: bool = False) -> None:
        """End the threads. HAProxy goes on, and so does the lease, until the next agent takes it over; with `leave` this host's
        instances are taken out of the map."""
        self._memory.keep()
        self._follower.close()
        self._admin.close()
        self._held.close()
        self._local.close()
        self._lease.close(leave=leave)
        self._events.stop()
        self._resolver.close()
        self._directory.close()
        self._carrier.close(leave=leave)

    # -- one turn ------------------------------------------------------------------------------------------------------

    def _turn_whatever_happens(self) -> float:
        """A turn; what nobody foresaw is told, and the next one begins with asking HAProxy what it knows."""
        try:
            return self._turn()
        except Exception as error:
            if self._steering.forget(error):
                _log.exception("a turn of the agent failed; HAProxy goes on as it is, and the agent tries again")
            return 1.0

    def _turn(self) -> float:
        """Everything that is due; gives the seconds until something is again."""
        self._inbox.do_all()
        news_at, self._news_at = self._news_at, None
        world = self._follower.world()
        if world is None:
            return self._follower.look_seconds
        before = self._planned
        self._make_plan(world)
        seconds = self._steering.turn(self._plan)
        if self._steering.applied is self._plan:
            self._took(before, world, news_at)
        elif news_at is not None and self._news_at is None:
            self._news_at = news_at
        self._lease.refresh_when_awaited()
        self._memory.keep_when_due(self._plan.guards.values())
        if self._plan.again_at is not None:
            seconds = min(seconds, max(0.0, self._plan.again_at - self._clock()))
        return min(seconds, 5.0)

    def _make_plan(self, world: World) -> None:
        """Plan for this map, and tell what has become of guards and quarantines."""
        if self._planned is None and (kept := self._follower.lost_from(world)) is not None:
            self._planner.plan(kept)  # so that what was routed, and is not in the map any more, counts as lost
        last, self._plan = self._plan, self._planner.plan(world, unready=self._local.unready())
        self._planned = world
        if self._planner.acceptances != self._accepted and self._follower.heard:
            self._accepted = self._planner.acceptances
            self._follower.keep_accepted(self._planner.with_held(world))
        _tell_what_changed("guard", last.guards, {name: one.says for name, one in self._plan.guards.items()})
        _tell_what_changed("quarantine", last.quarantined, self._plan.quarantined)

    def _took(self, before: World | None, world: World, news_at: float | None) -> None:
        """Note how long a change took to come into force."""
        if news_at is not None:
            self.view.apply.add(self._clock() - news_at)
        if before is None or before.rulings is world.rulings:
            return
        now = self._wall_clock()
        for key, ruling in world.rulings.items():
            if before.rulings.get(key) is not ruling and ruling.at:
                self.view.propagation.add(now - ruling.at)

    # -- what others tell, in their threads ----------------------------------------------------------------------------

    def _heard(self) -> None:
        self._news_at = self._news_at or self._clock()
        self._inbox.wake()

    def _local_changed(self) -> None:
        self._lease.refresh()
        self._inbox.wake()

    def _event(self, event: Event) -> None:
        self._steering.events.put(event)
        self._inbox.wake()

    def _accept(self, service: str) -> tuple[str, ...]:
        released = self._planner.accept(service)
        self._inbox.wake()
        return released

    # -- what others are told ------------------------------------------------------------------------------------------

    def _report(self) -> Report:
        """How far this host is, for those who wait for it."""
        applied = self._steering.applied
        position = Position() if applied is None or self._steering.known is None else applied.position
        return Report(
            host=self.settings.host,
            at=self._wall_clock(),
            revision=position.revision,
            presence=position.presence,
            epoch=position.epoch,
            sessions=self._steering.busy(self._plan),
            holding=held_addresses(self._plan.guards.values()),
            ttl_seconds=self.settings.ttl_seconds,
        )

    def _parts(self, tokens: TokensFile) -> Parts:
        return Parts(
            self.settings, self._steering, self._follower, self._local, self._lease, tokens, plan=lambda: self._plan
        )

    def _tell_services(self) -> None:
        settings = self.settings
        self._carrier.tell(
            Sidecar(
                url=settings.run_url if settings.loopback else "",
                socket=str(settings.calls_socket) if settings.socket else "",
                realm=settings.realm,
                host=settings.host,
                tokens=settings.tokens_file is not None,
            )
        )


def run(
    settings: Settings, *, external: bool = False, leave: bool = False, started: Callable[[], object] = lambda: None
) -> None:
    """Run the agent in this process until TERM or INT. HAProxy outlives it, unless somebody at the keyboard ends both. With
    `leave` the host's instances are taken out of the map at the end: it does not come back."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # A change takes the loop a dozen short steps; beside a thread that writes a large map each of them would wait for 5 ms.
    sys.setswitchinterval(0.0005)
    agent = Agent(settings, external=external)
    by_hand = threading.Event()

    def end(number: int, _: object) -> None:
        if number == signal.SIGINT:
            by_hand.set()
        agent.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    agent.start()
    try:
        agent.run(started)
    finally:
        agent.close(leave=leave)
        if by_hand.is_set() and not external:
            Proxy(settings).stop(5.0)


def _tell_what_changed(what: str, before: Collection[str], after: Mapping[str, str]) -> None:
    """Log what a guard or a quarantine begins and ends with; a thousand of them in one line."""
    begun = [name for name in after if name not in before]
    ended = [name for name in before if name not in after]
    for name in begun[:MOST_LINES]:
        _log.error("%s: %s: %s", what, name, after[name])
    if len(begun) > MOST_LINES:
        _log.error("%s: %d more services: see `sidecar status`", what, len(begun) - MOST_LINES)
    if ended:
        more = "" if len(ended) <= MOST_LINES else f" and {len(ended) - MOST_LINES} more"
        _log.info("%s: over for %s%s", what, ", ".join(ended[:MOST_LINES]), more)
