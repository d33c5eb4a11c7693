"""The agent: one loop that takes the map, plans, and steers HAProxy; around it the threads that wake it.

Reader (Atlas) ----.
Local (instances) --+--> wake --> plan --> steer --> report in the lease of this host
Events (HAProxy) ---'
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import atlas
from atlas.announcement import Carrier, Sidecar
from atlas.keeper import Keeper
from atlas.model import Report
from atlas.reader import Reader
from atlas.remembered import RememberedWorld
from atlas.world import Position, World
from sidecar.admin import Admin
from sidecar.events import Event, Events
from sidecar.held import HeldChecks, held_addresses
from sidecar.keeping import Keeping
from sidecar.local import Local, lease, lease_id
from sidecar.model import Guard, Plan
from sidecar.plan import Planner
from sidecar.proxy import Proxy
from sidecar.resolve import Resolver
from sidecar.runtime import Runtime
from sidecar.settings import Settings
from sidecar.steering import Steering
from sidecar.tokens import TokensFile
from sidecar.view import View

FIRST_MAP_SECONDS = 0.3
"""So long the first plan waits for Atlas before it takes the map that was kept; not when Atlas cannot be reached."""

FIRST_LOOK_SECONDS = 0.02
"""How often it is looked meanwhile whether Atlas can be reached."""

KEPT_COUNTS_SECONDS = 3600.0
"""So old the kept map may be for what the same map has lost since to be held: see `_counts`."""

MEMORY_SECONDS = 10.0
"""How often what the planner remembers is kept, when nothing of weight happens."""

MOST_LINES = 10
"""So many services are logged one by one."""

_log = logging.getLogger("sidecar")
T = TypeVar("T")


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
        self._incarnation = os.urandom(8).hex()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._asked: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._carrier = Carrier(settings.directory)
        self._directory = atlas.open(settings.atlas_url, token=settings.atlas_token or None)
        self._remembered = RememberedWorld(settings.state, url=settings.atlas_url or "", realm=settings.realm)
        self._reader = Reader(self._directory)
        self._keeping = Keeping(self._remembered, lambda: self._reader.world)
        self._reader.on_update(self._heard)
        self._kept: World | None = None
        self._kept_age: float | None = None
        self._resolver = Resolver(self.wake)
        self._planner = Planner(zone=settings.zone, resolve=self._resolver.resolve, clock=clock, wall_clock=wall_clock)
        self._local = Local(settings, on_change=self._local_changed, resolver=self._resolver)
        self._keeper = Keeper(self._directory, self._lease)
        proxy = Proxy(settings, external=external)
        runtime = Runtime(settings.runtime_socket)
        tokens = TokensFile(settings.tokens_file)
        self._steering = Steering(settings, proxy, runtime, tokens=tokens.read, clock=clock, wall_clock=wall_clock)
        self._events = Events(settings.events_socket, self._event)
        self._held = HeldChecks(
            lambda: self._plan.guards,
            lambda *key: self._soon(lambda: self._planner.silent(*key)),
            lambda *key: self._soon(lambda: self._planner.answered(*key)),
        )
        self._plan = Plan()
        self.view = View(
            settings,
            steering=self._steering,
            reader=self._reader,
            remembered=self._remembered,
            local=self._local,
            keeper=self._keeper,
            tokens=tokens,
            plan=lambda: self._plan,
            accept=self._accept,
            soon=self._soon,
            clock=clock,
            wall_clock=wall_clock,
        )
        self._admin = Admin(self.view)
        self._planned: World | None = None
        self._accepted = 0
        self._first_plan_at = 0.0
        self._news_at: float | None = None
        self._reported: tuple[object, ...] = ()
        self._memory_at = 0.0
        self._memory_of: tuple[Guard, ...] = ()

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
        self._reader.start()
        self._keeping.start()
        self._first_plan_at = self._clock() + FIRST_MAP_SECONDS
        kept = self._remembered.load()
        # An ATLAS_URL that is forgotten or mistyped leads to another map, as empty as one that was wiped.
        kept = self._remembered.load_elsewhere(KEPT_COUNTS_SECONDS) or kept
        self._kept_age = self._remembered.age_seconds
        with suppress(OSError, ValueError):
            self._planner.restore(json.loads(self._memory_path.read_text()))
        self._kept = None if kept is None else self._planner.without_held(kept)
        self._local.inherit(self._carried(kept))
        self._local.start()
        self._keeper.start()
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
            self._wake.wait(seconds)
            self._wake.clear()

    def stop(self) -> None:
        """Let `run` end."""
        self._stop.set()
        self.wake()

    def close(self, *, leave: bool = False) -> None:
        """End the threads. HAProxy goes on, and so does the lease, until the next agent takes it over; with `leave` this host's
        instances are taken out of the map."""
        self._keep_memory()
        self._keeping.close()
        if self._reader.heard:
            self._remembered.save(self._reader.world, force=True)
        self._admin.close()
        self._held.close()
        self._local.close()
        self._keeper.close(release=leave)
        self._reader.close()
        self._events.stop()
        self._resolver.close()
        self._directory.close()
        self._carrier.close(leave=leave)

    def wake(self) -> None:
        """Let the loop look now what is to be done."""
        self._wake.set()

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
        while True:
            try:
                self._asked.get_nowait()()
            except Empty:
                break
        news_at, self._news_at = self._news_at, None
        world = self._world()
        if world is None:
            return FIRST_LOOK_SECONDS if self._clock() < self._first_plan_at else 1.0  # news wakes the loop
        before, last = self._planned, self._plan
        if before is None and self._kept is not None and self._counts(self._kept, world):
            self._planner.plan(self._kept)  # so that what was routed, and is not in the map any more, counts as lost
        self._plan = self._planner.plan(world, unready=self._local.unready())
        self._planned = world
        if self._planner.acceptances != self._accepted and self._reader.heard:
            # Or the map that was kept would bring back, with the next start, what the operator has let go.
            self._accepted = self._planner.acceptances
            self._remembered.save(self._planner.with_held(world), force=True, accept=True)
        _tell_what_changed("guard", last.guards, {name: one.says for name, one in self._plan.guards.items()})
        _tell_what_changed("quarantine", last.quarantined, self._plan.quarantined)
        seconds = self._steering.turn(self._plan)
        if self._steering.applied is self._plan:
            self._took(before, world, news_at)
        elif news_at is not None and self._news_at is None:
            self._news_at = news_at
        self._report_when_new()
        self._keep_memory_when_due()
        if self._plan.again_at is not None:
            seconds = min(seconds, max(0.0, self._plan.again_at - self._clock()))
        return min(seconds, 5.0)

    def _world(self) -> World | None:
        """The map to go by: the one that Atlas tells; until it does, the one that was kept."""
        if self._reader.heard:
            return self._reader.world
        if self._reader.failure is None and self._clock() < self._first_plan_at:
            return None
        return self._kept

    def _counts(self, kept: World, world: World) -> bool:
        """Whether the first map is compared with the one that was kept: always where it is another map, which may have been
        wiped; in the same one as long as the agent was not away for so long that losses are old news."""
        if kept is world:
            return False
        age = self._kept_age
        return kept.position.epoch != world.position.epoch or (age is not None and age < KEPT_COUNTS_SECONDS)

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

    def _heard(self, _: World, __: World) -> None:
        self._news_at = self._news_at or self._clock()
        self.wake()
        self._keeping.changed()

    def _local_changed(self) -> None:
        self._keeper.refresh()
        self.wake()

    def _event(self, event: Event) -> None:
        self._steering.events.put(event)
        self.wake()

    def _soon(self, do: Callable[[], T]) -> Future[T]:
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

    def _accept(self, service: str) -> tuple[str, ...]:
        released = self._planner.accept(service)
        self.wake()
        return released

    # -- what the map hears of this host -------------------------------------------------------------------------------

    def _lease(self) -> Any:
        return lease(self.settings, self._local, self._incarnation, self._report)

    def _report(self) -> Report:
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

    def _report_when_new(self) -> None:
        """Tell Atlas at once what somebody may wait for: a change of the catalogue is in force, calls have ended."""
        report = self._report()
        worth = (report.epoch, report.revision, report.sessions, report.holding)
        if worth != self._reported:
            self._reported = worth
            self._keeper.refresh()

    def _carried(self, world: World | None) -> list[Any]:
        """What the map says that this host carries."""
        if world is None:
            return []
        own = lease_id(self.settings.host)
        return [one for table in world.instances.values() for one in table.values() if one.lease == own]

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

    # -- what survives a restart ---------------------------------------------------------------------------------------

    @property
    def _memory_path(self) -> Any:
        return self.settings.state / "sidecar-memory.json"

    def _keep_memory_when_due(self) -> None:
        """At once when more is held; when less is, as after a wiped map is filled again, not with every single return."""
        guards = tuple(self._plan.guards.values())
        rest = self._memory_at - self._clock()
        grew = held_addresses(guards) > held_addresses(self._memory_of)
        if grew or rest <= 0 or (guards != self._memory_of and rest < MEMORY_SECONDS - 1):
            self._memory_of = guards
            self._keep_memory()

    def _keep_memory(self) -> None:
        self._memory_at = self._clock() + MEMORY_SECONDS
        fresh = self._memory_path.with_suffix(".new")
        try:
            self.settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_text(json.dumps(self._planner.remember()))
            fresh.replace(self._memory_path)
        except OSError as error:
            _log.warning("what the guard holds cannot be kept in %s: %s", self.settings.state, error.strerror)


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
