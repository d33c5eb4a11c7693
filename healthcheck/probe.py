"""A registered check and what is known about it. Decides when it is due and what its results add up to; runs nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from healthcheck.flight import Flight
from healthcheck.model import Result, Row, Status, Transition

NOT_YET = Result("fail", "no result yet")


@dataclass(frozen=True, slots=True)
class Terms:
    """How a check is run and judged. Times in seconds; `fall` and `rise` count results in a row."""

    groups: tuple[str, ...]
    critical: bool
    timeout: float
    interval: float
    fall: int
    rise: int


@dataclass(slots=True)
class Run:
    """One execution on its way. `late` once it has missed its deadline; `wall` is when it began, for display."""

    begun: float
    deadline: float
    wall: float
    late: bool = False
    flight: Flight[None] | None = None


@dataclass(slots=True)
class Probe:
    """Not safe by itself: the engine holds its lock around every call."""

    name: str
    check: Callable[[], Any]
    terms: Terms
    run: Run | None = None
    latest: Result = NOT_YET
    status: Status | None = None
    seconds: float = 0.0
    streak: int = 0
    observed_at: float = -math.inf
    begun_at: float = -math.inf
    wall: float | None = None
    since: float | None = None

    @property
    def hanging(self) -> bool:
        """Whether a run that missed its deadline still has not come back."""
        return self.run is not None and self.run.late

    def due_at(self) -> float:
        """When the next result should be begun, by the schedule."""
        return self.begun_at + self.terms.interval

    def next_event(self) -> float:
        """When the schedule next has something to do here: a deadline, or the next run."""
        if self.run is not None and not self.run.late:
            return self.run.deadline
        return self.due_at()

    def stale_at(self, *, scheduled: bool) -> float:
        """Until when a poll may use the latest result.

        Under the schedule it is good for three intervals (and a run's own time): only a schedule that has stopped
        working leaves one to age longer than that.
        """
        if not scheduled:
            return self.observed_at + self.terms.interval
        return self.observed_at + 3 * self.terms.interval + 2 * self.terms.timeout

    def observe(self, result: Result, *, now: float, wall: float, seconds: float) -> Transition | None:
        """Take in one result; gives the change of status that it brings, if it does.

        The first result counts at once, and so does one after a silence longer than it takes to fall: older news
        says nothing about now (with an interval of 0, where every poll asks, that is always so). Otherwise a failure counts when it is the `fall`th in a row and an end of failure when
        it is the `rise`th. Between pass and warn there is nothing to wait for: both take traffic.
        """
        patience = self.terms.fall * self.terms.interval + self.terms.timeout
        silent = self.terms.interval == 0 or now - self.observed_at >= patience
        same_side = self.status is not None and (result.status == "fail") == (self.status == "fail")
        self.streak = 0 if same_side else self.streak + 1
        needed = self.terms.fall if result.status == "fail" else self.terms.rise
        self.latest, self.observed_at, self.wall, self.seconds = result, now, wall, seconds
        if not (self.status is None or silent or same_side or self.streak >= needed):
            return None
        before, self.status, self.streak = self.status, result.status, 0
        if before == result.status:
            return None
        self.since = wall
        return Transition(self.name, before, result.status, result.output, wall)

    def forget(self) -> None:
        """Begin anew, as in a forked child: its threads and its time are another process's."""
        self.run, self.latest, self.status, self.streak = None, NOT_YET, None, 0
        self.observed_at = self.begun_at = -math.inf
        self.wall = self.since = None

    def row(self) -> Row:
        """What a report shows."""
        return Row(
            name=self.name,
            status=self.status or "fail",
            observed=self.latest.status,
            output=self.latest.output,
            critical=self.terms.critical,
            groups=self.terms.groups,
            time=self.wall,
            expires=None if self.wall is None else self.wall + self.terms.interval,
            seconds=round(self.seconds, 6),
            since=self.since,
            hanging_since=self.run.wall if self.run is not None and self.run.late else None,
            value=self.latest.value,
            unit=self.latest.unit,
        )
