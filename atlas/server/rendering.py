"""The map as text: `atlas ls`, `atlas show` and the JSON of both. Pure functions: a world in, lines out."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from atlas.model import EVERY_SERVICE, Change, Lease, Override, Report, Ruling, Service
from atlas.server.sidecars import calls_under_way, shares_json, shares_table, sidecars_json, sidecars_told
from atlas.server.wording import HIDDEN, change_line, one_line, table, value_text
from atlas.world import Place, World
from smartrealm.wording import ago, count, moment, plain, span

_COLOURS = {"enabled": "green", "draining": "yellow", "disabled": "red"}


@dataclass(frozen=True)
class Glance:
    """What the commands that show the map are given: the world, and what is known about it beyond it."""

    world: World
    realm: str
    now: float
    where: str = ""
    overdue: Mapping[str, float] = field(default_factory=dict)
    """Leases that were not renewed in time, by id: seconds since the last sign of life."""
    held: bool = False
    """So many leases are overdue at once that none is given up: the fault may be ours."""
    store_problem: str = ""
    """Why the server that was asked has only what it remembers."""
    changes: tuple[Change, ...] = ()
    """The latest, newest first."""
    reports: Mapping[str, Report] = field(default_factory=dict)
    """What the sidecars say of themselves, by the id of their lease."""

    def places(self, service: str) -> tuple[Place, ...]:
        return self.world.places(service, self.now)

    def with_changes(self, changes: tuple[Change, ...]) -> Glance:
        return dataclasses.replace(self, changes=changes)

    @property
    def names(self) -> list[str]:
        """Every service that is known or runs."""
        return sorted({*self.world.services, *self.world.instances})


# -- ls ----------------------------------------------------------------------------------------------------------------


def listing(glance: Glance) -> list[str]:
    """The realm at a glance: the numbers, the last change, what is wrong, then one line for each service."""
    lines = [_numbers(glance)]
    if glance.changes:
        lines.append(f"last change {change_line(glance.changes[0], glance.now)}")
    troubles = [click.style(f"! {line}", fg="red") for line in _troubles(glance)]
    notes = [
        click.style(f"- {line}", fg="yellow")
        for line in (*_absent_services(glance), *_splits(glance), *_rulings(glance))
    ]
    lines += [*troubles, *notes, ""]
    if not glance.names:
        lines.append("No service is registered yet: atlas service add NAME, or start one.")
        return lines
    rows = [_row(glance, name) for name in glance.names]
    titles = ("service", "enabled", "draining", "disabled", "versions", "port", "owner")
    return [*lines, *table(titles, rows, right=("enabled", "draining", "disabled", "port"))]


def _numbers(glance: Glance) -> str:
    states: Counter[str] = Counter(place.state for name in glance.names for place in glance.places(name))
    told = ", ".join(f"{states[state]} {state}" for state in _COLOURS if states[state])
    where = f" at {glance.where}" if glance.where else ""
    instances = count(sum(states.values()), "instance") + (f" ({told})" if told else "")
    sidecars = f", {count(len(glance.reports), 'sidecar')}" if glance.reports else ""
    leases = count(len(glance.world.leases), "lease")
    return f"realm {glance.realm}{where}: {count(len(glance.names), 'service')}, {instances}, {leases}{sidecars}"


def _troubles(glance: Glance) -> Iterator[str]:
    carried = Counter(
        instance.lease for inner in glance.world.instances.values() for instance in inner.values() if instance.lease
    )
    if glance.store_problem:
        yield f"Atlas serves from memory, and nothing can be changed: {plain(glance.store_problem)}"
    for lease, seconds in sorted(glance.overdue.items(), key=lambda item: -item[1]):
        yield f"lease {plain(lease)} is overdue: no sign of life for {span(seconds)}; it carries {count(carried[lease], 'instance')}"
    if glance.held:
        yield "more than half of all leases are overdue at once: nothing is given up, since the fault may be here"
    for name in glance.names:
        places = glance.places(name)
        if places and not any(place.takes_calls for place in places):
            which = "its only instance is not" if len(places) == 1 else f"none of its {len(places)} instances is"
            yield f"{name} takes no calls: {which} enabled"


def _absent_services(glance: Glance) -> Iterator[str]:
    """Known services of which nothing runs: what ended without a word is found here. On a laptop that is as it should be."""
    if glance.realm != "local":
        absent = [name for name in glance.names if not glance.places(name)]
        if absent:
            more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
            yield f"no instance runs of {', '.join(absent[:8])}{more}"


def _splits(glance: Glance) -> Iterator[str]:
    for name, service in sorted(glance.world.services.items()):
        if service.split:
            yield f"{name} is split: {plain(service.split)} of its callers"


def _rulings(glance: Glance) -> Iterator[str]:
    for key in sorted(glance.world.rulings):
        ruling = glance.world.rulings[key]
        if ruling.state != "enabled" and not _is_over(ruling, glance.now):
            yield f"{key.replace('/', ' ', 1)} {ruling_text(ruling, glance.now)}"


def _is_over(ruling: Ruling, now: float) -> bool:
    return ruling.expires_at is not None and ruling.expires_at <= now


def ruling_text(ruling: Ruling, now: float) -> str:
    """`disabled 5 min ago by anna: loses requests, for another 2 h`."""
    told = ruling.state if ruling.weight is None else f"{ruling.state}, weight {ruling.weight}"
    if ruling.at:
        told += f" {ago(ruling.at, now)}"
    if ruling.author:
        told += f" by {plain(ruling.author)}"
    if ruling.reason:
        told += f": {one_line(ruling.reason)}"
    if ruling.expires_at is not None:
        told += f", until {moment(ruling.expires_at, now)} (for another {span(ruling.expires_at - now)})"
    return told


def _row(glance: Glance, name: str) -> tuple[str, ...]:
    places = glance.places(name)
    states: Counter[str] = Counter(place.state for place in places)
    known = glance.world.services.get(name)
    return (
        name,
        *(_number(states[state], colour) for state, colour in _COLOURS.items()),
        versions(places) or "-",
        str(known.port) if known and known.port else "-",
        plain(known.owner or "-") if known else "(runs, not registered)",
    )


def _number(number: int, colour: str) -> str:
    return click.style(str(number), fg=colour) if number else click.style("0", dim=True)


def versions(places: Iterable[Place]) -> str:
    """`1.4 (3), 1.3`: the most frequent first."""
    counted = Counter(plain(place.instance.version or "?") for place in places)
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(version if number == 1 else f"{version} ({number})" for version, number in ordered)


def listing_json(glance: Glance) -> dict[str, Any]:
    """The same for programs."""
    return {
        "realm": glance.realm,
        "position": str(glance.world.position),
        "services": [_summary(glance, name) for name in glance.names],
        "sidecars": sidecars_json(glance.reports, glance.world.position, glance.now),
        "leases": [_lease_json(glance, lease) for _, lease in sorted(glance.world.leases.items())],
        "rulings": [ruling.to_json() for _, ruling in sorted(glance.world.rulings.items())],
    }


def _summary(glance: Glance, name: str) -> dict[str, Any]:
    places = glance.places(name)
    states: Counter[str] = Counter(place.state for place in places)
    known = glance.world.services.get(name)
    return {
        "name": name,
        "registered": known is not None,
        "owner": known.owner if known else "",
        "port": known.port if known else None,
        "instances": {state: states[state] for state in _COLOURS},
        "versions": dict(Counter(place.instance.version for place in places)),
        "split": known.split if known else "",
        "callers": known.callers if known else "",
    }


def _lease_json(glance: Glance, lease: Lease) -> dict[str, Any]:
    return {
        "id": lease.id,
        "ttl_seconds": lease.ttl_seconds,
        "opened_at": lease.opened_at,
        "overdue": lease.id in glance.overdue,
    }


# -- show --------------------------------------------------------------------------------------------------------------


def showing(glance: Glance, name: str) -> list[str]:
    """Everything about one service: what its callers know, its instances, its overrides, what happened lately."""
    known = glance.world.services.get(name)
    lines = _about(known, glance.now) if known else [f"{name} runs without being registered: atlas service add {name}"]
    places = glance.places(name)
    if places:
        lines += ["", *_places(glance, places)]
    else:
        lines += ["", click.style("no instance runs", fg="yellow")]
    lines += _absent(glance, name, places)
    if known and known.split:
        lines += ["", *shares_table(glance.world, known, glance.now)]
    if glance.reports:
        lines += ["", *sidecars_told(glance.reports, glance.world.position)]
    overrides = list(glance.world.overrides_of(name))
    if overrides:
        lines += ["", *_overrides(overrides, glance.now)]
    if glance.changes:
        lines += ["", click.style("last changes", dim=True)]
        lines += [f"  {change_line(change, glance.now)}" for change in glance.changes]
    return lines


def _about(service: Service, now: float) -> list[str]:
    lines = [
        click.style(service.name, bold=True) + (f": {one_line(service.description)}" if service.description else "")
    ]
    facts = (
        ("owner", service.owner),
        ("repository", service.repository),
        ("port", "" if service.port is None else str(service.port)),
        ("health", service.health_path),
        ("calls", f"{service.timeout_seconds:g} s, retried: {service.retry_class}, versions: {service.version_policy}"),
        ("callers", ", ".join(service.callers.split(",")) if service.callers else ""),
        ("loss", f"accepted {ago(service.loss_accepted_at, now)}" if service.loss_accepted_at else ""),
    )
    return lines + [f"  {title:<11} {one_line(value)}" for title, value in facts if value]


def _places(glance: Glance, places: Iterable[Place]) -> list[str]:
    rows = []
    for place in sorted(places, key=lambda place: place.instance.address):
        instance, ruling = place.instance, place.ruling
        told = ruling_text(ruling, glance.now) if ruling else "about to stop" if instance.draining else ""
        if under_way := calls_under_way(glance.reports, instance.key):
            told = "; ".join(filter(None, (told, f"{count(under_way, 'call')} under way")))
        if instance.lease in glance.overdue:
            late = click.style(f"lease {plain(instance.lease)} is overdue", fg="red")
            told = f"{told}; {late}" if told else late
        rows.append(
            (
                instance.address,
                click.style(place.state, fg=_COLOURS[place.state]),
                str(place.weight),
                plain(instance.version or "-"),
                plain(instance.zone or "-"),
                told,
            )
        )
    return table(("instance", "state", "weight", "version", "zone", ""), rows, right=("weight",))


def _absent(glance: Glance, name: str, places: Iterable[Place]) -> list[str]:
    present = {place.instance.key for place in places}
    return [
        f"{ruling.key.replace('/', ' ', 1)}, which does not run: {ruling_text(ruling, glance.now)}"
        for key, ruling in sorted(glance.world.rulings.items())
        if ruling.service == name and key not in present and not _is_over(ruling, glance.now)
    ]


def _overrides(overrides: Iterable[Override], now: float) -> list[str]:
    rows = [
        (
            override.key,
            override_text(override),
            "every service" if override.scope == EVERY_SERVICE else "this service",
            f"{ago(override.at, now)} by {plain(override.author or 'somebody')}" if override.at else "",
        )
        for override in sorted(overrides, key=lambda override: (override.key, override.scope))
    ]
    return table(("override", "value", "for", "set"), rows)


def override_text(override: Override) -> str:
    return HIDDEN if override.secret else "(not shown)" if override.hidden else value_text(override.value)


def override_json(override: Override, *, open_secrets: bool = False) -> dict[str, Any]:
    """An override for programs; a secret without its value, unless asked for."""
    shown = not override.secret or open_secrets
    return {
        "scope": override.scope,
        "key": override.key,
        "value": override.value if shown else None,
        "secret": override.secret,
        "hidden": override.hidden or not shown,
        "author": override.author,
        "at": override.at,
        "revision": override.revision,
    }


def showing_json(glance: Glance, name: str) -> dict[str, Any]:
    """The same for programs."""
    known = glance.world.services.get(name)
    return {
        "name": name,
        "service": known.to_json() if known else None,
        "shares": shares_json(glance.world, known, glance.now) if known else [],
        "sidecars": sidecars_json(glance.reports, glance.world.position, glance.now),
        "instances": [place_json(glance, place) for place in glance.places(name)],
        "rulings": [ruling.to_json() for ruling in glance.world.rulings.values() if ruling.service == name],
        "overrides": [override_json(override) for override in glance.world.overrides_of(name)],
    }


def place_json(glance: Glance, place: Place) -> dict[str, Any]:
    return {
        **place.instance.to_json(),
        "address": place.instance.address,
        "state": place.state,
        "weight": place.weight,
        "ruling": place.ruling.to_json() if place.ruling else None,
        "overdue": place.instance.lease in glance.overdue,
        "calls_under_way": calls_under_way(glance.reports, place.instance.key),
    }
