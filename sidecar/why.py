"""Why a service is routed as it is: which revision, rule, check or guard decided, and since when. Pure."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sidecar.facts import Facts, OwnInstance
from sidecar.model import Decision, Plan, Route
from sidecar.status import instance_document, service_document
from sidecar.troubles import doubt_says, guard_advice, guard_says, silent_says, takes_calls
from smartrealm.wording import count, moment, plain, since, some, span

DECIDED_BY: Mapping[str, str] = {
    "map": "the map",
    "ruling": "an operator's word",
    "drain": "its own host, which takes it out of the calls",
    "weight": "its weight",
    "version": "the version policy or the split of the service",
    "zone": "the zone rule: near instances first",
    "damping": "damping: it came and went too often",
    "guard": "the guard: too many were lost at once",
    "ejected": "HAProxy, which saw too many bad answers",
    "check": "the check of its own host's sidecar",
    "invalid": "what the map says of it cannot be used",
}
"""Each reason of a decision in words."""

STANDING: Mapping[str, str] = {
    "in": "takes calls",
    "backup": "takes calls when none of the nearer ones can",
    "draining": "drains (no new calls, while another one takes them)",
    "out": "takes no calls",
    "held": "is gone from the map and called all the same",
    "quarantined": "cannot be routed",
}
"""Each standing as a verb."""

NEXT: Mapping[str, str] = {
    "ruling": "`atlas enable {service} {address}` gives it calls again, for every host.",
    "weight": "`atlas weight {service} {address} 100` gives it a share of the calls.",
    "version": "`atlas split {service}` and `atlas show {service}` say which versions are to take calls.",
    "damping": "Its log says why it ends again and again. It is taken back once it stays.",
    "ejected": "Its log says what it answers. `atlas disable {service} {address}` takes it out for every host.",
    "drain": "On its host: its log, and `sidecar why {service} {address}`.",
    "check": "It is on this host: its log, and `curl` its health address.",
    "invalid": "`atlas show {service}` shows what the map says of it.",
}
"""What to do about an instance that takes no calls, by the reason of it."""


def explain(service: str, address: str | None, facts: Facts, plan: Plan, now: float) -> dict[str, Any]:
    """The answer to /v1/why/SERVICE and /v1/why/SERVICE/ADDRESS. An address may be a host or a port alone.

    What is not known is explained as well, with the names that come near; it is never an error.
    """
    names = {*plan.routes, *plan.decisions, *plan.quarantined}
    own = [one for one in facts.own if one.service == service]
    document: dict[str, Any] = {
        "service": service,
        "address": address,
        "known": service in names,
        "near": [],
        "at": now,
    }
    if service not in names:
        document["near"] = difflib.get_close_matches(service, sorted(names))
        document["says"] = _unknown_service(service, document["near"], own, facts, plan)
        document["instances"] = []
        return document
    document.update(service_document(service, facts, plan))
    document["applied"] = facts.position == plan.position
    document["facts"] = _route_facts(service, facts, plan, now)
    if address is None:
        document["says"] = _service_says(service, facts, plan, now)
        document["facts"][:0] = _next_steps(service, document["instances"])
        return document
    wanted = [one for one in document["instances"] if _fits(one["address"], address)]
    if not wanted:
        everything = [one["address"] for one in document["instances"]]
        near = difflib.get_close_matches(address, everything, n=3, cutoff=0.5)
        document.update(known=False, near=near, says=_unknown_address(service, address, near, everything, own, facts))
    else:
        document["says"] = "; ".join(instance_says(one, now) for one in wanted)
        document["facts"][:0] = [
            *(_own_says(one) for one in own if _fits(one.address, address) and one.state not in ("ready", "draining")),
            *_next_steps(service, wanted),
        ]
    document["instances"] = wanted
    return document


def _next_steps(service: str, instances: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each reason for which instances take no calls, with the first of them as the example."""
    away = [one for one in instances if one["standing"] in ("draining", "out", "quarantined") and one["reason"] in NEXT]
    first = {one["reason"]: one for one in reversed(away)}
    return [NEXT[reason].format(service=service, address=plain(one["address"])) for reason, one in first.items()]


def _fits(known: str, asked: str) -> bool:
    host, _, port = known.rpartition(":")
    return asked in (known, host, host.strip("[]"), port)


def _unknown_service(service: str, near: Sequence[str], own: Sequence[OwnInstance], facts: Facts, plan: Plan) -> str:
    if facts.map_from == "none":
        return f"{plain(service)} is not known, since there is no map yet: calls are answered 404."
    told = (
        f"{plain(service)} is not in the map of realm {facts.realm} (revision {plan.position.revision}): "
        "calls are answered 404"
    )
    if own:
        return f"{told}. {_own_says(own[0])}"
    return f"{told}; did you mean {' or '.join(near)}?" if near else f"{told}. `atlas ls` shows what is there."


