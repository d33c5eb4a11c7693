"""`atlas split`, `callers`, `accept-loss`: which callers reach which version, who may call, and what is given up for lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from atlas.model import Service
from atlas.server.sidecars import shares_json, shares_table
from atlas.server.terminal import Session, writes
from atlas.splits import parse_split
from smartrealm.wording import count, plain


@click.command("split", short_help="Send a part of the callers to a version.")
@click.argument("service")
@click.argument("shares", nargs=-1, metavar="[VERSION=PERCENT%]...")
@click.option("--end", is_flag=True, help="All callers go to all versions again.")
@writes
def split(session: Session, service: str, shares: tuple[str, ...], end: bool) -> None:
    """Let a part of the callers of a service reach one version of it; the rest goes to the versions that are not named.

    \b
      atlas split identity 1.4=5%
      atlas split identity 1.4=50% 1.5=0.25%
      atlas split identity              shows it
      atlas split identity --end

    A caller (a user, a session) stays on its side, at every service. What is named replaces what was there.
    """
    present = _known(session, service)
    if end and shares:
        raise click.UsageError("either shares or --end")
    if not shares and not end:
        _show_split(session, present)
        return
    text = ",".join(shares)
    parse_split(text)
    wanted = replace(present, split=text)
    wanted.check()
    told = (
        f"{present.name}: {text} of the callers"
        if text
        else f"{present.name}: no split, all callers go to all versions"
    )
    told += f" (was {present.split})" if present.split and present.split != text else ""
    warnings = _empty_sides(session, wanted)
    for warning in warnings:
        session.note(f"Warning: {warning}")
    revision = session.directory.change_service(present.name, {"split": text}, by=session.author())
    facts = shares_json(session.world, wanted, session.clock())
    session.done(told, revision, service=present.name, split=text, shares=facts, warnings=warnings)


@click.command("callers", short_help="Say who may call a service.")
@click.argument("service")
@click.argument("names", nargs=-1, metavar="[CALLER,CALLER...]")
@click.option("--everybody", is_flag=True, help="Any service may call it.")
@writes
def callers(session: Session, service: str, names: tuple[str, ...], everybody: bool) -> None:
    """Let only these services call SERVICE; sidecars refuse the calls of others. Without a name: show who may.

    \b
      atlas callers identity orders,billing
      atlas callers identity --everybody
    """
    present = _known(session, service)
    named = list(dict.fromkeys(name for word in names for name in word.replace(",", " ").split()))
    if everybody and named:
        raise click.UsageError("either names of callers or --everybody")
    if not named and not everybody:
        if names:
            raise click.UsageError("name a caller, or --everybody")
        _show_callers(session, present)
        return
    listed = ",".join(named)
    replace(present, callers=listed).check()
    warnings = [f"no service {plain(name)} is in the map" for name in named if not session.world.knows(name)]
    for warning in warnings:
        session.note(f"Warning: {warning}")
    revision = session.directory.change_service(present.name, {"callers": listed}, by=session.author())
    told = f"{present.name} may be called by {', '.join(named) if named else 'everybody'}"
    session.done(told, revision, service=present.name, callers=named or None, warnings=warnings)


@click.command("accept-loss", short_help="Give up the instances that were lost.")
@click.argument("service")
@writes
def accept_loss(session: Session, service: str) -> None:
    """Say that the instances of a service that were lost until now are gone for good.

    A sidecar that loses more than half of the instances of a service at once goes on calling them: more likely the map is
    wrong than the hosts. This lets go of them, at every sidecar. --why is required, and kept in the history.
    """
    if not session.why.strip():
        raise click.UsageError("say why: --why TEXT is kept in the history")
    present = _known(session, service)
    later = present.loss_accepted_at + 0.001  # than what somebody said whose clock is ahead
    at = max(session.clock(), later)
    holding = {report.host: report.holding for report in session.reports.values() if report.holding}
    revision = session.directory.change_service(present.name, {"loss_accepted_at": at}, by=session.author())
    told = f"{present.name}: the instances that were lost until now are given up"
    if holding:
        told += f" ({count(sum(holding.values()), 'instance')} of all services held by {', '.join(sorted(map(plain, holding)))})"
    facts: dict[str, Any] = {"loss_accepted_at": at, "holding": holding}
    session.done(told, revision, service=present.name, **facts)


def _known(session: Session, service: str) -> Service:
    return session.world.services.get(session.known(service), Service(service))


def _empty_sides(session: Session, service: Service) -> list[str]:
    """What the split promises, and nobody is there for."""
    warnings = []
    for share in shares_json(session.world, service, session.clock()):
        if not share["taking_calls"]:
            which = f"version {plain(share['version'])}" if share["version"] else "a version that is not named"
            there = count(share["instances"], "instance")
            warnings.append(f"no instance of {which} takes calls ({there}): its {share['percent']:g}% go to the others")
    return warnings


def _show_split(session: Session, service: Service) -> None:
    facts = shares_json(session.world, service, session.clock())
    if session.as_json:
        session.give({"service": service.name, "split": service.split, "shares": facts})
        return
    if not facts:
        session.print(f"{service.name} is not split: atlas split {service.name} 1.4=5%")
        return
    for line in shares_table(session.world, service, session.clock()):
        session.print(line)


def _show_callers(session: Session, service: Service) -> None:
    named = [name for name in service.callers.split(",") if name]
    if session.as_json:
        session.give({"service": service.name, "callers": named or None})
    else:
        session.print(f"{service.name} may be called by {', '.join(named) or 'everybody'}")
