"""What is not well about a sidecar: how bad, since when, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from sidecar.facts import DoubtedServer, Facts
from sidecar.model import Decision, Guard, Plan, Route
from smartrealm.wording import ago, count, moment, plain, since, some, span

Level = Literal["wrong", "risky", "note"]
"""wrong: calls fail, or will. risky: something is held together and needs a look. note: worth knowing."""

OLD_MAP_SECONDS = 30.0
"""A map that is older than this is told of. Atlas answers every 25 s, news or not."""

RECENT_SECONDS = 600.0
"""How long a drift or a refused command is told of after it happened."""

STARTING_SECONDS = 60.0
"""How long an own instance may take until its first good answer before it is told of."""

TOGETHER_SECONDS = 30.0
"""HAProxy that began so near to a reload of the agent, or to its start, began because of it."""

_ORDER: Mapping[str, int] = {"wrong": 0, "risky": 1, "note": 2}


@dataclass(frozen=True, slots=True)
class Trouble:
    """One line to look at."""

    level: Level
    topic: str
    """proxy, map, lease, files, tokens, guard, quarantine, ejected, silent (a service that takes no calls), own, refused, drift, reload."""
    says: str
    advice: str = ""
    """What to do: a command, or a sentence."""
    service: str = ""
    since: float | None = None


def troubles(facts: Facts, plan: Plan, now: float) -> tuple[Trouble, ...]:
    """Everything that is not well, the worst first."""
    found = [
        *_proxy(facts, now),
        *_map(facts, plan, now),
        *_lease(facts),
        *_files(facts),
        *_tokens(facts),
        *_guards(plan, now),
        *_quarantine(plan),
        *_without_instances(plan),
        *_ejected(facts, now),
        *_doubted(facts, now),
        *_own(facts, now),
        *_upkeep(facts, now),
    ]
    return tuple(sorted(found, key=lambda one: _ORDER[one.level]))


def _proxy(facts: Facts, now: float) -> Iterator[Trouble]:
    if facts.proxy.running:
        yield from _started_anew(facts, now)
        return
    if facts.proxy.away_since is None and not facts.proxy.failure:
        says = "HAProxy is being started, and no call passes through this sidecar yet."
        yield Trouble("wrong", "proxy", says, "Should it last longer than some seconds: `sidecar check`.")
        return
    why = f": {_one_line(facts.proxy.failure)}" if facts.proxy.failure else ""
    if facts.proxy.alive:
        yield Trouble(
            "wrong",
            "proxy",
            f"HAProxy is there and does not answer the agent{since(facts.proxy.away_since, now)}: nothing can be changed, and "
            f"calls pass as before unless it is frozen{'' if 'does not answer' in why else why}.",
            "End it, with kill -9 when it is frozen, by the pid in haproxy.pid and its child: the next one is started at once, by "
            "`sidecar up`, systemd or the agent.",
            since=facts.proxy.away_since,
        )
        return
    yield Trouble(
        "wrong",
        "proxy",
        f"HAProxy does not run{since(facts.proxy.away_since, now)}, and no call passes through this sidecar{why}.",
        "`sidecar check` says why, and what to do. It is started again and again, by `sidecar up`, systemd or the agent.",
        since=facts.proxy.away_since,
    )


def _started_anew(facts: Facts, now: float) -> Iterator[Trouble]:
    """A crash is over within a second: what is left of it is a HAProxy that is younger than its agent."""
    begun = now - facts.proxy.uptime_seconds
    by_reload = abs(begun - (facts.reloads.last_at or 0.0)) < TOGETHER_SECONDS
    if not facts.proxy.uptime_seconds or now - begun > RECENT_SECONDS or by_reload:
        return
    if begun - facts.started_at > TOGETHER_SECONDS:
        says = f"HAProxy was started anew {ago(begun, now)}, not by a reload of this agent: it crashed, or somebody did it."
        advice = "Why is in its log: that of its unit or of `sidecar up`, else haproxy.log beside its socket."
        yield Trouble("note", "proxy", says, advice, since=begun)


def _map(facts: Facts, plan: Plan, now: float) -> Iterator[Trouble]:
    why = f" ({_one_line(facts.map_failure)})" if facts.map_failure else ""
    if facts.map_from == "none":
        yield Trouble(
            "wrong",
            "map",
            f"There is no map yet: Atlas has not answered{why}, and none is kept on disk, so that every call is answered 404.",
            _new_token(facts, facts.map_failure)
            or "`atlas ls` with the same ATLAS_URL says what Atlas answers. Nothing else is needed once it does.",
        )
        return
    age = facts.map_age_seconds or 0.0
    if facts.map_from == "disk":
        says = f"The map is the one that was kept on disk {span(age)} ago: Atlas has not answered since the start{why}."
    elif age > OLD_MAP_SECONDS:
        says = f"Atlas has given no map for {span(age)}{why}."
    elif facts.map_failure:
        says = f"Atlas gives no map just now{why}: calls go on as the last one says, which is {span(age)} old."
        yield Trouble("note", "map", says, since=now - age)
        return
    else:
        return
    advice = (
        "Calls go on as that map says; nothing is taken out of it meanwhile. `atlas ls` says whether Atlas is back."
    )
    if token := _new_token(facts, facts.map_failure):
        advice = f"Calls go on as that map says. {token}"
    yield Trouble("risky", "map", says, advice, since=now - age)


def _new_token(facts: Facts, failure: str | None) -> str:
    """What to do where a token is refused; empty where it is something else."""
    if "token" not in (failure or ""):
        return ""
    return (
        "Is it the right map (`atlas ls`, `atlas history`)? Then a new token: "
        f"`atlas token create host {plain(facts.host)}`, into ATLAS_TOKEN, and start the agent again."
    )


def _lease(facts: Facts) -> Iterator[Trouble]:
    if facts.lease_failure is not None and "newer incarnation" in facts.lease_failure:
        unheard = f"nobody learns of the {count(len(facts.own), 'instance')} here, and " if facts.own else ""
        says = f"Another sidecar speaks for {facts.host} in the map: {unheard}`atlas drain --wait` does not wait for this one."
        advice = (
            "Give each host its own ADVERTISE_HOST, or end the other one: `atlas sidecars` shows when it was heard."
        )
        yield Trouble("wrong", "lease", says, advice)
        return
    if facts.lease_failure is None or not facts.own:
        return
    yield Trouble(
        "risky",
        "lease",
        f"The lease of this host cannot be renewed ({_one_line(facts.lease_failure)}): others learn nothing new of its "
        f"{count(len(facts.own), 'instance')}, and Atlas takes them for lost when it ends.",
        _new_token(facts, facts.lease_failure)
        or "Is Atlas there (`atlas ls`), and is ATLAS_TOKEN one of the role `host` for this host?",
    )


def _files(facts: Facts) -> Iterator[Trouble]:
    if facts.files_failure:
        says = f"What is known cannot be written to the disk: {_one_line(facts.files_failure)}."
        advice = "`df -h`, and make room. Calls follow the map meanwhile; what starts anew now would begin with an older state."
        yield Trouble("risky", "files", says, advice)


def _tokens(facts: Facts) -> Iterator[Trouble]:
    if facts.tokens_failure:
        advice = "`sidecar token create CALLER` writes such lines. A corrected file counts at once."
        yield Trouble("risky", "tokens", plain(facts.tokens_failure), advice)


def _guards(plan: Plan, now: float) -> Iterator[Trouble]:
    for name, guard in sorted(plan.guards.items()):
        yield Trouble("risky", "guard", guard_says(guard, now), guard_advice(name), name, guard.since)


def guard_says(guard: Guard, now: float) -> str:
    """What the guard of a service holds, in one sentence."""
    return (
        f"{guard.service}: {guard.lost} of {count(guard.of, 'instance')} vanished from the map without draining at "
        f"{moment(guard.since, now)} ({ago(guard.since, now)}), and are called all the same: {some(guard.addresses)}."
    )


def guard_advice(service: str) -> str:
    return (
        f"They come back by themselves when the map has them again. If they are gone for good: "
        f'`sidecar accept {service} --why "..."` here, `atlas accept-loss {service}` for every host.'
    )


def _quarantine(plan: Plan) -> Iterator[Trouble]:
    for name, reason in sorted(plan.quarantined.items()):
        routed = name in plan.routes
        what = "is routed as before, since what the map says of it now cannot be used" if routed else "is not routed"
        yield Trouble(
            "risky" if routed else "wrong",
            "quarantine",
            f"{plain(name)[:80]} {what}, and the rest goes on: {plain(reason)[:300]}",
            f"`sidecar why {name}`; correct it in the map (`atlas show {name}`).",
            name,
        )
    for name, decisions in plan.decisions.items():
        out = [one for one in decisions.values() if one.standing == "quarantined"]
        if out and name not in plan.quarantined:
            says = f"{name}: {count(len(out), 'instance')} cannot be routed: {plain(out[0].address)} ({plain(out[0].says)})"
            yield Trouble("risky", "quarantine", says, f"`sidecar why {name}`", name, _earliest(out))


def _without_instances(plan: Plan) -> Iterator[Trouble]:
    absent = []
    for name, route in plan.routes.items():
        if name in plan.quarantined or takes_calls(route):
            continue
        decisions = plan.decisions.get(name, {})
        if not decisions:
            absent.append(name)
            continue
        says = silent_says(name, [one.standing for one in decisions.values()])
        yield Trouble("wrong", "silent", says, f"`sidecar why {name}`", name, _latest(decisions.values()))
    if absent:
        yield Trouble("note", "silent", f"No instance runs of {some(sorted(absent), 8)}: calls are answered 503.")


def silent_says(service: str, standings: Collection[str]) -> str:
    """That a service takes no calls, and how its instances stand."""
    which = "its only instance is" if len(standings) == 1 else f"all of its {len(standings)} instances are"
    return f"{service} takes no calls, which are answered 503: {which} {' or '.join(sorted(set(standings)))}."


def takes_calls(route: Route) -> bool:
    """Whether a call of this service goes anywhere."""
    servers = (*route.servers, *(server for side in route.sides for server in side.servers))
    return any(not server.draining and server.weight > 0 for server in servers)


def _earliest(decisions: Iterable[Decision]) -> float | None:
    return min((one.since for one in decisions), default=None)


def _latest(decisions: Iterable[Decision]) -> float | None:
    return max((one.since for one in decisions), default=None)


def _ejected(facts: Facts, now: float) -> Iterator[Trouble]:
    for one in sorted(facts.ejected, key=lambda server: (server.service, server.address)):
        why = f": {plain(one.reason)}" if one.reason else ""
        yield Trouble(
            "risky",
            "ejected",
            f"{one.service} {one.address} is called no more{since(one.since, now)}, since it answered badly{why}. "
            f"It is tried again {'in ' + span(one.until - now) if one.until > now else 'now'}.",
            f"Look at its log. To take it out for good: `atlas disable {one.service} {one.address}`.",
            one.service,
            one.since,
        )


def _doubted(facts: Facts, now: float) -> Iterator[Trouble]:
    for one in sorted(facts.doubted, key=lambda server: (server.service, server.address)):
        yield Trouble(
            "risky" if one.times > 1 else "note",
            "ejected",
            f"{one.service} {doubt_says(one, now)}",
            f"Its log; `atlas ls` tells whether its host is silent. To take it out: `atlas disable {one.service} {one.address}`.",
            one.service,
            one.since,
        )


def doubt_says(one: DoubtedServer, now: float) -> str:
    """That an instance was ejected of late and is called again, in one sentence that begins with its address."""
    often = "once" if one.times == 1 else f"{one.times} times"
    why = f": {_one_line(one.reason)}" if one.reason else ""
    return f"{one.address} is called again{since(one.since, now)}, and was ejected {often} of late{why}."


def _own(facts: Facts, now: float) -> Iterator[Trouble]:
    for name, reason in sorted(facts.unusable.items()):
        advice = "Correct the file, or take it back: `sidecar unregister`."
        yield Trouble("risky", "own", f"The announcement {plain(name)} is not used: {plain(reason)}", advice)
    for one in facts.own:
        slow = one.state == "starting" and now - one.since > STARTING_SECONDS
        if one.state not in ("not ready", "gone") and not slow:
            continue
        why = f": {plain(one.reason)}" if one.reason else ""
        yield Trouble(
            "risky",
            "own",
            f"{one.service} {one.address}, of this host, is {plain(one.state)}{since(one.since, now)}{why}.",
            f"`sidecar why {one.service} {one.address}`, and its own log.",
            one.service,
            one.since,
        )


def _upkeep(facts: Facts, now: float) -> Iterator[Trouble]:
    recent = [one for one in facts.refusals if now - one.at < RECENT_SECONDS]
    if recent:
        last = recent[-1]
        yield Trouble(
            "risky",
            "refused",
            f"HAProxy refused {count(len(recent), 'command')} of late, the last {ago(last.at, now)}: "
            f"{plain(last.about)}: {_one_line(last.says)}.",
            "What it knows is compared every half minute and put right; when this goes on: `sidecar reload --why ...`.",
            since=recent[0].at,
        )
    if facts.drift_at is not None and now - facts.drift_at < RECENT_SECONDS:
        yield Trouble(
            "risky",
            "drift",
            f"HAProxy knew something else than it should {ago(facts.drift_at, now)}, and was put right "
            f"({count(facts.drift_count, 'time')} since the start).",
            "Somebody else may speak to its socket, or it was started anew.",
            since=facts.drift_at,
        )
    if facts.reloads.failure:
        yield Trouble(
            "risky",
            "reload",
            f"HAProxy could not be loaded anew and goes on as before: {_one_line(facts.reloads.failure)}.",
            "`sidecar check` has HAProxy's words; services that are new may have to wait for a reload.",
        )
    if facts.pending and facts.proxy.running:
        allowed = facts.reloads.next_allowed_at
        when = f" The next reload may be at {moment(allowed, now)}." if allowed > now else ""
        yield Trouble(
            "note",
            "reload",
            f"Changes wait{since(facts.pending_since, now)}: {_one_line(facts.pending)}.{when}",
            since=facts.pending_since,
        )


def _one_line(text: object) -> str:
    """A message of several lines as one sentence: its lines as parts of a list, without the full stop."""
    parts = [line.strip().removeprefix("- ").rstrip(".") for line in str(text).splitlines()]
    return plain("; ".join(part for part in parts if part)).replace(":;", ":")
