"""`atlas ls`, `show`, `watch`, `doctor`: what is, what happens, what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click

from atlas.model import Change
from atlas.reports import host_of, is_sidecar
from atlas.server.findings import examine
from atlas.server.rendering import listing, listing_json, showing, showing_json
from atlas.server.sidecars import sidecars_json, sidecars_table
from atlas.server.terminal import Session, reads
from atlas.server.watching import follow
from atlas.server.wording import change_json
from smartrealm.errors import Forbidden, Unavailable
from smartrealm.findings import Finding
from smartrealm.wording import plain

_COLOURS = {"wrong": "red", "risky": "yellow", "good": "green"}


@click.command("ls", short_help="The realm at a glance.")
@reads
def ls(session: Session) -> None:
    """The realm at a glance: what is wrong, who disabled what, then one line for each service."""
    glance = session.glance()
    if session.as_json:
        last = [change_json(change) for change in glance.changes]
        session.give({**listing_json(glance), "last_change": last[0] if last else None})
        return
    for line in listing(glance):
        session.print(line)


@click.command("sidecars", short_help="How far each sidecar is.")
@reads
def sidecars(session: Session) -> None:
    """A line for each sidecar: the revision that it has applied, when it was heard last, how many instances its guard holds,
    and how many calls are under way to instances that drain or are disabled."""
    world, now = session.world, session.clock()
    reports = session.directory.reports()
    if session.as_json:
        session.give({"position": str(world.position), "sidecars": sidecars_json(reports, world.position, now)})
        return
    absent = sorted(host_of(lease) for lease in world.leases if is_sidecar(lease) and lease not in reports)
    if reports:
        for line in sidecars_table(reports, world.position, now):
            session.print(line)
    elif not absent:
        session.print(f"No sidecar reports in realm {session.realm}: services call each other without one.")
    if absent:
        listed = ", ".join(map(plain, absent))
        session.print(click.style(f"! overdue, or without a report yet: {listed}", fg="red"))


@click.command("show", short_help="Everything about one service.")
@click.argument("service")
@reads
def show(session: Session, service: str) -> None:
    """Everything about one service: owner and port, instances, overrides, the last changes."""
    service = session.known(service)
    glance = session.glance(changes=0)
    try:
        latest = tuple(changes_of(session, service, limit=5))
    except (Forbidden, Unavailable):  # A reader's token, or a server whose store is away: everything else is shown.
        latest = ()
    if session.as_json:
        session.give({**showing_json(glance, service), "changes": [change_json(change) for change in latest]})
        return
    for line in showing(glance.with_changes(latest), service):
        session.print(line)


def changes_of(session: Session, service: str, *, limit: int, before: int | None = None) -> Iterator[Change]:
    """The changes that concern one service, newest first. Looks at no more than the latest 2000."""
    found = 0
    for _ in range(10):
        changes = session.history(limit=200, before=before)
        for change in changes:
            if any(edit.key == service or edit.key.startswith(f"{service}/") for edit in change.edits):
                yield change
                found += 1
                if found == limit:
                    return
        if len(changes) < 200:
            return
        before = changes[-1].revision


@click.command("watch", short_help="Print every change as it happens.")
@click.argument("service", required=False)
@reads
def watch(session: Session, service: str | None) -> None:
    """Print a line for every change as it happens, until Ctrl-C; with --json an object a line.

    It goes on when the map is away, says so on stderr, and misses no change of the catalogue meanwhile.
    """
    if service is not None:
        session.known(service)
    follow(session, service)


@click.command("doctor", short_help="Say what is wrong or risky.")
@reads
def doctor(session: Session) -> None:
    """Say what is wrong or risky about the map, and what to do. Exit code 1: something is wrong."""
    findings = examine(session)
    if session.as_json:
        session.give([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            _print(session, finding)
    if any(finding.level == "wrong" for finding in findings):
        click.get_current_context().exit(1)


def _print(session: Session, finding: Finding) -> None:
    level = click.style(f"{finding.level:<6}", fg=_COLOURS[finding.level])
    session.print(f"{level} {finding.topic:<12} {finding.says}")
    if finding.advice:
        session.print(f"{'':20}-> {finding.advice}")
