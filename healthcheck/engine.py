"""The engine: named checks in groups, run in parallel threads, one run of a check at a time, judged with hysteresis.

A poll reads what is known. With the background schedule (`start()`) it never waits for a check that has had its first
result; without it, a poll runs what is stale and any number of concurrent polls share that one run.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from healthcheck.answer import Answer, Kind, negotiate, not_found, present
from healthcheck.flight import Flight
from healthcheck.model import Report, Result, Row, Status, Transition, conclude, read_error, read_result
from healthcheck.probe import Probe, Run, Terms
from healthcheck.schedule import Schedule
from smartrealm.errors import ConfigurationError, NotFound
from smartrealm.fork import on_fork
from smartrealm.redaction import redact as redact_secrets

logger = logging.getLogger("healthcheck")

GROUPS = ("live", "ready", "startup")

Gate = Callable[[], str | None]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")
_SHORTEST_PAUSE = 0.05


class Engine:
    """Runs checks and tells what they add up to. Safe from any thread; begins anew in a forked child.

    `clock` measures (monotonic seconds), `wall` is for display. `around()` gives the context manager that each run of a
    check happens in; `describe()` gives what a detailed answer says about the service itself; `redact` masks secrets
    in outputs. `interval`, `timeout`, `fall` and `rise` are defaults which `add` can overrule for one check.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        interval: float = 5.0,
        timeout: float = 2.0,
        fall: int = 3,
        rise: int = 2,
        redact: Callable[[Any], Any] = redact_secrets,
        around: Callable[[], AbstractContextManager[Any]] | None = None,
        describe: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self.around = around
        self.describe = describe
        self._clock, self._wall, self._redact = clock, wall, redact
        self._interval, self._timeout, self._fall, self._rise = interval, timeout, fall, rise
        self._lock = threading.Lock()
        self._probes: dict[str, Probe] = {}
        self._gates: dict[str, tuple[Gate, ...]] = {}
        self._listeners: list[Callable[[Transition], object]] = []
        self._transitions: deque[Transition] = deque(maxlen=20)
        self._schedule: Schedule | None = None
        self._closed = False
        self._started_up = False
        self._generation = 0
        self._answers: dict[tuple[str | None, str | None, Kind, bool], _Cached] = {}
        on_fork(self, Engine._begin_anew)

    def add(
        self,
        name: str,
        check: Callable[[], Any],
        *,
        groups: str | Iterable[str] = ("ready",),
        critical: bool = True,
        timeout: float | None = None,
        interval: float | None = None,
        dependency: bool | None = None,
    ) -> None:
        """Register a check under a name.

        Unless told `dependency=False`, a check is taken to ask something outside this process, and the group "live"
        refuses it: a restart heals no database. Raises ConfigurationError, which names the check.
        """
        groups = (groups,) if isinstance(groups, str) else tuple(groups)
        mistakes = self._mistakes(name, check, groups, dependency)
        terms = Terms(
            groups=groups,
            critical=critical,
            timeout=self._timeout if timeout is None else timeout,
            interval=self._interval if interval is None else interval,
            fall=self._fall,
            rise=self._rise,
        )
        if terms.timeout <= 0 or terms.interval < 0:
            mistakes.append(f'the health check "{name}" needs a timeout above 0 and an interval of at least 0 seconds')
        if mistakes:
            raise ConfigurationError(mistakes[0] if len(mistakes) == 1 else "", mistakes if len(mistakes) > 1 else ())
        with self._lock:
            self._probes[name] = Probe(name, check, terms)
            self._generation += 1
            schedule = self._schedule
        if schedule is not None:
            schedule.wake()

    def _mistakes(self, name: str, check: object, groups: tuple[str, ...], dependency: bool | None) -> list[str]:
        mistakes = [
            f'the health {what} "{word}" needs a name of letters, digits and _ . : - that begins with a letter or digit'
            for what, word in (("check", name), *(("group", group) for group in groups))
            if not isinstance(word, str) or not _NAME.fullmatch(word)
        ]
        if not callable(check):
            mistakes.append(f'the health check "{name}" is a {type(check).__name__}; give a function without arguments')
        if name in self._probes:
            mistakes.append(f'a health check "{name}" is registered already; give this one another name')
        if not groups:
            mistakes.append(f'the health check "{name}" is in no group; put it in "ready" or a group of your own')
        marked = getattr(check, "dependency", False) or getattr(getattr(check, "func", None), "dependency", False)
        asks_outside = marked or dependency is not False
        if "live" in groups and asks_outside:
            mistakes.append(
                f'the health check "{name}" asks a dependency, and the group "live" takes none: restarting this process '
                f'would not heal it. Put it in "ready"; a check of this process alone says dependency=False'
            )
        return mistakes

    def add_gate(self, group: str, gate: Gate) -> None:
        """Have `gate()` asked at every poll of the group: None, or the reason why it is closed now (then it fails).

        It must answer at once: no I/O. One that raises is closed.
        """
        with self._lock:
            self._gates[group] = (*self._gates.get(group, ()), gate)
            self._generation += 1

    def on_transition(self, callback: Callable[[Transition], object]) -> None:
        """Call `callback` after each change of a check's status, in the thread that saw it. Errors are logged."""
        self._listeners.append(callback)

    @property
    def groups(self) -> tuple[str, ...]:
        """Every group that can be asked for."""
        own = (group for probe in tuple(self._probes.values()) for group in probe.terms.groups)
        return tuple(dict.fromkeys((*GROUPS, *own, *self._gates)))

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """The last 20 changes of status, oldest first."""
        with self._lock:
            return tuple(self._transitions)

    def statuses(self) -> dict[str, Status | None]:
        """Each check's status as it is known now, None before its first result. Runs nothing."""
        return {name: probe.status for name, probe in tuple(self._probes.items())}

    # -- the background schedule ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run the checks in the background from now on. Call it in the process that serves; twice does no harm."""
        with self._lock:
            self._closed = False
            if self._schedule is not None and self._schedule.running:
                return
            schedule = self._schedule = Schedule(self, name="healthcheck-schedule")
            self._answers = {}
        schedule.start()

    @property
    def scheduled(self) -> bool:
        """Whether the background schedule runs."""
        return self._schedule is not None and self._schedule.running

    def close(self) -> None:
        """End the background schedule and begin no run any more; the last results stay readable."""
        with self._lock:
            schedule, self._schedule = self._schedule, None
            self._closed = True
        if schedule is not None:
            schedule.stop()

    def turn(self) -> float:
        """One turn of the schedule: note missed deadlines, begin what is due. Gives the seconds until the next."""
        now = self._clock()
        probes = self._wanted(tuple(self._probes.values()))
        for probe in probes:
            if probe.next_event() <= now:
                self._advance(probe, now, probe.due_at)
        self._latch_startup()
        following = min((probe.next_event() for probe in probes), default=now + 60.0)
        return min(max(following - self._clock(), _SHORTEST_PAUSE), 60.0)

    def _begin_anew(self) -> None:
        was_scheduled = self._schedule is not None
        self._lock = threading.Lock()
        self._schedule, self._answers, self._started_up = None, {}, False
        self._transitions.clear()
        for probe in self._probes.values():
            probe.forget()
        self._generation += 1
        if was_scheduled:
            self.start()

    # -- running -------------------------------------------------------------------------------------------------------

    def _wanted(self, probes: tuple[Probe, ...]) -> tuple[Probe, ...]:
        """All but the checks that only startup wanted, once that has passed."""
        if not self._started_up:
            return probes
        return tuple(probe for probe in probes if probe.terms.groups != ("startup",))

    def _advance(self, probe: Probe, now: float, due_at: Callable[[], float]) -> Run | None:
        """Whatever `probe` needs now: a run begun, a deadline noted. Gives the run that a poll may wait for."""
        with self._lock:
            run = probe.run
            if self._closed or (run is None and due_at() > now):  # another thread was faster
                return None
            if run is not None and not run.late and now < run.deadline:
                return run
            if run is None:
                run = probe.run = Run(begun=now, deadline=now + probe.terms.timeout, wall=self._wall())
                probe.begun_at = now
                flight = run.flight = Flight(self._work(probe, run), name=f"healthcheck-{probe.name}")
            else:
                flight = None
        if flight is None:
            self._miss(probe, run)
            return None
        try:
            flight.start()
        except RuntimeError as error:  # the system gives no thread
            self._land(probe, run, read_error(error, self._redact))
            return None
        return run

    def _work(self, probe: Probe, run: Run) -> Callable[[], None]:
        reference, check, redact, around = weakref.ref(self), probe.check, self._redact, self.around

        def work() -> None:
            try:
                with around() if around is not None else nullcontext():
                    result = read_result(check(), redact)
            except BaseException as error:  # SystemExit in a check must not end anything
                result = read_error(error, redact)
            engine = reference()
            if engine is not None:
                engine._land(probe, run, result)

        return work

    def _land(self, probe: Probe, run: Run, result: Result) -> None:
        """A run came back. After its deadline that only frees the check to be run again."""
        now = self._clock()
        with self._lock:
            if probe.run is not run:
                return
            probe.run = None
            self._generation += 1
            if run.late:
                return
            change = probe.observe(result, now=now, wall=self._wall(), seconds=now - run.begun)
            self._note(change)
        self._tell(change)

    def _miss(self, probe: Probe, run: Run) -> None:
        """A run missed its deadline, or still hangs one interval later: each time that is one failed result."""
        now = self._clock()
        with self._lock:
            if probe.run is not run or (run.late and now < probe.due_at()):
                return
            limit = f"no answer within {probe.terms.timeout:g} s"
            output = f"{limit}; it still hangs and is not started again before it ends" if run.late else limit
            run.late, probe.begun_at = True, now
            change = probe.observe(
                Result("fail", output), now=now, wall=self._wall(), seconds=max(now - run.begun, probe.terms.timeout)
            )
            self._generation += 1
            self._note(change)
        self._tell(change)

    def _note(self, change: Transition | None) -> None:
        if change is not None and (change.before is not None or change.after != "pass"):
            self._transitions.append(change)

    def _tell(self, change: Transition | None) -> None:
        if change is None:
            return
        if change.before is not None or change.after != "pass":
            level = logging.INFO if change.after == "pass" else logging.WARNING
            logger.log(
                level,
                # No colon after a status: "pass: ..." reads like a password, and redaction would mask the output.
                "health check %s is now %s, was %s%s",
                change.name,
                change.after,
                change.before or "new",
                "" if change.output is None else f" ({change.output})",
                extra={"check": change.name, "before": change.before, "after": change.after},
            )
        for callback in tuple(self._listeners):
            try:
                callback(change)
            except Exception:
                logger.exception("a listener for health transitions failed")

    # -- reading -------------------------------------------------------------------------------------------------------

    def report(self, group: str | None = None, check: str | None = None) -> Report:
        """What is known about a group, about all of them (None), or about one check in them.

        Runs what is stale and waits for it, each check at most its timeout; under the background schedule nothing is
        stale after the first result. Raises NotFound for an unknown group or check.
        """
        probes = self._probes_of(group, check)
        self._freshen(probes)
        return self._read(group, probes, self._closed_gates(group), keep_startup=check is None)

    def answer(
        self, group: str | None = None, accept: str = "", detailed: bool = False, check: str | None = None
    ) -> Answer:
        """The report as an HTTP answer, free of any framework: (status, headers, body).

        The bytes are kept until a result, a gate or the clock changes what they say.
        """
        kind = negotiate(accept)
        key = (group, check, kind, detailed)
        reasons = self._closed_gates(group)
        cached = self._answers.get(key)
        if cached is not None and cached.fits(self._generation, self._clock(), reasons):
            return cached.answer
        try:
            probes = self._probes_of(group, check)
        except NotFound as unknown:
            return not_found(unknown.message if detailed else "")
        self._freshen(probes)
        generation = self._generation
        report = self._read(group, probes, reasons, keep_startup=check is None)
        about = self._about() if detailed else {}
        answer = present(report, kind, detailed=detailed, about=about, transitions=self.transitions)
        scheduled = self.scheduled
        stale = (probe.stale_at(scheduled=scheduled) for probe in self._wanted(probes))
        self._answers[key] = _Cached(answer, generation, min([self._clock() + self._interval, *stale]), reasons)
        return answer

    def _probes_of(self, group: str | None, check: str | None) -> tuple[Probe, ...]:
        probes = tuple(self._probes.values())
        if group is not None:
            if group not in self.groups:
                raise NotFound(f'No health group is called "{group}"; there are: {", ".join(self.groups)}.')
            probes = tuple(probe for probe in probes if group in probe.terms.groups)
        if check is None:
            return probes
        chosen = tuple(probe for probe in probes if probe.name == check)
        if not chosen:
            names = ", ".join(probe.name for probe in probes) or "none"
            raise NotFound(f'No health check is called "{check}" here; there are: {names}.')
        return chosen

    def _freshen(self, probes: tuple[Probe, ...]) -> None:
        """Begin every stale check at once, then wait for them together."""
        if self._closed:
            return
        now, scheduled = self._clock(), self.scheduled
        runs: list[tuple[Probe, Run]] = []
        for probe in self._wanted(probes):
            stale_at = partial(probe.stale_at, scheduled=scheduled)
            if stale_at() <= now and (run := self._advance(probe, now, stale_at)) is not None:
                runs.append((probe, run))
        for probe, run in runs:
            if run.flight is not None and not run.flight.wait(max(run.deadline - self._clock(), 0.0)):
                self._miss(probe, run)

    def _closed_gates(self, group: str | None) -> tuple[str, ...]:
        if not self._gates:
            return ()
        gates = self._gates.items() if group is None else ((group, self._gates.get(group, ())),)
        reasons: list[str] = []
        for name, members in tuple(gates):
            if name == "startup" and self._started_up:
                continue
            reasons += [reason for gate in members if (reason := _ask(gate)) is not None]
        return tuple(dict.fromkeys(reasons))

    def _read(
        self, group: str | None, probes: tuple[Probe, ...], reasons: tuple[str, ...], keep_startup: bool
    ) -> Report:
        if group == "startup" and keep_startup:
            self._latch_startup()
        with self._lock:
            rows = tuple(probe.row() for probe in probes)
        counted = self._counted(rows)
        if group == "startup" and keep_startup and self._started_up:
            return Report(group, "pass", rows, (), self._wall())
        return Report(group, conclude(counted, reasons), rows, reasons, self._wall())

    def _counted(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        return tuple(row for row in rows if row.groups != ("startup",)) if self._started_up else rows

    def _latch_startup(self) -> None:
        """Startup passes once: from then on it stays passed, whatever its checks say later."""
        if self._started_up or self._closed_gates("startup"):
            return
        with self._lock:
            rows = [probe.row() for probe in self._probes.values() if "startup" in probe.terms.groups]
            if conclude(rows, ()) != "fail":
                self._started_up = True
                self._generation += 1

    def _about(self) -> Mapping[str, Any]:
        if self.describe is None:
            return {}
        try:
            about: Mapping[str, Any] = self._redact(dict(self.describe()))
        except Exception:
            logger.exception("describe() of the health engine failed")
            return {}
        return about

    def __repr__(self) -> str:
        state = "scheduled" if self.scheduled else "closed" if self._closed else "on demand"
        return f"Engine({state}, checks={list(self._probes)})"


class _Cached:
    """An answer and what it holds for."""

    __slots__ = ("_generation", "_reasons", "_until", "answer")

    def __init__(self, answer: Answer, generation: int, until: float, reasons: tuple[str, ...]) -> None:
        self.answer, self._generation, self._until, self._reasons = answer, generation, until, reasons

    def fits(self, generation: int, now: float, reasons: tuple[str, ...]) -> bool:
        return self._generation == generation and now < self._until and self._reasons == reasons


def _ask(gate: Gate) -> str | None:
    try:
        reason = gate()
    except Exception as error:
        return f"a gate failed: {type(error).__name__}"
    return None if reason is None else str(reason)
