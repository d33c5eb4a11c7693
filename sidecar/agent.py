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
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import atlas
from atlas.announcement import Announcement, Carrier, Sidecar, announce, names, read, withdraw
from atlas.keeper import Keeper
from atlas.model import Report
from atlas.reader import Reader
from atlas.remembered import RememberedWorld
from atlas.world import Position, World
from sidecar.admin import Admin
from sidecar.events import Event, Events
from sidecar.facts import EjectedServer, Facts, OwnInstance, Proxy as ProxyFacts, Rate, Reloads
from sidecar.held import HeldChecks, held_addresses
from sidecar.local import Local, lease, lease_id
from sidecar.model import Guard, Plan
from sidecar.plan import Planner
from sidecar.proxy import Proxy
from sidecar.rates import parse_rates
from sidecar.resolve import Resolver
from sidecar.runtime import Runtime
from sidecar.servers import address_of
from sidecar.settings import Settings
from sidecar.steering import Steering
from sidecar.timing import Timing
from smartrealm.errors import NotFound, SmartError

FIRST_MAP_SECONDS = 0.3
"""So long the first plan waits for Atlas before it takes the map that was kept."""

KEPT_COUNTS_SECONDS = 3600.0
"""So old the kept map may be for what the same map has lost since to be held: see `_counts`."""

MEMORY_SECONDS = 10.0
"""How often what the planner remembers is kept, when nothing of weight happens."""

MOST_LINES = 10
"""So many services are logged one by one."""

ANSWER_SECONDS = 5.0
"""How long somebody who asks the loop to do something waits for it."""

_log = logging.getLogger("sidecar")
T = TypeVar("T")


