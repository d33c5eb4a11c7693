"""`atlas roll`: a rolling restart."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from atlas.server.commanding import expand
from atlas.server.commands.places import find
from atlas.server.rolling import Claim, Orders, Outcome, Route, Walk, check_others, route
from atlas.server.terminal import Session, writes
from atlas.server.waiting import no_sidecars, told_uncovered, uncovered
from atlas.server.wording import parse_span
from smartrealm.errors import NotFound
from smartrealm.wording import count, plain, span


@click.command("roll", short_help="Restart the instances of a service one by one.")
@click.argument("service")
@click.option("--command", required=True, metavar="TEXT", help="What restarts one instance; run with sh, here.")
@click.option("--one", "only", multiple=True, metavar="HOST:PORT", help="Only this instance; may be repeated.")
@click.option("--ready-timeout", default="120s", metavar="120s", help="How long an instance may take to come back.")
@click.option("--drain-timeout", default="60s", metavar="60s", help="How long its calls may take to end.")
@click.option("--command-timeout", default="10min", metavar="10min", help="How long the command may take.")
@click.option("--pause", metavar="30s", help="Wait so long between two instances.")
@click.option("--no-restart", is_flag=True, help="The command starts nothing anew: the process from before will do.")
@click.option("--force", is_flag=True, help="Even when no other instance takes calls meanwhile.")
@writes
def roll(session: Session, service: str, only: tuple[str, ...], **given: Any) -> None:
    """Walk the instances of SERVICE one by one: drain, run the command, wait until it is back and ready, enable, go on.

    \b
      atlas roll identity --command 'ssh {host} sudo systemctl restart identity'
      atlas roll identity --one web-3:8010 --command './deploy.sh'

    The command has SERVICE, INSTANCE (host:port), HOST, PORT and VERSION in its environment, and {service}, {instance},
    {host} and {port} filled in. The walk stops at the first failure with exit code 1: the instance that it holds is
    enabled again when it is ready, else it stays drained; the others are untouched.
    """
    service = session.known(service)
    addresses = tuple(_address(session, service, word) for word in only)
    orders = Orders(
        service,
        given["command"],
        addresses,
        drain_seconds=parse_span(given["drain_timeout"]),
        command_seconds=parse_span(given["command_timeout"]),
        ready_seconds=parse_span(given["ready_timeout"]),
        pause_seconds=parse_span(given["pause"]) if given["pause"] else 0.0,
        restarts=not given["no_restart"],
        force=given["force"],
    )
    if not orders.command.strip():
        raise click.UsageError("--command is empty: what restarts an instance?")
    world = session.open().world() if session.dry_run else session.world
    chosen = route(world, orders, session.clock())
    if not chosen.walked:
        left = (
            f": {'; '.join(f'{place.instance.address} is {why}' for place, why in chosen.left)}" if chosen.left else ""
        )
        raise NotFound(f"{service} has no instance to roll{left}")
    check_others(world, chosen.walked[0], orders, session.clock())
    if session.dry_run:
        _tell_plan(session, orders, chosen)
        return
    begun = session.timer()
    with Claim(session, service) as claim:
        _begin(session, chosen, service)
        outcome = Walk(session, orders, claim, session.say).run(chosen.walked)
    _tell(session, orders, chosen, outcome, session.timer() - begun)


def _address(session: Session, service: str, word: str) -> str:
    _, host, port = find(session, service, word)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _begin(session: Session, chosen: Route, service: str) -> None:
    session.say(f"rolling {service}: {count(len(chosen.walked), 'instance')}, one at a time")
    for place, why in chosen.left:
        session.say(f"leaving {place.instance.address} alone: {why}")
    if not session.reports:
        session.say(f"There is {no_sidecars(session.realm)}.")
    elif alone := told_uncovered(uncovered(session.world, (one.host for one in session.reports.values()))):
        session.say(alone)


def _tell_plan(session: Session, orders: Orders, chosen: Route) -> None:
    steps = [
        {
            "instance": place.instance.address,
            "version": place.instance.version,
            "command": expand(orders.command, place.instance),
        }
        for place in chosen.walked
    ]
    left = [{"instance": place.instance.address, "why": why} for place, why in chosen.left]
    if session.as_json:
        session.give({"service": orders.service, "dry_run": True, "steps": steps, "left": left})
        return
    for number, step in enumerate(steps, 1):
        session.say(f"[{number}/{len(steps)}] {step['instance']} would be drained, then: {plain(step['command'])}")
    for one in left:
        session.say(f"{one['instance']} would be left alone: {one['why']}")
    session.say("(--dry-run: nothing was done)")


def _tell(session: Session, orders: Orders, chosen: Route, outcome: Outcome, seconds: float) -> None:
    if session.as_json:
        failed = None
        if outcome.failed:
            failed = {"instance": outcome.failed, "says": outcome.says, "state": outcome.state}
        left = [*((place.instance.address, why) for place, why in chosen.left), *outcome.left]
        session.give(
            {
                "service": orders.service,
                "dry_run": False,
                "rolled": [asdict(one) for one in outcome.rolled],
                "failed": failed,
                "untouched": list(outcome.untouched),
                "left": [{"instance": address, "why": why} for address, why in left],
                "seconds": round(seconds, 3),
            }
        )
    of = f"{len(outcome.rolled)} of {count(len(chosen.walked), 'instance')}"
    if outcome.failed:
        untouched = f"; untouched: {', '.join(outcome.untouched)}" if outcome.untouched else ""
        session.note(
            f"atlas: {orders.service} stopped at {outcome.failed}: {outcome.says}; {outcome.state}; {of} rolled{untouched}."
        )
        click.get_current_context().exit(1)
    if not session.as_json:
        alone = "".join(f"; {address} was left alone: {why}" for address, why in outcome.left)
        session.say(f"{orders.service}: {of} rolled ({span(seconds)}){alone}")
