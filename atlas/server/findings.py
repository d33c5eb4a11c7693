"""What `atlas doctor` says: a list of findings, each with what to do. Decided by pure functions of what was read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from atlas.model import EVERY_SERVICE, Report, Ruling, Service
from atlas.server import standing
from atlas.server.sidecars import lagging, shares_json
from atlas.server.terminal import Session
from atlas.server.waiting import told_uncovered, uncovered
from atlas.world import World
from smartrealm.errors import Forbidden, SmartError, Unauthorized, Unavailable, ValidationFailed
from smartrealm.findings import Finding, worst_first
from smartrealm.names import LOCAL
from smartrealm.wording import count, plain, span

_SLOW_SECONDS = 0.5
_CLOCK_SECONDS = 5.0
_FORGOTTEN_SECONDS = 7 * 86400.0
_SOON_SECONDS = 14 * 86400.0
_FOLLOW_SECONDS = 1.0


@dataclass(frozen=True)
class Facts:
    """What the findings are made of."""

    realm: str
    url: str
    now: float
    world: World
    status: Mapping[str, Any]
    seconds: float
    """How long it took to be told the whole map."""
    has_token: bool = False
    place: str = ""
    """The URL without what is secret in it."""
    reports: Mapping[str, Report] = field(default_factory=dict)
    """What the sidecars said, a moment after the map was read."""


def examine(session: Session, timer: Callable[[], float] = time.monotonic) -> list[Finding]:
    """Look at the map and say what is found; a map that cannot be reached is a finding too."""
    url = session.url or session.environ.get("ATLAS_URL", "")
    begun = timer()
    try:
        world = session.world
        seconds = timer() - begun
        status = session.status
    except (Unauthorized, Forbidden) as error:
        return [Finding("wrong", "token", plain(error.message), "Set ATLAS_TOKEN to one of an operator of this realm.")]
    except Unavailable as error:
        return [Finding("wrong", "reach", plain(error.message), "Services go on with what they know; bring it back.")]
    except SmartError as error:
        return [Finding("wrong", "reach", plain(error.message), "Check --atlas, ATLAS_URL and the settings.")]
    has_token = bool(session.environ.get("ATLAS_TOKEN"))
    reports = _settled_reports(session, world, timer)
    return findings(
        Facts(session.realm, url, session.clock(), world, status, seconds, has_token, session.place, reports)
    )


def _settled_reports(session: Session, world: World, timer: Callable[[], float]) -> Mapping[str, Report]:
    """What the sidecars say; one that is behind has a moment to follow the newest change."""
    begun, reports = timer(), session.reports
    while lagging(reports, world.position) and timer() - begun < _FOLLOW_SECONDS:
        session.sleep(0.1)
        try:
            reports = session.directory.reports()
        except Unavailable:
            break
    return reports


def findings(facts: Facts) -> list[Finding]:
    """Everything there is to say: what is wrong first."""
    sound, broken = _sound(facts.world)
    facts = replace(facts, world=sound)
    return worst_first([*broken, *(finding for look in _LOOKS for finding in look(facts))])


def _sound(world: World) -> tuple[World, list[Finding]]:
    """The map without the entries that came into the store by another way than through here, and what is wrong with those."""
    broken: list[Finding] = []

    def is_sound(kind: str, key: str, one: Service | Ruling) -> bool:
        try:
            one.check()
        except ValidationFailed as error:
            told = f"the {kind} {plain(key)[:80]} cannot be used as it is: {plain(error.message)[:200]}"
            broken.append(
                Finding("wrong", "entry", told, "Somebody wrote into the store. atlas history; atlas rollback")
            )
            return False
        return True

    services = {key: one if is_sound("service", key, one) else Service(key) for key, one in world.services.items()}
    rulings = {key: one for key, one in world.rulings.items() if is_sound("ruling", key, one)}
    return (replace(world, services=services, rulings=rulings) if broken else world), broken


def _reach(facts: Facts) -> Iterator[Finding]:
    where = f" at {facts.place}" if facts.place else ""
    told = f"the whole map{where} was read in {facts.seconds * 1000:.0f} ms, position {facts.world.position}"
    if facts.seconds > _SLOW_SECONDS:
        yield Finding("risky", "reach", told, "It should take a few ms: look at the network and at the store.")
    else:
        yield Finding("good", "reach", told)


def _wire(facts: Facts) -> Iterator[Finding]:
    if facts.url.startswith("http://") and not _is_loopback(facts.url):
        yield Finding(
            "risky",
            "wire",
            "tokens and settings cross the network unencrypted (http://)",
            "Put TLS in front of Atlas and use https://.",
        )


def _is_loopback(url: str) -> bool:
    hosts = url.partition("://")[2].partition("/")[0].split(",")
    return all(host.startswith(("127.", "localhost", "[::1]")) for host in hosts)


def _store(facts: Facts) -> Iterator[Finding]:
    problem = standing.store_problem(facts.status)
    if problem:
        yield Finding(
            "wrong",
            "store",
            f"Atlas serves from memory: {plain(problem)}",
            "Bring the store back: until then nothing can be changed and new instances stay unseen.",
        )
    for one in standing.stores(facts.status):
        told = f"{one.get('name', 'store')}: reads {one.get('reads', '?')}, changes {one.get('wait', '?')}"
        if one.get("poll_seconds"):
            told += f" every {one['poll_seconds']:g} s"
        told += f"; survives {one['survives']}" if one.get("survives") else ""
        if facts.realm != LOCAL and one.get("name") == "sqlite":
            yield Finding(
                "risky", "store", told, "One file on one host: atlas export, atlas import to a store with replicas."
            )
        else:
            yield Finding("good", "store", told)


def _leases(facts: Facts) -> Iterator[Finding]:
    late, held = standing.overdue_of(facts.status, facts.now), standing.is_held(facts.status)
    number = len(facts.world.leases)
    if held:
        yield Finding(
            "wrong",
            "leases",
            f"{len(late)} of {number} leases are overdue at once; none is given up, since the fault may be here",
            "Look at the network between the hosts and Atlas, and at the store. Services go on.",
        )
    elif late:
        named = ", ".join(f"{plain(name)} ({span(seconds)})" for name, seconds in sorted(late.items())[:5])
        yield Finding(
            "wrong",
            "leases",
            f"{count(len(late), 'lease')} overdue: {named}",
            "Is the host up? Its instances leave the map by themselves; atlas show SERVICE.",
        )
    else:
        yield Finding("good", "leases", f"{count(number, 'lease')}, none overdue")


def _services(facts: Facts) -> Iterator[Finding]:
    world = facts.world
    for name in sorted(world.instances):
        places = world.places(name, facts.now)
        if not any(place.takes_calls for place in places):
            yield Finding(
                "wrong",
                "services",
                f"{name} takes no calls: {count(len(places), 'instance')}, none enabled",
                f"atlas show {name}; atlas enable {name} HOST:PORT",
            )
    absent = sorted(set(world.services) - set(world.instances))
    if absent and facts.realm != "local":
        yield Finding(
            "risky",
            "services",
            f"registered, and no instance runs: {', '.join(absent[:8])}" + " ..." * (len(absent) > 8),
            "Read the end of its log where it ran; what is not needed any more: atlas service remove NAME",
        )
    stray = sorted(set(world.instances) - set(world.services))
    if stray:
        yield Finding(
            "risky",
            "services",
            f"instances run, and the map has no entry of the service (port, owner, timeout): {', '.join(stray[:8])}",
            "atlas service add NAME",
        )
    lost = sorted({one.scope for one in world.overrides.values()} - set(world.services) - {EVERY_SERVICE})
    if lost:
        yield Finding(
            "risky",
            "settings",
            f"overrides for services that are not registered: {', '.join(lost[:8])}",
            "A wrong name? atlas get SCOPE; atlas unset SCOPE KEY",
        )


def _sidecars(facts: Facts) -> Iterator[Finding]:
    reports, position = facts.reports, facts.world.position
    late = lagging(reports, position)
    for report in late:
        other = report.epoch not in ("", position.epoch)
        told = "goes by another map" if other else f"is at revision {report.revision} of {position.revision}"
        yield Finding(
            "wrong",
            "sidecars",
            f"{plain(report.host)} {told}, heard {span(facts.now - report.at)} ago: its callers are sent by old news",
            "On that host: sidecar status; is HAProxy there, does it reach Atlas?",
        )
    for _, report in sorted(reports.items()):
        if report.holding:
            yield Finding(
                "risky",
                "sidecars",
                f"{plain(report.host)} calls {count(report.holding, 'instance')} that vanished from the map all at once",
                "Bring them back; when they are gone for good: atlas accept-loss SERVICE --why TEXT",
            )
    if reports and (alone := uncovered(facts.world, [one.host for one in reports.values()])):
        yield Finding(
            "risky",
            "sidecars",
            told_uncovered(alone),
            "On that host: sidecar status. Where there is to be none, nothing.",
        )
    if reports and not late:
        yield Finding("good", "sidecars", f"{count(len(reports), 'sidecar')}, all at revision {position.revision}")


def _splits(facts: Facts) -> Iterator[Finding]:
    world = facts.world
    for name, service in sorted(world.services.items()):
        for side in shares_json(world, service, facts.now):
            if not side["taking_calls"] and world.instances.get(name):
                which = plain(side["version"] or "the versions that are not named")
                yield Finding(
                    "risky",
                    "splits",
                    f"{name} sends {side['percent']:g}% of its callers to {which}, and no instance of it takes calls",
                    f"They go to the others. atlas split {name}; atlas split {name} --end",
                )
        absent = [caller for caller in service.callers.split(",") if caller and not world.knows(caller)]
        if absent:
            yield Finding(
                "risky",
                "callers",
                f"{name} may be called by {', '.join(absent)}, which is not in the map",
                f"A wrong name? atlas callers {name}",
            )


def _rulings(facts: Facts) -> Iterator[Finding]:
    for key, ruling in sorted(facts.world.rulings.items()):
        old = ruling.at and facts.now - ruling.at > _FORGOTTEN_SECONDS
        if ruling.state != "enabled" and ruling.expires_at is None and old:
            place = key.replace("/", " ", 1)
            yield Finding(
                "risky",
                "forgotten",
                f"{place} is {ruling.state} since {span(facts.now - ruling.at)}, for ever",
                f"atlas enable {place}; next time with --for 2h",
            )


def _tokens(facts: Facts) -> Iterator[Finding]:
    tokens = facts.world.tokens.values()
    if facts.realm != LOCAL and not tokens and "server" not in facts.status:
        yield Finding(
            "risky", "tokens", "there is no token: atlas serve does not start", "atlas token create operator YOUR-NAME"
        )
    for token in sorted(tokens, key=lambda token: token.id):
        if token.expires_at is not None and token.expires_at <= facts.now:
            yield Finding(
                "risky",
                "tokens",
                f"token {token.id} of {plain(token.subject)} has expired",
                f"Is it still in use? atlas token create {token.role} {plain(token.subject)}, and hand it over. "
                f"Then: atlas token revoke {token.id}",
            )
        elif token.expires_at is not None and token.expires_at - facts.now < _SOON_SECONDS:
            left = span(token.expires_at - facts.now)
            yield Finding(
                "risky",
                "tokens",
                f"token {token.id} of {plain(token.subject)} expires in {left}",
                f"atlas token create {token.role} {plain(token.subject)}, then hand it over",
            )


def _open(facts: Facts) -> Iterator[Finding]:
    if "server" in facts.status and not facts.has_token:
        yield Finding("good", "open", "nobody is asked for a token: the local realm on a loopback address")


def _secrets(facts: Facts) -> Iterator[Finding]:
    number = facts.status.get("secrets", 0)
    if number and not facts.status.get("can_open_secrets"):
        yield Finding(
            "wrong",
            "secrets",
            f"{count(number, 'secret')} cannot be opened here: there is no key",
            "Set ATLAS_KEYS to what the servers have; services get no secrets from whoever lacks it.",
        )


def _clock(facts: Facts) -> Iterator[Finding]:
    heard = [float(lease.get("renewed_at") or 0.0) for lease in facts.status.get("leases", ())]
    times = [
        *heard,
        *(one.at for one in facts.world.rulings.values()),
        *(one.at for one in facts.world.overrides.values()),
    ]
    ahead = max(times, default=0.0) - facts.now
    if ahead > _CLOCK_SECONDS:
        yield Finding(
            "risky",
            "clock",
            f"something was written {span(ahead)} in the future of this machine",
            "Set the clocks (NTP). Leases do not depend on them; times in the history and --for do.",
        )


_LOOKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _reach,
    _wire,
    _store,
    _leases,
    _services,
    _sidecars,
    _splits,
    _rulings,
    _tokens,
    _open,
    _secrets,
    _clock,
)
