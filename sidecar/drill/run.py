"""Doing what a plan says: one fault after the other, under load, each undone and its recovery waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from atlas.directory import Directory
from sidecar.drill import faults
from sidecar.drill.journal import Holding
from sidecar.drill.judge import Course, Row, judge
from sidecar.drill.load import TIMEOUT_SECONDS, Call
from sidecar.drill.plan import DrillPlan, Step
from sidecar.drill.processes import Process
from sidecar.drill.scene import Target
from sidecar.drill.watch import HELD
from smartrealm.errors import ConfigurationError, SmartError, Unavailable

FIRST_SECONDS = 1.5
"""So long calls are sent before anything happens: what is lost then was lost anyway."""
LOOK_SECONDS = 0.05
SETTLED_LOOKS = 2
"""So often in a row everything has to be as before."""

Fault = AbstractContextManager[object]
Say = Callable[[str], object]


class Sender(Protocol):
    """What sends the traffic: `load.Load`."""

    calls: list[Call]

    @property
    def posters(self) -> int: ...

    def oldest(self) -> float: ...


class Looks(Protocol):
    """What sees whether all is as before: `watch.Watch`."""

    def now(self) -> dict[str, str]: ...

    def missing(self, before: Collection[str]) -> dict[str, str]: ...


class Finds(Protocol):
    """What knows the processes: `discovery.Places`."""

    def processes(self, target: Target, fault: str) -> tuple[Process, ...]: ...


class Drill:
    """One drill. `rows` holds what is known so far, also when it was broken off; `not_done` what did not begin."""

    def __init__(
        self,
        plan: DrillPlan,
        *,
        load: Sender,
        places: Finds,
        watch: Looks,
        journal: Holding,
        say: Say = lambda text: None,
        special: Mapping[str, Callable[[], Fault]] = {},
        directory: Callable[[], Directory] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.plan = plan
        self.rows: list[Row] = []
        self.not_done: list[tuple[str, str]] = []
        self._load, self._places, self._watch, self._journal = load, places, watch, journal
        self._say, self._special, self._directory = say, special, directory
        self._clock, self._sleep = clock, sleep
        self._before: frozenset[str] = frozenset()

    @property
    def held(self) -> bool:
        """Whether everything was survived."""
        return bool(self.rows) and all(row.is_good for row in self.rows)

    def run(self) -> None:
        """Do all of it. The load is running. Raises ConfigurationError when calls are lost before anything has happened."""
        end = self._clock() + self.plan.wish.total
        self._begin()
        for number, step in enumerate(self.plan.steps):
            if self._clock() >= end:
                left = self.plan.steps[number:]
                self.not_done += [(one.name, f"--for {self.plan.wish.total:g} was over") for one in left]
                return
            self._say(f"{step.name}" + ("" if step.is_instant else f", for {step.seconds:g} s"))
            row = self._step(step)
            self.rows.append(row)
            self._say(f"  {told(row)}")
            if row.verdict == "not back" and not self._goes_on():
                left = self.plan.steps[number + 1 :]
                self.not_done += [(one.name, "the realm did not recover from the one before") for one in left]
                return

    def _begin(self) -> None:
        """See that all is well before anything happens."""
        began = self._clock()
        self._pass(FIRST_SECONDS)
        self._wait_calls(self._clock())
        lost = [call for call in self._load.calls if call.began >= began and call.lost]
        if lost:
            one = lost[0]
            raise ConfigurationError(
                f"Calls are lost before anything has happened: {len(lost)} of {len(self._load.calls)}, the first to {one.service} "
                f"({one.lost}). See `sidecar why {one.service}`; ask for something else with --path, or choose with --service."
            )
        self._before = frozenset(name for name, why in self._watch.now().items() if not why)
        self._say(f"{len(self._load.calls)} calls before anything happens: none lost")

    def _goes_on(self) -> bool:
        """Whether what is left is worth the rest of the drill; what is gone by now is not waited for again."""
        self._before = frozenset(name for name, why in self._watch.now().items() if not why)
        alive = {name.partition(" ")[0] for name in self._before}
        return {"the agent", "HAProxy"} <= self._before and alive.issuperset(self.plan.traffic.paths)

    def _step(self, step: Step) -> Row:
        processes = self._places.processes(step.target, step.fault)
        began = self._clock()
        try:
            with self._fault(step, processes):
                self._pass(0.0 if step.is_instant else step.seconds)
                taken = self._taken() if step.rule.keeps else {}
        except (SmartError, OSError) as error:
            return judge(step, Course(began, began, None, began, failure=str(error)), ())
        undone = began if step.is_instant else self._clock()
        gone = processes if step.is_instant else ()
        recovered, missing = self._wait_recovered(step, undone, gone)
        ended = recovered or self._clock()
        self._wait_calls(ended)
        course = Course(began, undone, recovered, ended, missing, taken=taken)
        return judge(step, course, tuple(self._load.calls), posters=self._load.posters)

    def _taken(self) -> dict[str, str]:
        """The instances that took calls before and do not now. Those that the guard holds do."""
        missing = self._watch.missing({name for name in self._before if " " in name and not name.startswith("the ")})
        return {name: why for name, why in missing.items() if name != "the agent" and not why.startswith(HELD)}

    def _fault(self, step: Step, processes: tuple[Process, ...]) -> Fault:
        if step.fault in self._special:
            return self._special[step.fault]()
        if step.target.kind == "remote":
            if self._directory is None:
                raise Unavailable("Atlas is not known here.")
            return faults.ruled(self._directory(), step.target.service, step.target.address, seconds=step.seconds)
        if step.fault == "flap":
            return faults.flapping(Path(step.target.announced), self._journal, seconds=step.seconds)
        if step.fault == "partition":
            return faults.blackholed(step.target.hosts, self._journal, seconds=step.seconds)
        if not processes:
            raise Unavailable("Its process is not there.")
        if step.fault == "kill":
            return faults.killed(processes)
        if step.fault == "crash":
            return faults.crashed(processes)
        make = {"freeze": faults.frozen, "slow": faults.slowed, "disk-full": faults.full_disk}[step.fault]
        return make(processes, self._journal, seconds=step.seconds)

    def _wait_recovered(
        self, step: Step, since: float, gone: tuple[Process, ...]
    ) -> tuple[float | None, Mapping[str, str]]:
        """When everything was as before; else what is not."""
        looks, first = 0, 0.0
        while True:
            now = self._clock()
            missing = self._watch.missing(self._before)
            if not missing and gone and not self._is_replaced(step, gone):
                missing = {step.target.name: "nobody has started it again"}
            looks, first = (0, 0.0) if missing else (looks + 1, first or now)
            if looks >= SETTLED_LOOKS:
                return first, {}
            if now - since > step.rule.recovers_seconds:
                return None, missing
            self._sleep(LOOK_SECONDS)

    def _is_replaced(self, step: Step, gone: tuple[Process, ...]) -> bool:
        """Whether those that were ended are over, and somebody has their place."""
        now = self._places.processes(step.target, step.fault)
        return bool(now) and not {one for one in gone if one.is_alive} and not set(now) & set(gone)

    def _pass(self, seconds: float) -> None:
        end = self._clock() + seconds
        while (left := end - self._clock()) > 0:
            self._sleep(min(left, 0.1))

    def _wait_calls(self, until: float) -> None:
        """Wait until each call that began before this moment has ended."""
        end = self._clock() + TIMEOUT_SECONDS + 2
        while self._load.oldest() < until and self._clock() < end:
            self._sleep(LOOK_SECONDS)


def told(row: Row) -> str:
    """What a fault has cost, in one line."""
    if row.verdict == "not done":
        return f"not done: {row.says}"
    lost = row.lost_get + row.lost_post
    back = f", as before after {row.recovered_ms} ms" if row.recovered_ms is not None else ""
    return f"{row.seconds:g} s, {row.requests} calls, {lost} lost, longest gap {row.gap_ms} ms{back}: {row.verdict}"
