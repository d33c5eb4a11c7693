"""A plan and a report as a person reads them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sidecar.drill.expectations import FAULTS, UNDONE
from sidecar.drill.judge import Row
from sidecar.drill.plan import DrillPlan, Step
from smartrealm.wording import count, plain, some, span, table

_TITLES = ("fault", "target", "seconds", "calls", "lost GET", "lost POST", "gap ms", "back after ms", "verdict")
_NUMBERS = _TITLES[2:8]


def plan_text(plan: DrillPlan) -> Iterator[str]:
    """What is going to be done, as lines."""
    scene, traffic = plan.scene, plan.traffic
    where = "a realm of the drill's own" if scene.own else f"realm {scene.realm}, {scene.directory}"
    yield f"A drill of {where}: {count(len(plan.steps), 'fault')}, about {span(plan.about_seconds)}."
    yield f"Traffic: {traffic.rate:g} calls a second through {scene.door}, while it lasts: " + (
        some([f"GET {path} of {name}" for name, path in sorted(traffic.paths.items())], 8)
        + (f", and POST {traffic.post} of each" if traffic.post else "")
        + "."
    )
    for number, step in enumerate(plan.steps, 1):
        yield ""
        yield f"{number:2}. {step.fault} {step.target.name}{_length(step)}: {FAULTS[step.fault]}."
        yield f"    Expected: {step.expects}"
        yield f"    Undone: {undone(step, restarts=plan.wish.restarts)}."
    left_out = list(grouped(plan.left_out))
    if left_out:
        yield ""
        yield "Left out:"
        yield from (f"  {', '.join(names)}: {plain(why)}." for why, names in left_out)
    yield ""
    yield "Everything is undone at the end, on Ctrl-C too, and by a watchdog should the drill be killed."


def undone(step: Step, *, restarts: bool = False) -> str:
    """How it is taken back."""
    by = step.target.restarted_by or ("somebody, as you say" if restarts else "nobody")
    if step.fault == "crash" and step.target.kind == "instance":
        by = "its master"
    if step.target.kind == "remote":
        return "it is enabled in Atlas; the word on it also ends by itself"
    return UNDONE[step.fault].format(who=by)


def plan_document(plan: DrillPlan) -> dict[str, Any]:
    """The same for a program."""
    return {
        "realm": plan.scene.realm,
        "own": plan.scene.own,
        "directory": plan.scene.directory,
        "about_seconds": plan.about_seconds,
        "traffic": {"rate": plan.traffic.rate, "get": dict(plan.traffic.paths), "post": plan.traffic.post},
        "faults": [
            {
                "fault": step.fault,
                "target": step.target.name,
                "kind": step.target.kind,
                "seconds": 0.0 if step.is_instant else step.seconds,
                "expects": step.expects,
                "undone": undone(step, restarts=plan.wish.restarts),
            }
            for step in plan.steps
        ],
        "left_out": [{"what": what, "why": why} for what, why in plan.left_out],
    }


def report_text(
    rows: Iterable[Row], not_done: Iterable[tuple[str, str]] = (), *, complete: bool = True
) -> Iterator[str]:
    """What became of it: the table, a word on each that was not survived, and the answer."""
    found, missed = list(rows), list(grouped(not_done))
    if found:
        yield from table(_TITLES, map(_cells, found), right=_NUMBERS)
    for row in found:
        if not row.is_good:
            yield ""
            yield f"{row.fault} {row.target}: {plain(row.says.rstrip(chr(46)))}."
            yield from (f"  {plain(example)}" for example in row.examples)
            if row.advice:
                yield f"  {row.advice}"
    if missed:
        yield ""
        yield from (f"Not done: {', '.join(names)}: {plain(why)}." for why, names in missed)
    yield ""
    yield answer(found, complete=complete and not missed)


def answer(rows: list[Row], *, complete: bool = True) -> str:
    """Whether the realm survives, in one sentence. `complete`: all that was planned was done."""
    bad = [row for row in rows if not row.is_good]
    if not rows:
        return "Nothing was done."
    calls = f"{sum(row.requests for row in rows):,} calls, {sum(row.lost_get + row.lost_post for row in rows):,} lost"
    if not bad:
        return f"It survives all {'of it' if complete else 'that was done'}: {count(len(rows), 'fault')}, {calls}."
    which = some([f"{row.fault} {row.target}" for row in bad], 6)
    return f"It does not survive {len(bad)} of {count(len(rows), 'fault')}: {which} ({calls})."


def report_document(rows: Iterable[Row], not_done: Iterable[tuple[str, str]], *, complete: bool) -> dict[str, Any]:
    """The same for a program."""
    found, missed = list(rows), list(not_done)
    return {
        "held": bool(found) and all(row.is_good for row in found),
        "complete": complete,
        "says": answer(found, complete=complete and not missed),
        "faults": [row.to_json() for row in found],
        "not_done": [{"what": what, "why": why} for what, why in missed],
    }


def grouped(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """What has the same reason together."""
    found: dict[str, list[str]] = {}
    for what, why in pairs:
        found.setdefault(why, []).append(what)
    yield from found.items()


def _length(step: Step) -> str:
    return "" if step.is_instant else f", {step.seconds:g} s"


def _cells(row: Row) -> list[str]:
    done = row.verdict != "not done"
    back = "-" if row.recovered_ms is None else str(row.recovered_ms)
    numbers: Mapping[str, object] = {
        "seconds": f"{row.seconds:g}",
        "calls": row.requests,
        "lost GET": row.lost_get,
        "lost POST": row.lost_post,
        "gap ms": row.gap_ms,
    }
    return [row.fault, row.target, *(str(one) if done else "-" for one in numbers.values()), back, row.verdict]
