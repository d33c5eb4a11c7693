"""The rules on one instance, then those on a service as a whole. Pure: nothing is remembered here.

`judge` says of each instance alone whether it could take calls. `arrange` then makes the route of all of them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from atlas.model import Instance, Ruling
from sidecar.model import Reason, Route, Server, Side, Standing
from sidecar.servers import scaled, server_name, step
from sidecar.usable import Terms, literal, trouble_with, trouble_with_ruling

State = Literal["able", "damped", "draining", "out", "invalid"]
"""able: could take calls. damped: could, and waits. draining: takes no new ones. out: takes none. invalid: nothing is known."""


@dataclass(slots=True)
class Candidate:
    """One instance on its way through the rules; `standing`, `reason` and `says` are those of the last rule that acted."""

    address: str
    instance: Instance
    state: State
    standing: Standing
    reason: Reason
    says: str
    host: str = ""
    weight: int = 0
    ends_at: float | None = None
    """Time of day at which the ruling on it ends."""
    share: int | None = None
    """Which share of the split it belongs to."""
    backup: bool = False


def ruling_in_force(ruling: Ruling | None, today: float) -> Ruling | None:
    """The ruling, unless it has ended."""
    if ruling is not None and ruling.expires_at is not None and ruling.expires_at <= today:
        return None
    return ruling


def judge(
    service: str,
    address: str,
    instance: Instance,
    ruling: Ruling | None,
    *,
    unready: bool,
    resolve: Callable[[str], str | None],
    today: float,
) -> Candidate:
    """What the rules say of one instance alone, the first one that acts deciding."""
    trouble = trouble_with(instance, service, address) or (trouble_with_ruling(ruling) if ruling is not None else None)
    if trouble is not None:
        return Candidate(address, instance, "invalid", "quarantined", "invalid", f"It cannot be called: {trouble}.")
    host = literal(instance.host) or resolve(instance.host)
    if host is None:
        told = f"It cannot be called yet: no address is known of the name {instance.host}."
        return Candidate(address, instance, "invalid", "quarantined", "invalid", told)
    found = Candidate(address, instance, "able", "in", "map", "It takes calls.", host, instance.weight)
    ruling = ruling_in_force(ruling, today)
    if ruling is not None and not _allows(ruling, found):
        return found
    if instance.draining:
        told = "It is about to stop, or the checks of its host find that it is not ready or has ended."
        return _set(found, "draining", "draining", "drain", told)
    if unready:
        return _set(found, "draining", "draining", "check", "The checks of this host find that it is not ready.")
    if found.weight == 0:
        if ruling is not None and ruling.weight == 0:
            return _set(found, "out", "out", "ruling", _ruled(ruling, "Its weight was set to 0"))
        return _set(found, "out", "out", "weight", "Its weight is 0.")
    return found


def _allows(ruling: Ruling, found: Candidate) -> bool:
    """Whether the operator's word leaves it to the other rules whether it takes calls; sets what it decides itself."""
    found.ends_at = ruling.expires_at
    if ruling.weight is not None:
        found.weight = ruling.weight
        found.reason, found.says = "ruling", _ruled(ruling, f"It takes calls with the weight {ruling.weight}")
    if ruling.state == "disabled":
        _set(found, "out", "out", "ruling", _ruled(ruling, "It is disabled"))
    elif ruling.state == "draining":
        _set(found, "draining", "draining", "ruling", _ruled(ruling, "It is drained"))
    return ruling.state == "enabled"


def arrange(service: str, terms: Terms, candidates: Iterable[Candidate], zone: str) -> Route:
    """The route of a service, by version policy, split and zones; sets what became of each candidate.

    The candidates come in the order of their addresses, so that the same ones give the same route.
    """
    usable = [one for one in candidates if one.state != "invalid"]
    able = _fitting([one for one in usable if one.state == "able"], usable, terms)
    divisor = step(one.weight for one in usable if one.state in ("able", "draining"))
    if not able:
        servers = _last_resort(usable, divisor)
        return Route(service, servers, (), terms.timeout_ms, terms.repeatable, terms.callers)
    for share in (None, *range(len(terms.shares))):
        _place_in_zones([one for one in usable if one.share == share], zone)
    called = [one for one in usable if one.state == "able" or one.state == "draining"]
    servers = tuple(_server(one, divisor, backup=one.backup or one.share is not None) for one in called)
    sides = _sides(terms, called, servers, divisor)
    return Route(service, servers, sides, terms.timeout_ms, terms.repeatable, terms.callers)


