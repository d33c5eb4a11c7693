"""What a sidecar says of itself, as documents for the page, the commands and the probes. Pure: the clock is handed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Literal

from sidecar.facts import EjectedServer, Facts, Rate
from sidecar.model import Condition, Decision, Plan
from sidecar.settings import Settings
from sidecar.troubles import Trouble, troubles
from smartrealm.wording import count, span

MOST_TROUBLES = 100
"""So many are told one by one; a thousand of a kind say no more than that."""


def status_document(facts: Facts, plan: Plan, settings: Settings, now: float) -> dict[str, Any]:
    """The answer to /v1/status: one sentence, what to look at, the numbers."""
    found = troubles(facts, plan, now)
    return {
        "state": state_of(found),
        "says": headline(facts, plan, found),
        "troubles": [asdict(one) for one in found[:MOST_TROUBLES]],
        "more_troubles": max(0, len(found) - MOST_TROUBLES),
        "ready": is_ready(facts),
        "at": now,
        "realm": facts.realm,
        "host": facts.host,
        "zone": facts.zone,
        "pid": facts.pid,
        "version": facts.version,
        "started_at": facts.started_at,
        "numbers": numbers(facts, plan),
        "position": str(facts.position),
        "wanted": str(plan.position),
        "applied_at": facts.applied_at,
        "map": {"from": facts.map_from, "age_seconds": facts.map_age_seconds, "failure": facts.map_failure},
        "proxy": asdict(facts.proxy),
        "reloads": asdict(facts.reloads),
        "changes": facts.changes,
        "drift": {"count": facts.drift_count, "at": facts.drift_at},
        "refusals": {"count": facts.refusal_count, "latest": [asdict(one) for one in facts.refusals]},
        "pending": facts.pending,
        "lease_failure": facts.lease_failure,
        "own": [asdict(one) for one in facts.own],
        "unusable": dict(facts.unusable),
        "guards": [{**asdict(one), "addresses": list(one.addresses)} for one in plan.guards.values()],
        "ejected": [asdict(one) for one in facts.ejected],
        "quarantined": dict(plan.quarantined),
        "listens": listens(settings),
    }


def listens(settings: Settings) -> dict[str, Any]:
    """Where calls, the page and the commands are taken."""
    return {
        "url": settings.run_url if settings.loopback else None,
        "socket": str(settings.calls_socket) if settings.socket else None,
        "page": f"http://127.0.0.1:{settings.admin_port}/" if settings.admin_port else None,
        "control": str(settings.control_socket),
        "tokens": settings.tokens_file is not None,
    }


def state_of(found: Iterable[Trouble]) -> Literal["well", "risky", "wrong"]:
    """The worst of what was found."""
    levels = {one.level for one in found}
    return "wrong" if "wrong" in levels else "risky" if "risky" in levels else "well"


def is_ready(facts: Facts) -> bool:
    """Whether calls can pass: HAProxy runs, and there is a map."""
    return facts.proxy.running and facts.map_from != "none"


def headline(facts: Facts, plan: Plan, found: tuple[Trouble, ...]) -> str:
    """The state in one sentence: well, or the worst that is wrong and how much there is beside."""
    worst = [one for one in found if one.level != "note"]
    if not worst:
        age = facts.map_age_seconds
        seen = f", Atlas answered {span(age)} ago" if age is not None else ""
        instances = sum(len(inner) for inner in plan.decisions.values())
        return f"All is well: {count(len(plan.routes), 'service')} with {count(instances, 'instance')}{seen}."
    beside = f" There is {count(len(worst) - 1, 'more thing')} to look at." if len(worst) == 2 else ""
    beside = beside or (f" There are {len(worst) - 1:,} more things to look at." if len(worst) > 2 else "")
    return worst[0].says + beside


def numbers(facts: Facts, plan: Plan) -> dict[str, int]:
    """How many there are of each."""
    standings: Counter[str] = Counter()
    for decisions in plan.decisions.values():
        standings.update(decision.standing for decision in decisions.values())
    return {
        "services": len(plan.routes),
        "instances": sum(standings.values()),
        "in": standings["in"],
        "backup": standings["backup"],
        "draining": standings["draining"],
        "out": standings["out"],
        "held": standings["held"],
        "quarantined": standings["quarantined"],
        "ejected": len(facts.ejected),
        "own": len(facts.own),
    }


# -- routes ------------------------------------------------------------------------------------------------------------


def routes_document(facts: Facts, plan: Plan) -> dict[str, Any]:
    """The answer to /v1/routes: every service with its instances, without rates."""
    names = sorted({*plan.routes, *plan.decisions, *plan.quarantined})
    return {"position": str(plan.position), "services": [service_document(name, facts, plan) for name in names]}


def service_document(name: str, facts: Facts, plan: Plan) -> dict[str, Any]:
    """One service: how it is routed, and why each instance is called or is not."""
    route = plan.routes.get(name)
    document: dict[str, Any] = {"service": name}
    if route is not None:
        document["timeout_ms"] = route.timeout_ms
        document["repeatable"] = route.repeatable
        if route.callers is not None:
            document["callers"] = list(route.callers)
        if route.sides:
            document["split"] = [side.limit / 100 for side in route.sides]
    if name in plan.guards:
        document["guard"] = plan.guards[name].says
    if name in plan.quarantined:
        document["quarantined"] = plan.quarantined[name]
    ejected = {one.address: one for one in facts.ejected if one.service == name} if facts.ejected else {}
    conditions = facts.conditions.get(name, {})
    decisions = plan.decisions.get(name, {})
    document["instances"] = [
        instance_document(decisions[address], conditions.get(address), ejected.get(address))
        for address in sorted(decisions)
    ]
    return document


def instance_document(
    decision: Decision, condition: Condition | None = None, ejected: EjectedServer | None = None
) -> dict[str, Any]:
    """One instance; what is empty is left away, since there may be ten thousand."""
    document: dict[str, Any] = {
        "address": decision.address,
        "standing": decision.standing,
        "reason": decision.reason,
        "says": decision.says,
        "since": decision.since,
        "weight": decision.weight,
    }
    if decision.revision:
        document["revision"] = decision.revision
    if decision.version:
        document["version"] = decision.version
    if decision.zone:
        document["zone"] = decision.zone
    if condition is not None and condition != "up":
        document["condition"] = condition
    if ejected is not None:
        document.update(standing="out", reason="ejected", says=ejected.reason, since=ejected.since, until=ejected.until)
    return document


def rates_document(rates: Mapping[str, Rate]) -> dict[str, Any]:
    """What passes through each service; those through which nothing did are left away."""
    return {"services": {name: _rate(rate) for name, rate in rates.items() if rate.requests or rate.sessions}}


def _rate(rate: Rate) -> dict[str, Any]:
    document: dict[str, Any] = {
        "rate": rate.requests_per_second,
        "sessions": rate.sessions,
        "requests": rate.requests,
        "errors": rate.errors,
    }
    servers = {address: _rate(one) for address, one in rate.servers.items() if one.requests or one.sessions}
    return {**document, "servers": servers} if servers else document


# -- health ------------------------------------------------------------------------------------------------------------


def health_document(
    facts: Facts, plan: Plan, now: float, *, group: str | None = None, hostname: str = ""
) -> tuple[int, dict[str, Any]] | None:
    """Status and body of `/healthcheck` (group None), `/healthcheck/live` and `/healthcheck/ready`; None for another group."""
    rows = [row for row in _rows(facts, plan, now) if group is None or group in row["groups"]]
    if group not in (None, "live", "ready", "startup"):
        return None
    failed = any(row["status"] == "fail" and row["critical"] for row in rows)
    body = {
        "service": "sidecar",
        "realm": facts.realm,
        "release": facts.version,
        "position": str(facts.position),
        "hostname": hostname,
        "status": "failure" if failed else "success",
        "timestamp": now,
        "results": rows,
    }
    # A group answers 503 as load balancers expect, the whole 500: as the services do.
    return (200 if not failed else 500 if group is None else 503), body


def _rows(facts: Facts, plan: Plan, now: float) -> list[dict[str, Any]]:
    ready = ("ready", "startup")
    by_topic: dict[str, list[Trouble]] = {}
    for one in troubles(facts, plan, now):
        by_topic.setdefault(one.topic, []).append(one)
    age = facts.map_age_seconds
    well = {
        "agent": f"process {facts.pid}, for {span(now - facts.started_at)}",
        "proxy": f"HAProxy {facts.proxy.version}, process {facts.proxy.pid}, for {span(facts.proxy.uptime_seconds)}",
        "map": f"Atlas answered {span(age or 0.0)} ago, {facts.position} is applied",
    }
    rows = [_row("agent", "pass", well["agent"], facts.started_at, now, groups=("live",), critical=True)]
    for topic in ("proxy", "map", "guard", "quarantine", "ejected", "lease", "files", "drift", "refused", "reload"):
        found = [one for one in by_topic.get(topic, ()) if one.level != "note"]
        fails = topic in ("proxy", "map") and any(one.level == "wrong" for one in found)
        status = "fail" if fails else "warn" if found else "pass"
        says = _told(found) or well.get(topic)
        begun = found[0].since if found else None
        row = _row(topic, status, says, begun, now, groups=ready, critical=topic in ("proxy", "map"))
        if topic == "map" and age is not None:
            row["value"], row["unit"] = round(age, 3), "s"
        rows.append(row)
    return rows


def _told(found: list[Trouble]) -> str | None:
    if not found:
        return None
    return found[0].says + (f" And {len(found) - 1} more." if len(found) > 1 else "")


def _row(
    name: str,
    status: str,
    says: str | None,
    since: float | None,
    now: float,
    *,
    groups: tuple[str, ...],
    critical: bool,
) -> dict[str, Any]:
    return {
        "checker": name,
        "output": says or "",
        "passed": status != "fail",
        "timestamp": now,
        "expires": now,
        "response_time": 0.0,
        "status": status,
        "observed": status,
        "critical": critical,
        "groups": list(groups),
        "since": since,
    }
