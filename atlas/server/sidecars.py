"""What the sidecars say, read for the commands: who is up to date, what is still under way, who is not awaited. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from atlas.model import Report, Service
from atlas.reports import host_of, is_sidecar
from atlas.server.wording import table
from atlas.splits import BUCKETS, Share, parse_split, share_for
from atlas.world import Place, Position, World
from smartrealm.errors import ValidationFailed
from smartrealm.wording import count, plain, span

_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Awaited:
    """How far the sidecars are with a change, and with the calls to the instances that it takes out."""

    revision: int
    done: tuple[str, ...] = ()
    """Hosts on which it is in force and no such call is under way."""
    behind: tuple[str, ...] = ()
    """Hosts that have not applied it yet."""
    silent: tuple[str, ...] = ()
    """Hosts whose sidecar lives and has not reported yet."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """Calls that are under way, by host; of those that have applied it."""
    overdue: tuple[str, ...] = ()
    """Hosts that are not awaited: the lease of their sidecar was not renewed in time."""

    @property
    def is_over(self) -> bool:
        return not (self.behind or self.silent or self.calls)

    @property
    def sidecars(self) -> int:
        """How many are awaited, or were."""
        return len(self.done) + len(self.behind) + len(self.silent) + len(self.calls)

    def told(self) -> str:
        """What is still awaited, in a few words."""
        parts = []
        if self.behind:
            parts.append(f"{_named(self.behind)} to apply revision {self.revision}")
        if self.silent:
            parts.append(f"the first report of {_named(self.silent)}")
        if self.calls:
            by_host = sorted(self.calls.items(), key=lambda item: (-item[1], item[0]))
            listed = _named([f"{host} {number}" for host, number in by_host])
            parts.append(f"{count(sum(self.calls.values()), 'call')} under way ({listed})")
        return "; ".join(parts) or "nothing"

    def to_json(self) -> dict[str, Any]:
        return {
            "revision": self.revision,
            "done": list(self.done),
            "behind": list(self.behind),
            "silent": list(self.silent),
            "calls": dict(self.calls),
            "overdue": list(self.overdue),
        }


def look(
    reports: Mapping[str, Report],
    *,
    revision: int,
    epoch: str,
    instances: Collection[str] = (),
    leases: Iterable[str] = (),
    overdue: Collection[str] = (),
) -> Awaited:
    """How far everybody is. `instances`: `service/host:port`, whose calls are to end; `leases`: those of the map; `overdue`:
    those of them that were not renewed in time."""
    done, behind, calls = [], [], {}
    for lease, report in sorted(reports.items()):
        host = report.host or host_of(lease)
        under_way = sum(report.sessions.get(one, 0) for one in instances)
        if not has_applied(report, epoch, revision):
            behind.append(host)
        elif under_way:
            calls[host] = under_way
        else:
            done.append(host)
    absent = sorted(lease for lease in leases if is_sidecar(lease) and lease not in reports)
    return Awaited(
        revision,
        tuple(done),
        tuple(behind),
        tuple(host_of(lease) for lease in absent if lease not in overdue),
        calls,
        tuple(host_of(lease) for lease in absent if lease in overdue),
    )


def has_applied(report: Report, epoch: str, revision: int) -> bool:
    """Whether a revision of this map is in force at a sidecar. One of another map says nothing of this one."""
    return report.epoch in ("", epoch) and report.applied(revision)


def lagging(reports: Mapping[str, Report], position: Position) -> tuple[Report, ...]:
    """Those that go by an older catalogue than this one."""
    return tuple(
        report for _, report in sorted(reports.items()) if not has_applied(report, position.epoch, position.revision)
    )


def calls_under_way(reports: Mapping[str, Report], instance: str) -> int:
    """Calls to an instance that drains, through all sidecars together."""
    return sum(report.sessions.get(instance, 0) for report in reports.values())


# -- as text -----------------------------------------------------------------------------------------------------------


def sidecars_table(reports: Mapping[str, Report], position: Position, now: float) -> list[str]:
    """A line for each sidecar: how far it is, when it was heard last, what it holds, what is under way."""
    rows = []
    for one in sidecars_json(reports, position, now):
        behind = one["behind"]
        applied = (
            str(one["revision"])
            if one["applied"]
            else f"{one['revision']} (behind by {behind})"
            if behind
            else "another map"
        )
        holding = click.style(str(one["holding"]), fg="yellow") if one["holding"] else "0"
        rows.append(
            (
                plain(one["host"]),
                applied if one["applied"] else click.style(applied, fg="red"),
                span(one["age_seconds"]),
                holding,
                str(one["calls_under_way"]),
            )
        )
    return table(
        ("sidecar", "applied", "heard", "holds", "calls to leaving instances"),
        rows,
        right=("applied", "heard", "holds"),
    )


def sidecars_told(reports: Mapping[str, Report], position: Position) -> list[str]:
    """All of them in a line or two."""
    late = lagging(reports, position)
    if late:
        told = f"{_named([report.host for report in late])} not yet at revision {position.revision}"
        lines = [click.style(f"{count(len(reports), 'sidecar')}: {told}", fg="red")]
    else:
        lines = [f"{count(len(reports), 'sidecar')}, all at revision {position.revision}"]
    holding = [f"{report.host} {report.holding}" for _, report in sorted(reports.items()) if report.holding]
    if holding:
        lines.append(
            click.style(f"instances that are gone from the map and called all the same: {_named(holding)}", fg="yellow")
        )
    return lines


def sidecars_json(reports: Mapping[str, Report], position: Position, now: float) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "host": report.host,
            "lease": lease,
            "revision": report.revision,
            "applied": has_applied(report, position.epoch, position.revision),
            "behind": max(0, position.revision - report.revision),
            "presence": report.presence,
            "at": report.at,
            "age_seconds": round(max(0.0, now - report.at), 3),
            "holding": report.holding,
            "sessions": dict(report.sessions),
            "calls_under_way": sum(report.sessions.values()),
        }
        for lease, report in sorted(reports.items())
    ]


def shares_json(world: World, service: Service, now: float) -> list[dict[str, Any]]:
    """The sides of a split with who is there for each, the rest last (its version is empty); nothing without a split."""
    try:
        shares = parse_split(service.split)
    except ValidationFailed:  # it came into the store by another way; a sidecar says what is wrong with it
        shares = ()
    sides: dict[Share | None, list[Place]] = {share: [] for share in shares}
    rest_begins = shares[-1].limit if shares else BUCKETS
    if rest_begins < BUCKETS:
        sides[None] = []
    for place in world.places(service.name, now):
        sides.setdefault(share_for(shares, place.instance.version), []).append(place)
    limits = [0, *(share.limit for share in shares)]
    told = [
        _side(share.version, begin, share.limit, sides[share]) for share, begin in zip(shares, limits, strict=False)
    ]
    return [*told, _side("", rest_begins, BUCKETS, sides[None])] if rest_begins < BUCKETS else told


def _side(version: str, begin: int, limit: int, places: Collection[Place]) -> dict[str, Any]:
    return {
        "version": version,
        "percent": (limit - begin) / 100,
        "buckets": [begin, limit - 1],
        "instances": len(places),
        "taking_calls": sum(1 for place in places if place.takes_calls),
    }


def shares_table(world: World, service: Service, now: float) -> list[str]:
    """The same for people."""
    rows = []
    for side in shares_json(world, service, now):
        there = str(side["taking_calls"])
        rows.append(
            (
                plain(side["version"] or "(all others)"),
                f"{side['percent']:g}%",
                there if side["taking_calls"] else click.style(f"{there}: its callers go to the others", fg="red"),
                str(side["instances"]),
            )
        )
    return table(("version", "callers", "taking calls", "instances"), rows, right=("callers",))


def _named(names: Collection[str]) -> str:
    listed = [plain(name) for name in names]
    more = f" and {len(listed) - _MOST_NAMED} more" if len(listed) > _MOST_NAMED else ""
    return ", ".join(listed[:_MOST_NAMED]) + more
