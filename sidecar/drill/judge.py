"""What a fault has cost, and whether that is what was to be expected. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from sidecar.drill.expectations import advice_for
from sidecar.drill.load import Call
from sidecar.drill.plan import Step

Verdict = Literal["held", "as told", "LOST", "not back", "not done"]
"""held: no call was lost. as told: some were, no more than the plan said. LOST: more than that. not back: the realm was not as
before in time. not done: the fault could not begin."""

_MOST_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Course:
    """When what happened, by the monotonic clock."""

    began: float
    undone: float
    """When the fault had ended; for one that ends by itself, when it happened."""
    recovered: float | None
    """When everything was as before; None: it was not in time."""
    ended: float
    missing: Mapping[str, str] = field(default_factory=dict)
    """What was not as before, each with the reason."""
    failure: str = ""
    """Why it could not begin."""
    taken: Mapping[str, str] = field(default_factory=dict)
    """The instances that were not called any more at the end of the fault, each with the reason."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report."""

    fault: str
    target: str
    seconds: float
    requests: int = 0
    lost_get: int = 0
    lost_post: int = 0
    gap_ms: int = 0
    """The longest time in which one service gave no good answer at all."""
    gap_service: str = ""
    slowest_ms: int = 0
    recovered_ms: int | None = None
    verdict: Verdict = "held"
    says: str = ""
    """Why the verdict is what it is."""
    advice: str = ""
    examples: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        return self.verdict in ("held", "as told")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(step: Step, course: Course, calls: Iterable[Call], *, posters: int = 0) -> Row:
    """The verdict on one fault, from the calls that began while it lasted or the realm recovered."""
    if course.failure:
        return Row(step.fault, step.target.name, 0.0, verdict="not done", says=course.failure)
    mine = [call for call in calls if course.began <= call.began <= course.ended]
    lost = [call for call in mine if call.lost]
    lost_get = sum(1 for call in lost if call.method == "GET")
    lost_post = len(lost) - lost_get
    gap, service = longest_gap(mine, course.began, course.ended)
    says = _broken(step, lost_get, lost_post, gap, service, posters) or _taken(step, course)
    recovered = course.recovered is not None
    verdict: Verdict = "LOST" if says else "not back" if not recovered else "as told" if lost else "held"
    if verdict == "not back":
        says = "; ".join(f"{name}: {why}" for name, why in course.missing.items())
    return Row(
        step.fault,
        step.target.name,
        round(course.undone - course.began, 1),
        len(mine),
        lost_get,
        lost_post,
        round(gap * 1000),
        service,
        round(max((call.ended - call.began for call in mine), default=0.0) * 1000),
        round((course.recovered - course.undone) * 1000) if course.recovered is not None else None,
        verdict,
        says,
        _advice(step, verdict, bool(lost), recovered),
        tuple(dict.fromkeys(f"{call.method} {call.service}: {call.lost}" for call in lost))[:_MOST_EXAMPLES],
        dict(course.missing),
    )


def longest_gap(calls: Iterable[Call], began: float, ended: float) -> tuple[float, str]:
    """The longest time without a good answer of one service, and which."""
    answered: dict[str, list[float]] = {}
    for call in calls:
        times = answered.setdefault(call.service, [])
        if not call.lost:
            times.append(min(max(call.ended, began), ended))
    worst, which = 0.0, ""
    for service, times in sorted(answered.items()):
        points = [began, *sorted(times), ended]
        gap = max(after - before for before, after in pairwise(points))
        if gap > worst:
            worst, which = gap, service
    return worst, which


def _broken(step: Step, lost_get: int, lost_post: int, gap: float, service: str, posters: int) -> str:
    """Which bound was not kept; empty: all were."""
    rule = step.rule
    if rule.lost_get is not None and lost_get > rule.lost_get:
        return f"{lost_get} GET were lost"
    allowed = rule.lost_post if rule.lost_post is None or not rule.in_flight else rule.lost_post + posters
    if allowed is not None and lost_post > allowed:
        return f"{lost_post} POST were lost" + (f", of at most {allowed} under way" if allowed else "")
    bound = rule.gap_seconds + (step.seconds if rule.holds_up else 0.0)
    if gap > bound:
        return f"{service} gave no answer for {gap:.1f} s, where {bound:.1f} s were to be expected"
    return ""


def _taken(step: Step, course: Course) -> str:
    """Which instances were taken out although none was to be; empty: none were."""
    if not step.rule.keeps or not course.taken:
        return ""
    return "taken out: " + "; ".join(f"{name} ({why.rstrip('.')})" for name, why in course.taken.items())


def _advice(step: Step, verdict: Verdict, lost: bool, recovered: bool) -> str:
    if verdict in ("held", "as told"):
        return ""
    return advice_for(step.rule, alone=step.alone, lost=lost, recovered=recovered, restarts=step.is_instant)
