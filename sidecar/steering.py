"""Bringing HAProxy to a plan and keeping it there: differences become commands, each answer is checked, the file follows.

It never makes things worse: what HAProxy refuses is set aside with its reason, and the rest goes on; while HAProxy loads a new
file nothing is said to it, and afterwards it is asked what it knows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue

from sidecar.barred import Barred
from sidecar.diff import DONE, Command, commands
from sidecar.ejection import KEPT_DOWN_SECONDS, Ejections
from sidecar.events import Event
from sidecar.facts import RefusedCommand
from sidecar.files import Begin, Filing
from sidecar.layout import Layout, adopt_layout, fresh_layout, lay_out
from sidecar.leaving import Leaving
from sidecar.model import Condition, Plan, Route, State
from sidecar.proxy import Proxy, descriptors
from sidecar.render import Files, fingerprint, render
from sidecar.repeats import Repeated
from sidecar.runtime import Reading, Runtime
from sidecar.servers import address_of
from sidecar.settings import Settings
from smartrealm.errors import ConfigurationError, SmartError, Unavailable

MAPS = Path("maps")
"""Where the maps lie, as HAProxy names them."""

ALIVE_SECONDS = 0.25
"""How often it is looked whether HAProxy runs."""

RELOAD_AGAIN_SECONDS = 5.0
"""How often a reload is tried for which the files cannot be made, as while the disk is full."""

MOST_REFUSALS = 20

_NO_TOKENS: Mapping[str, str] = {}

_log = logging.getLogger("sidecar")


@dataclass(slots=True)
class Counts:
    """What has happened since the start."""

    changes: int = 0
    reloads: int = 0
    failed_reloads: int = 0
    starts: int = 0
    drift: int = 0
    """Differences that a comparison found. Those after a start or a reload are expected, and do not count."""
    refusals: int = 0
    ejections: int = 0


@dataclass(frozen=True, slots=True)
class Reload:
    """One that is wished for, or was done."""

    why: str
    at: float
    """Time of day."""


@dataclass(slots=True)
class Reloads:
    """The one that is wished for, and the one before."""

    wish: Reload | None = None
    last: Reload | None = None
    failure: str = ""
    """Why the last attempt failed; empty: it did not."""
    not_before: float = -1.0
    """By the clock: until then none is tried again."""


@dataclass(slots=True)
class Process:
    """What is known of the process of HAProxy."""

    running: bool = False
    """Whether it answers."""
    pid: int = 0
    version: str = ""
    dynamic: bool = False
    """Whether it can be given new backends while it runs."""
    away_since: float | None = None
    """Time of day since which it does not run."""


class Steering:
    """HAProxy of this host under one plan after the other. Used by one thread; what it shows may be read from others."""

    def __init__(
        self,
        settings: Settings,
        proxy: Proxy,
        runtime: Runtime,
        *,
        tokens: Callable[[], Mapping[str, str]] = lambda: _NO_TOKENS,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        begin: Begin | None = None,
    ) -> None:
        self.settings = settings
        self.proxy = proxy
        self.runtime = runtime
        self.counts = Counts()
        self.process = Process()
        self.reloads = Reloads()
        self.ejections = Ejections()
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.applied: Plan | None = None
        """The last plan that HAProxy has taken up completely."""
        self.applied_at: float | None = None
        self.known: State | None = None
        """What HAProxy knows; None while nobody can tell."""
        self.wanted = State()
        self.layout: Layout | None = None
        self.failure: str | None = None
        """Why HAProxy does not run, or cannot be spoken to."""
        self.refusals: tuple[RefusedCommand, ...] = ()
        self.conditions: Mapping[str, Mapping[str, Condition]] = {}
        self.drift_at: float | None = None
        self._tokens, self._clock, self._wall_clock = tokens, clock, wall_clock
        self._barred = Barred()
        self._leaving = Leaving(proxy, runtime, clock=clock, idle_seconds=settings.compare_seconds)
        self._repeated = Repeated(runtime.repeats, clock=clock)
        self._filing = Filing(clock=clock, begin=begin)
        self._tried: tuple[Plan, Mapping[str, str]] | None = None
        self._alive_at = self._compare_at = self._keep_down_at = -1.0

    def begin(self) -> None:
        """Start HAProxy at once from the file that an earlier process has left, if there is one; else the first plan does it."""
        if self.settings.proxy_config.exists() and not self.proxy.external:
            try:
                if self.proxy.start():
                    self.counts.starts += 1
            except SmartError as error:
                _log.warning("HAProxy could not be started from the file that is there: %s", error)

    @property
    def barred(self) -> Mapping[str, str]:
        """Services that HAProxy will not have, each with the reason."""
        return self._barred.reasons

    @property
    def files_failure(self) -> str:
        """Why HAProxy's file could not be written; empty: it was."""
        return self._filing.failure

    def turn(self, plan: Plan | None) -> float:
        """Do what is due for this plan; gives the seconds until something is due again."""
        if plan is None:
            self._look_at_the_process()
            return 1.0
        try:
            self._see_to_the_process(plan)
            self.process.running = True
            self._take_events()
            if self._tried is None or plan is not self._tried[0] or self._tokens() is not self._tried[1]:
                self._steer(plan)
            if self.reloads.wish is not None and self._reload_in() <= 0:
                self._reload(plan)
            if self._clock() >= self._compare_at:
                self._compare()
            if self._clock() >= self._repeated.due_at:
                self._eject_the_silent()
            self._see_to_the_ejected()
            if self._clock() >= self._leaving.due_at:
                self._leaving.follow()
            self._filing.begin_when_due(self._writing)
        except Unavailable as error:
            self._lost(error)
            return ALIVE_SECONDS
        except SmartError as error:
            # Nothing that one service or one file says may end the loop; what was before goes on.
            if str(error) != self.failure:
                _log.error("HAProxy could not be brought up to date, trying again: %s", error)
            self.failure = str(error)
            return 1.0
        self.failure = None
        return self._until_next()

    def forget(self, error: Exception) -> bool:
        """Go on after an error that nobody foresaw: what HAProxy knows is to be read anew. Gives whether the error is news."""
        told = f"{type(error).__name__}: {error}"
        news, self.failure, self.known, self._alive_at = told != self.failure, told, None, -1.0
        return news

    def ask_reload(self, why: str) -> None:
        """Load HAProxy anew as soon as it may be."""
        if self.reloads.wish is None:
            self.reloads.wish = Reload(why, self._wall_clock())
            _log.info("HAProxy is to be reloaded: %s", why)

    @property
    def pending(self) -> str:
        """Why changes wait; empty when none do."""
        if self.known is None:
            return self.failure or "HAProxy is being started"
        return self.reloads.wish.why if self.reloads.wish is not None else ""

    def busy(self, plan: Plan) -> Mapping[str, int]:
        """Calls under way to instances that take no new ones, by `service/host:port`."""
        services = {} if self.layout is None else self.layout.services()
        found: dict[str, int] = {}
        for (backend, server), count in self._leaving.sessions.items():
            if count:
                key = f"{services.get(backend, backend)}/{address_of(server)}"
                found[key] = found.get(key, 0) + count
        return found

    # -- the process ---------------------------------------------------------------------------------------------------

    def _look_at_the_process(self) -> None:
        """Without a map nothing is started or changed; that HAProxy runs all the same is to be seen."""
        process = self.process
        process.running = self.proxy.worker() is not None
        if process.running and not process.version:
            process.version, process.pid = self.proxy.version(), self.runtime.info().pid

    def _see_to_the_process(self, plan: Plan) -> None:
        now = self._clock()
        if self.known is not None and now < self._alive_at:
            return
        self._alive_at = now + ALIVE_SECONDS
        worker = self.proxy.worker()
        if worker is not None:
            # Another worker: it has been started again, from its file, which may be half a second behind.
            if self.known is None or worker != self.process.pid:
                self._adopt(plan)
            return
        self.known, self.process.running = None, False
        self.process.away_since = self.process.away_since or self._wall_clock()
        if not self.proxy.external or not self.settings.proxy_config.exists():
            self._write_anew(plan)
        if self.proxy.external:
            # Not waited for here: the loop has other things to do, and must be able to end.
            raise Unavailable(
                f"HAProxy does not answer on {self.settings.runtime_socket}, and is started by somebody else: see "
                "`systemctl status` of its unit, or whatever runs `sidecar proxy`."
            )
        if self.proxy.start():
            self.counts.starts += 1
            _log.info("HAProxy was started")
        self._adopt(plan)

    def _adopt(self, plan: Plan) -> None:
        """Learn what a running HAProxy knows, whoever started it."""
        reading = self._read()
        self.layout = adopt_layout(reading.state)
        self._tried, self.process.away_since = None, None
        self._note_version()
        # Not the file on disk: it may have been written anew by an agent that ended before the reload.
        if reading.description != fingerprint(self.settings):
            self.ask_reload("its file was made with other settings, or by another version")
        self._compare_at = self._clock() + self.settings.compare_seconds

    def _lost(self, error: Exception) -> None:
        if self.known is not None or self.failure is None:
            _log.warning("HAProxy cannot be told anything now: %s", error)
        self.known, self.process.running, self.failure, self._alive_at = None, False, str(error), -1.0

    def _note_version(self) -> None:
        self.process.version, self.process.dynamic = self.proxy.version(), self.proxy.dynamic_backends

    def _read(self) -> Reading:
        reading = self.runtime.read(MAPS)
        self.known, self.conditions, self.process.pid = reading.state, reading.conditions, reading.pid
        self._leaving.found(reading.leaving)
        self.ejections.compare(reading.conditions, self._clock())
        return reading

    # -- the plan ------------------------------------------------------------------------------------------------------

    def _lay_out(self, plan: Plan, layout: Layout) -> tuple[Layout, State, bool]:
        return lay_out(
            self._routes(plan),
            layout,
            tokens=self._tokens(),
            dynamic=self.process.dynamic,
            busy=tuple(self._leaving.servers),
        )

    def _routes(self, plan: Plan) -> Mapping[str, Route]:
        return self._barred.writable(plan.routes, {} if self.layout is None else self.layout.done.routes)

    def _steer(self, plan: Plan) -> None:
        assert self.known is not None
        assert self.layout is not None
        tokens = self._tokens()  # before: a file that changes meanwhile is looked at again
        self.layout, self.wanted, short = self._lay_out(plan, self.layout)
        self._tell()
        self._tried = plan, tokens
        if short:
            self.ask_reload("no spare backend is left for a service that is new")
        self._leaving.look_at(self.known)
        self._leaving.follow()
        self.applied, self.applied_at = plan, self._wall_clock()

    def _tell(self) -> int:
        """Say to HAProxy what differs; gives how many commands that took."""
        assert self.known is not None
        todo = commands(self.known, self.wanted, leaving=self._leaving.servers, dynamic=self.process.dynamic)
        if not todo:
            self.known = self.wanted
            return 0
        before = self.known
        refused = self.runtime.run(todo)
        self.counts.changes += len(todo)
        self.known = self.wanted
        self._leaving.changed(before, self.wanted)
        self._filing.changed()
        if refused:
            now = self._wall_clock()
            for one in refused:
                _log.error("%s", one)
            self.counts.refusals += len(refused)
            told = tuple(RefusedCommand(f"{one.about}: {one.command}", one.says, now) for one in refused)
            self.refusals = (*self.refusals, *told)[-MOST_REFUSALS:]
            self._read()
        return len(todo)

    def _compare(self) -> None:
        """Look whether HAProxy knows what it should, and set right what it does not."""
        self._compare_at = self._clock() + self.settings.compare_seconds
        self._read()
        differs = self._tell()
        if differs:
            self.counts.drift += differs
            self.drift_at = self._wall_clock()
            _log.warning("HAProxy knew something else than it should: %d commands set it right", differs)
        self._leaving.look_at(self.known)
        self._repeated.look()

    # -- ejections -----------------------------------------------------------------------------------------------------

    def _take_events(self) -> None:
        while True:
            try:
                event = self.events.get_nowait()
            except Empty:
                return
            self._note(event)

    def _note(self, event: Event) -> None:
        now = self._clock()
        self.ejections.take(event, now)
        self._repeated.forget(event.backend, event.server)
        servers = dict(self.conditions.get(event.backend, {}))
        servers[event.server] = "up" if event.up else "maint" if event.cause == "command" else "down"
        self.conditions = {**self.conditions, event.backend: servers}
        if not event.up and event.cause != "command":
            self.counts.ejections += 1
            service = (self.layout.services() if self.layout else {}).get(event.backend, event.backend)
            _log.warning("HAProxy ejects %s %s: %s", service, address_of(event.server), event.reason or event.cause)

    def _eject_the_silent(self) -> None:
        for one in self._repeated.follow():
            if self.conditions.get(one.backend, {}).get(one.server) in ("up", "starting"):
                self._note(Event(one.backend, one.server, up=False, cause="answers", reason=one.says))
                self._keep_down_at = -1.0

    def _see_to_the_ejected(self) -> None:
        """Set those up again whose time has come, and keep the others down."""
        now = self._clock()
        todo = [_health(one, "up") for one in self.ejections.due(now, self.wanted.backends)]
        if now >= self._keep_down_at:
            todo += [_health(one, "down") for one in self.ejections.kept_down(self.wanted.backends)]
            self._keep_down_at = now + KEPT_DOWN_SECONDS
        if todo:
            self.runtime.run(todo)

    # -- the file ------------------------------------------------------------------------------------------------------

    def _writing(self) -> Callable[[], object]:
        """What writes the file as it is to be now."""
        state, layout = self.wanted, self.layout
        return lambda: None if layout is None else self.proxy.write(self._render(state, layout))

    def _write(self, files: Files) -> None:
        """Write the file at once, whatever was about to be written."""
        self._filing.settle()
        self.proxy.write(files)

    def _render(self, state: State, layout: Layout) -> Files:
        return render(state, layout, self.settings, descriptors=descriptors())

    def _anew(self, plan: Plan) -> tuple[Layout, State, Files]:
        """Every service in a backend of its own name, without those that HAProxy will not have."""
        for _ in range(5):
            layout = fresh_layout(self._routes(plan), self.settings.spare_backends, dynamic=self.process.dynamic)
            layout, state, _ = self._lay_out(plan, layout)
            files = self._render(state, layout)
            found = self.proxy.check(files)
            services = layout.services()
            barred = {services[one.backend]: one.says for one in found if one.backend in services}
            if not barred:
                if found:
                    raise ConfigurationError(
                        "HAProxy refuses the file that was made for it:", [str(one) for one in found]
                    )
                break
            self._barred.add(plan.routes, barred)
        return layout, state, files

    def _write_anew(self, plan: Plan) -> None:
        _, _, files = self._anew(plan)
        self._write(files)

    def _reload_in(self) -> float:
        """Until the reload that is wished for may be."""
        return max(self.reloads.not_before - self._clock(), self.proxy.reload_due_in())

    def _reload(self, plan: Plan) -> None:
        reloads = self.reloads
        assert reloads.wish is not None
        assert self.layout is not None
        try:
            layout, state, files = self._anew(plan)
            self._write(files)
        except SmartError as error:
            self._put_off(error)
            return
        wish, reloads.wish = reloads.wish, None
        try:
            self.proxy.reload()
        except SmartError as error:
            self.counts.failed_reloads += 1
            reloads.failure = error.message
            _log.error("HAProxy could not be reloaded and goes on as before: %s", error)
            self._write(self._render(self.wanted, self.layout))
            self._read()
            return
        self.counts.reloads += 1
        reloads.failure, reloads.last = "", replace(wish, at=self._wall_clock())
        _log.info("HAProxy was reloaded: %s", wish.why)
        self.layout, self.wanted = layout, state
        self._note_version()
        self._read()
        self._tell()
        self._leaving.look_at(self.known)

    def _put_off(self, error: SmartError) -> None:
        """The files for a reload could not be made: HAProxy has heard nothing of it, and it is tried again in a while."""
        if self.reloads.failure != error.message:
            self.counts.failed_reloads += 1
            _log.error("HAProxy cannot be reloaded and goes on as before: %s", error)
        self.reloads.failure = error.message
        self.reloads.not_before = self._clock() + RELOAD_AGAIN_SECONDS

    def _until_next(self) -> float:
        moments = [self._alive_at, self._compare_at, self._leaving.due_at, self._repeated.due_at]
        if self._filing.next_at is not None:
            moments.append(self._filing.next_at)
        lift_at = self.ejections.next_at(self.wanted.backends)
        if lift_at is not None:
            moments.append(lift_at)
        if self.ejections.kept_down(self.wanted.backends):
            moments.append(self._keep_down_at)
        if self.reloads.wish is not None:
            moments.append(self._clock() + self._reload_in())
        return max(0.0, min(moments) - self._clock())


def _health(key: tuple[str, str], health: str) -> Command:
    backend, server = key
    return Command(f"set server {backend}/{server} health {health}", DONE, backend)