def _unknown_address(
    service: str,
    address: str,
    near: Sequence[str],
    known: Sequence[str],
    own: Sequence[OwnInstance],
    facts: Facts,
) -> str:
    told = f"No instance of {service} is at {plain(address)}"
    here = [one for one in own if _fits(one.address, address)]
    if here:
        return f"{told} in the map. {_own_says(here[0])}"
    if near:
        return f"{told}; did you mean {' or '.join(near)}?"
    if not known:
        return f"{told}: it has no instance at all."
    return f"{told}; there are {some([plain(one) for one in known], 8)}."


def _own_says(one: OwnInstance) -> str:
    why = f": {plain(one.reason)}" if one.reason else ""
    return f"{one.address} is announced on this host, and is {plain(one.state)}{why}."


def _service_says(service: str, facts: Facts, plan: Plan, now: float) -> str:
    if service in plan.quarantined:
        return f"{service} is quarantined, the rest goes on: {plain(plan.quarantined[service])}"
    decisions = plan.decisions.get(service, {})
    ejected = {one.address for one in facts.ejected if one.service == service}
    standings = Counter("out" if address in ejected else one.standing for address, one in decisions.items())
    if not decisions:
        return f"{service} has no instance: calls are answered 503 until one comes."
    route = plan.routes.get(service)
    if route is None or not takes_calls(route):
        return silent_says(service, list(standings.elements()))
    told = ", ".join(f"{number} {standing}" for standing, number in sorted(standings.items(), key=_by_standing))
    return f"{service} is routed to {count(len(decisions), 'instance')}: {told}."


def _by_standing(item: tuple[str, int]) -> int:
    return list(STANDING).index(item[0])


def _route_facts(service: str, facts: Facts, plan: Plan, now: float) -> list[str]:
    """What holds for the service as a whole, one sentence each."""
    found = []
    if service in plan.guards:
        found += [guard_says(plan.guards[service], now), guard_advice(service)]
    found += [doubt_says(one, now) for one in facts.doubted if one.service == service]
    route = plan.routes.get(service)
    if route is not None:
        found += _settings_of(route)
    if facts.map_from == "disk":
        found.append(f"The map is the one kept on disk {span(facts.map_age_seconds or 0.0)} ago: Atlas is away.")
    elif facts.map_failure:
        found.append(
            f"The map is {span(facts.map_age_seconds or 0.0)} old, since none comes: {plain(facts.map_failure)}"
        )
    if facts.position != plan.position:
        waits = f": {facts.pending}" if facts.pending else ""
        found.append(f"HAProxy has the map as of {facts.position}, {plan.position} is on its way{waits}.")
    else:
        applied = f", applied{since(facts.applied_at, now)}" if facts.applied_at else ""
        found.append(f"HAProxy has the map as of revision {plan.position.revision}{applied}.")
    return found


def _settings_of(route: Route) -> Iterable[str]:
    repeat = "repeats reads that got no answer" if route.repeatable else "repeats nothing"
    yield f"A call may take {route.timeout_ms / 1000:g} s; HAProxy {repeat} (`atlas service change {route.service}`)."
    if route.callers is not None:
        yield f"Only {', '.join(route.callers) or 'nobody'} may call it; others are answered 403."
    below = 0
    for number, side in enumerate(route.sides, 1):
        yield (
            f"Split: buckets {below} to {side.limit - 1} ({(side.limit - below) / 100:g} %) go to side {number}, "
            f"{count(len(side.servers), 'instance')}."
        )
        below = side.limit


def instance_says(one: Mapping[str, Any], now: float) -> str:
    """`10.0.0.7:8000 takes no calls since 03:12:04 (5 min), decided by an operator's word at revision 41: loses requests`."""
    decided = DECIDED_BY.get(one["reason"], str(one["reason"]))
    revision = f" at revision {one['revision']}" if one.get("revision") else ""
    is_plain = one["standing"] == "in" and one["reason"] == "map"
    says = f": {plain(one['says'])}" if one.get("says") and not is_plain else ""
    verb = STANDING.get(one["standing"], str(one["standing"]))
    told = f"{plain(one['address'])} {verb}{since(one.get('since'), now)}, decided by {decided}{revision}{says}"
    more = []
    if one.get("until"):
        more.append(f"It is tried again at {moment(one['until'], now)}.")
    if one.get("condition") == "down" and one["standing"] != "out":
        more.append("HAProxy finds that it does not answer now.")
    return " ".join([told.rstrip(".") + ".", *more]) if more else told


def why_lines(document: Mapping[str, Any], now: float) -> list[str]:
    """The explanation for a terminal: the sentence, what holds for the service, a line for each instance."""
    lines = [plain(document["says"])]
    if document.get("address") is None or not document["known"]:
        lines += [f"  {plain(instance_says(one, now))}" for one in document.get("instances", ())]
    lines += [f"  - {plain(fact)}" for fact in document.get("facts", ())]
    return lines


def decision_line(decision: Decision, now: float) -> str:
    """One decision of a plan that nobody has applied, as `sidecar render --why` prints it."""
    return instance_says({**instance_document(decision), "since": None}, now)