class Agent:
    """The sidecar of one host. `start`, then `run` until `stop`; `close` ends its threads. HAProxy goes on without it.

    What `sidecar.admin.Source` asks for may be asked from any thread.
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
        self._started_at = wall_clock()
        self._incarnation = os.urandom(8).hex()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._asked: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._carrier = Carrier(settings.directory)
        self._directory = atlas.open(settings.atlas_url, token=settings.atlas_token or None)
        self._remembered = RememberedWorld(settings.state, url=settings.atlas_url or "", realm=settings.realm)
        self._reader = Reader(self._directory, remembered=self._remembered)
        self._reader.on_update(self._heard)
        self._kept: World | None = None
        self._kept_age: float | None = None
        self._resolver = Resolver(self.wake)
        self._planner = Planner(zone=settings.zone, resolve=self._resolver.resolve, clock=clock, wall_clock=wall_clock)
        self._local = Local(settings, on_change=self._local_changed, resolver=self._resolver)
        self._keeper = Keeper(self._directory, self._lease)
        proxy = Proxy(settings, external=external)
        runtime = Runtime(settings.runtime_socket)
        self._steering = Steering(settings, proxy, runtime, tokens=self._tokens, clock=clock, wall_clock=wall_clock)
        self._events = Events(settings.events_socket, self._event)
        self._held = HeldChecks(
            lambda: self._plan.guards,
            lambda *key: self._soon(lambda: self._planner.silent(*key)),
            lambda *key: self._soon(lambda: self._planner.answered(*key)),
        )
        self._admin = Admin(self)
        self._plan = Plan()
        self._shown: tuple[Plan, Mapping[str, str], Plan] | None = None
        self._planned: World | None = None
        self._first_plan_at = 0.0
        self._news_at: float | None = None
        self._reported: tuple[object, ...] = ()
        self._memory_at = 0.0
        self._memory_of: tuple[Guard, ...] = ()
        self._apply, self._propagation = Timing(), Timing()
        self._known_tokens: tuple[float, Mapping[str, str]] = (-1.0, {})

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
        self._first_plan_at = self._clock() + FIRST_MAP_SECONDS
        self._kept = self._remembered.load()
        self._kept_age = self._remembered.age_seconds
        with suppress(OSError, ValueError):
            self._planner.restore(json.loads(self._memory_path.read_text()))
        self._local.inherit(self._carried(self._kept))
        self._local.start()
        self._keeper.start()
        self._held.start()
        self._steering.begin()
        return self

    def run(self, started: Callable[[], object] = lambda: None) -> None:
        """Work until `stop`; `started` is called once HAProxy takes calls."""
        said = False
        while not self._stop.is_set():
            seconds = self._turn()
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
            return max(0.01, self._first_plan_at - self._clock())
        before, last = self._planned, self._plan
        if before is None and self._kept is not None and self._counts(self._kept, world):
            self._planner.plan(self._kept)  # so that what was routed, and is not in the map any more, counts as lost
        self._plan = self._planner.plan(world, unready=self._local.unready())
        self._planned = world
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
        if self._clock() < self._first_plan_at:
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
            self._apply.add(self._clock() - news_at)
        if before is None or before.rulings is world.rulings:
            return
        now = self._wall_clock()
        for key, ruling in world.rulings.items():
            if before.rulings.get(key) is not ruling and ruling.at:
                self._propagation.add(now - ruling.at)

    def _heard(self, _: World, __: World) -> None:
        self._news_at = self._news_at or self._clock()
        self.wake()

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

    def _tokens(self) -> Mapping[str, str]:
        """The callers by the digest of their token, read anew when the file changes."""
        path = self.settings.tokens_file
        if path is None:
            return {}
        try:
            changed = path.stat().st_mtime
            if changed != self._known_tokens[0]:
                lines = [line.split() for line in path.read_text().splitlines() if line.strip()[:1] not in ("", "#")]
                self._known_tokens = (changed, {words[1].lower(): words[0] for words in lines if len(words) == 2})
        except OSError as error:
            _log.error("the tokens in %s cannot be read, those known go on: %s", path, error.strerror)
        return self._known_tokens[1]

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

    # -- what others ask (sidecar.admin.Source) ------------------------------------------------------------------------

    def plan(self) -> Plan:
        """What is to be routed now; the same object while nothing changed."""
        plan, barred = self._plan, self._steering.barred
        if not barred:
            return plan
        if self._shown is None or self._shown[0] is not plan or self._shown[1] is not barred:
            self._shown = (plan, barred, replace(plan, quarantined={**plan.quarantined, **barred}))
        return self._shown[2]

    def accept(self, service: str, *, by: str, why: str) -> tuple[str, ...]:
        """Let the instances go that the guard holds; gives their addresses."""
        released = self._soon(lambda: self._planner.accept(service)).result(ANSWER_SECONDS)
        if not self._plan.guards and self._reader.heard:
            self._remembered.save(self._reader.world, force=True, accept=True)
        _log.warning("%s accepts the loss of %d instances of %s: %s", by, len(released), service, why)
        return released

    def announce(self, announcement: Announcement) -> object:
        """Write the file of an instance."""
        return announce(self.settings.directory, announcement)

    def withdraw(self, service: str, port: int | None) -> object:
        """Remove the files of a service, or of one of its ports."""
        gone = []
        for entry in names(self.settings.announcements):
            with suppress(SmartError, OSError):
                found = read(Path(entry.path))
                if found.service == service and port in (None, found.port):
                    gone.append(found)
        if not gone:
            raise NotFound(f"No instance of {service} is announced on this host.")
        return [withdraw(self.settings.directory, one) for one in gone]

    def reload(self, *, why: str) -> object:
        """Load HAProxy anew as soon as it may be."""
        return self._soon(lambda: self._steering.ask_reload(why)).result(ANSWER_SECONDS)

    def rates(self) -> Mapping[str, Rate]:
        """What passes through each service, asked of HAProxy now. Raises Unavailable when it does not answer."""
        return parse_rates(Runtime(self.settings.runtime_socket).ask("show stat"), self._owners())

    def facts(self) -> Facts:
        """What the agent knows of itself now."""
        steering, settings = self._steering, self.settings
        applied = steering.applied
        age = self._reader.age_seconds
        last, wish = steering.last_reload, steering.wish
        return Facts(
            pid=os.getpid(),
            started_at=self._started_at,
            version=_package_version(),
            realm=settings.realm,
            host=settings.host,
            zone=settings.zone,
            position=Position() if applied is None else applied.position,
            applied_at=steering.applied_at,
            map_from="atlas" if self._reader.heard else "disk" if self._kept is not None else "none",
            map_age_seconds=self._remembered.age_seconds if age is None else age,
            map_failure=self._reader.failure,
            proxy=self._proxy_facts(),
            changes=steering.counts.changes,
            drift_count=steering.counts.drift,
            drift_at=steering.drift_at,
            reloads=Reloads(
                steering.counts.reloads,
                steering.counts.failed_reloads,
                None if last is None else last.at,
                "" if last is None else last.why,
                steering.reload_failure,
                self._wall_clock() + (steering.proxy.reload_due_in() if steering.wish is not None else 0.0),
            ),
            refusals=steering.refusals,
            refusal_count=steering.counts.refusals,
            pending=steering.pending,
            pending_since=None if wish is None else wish.at,
            own=tuple(
                OwnInstance(one.service, one.address, one.state, one.reason, one.since)
                for one in self._local.standing()
            ),
            ejected=self._ejected(),
            ejections=steering.counts.ejections,
            lease_failure=self._keeper.failure,
            apply_seconds=self._apply.histogram(),
            propagation_seconds=self._propagation.histogram(),
            conditions=self._conditions(),
        )

    def _proxy_facts(self) -> ProxyFacts:
        steering = self._steering
        running = steering.known is not None
        uptime = 0.0
        if running:
            with suppress(SmartError):
                uptime = float(Runtime(self.settings.runtime_socket, timeout_seconds=1.0).info().uptime_seconds)
        return ProxyFacts(
            version=steering.version,
            pid=steering.pid,
            uptime_seconds=uptime,
            running=running,
            dynamic=steering.dynamic,
            away_since=None if running else steering.away_since,
            failure=steering.failure or "",
        )

    def _ejected(self) -> tuple[EjectedServer, ...]:
        owners, now = self._owners(), self._clock()
        today = self._wall_clock() - now
        return tuple(
            EjectedServer(
                owners.get(one.backend, one.backend),
                address_of(one.server),
                one.since + today,
                one.due_at + today,
                one.reason,
            )
            for one in self._steering.ejections.all()
        )

    def _conditions(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        owners = self._owners()
        for backend, servers in self._steering.conditions.items():
            for server, condition in servers.items():
                if condition != "up":
                    found.setdefault(owners.get(backend, backend), {})[address_of(server)] = condition
        return found

    def backends(self) -> Mapping[str, str]:
        """What each backend of HAProxy holds: a service, or a side of one (`identity:1`)."""
        layout = self._steering.layout
        return {} if layout is None else {backend: key for key, backend in layout.names.items()}

    def _owners(self) -> dict[str, str]:
        """The service of each backend."""
        return {backend: key.partition(":")[0] for backend, key in self.backends().items()}


def run(
    settings: Settings, *, external: bool = False, leave: bool = False, started: Callable[[], object] = lambda: None
) -> None:
    """Run the agent in this process until TERM or INT. HAProxy outlives it, unless somebody at the keyboard ends both. With
    `leave` the host's instances are taken out of the map at the end: it does not come back."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
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


def _package_version() -> str:
    try:
        return version("smartservice")
    except PackageNotFoundError:
        return ""