def _fitting(able: list[Candidate], usable: list[Candidate], terms: Terms) -> list[Candidate]:
    """Those which the split and the version policy let take calls: a share goes before the policy, which is for the rest."""
    if not terms.shares and not terms.policy:
        return able
    for one in usable:
        version = one.instance.version
        one.share = next((number for number, share in enumerate(terms.shares) if share.fits(version)), None)
        if one.share is not None and one.state == "able" and one.standing == "in":
            share = terms.shares[one.share]
            one.reason, one.says = "version", f"It takes the calls of the share {share.version} of the split."
    rest = [one for one in able if one.share is None]
    right = [one for one in rest if not terms.policy or fnmatch.fnmatchcase(one.instance.version, terms.policy)]
    if not right:  # all versions, while none is right: a policy never empties a service
        return able
    for one in rest:
        if one not in right:
            told = f"Its version {one.instance.version or 'is not known and'} does not fit the policy {terms.policy}."
            _set(one, "out", "out", "version", told)
    return [one for one in able if one.state == "able"]


def _last_resort(usable: list[Candidate], divisor: int) -> tuple[Server, ...]:
    """Nobody takes calls: those that drain go on, since an instance that is about to stop is better than none. Those that
    fail the checks of this host go on only where all of them do."""
    draining = [one for one in usable if one.state == "draining"]
    chosen = [one for one in draining if one.reason != "check"] or draining
    for one in chosen:
        one.says = f"{one.says[:-1]}; it takes calls all the same, since no other instance does."
    return tuple(_server(one, divisor, backup=True, draining=one not in chosen) for one in draining)


def others_stand_by(zone: str, able: Iterable[str], all_zones: Iterable[str]) -> bool:
    """Whether instances of other zones are to be backups, given the zones of those that take calls and of all of them.

    Not while fewer than half of this zone's instances take calls: the rest would be overloaded.
    """
    if not zone:
        return False
    near = sum(one == zone for one in able)
    return near > 0 and 2 * near >= sum(one == zone for one in all_zones)


def _place_in_zones(group: list[Candidate], zone: str) -> None:
    """Make backups of those in other zones, where enough of this one take calls. One that drains keeps the name it had."""
    if not zone:
        return
    able = [one.instance.zone for one in group if one.state == "able"]
    all_zones = [one.instance.zone for one in group if one.reason != "version" or one.state != "out"]
    if not others_stand_by(zone, able, all_zones):
        return
    for one in group:
        if one.instance.zone != zone:
            one.backup = True
            if one.standing == "in":
                where = f"It is in the zone {one.instance.zone}" if one.instance.zone else "It names no zone"
                told = f"{where}, and enough instances of {zone} take calls; it takes those that they cannot."
                _set(one, one.state, "backup", "zone", told)


def _sides(terms: Terms, called: list[Candidate], servers: tuple[Server, ...], divisor: int) -> tuple[Side, ...]:
    """The sides of the split. One without an instance that takes calls is left out; where another comes after it, its part of
    the callers stays its own, and goes where the rest goes."""
    sides: list[Side] = []
    last = 0
    for number, share in enumerate(terms.shares):
        own = [one for one in called if one.share == number]
        if any(one.state == "able" for one in own):
            last = len(sides) + 1
            sides.append(Side(share.limit, tuple(_server(one, divisor, backup=one.backup) for one in own)))
        else:
            sides.append(Side(share.limit, servers))
    return tuple(sides[:last])


def _server(one: Candidate, divisor: int, *, backup: bool, draining: bool | None = None) -> Server:
    return Server(
        server_name(one.address, one.host, backup=backup),
        one.host,
        one.instance.port,
        scaled(one.weight, divisor),
        backup,
        one.state == "draining" if draining is None else draining,
    )


def _set(one: Candidate, state: State, standing: Standing, reason: Reason, says: str) -> Candidate:
    one.state, one.standing, one.reason, one.says = state, standing, reason, says
    return one


def _ruled(ruling: Ruling, what: str) -> str:
    author = f" by {ruling.author}" if ruling.author else ""
    why = f": {ruling.reason}" if ruling.reason else ""
    return f"{what}{author}{why}."
