"""`atlas enable`, `drain`, `disable`, `weight`: the operator's word on instances."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from typing import Any

import click

from atlas.model import Ruling, State
from atlas.server.terminal import Command, Session, writes
from atlas.server.waiting import Waiting, limit_text, no_sidecars, told_uncovered, uncovered
from atlas.server.wording import one_line, parse_span
from atlas.world import World
from smartrealm.errors import NotFound, ValidationFailed
from smartrealm.wording import count, moment, plain, span

_FORCE = click.option("--force", is_flag=True, help="Even when no enabled instance of the service is left.")
_REASON = click.option(
    "--reason", default="", metavar="TEXT", help="Shown beside the instance for as long as it holds."
)
_FOR = click.option("--for", "length", metavar="2h", help="How long: 90s, 15min, 2h, 7d; then it ends by itself.")
_PLACES = click.argument("words", nargs=-1, required=True, metavar="[SERVICE] HOST:PORT...")
_WAIT = click.option(
    "--wait", is_flag=True, help="Return when every sidecar has applied it and no call to them is under way."
)
_TIMEOUT = click.option(
    "--timeout",
    "patience",
    default="60s",
    metavar="60s",
    help="How long --wait waits at most; then the exit code is 7.",
)


def _ruling_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in (_TIMEOUT, _WAIT, _FORCE, _FOR, _REASON, _PLACES):
        function = option(function)
    return function


@click.command("disable", short_help="Send no calls to an instance.")
@_ruling_options
@writes
def disable(session: Session, words: tuple[str, ...], **given: Any) -> None:
    """Let nobody call these instances, until they are enabled or the time is over.

    It holds for the address: an instance that is restarted there is still disabled. Refused when the service would be
    left without an enabled instance (--force does it all the same). Without SERVICE: everything at this address.
    """
    _rule_all(session, words, "disabled", **given)


@click.command("drain", short_help="Send no new calls to an instance.")
@_ruling_options
@writes
def drain(session: Session, words: tuple[str, ...], **given: Any) -> None:
    """Let these instances end what they have, and take no new calls. Without SERVICE: everything at this address.

    \b
      atlas drain identity web-3:8010
      atlas drain web-3:8010 --wait

    With --wait it returns when every sidecar has applied it and says that no call to them is under way. Ctrl-C ends the
    waiting only: the instances go on draining.
    """
    _rule_all(session, words, "draining", **given)


@click.command("enable", short_help="Send calls to an instance again.")
@_PLACES
@click.option("--wait", is_flag=True, help="Return when every sidecar has applied it.")
@_TIMEOUT
@writes
def enable(session: Session, words: tuple[str, ...], wait: bool, patience: str) -> None:
    """Take the word on these instances away: they are called again. A weight that was set stays: see atlas weight."""
    _rule_all(session, words, "enabled", wait=wait, patience=patience)


@click.command("weight", cls=Command, short_help="Change the share of calls of an instance.")
@click.argument("service")
@click.argument("address", metavar="HOST:PORT")
@click.argument("weight", metavar="WEIGHT")
@_REASON
@_FOR
@_FORCE
@writes
def weight(
    session: Session, service: str, address: str, weight: str, reason: str, length: str | None, force: bool
) -> None:
    """Give an instance the share WEIGHT (0 to 1000; instances have 100 unless they say otherwise), or its own: reset."""
    if weight != "reset" and not weight.lstrip("-").isdecimal():
        raise ValidationFailed(f"{plain(weight)!r} is no weight: write a whole number from 0 to 1000, or reset.")
    service, host, port = find(session, service, address)
    before = _standing(session, service, host, port)
    wanted = dataclasses.replace(
        before,
        weight=None if weight == "reset" else int(weight),
        reason=reason or before.reason,
        expires_at=_end(session, length) if length else before.expires_at,
    )
    _rule(session, [wanted], reason, force)


def _rule_all(
    session: Session,
    words: Sequence[str],
    state: State,
    reason: str = "",
    length: str | None = None,
    force: bool = False,
    wait: bool = False,
    patience: str = "60s",
) -> None:
    seconds = parse_span(patience)
    expires_at = _end(session, length) if length else None
    rulings = []
    for name, host, port in _meant(session, words):
        weight = _standing(session, name, host, port).weight
        rulings.append(Ruling(name, host, port, state, weight, reason, expires_at=expires_at))
    _rule(session, rulings, reason, force, seconds if wait else None)


def _meant(session: Session, words: Sequence[str]) -> list[tuple[str, str, int]]:
    """The instances that are named: those of a service, or everything at an address."""
    if ":" in words[0] or "/" in words[0]:
        return [place for word in words for place in _everything_at(session, word)]
    if len(words) == 1:
        known = ", ".join(sorted(_addresses(session.world, session.known(words[0])))) or "none now"
        raise click.UsageError(f"which instances? name HOST:PORT after the service; those of {words[0]} are: {known}")
    return [find(session, words[0], word) for word in words[1:]]


def _everything_at(session: Session, word: str) -> list[tuple[str, str, int]]:
    """What runs at an address, of whichever service, or was ruled on there; `service/host:port` names one."""
    service, slash, address = word.partition("/")
    if slash:
        return [find(session, service, address)]
    world = session.world
    names = {*world.instances, *(ruling.service for ruling in world.rulings.values())}
    found = [(name, *known[word]) for name in sorted(names) if word in (known := _addresses(world, name))]
    if found:
        return found
    every = sorted({address for name in names for address in _addresses(world, name)})
    near = difflib.get_close_matches(word, every, n=3, cutoff=0.6)
    meant = f"; did you mean {' or '.join(near)}?" if near else ": atlas ls shows what runs."
    raise NotFound(f"nothing runs at {plain(word)} in realm {session.realm}{meant}", near=near)


def _end(session: Session, length: str) -> float:
    return session.clock() + parse_span(length)


def _standing(session: Session, service: str, host: str, port: int) -> Ruling:
    """The word that holds for this address now."""
    plain_one = Ruling(service, host, port)
    held = session.world.rulings.get(plain_one.key)
    over = held is None or (held.expires_at is not None and held.expires_at <= session.clock())
    return plain_one if over or held is None else held


def _rule(session: Session, rulings: Sequence[Ruling], reason: str, force: bool, seconds: float | None = None) -> None:
    """Write the rulings; with `seconds` wait so long until they are in force everywhere."""
    author = session.author(why=reason)
    now = session.clock()
    for ruling in rulings:
        ruling.check()
    done, revision = [], 0
    for wanted in rulings:
        ruling = dataclasses.replace(wanted, author=author.name, at=now)
        revision = session.directory.rule(ruling, by=author, force=force)
        done.append({"ruling": {**ruling.to_json(), "state": ruling.state}, "revision": revision})
        if not session.as_json:
            session.done(_told(ruling, now), revision)
    waited: dict[str, Any] = {}
    if seconds is not None and not session.dry_run:
        waited = {"waited": _wait(session, rulings, revision, seconds)}
    if session.as_json:
        session.give({"rulings": done, "dry_run": session.dry_run, **waited})
    if waited and not waited["waited"]["in_time"]:
        click.get_current_context().exit(7)


def _wait(session: Session, rulings: Sequence[Ruling], revision: int, seconds: float) -> dict[str, Any]:
    """Wait until it is in force everywhere, and say how that went."""
    keys = [ruling.key for ruling in rulings]
    leaving = [ruling.key for ruling in rulings if ruling.state != "enabled"]
    named = ", ".join(key.replace("/", " ", 1) for key in keys)
    try:
        world = session.directory.world()
        waited = Waiting(session).until(world, revision, leaving, seconds)
    except (KeyboardInterrupt, SystemExit):
        session.note(_left(rulings, f"Not waiting any more: {named}"))
        raise
    heard = waited.awaited
    missing = told_uncovered(
        uncovered(world, {*heard.done, *heard.behind, *heard.calls, *heard.silent, *heard.overdue})
    )
    if not waited.in_time:
        session.note(
            _left(rulings, f"atlas: after {limit_text(seconds)} still waiting for {waited.missing()}: {named}")
        )
    elif not heard.sidecars and heard.overdue:
        session.say(f"{named}: revision {revision} is in the map; no sidecar that lives was there to wait for.")
    elif not heard.sidecars:
        session.say(f"{named}: revision {revision} is in the map; {no_sidecars(session.realm)}.")
    else:
        by = f"{count(heard.sidecars, 'sidecar')} {'goes' if heard.sidecars == 1 else 'go'} by it"
        ended = ", no call is under way" if leaving else ""
        overdue = f"not awaited: {', '.join(map(plain, heard.overdue))}" if heard.overdue else ""
        session.say("; ".join(filter(None, (f"{named}: {by}{ended} ({waited.seconds:.1f} s)", overdue, missing))))
    return {
        **heard.to_json(),
        "seconds": round(waited.seconds, 3),
        "in_time": waited.in_time,
        "sidecars": heard.sidecars,
    }


def _left(rulings: Sequence[Ruling], said: str) -> str:
    """What stays when the waiting ends, and how it is undone."""
    state = rulings[0].state
    stays = "stays" if len(rulings) == 1 else "stay"
    if state == "enabled":
        return f"{said} {stays} enabled."
    again = "; ".join(f"atlas enable {ruling.key.replace('/', ' ', 1)}" for ruling in rulings)
    return f"{said} {stays} {state}. To send calls again: {again}"


def _told(ruling: Ruling, now: float) -> str:
    told = f"{ruling.key.replace('/', ' ', 1)} {ruling.state}"
    if ruling.weight is not None:
        told += f", weight {ruling.weight}"
    if ruling.reason:
        told += f": {one_line(ruling.reason)}"
    if ruling.expires_at is not None:
        told += f", until {moment(ruling.expires_at, now)} (for {span(ruling.expires_at - now)})"
    return told


def find(session: Session, service: str, text: str) -> tuple[str, str, int]:
    """The instance that is meant: `host:port`, a host or a port that only one has; also one that is away but ruled on."""
    service = session.known(service)
    text = text.removeprefix(f"{service}/")
    known = _addresses(session.world, service)
    if text in known:
        return (service, *known[text])
    short = [address for address, (host, port) in known.items() if text in (host, str(port), f":{port}")]
    if len(short) == 1:
        return (service, *known[short[0]])
    listed = ", ".join(sorted(known)[:12]) + (" ..." if len(known) > 12 else "")
    if short:
        raise NotFound(f"{plain(text)} fits {len(short)} instances of {service}: {', '.join(sorted(short))}.")
    told = f"its instances are: {listed}." if known else "it has no instance now."
    raise NotFound(f"{service} has no instance {plain(text)}; {told}")


def _addresses(world: World, service: str) -> dict[str, tuple[str, int]]:
    found = {address: (one.host, one.port) for address, one in world.instances.get(service, {}).items()}
    for ruling in world.rulings.values():
        if ruling.service == service:
            found.setdefault(ruling.key.partition("/")[2], (ruling.host, ruling.port))
    return found
