"""`atlas enable`, `drain`, `disable`, `weight`: the operator's word on instances."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import click

from atlas.model import Ruling, State
from atlas.server.terminal import Command, Session, writes
from atlas.server.wording import moment, one_line, parse_span, plain, span
from atlas.world import World
from smartrealm.errors import NotFound, ValidationFailed

_FORCE = click.option("--force", is_flag=True, help="Even when no enabled instance of the service is left.")
_REASON = click.option(
    "--reason", default="", metavar="TEXT", help="Shown beside the instance for as long as it holds."
)
_FOR = click.option("--for", "length", metavar="2h", help="How long: 90s, 15min, 2h, 7d; then it ends by itself.")
_PLACES = click.argument("addresses", nargs=-1, required=True, metavar="HOST:PORT...")


def _ruling_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in (_FORCE, _FOR, _REASON, _PLACES, click.argument("service")):
        function = option(function)
    return function


@click.command("disable", short_help="Send no calls to an instance.")
@_ruling_options
@writes
def disable(session: Session, service: str, addresses: tuple[str, ...], **given: Any) -> None:
    """Let nobody call these instances, until they are enabled or the time is over.

    It holds for the address: an instance that is restarted there is still disabled. Refused when the service would be
    left without an enabled instance (--force does it all the same).
    """
    _rule_all(session, service, addresses, "disabled", **given)


@click.command("drain", short_help="Send no new calls to an instance.")
@_ruling_options
@writes
def drain(session: Session, service: str, addresses: tuple[str, ...], **given: Any) -> None:
    """Let these instances end what they have, and take no new calls."""
    _rule_all(session, service, addresses, "draining", **given)


@click.command("enable", short_help="Send calls to an instance again.")
@click.argument("service")
@_PLACES
@writes
def enable(session: Session, service: str, addresses: tuple[str, ...]) -> None:
    """Take the word on these instances away: they are called again. A weight that was set stays: see atlas weight."""
    _rule_all(session, service, addresses, "enabled")


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
    service: str,
    addresses: Sequence[str],
    state: State,
    reason: str = "",
    length: str | None = None,
    force: bool = False,
) -> None:
    expires_at = _end(session, length) if length else None
    rulings = []
    for host_port in addresses:
        name, host, port = find(session, service, host_port)
        weight = _standing(session, name, host, port).weight
        rulings.append(Ruling(name, host, port, state, weight, reason, expires_at=expires_at))
    _rule(session, rulings, reason, force)


def _end(session: Session, length: str) -> float:
    return session.clock() + parse_span(length)


def _standing(session: Session, service: str, host: str, port: int) -> Ruling:
    """The word that holds for this address now."""
    plain_one = Ruling(service, host, port)
    held = session.world.rulings.get(plain_one.key)
    over = held is None or (held.expires_at is not None and held.expires_at <= session.clock())
    return plain_one if over or held is None else held


def _rule(session: Session, rulings: Sequence[Ruling], reason: str, force: bool) -> None:
    author = session.author(why=reason)
    now = session.clock()
    for ruling in rulings:
        ruling.check()
    done = []
    for wanted in rulings:
        ruling = dataclasses.replace(wanted, author=author.name, at=now)
        revision = session.directory.rule(ruling, by=author, force=force)
        done.append({"ruling": ruling.to_json(), "revision": revision})
        if not session.as_json:
            session.done(_told(ruling, now), revision)
    if session.as_json:
        session.give({"rulings": done, "dry_run": session.dry_run})


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
