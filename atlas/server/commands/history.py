"""`atlas history` and `rollback`: who changed what, and taking it back."""

from __future__ import annotations

import re

import click

from atlas.model import EVERY_SERVICE, Kind
from atlas.server.commands.looking import changes_of
from atlas.server.commands.places import find
from atlas.server.terminal import Session, reads, writes
from atlas.server.wording import change_json, change_lines, edit_text
from smartrealm.errors import NotFound
from smartrealm.wording import count

_SETTING = re.compile(r"[A-Z][A-Z0-9_]*")


@click.command("history", short_help="Who changed what, when and why.")
@click.argument("service", required=False)
@click.argument("what", required=False, metavar="[KEY|HOST:PORT]")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10000), help="How many changes.")
@click.option("--before", type=click.IntRange(1), help="Only revisions below this one: the next page.")
@reads
def history(session: Session, service: str | None, what: str | None, limit: int, before: int | None) -> None:
    """The changes of the map, of one SERVICE ('*' for every service), of one setting or of one instance; newest first."""
    kind, key = _target(session, service, what)
    if service is not None and what is None:
        changes = list(changes_of(session, service, limit=limit, before=before))
    else:
        changes = session.history(kind=kind, key=key, limit=limit, before=before)
    if session.as_json:
        session.give([change_json(change) for change in changes])
        return
    if not changes:
        session.note("No change is recorded.")
    now = session.clock()
    for change in changes:
        for line in change_lines(change, now):
            session.print(line)
    if len(changes) == limit and changes[-1].revision > 1:
        session.note(f"(older ones: --before {changes[-1].revision})")


def _target(session: Session, service: str | None, what: str | None) -> tuple[Kind | None, str | None]:
    """What is meant by the words after `history` and `rollback`: everything, a service, a setting, an instance."""
    if service is None:
        return None, None
    if (
        service != EVERY_SERVICE
        and not session.world.knows(service)
        and not list(changes_of(session, service, limit=1))
    ):
        session.known(service)
    if what is None:
        return "service", service
    if _SETTING.fullmatch(what):
        return "override", f"{service}/{what}"
    if ":" in what and session.directory.history(kind="ruling", key=f"{service}/{what}", limit=1):
        return "ruling", f"{service}/{what}"
    name, host, port = find(session, service, what)
    return "ruling", f"{name}/{f'[{host}]' if ':' in host else host}:{port}"


@click.command("rollback", short_help="Put something back to what it was.")
@click.argument("revision", type=click.IntRange(0))
@click.argument("service", required=False)
@click.argument("what", required=False, metavar="[KEY|HOST:PORT]")
@writes
def rollback(session: Session, revision: int, service: str | None, what: str | None) -> None:
    """Put the map back to what it was at REVISION, or only one thing of it, as a new change.

    \b
    atlas rollback 41                      the whole catalogue: services, settings, words on instances
    atlas rollback 41 identity PAGE_SIZE   one setting (of every service: '*' PAGE_SIZE)
    atlas rollback 41 identity web-3:8010  the word on one instance
    atlas rollback 41 identity             what is known of the service itself: owner, port, description

    Tokens and what runs are never put back. --dry-run shows what would change.
    """
    present = session.world.position.revision
    if revision > present:
        raise NotFound(f"There is no revision {revision} yet: the map is at {present}. See atlas history.")
    kind, key = _target(session, service, what)
    made = session.directory.rollback(revision, by=session.author(), kind=kind, key=key)
    changes = session.directory.history(limit=1) if made > present else []
    if session.as_json:
        session.give(
            {"revision": made, "dry_run": session.dry_run, "change": change_json(changes[0]) if changes else None}
        )
        return
    if not changes:
        session.say(f"Nothing to do: it is what it was at revision {revision}.")
        return
    edits = changes[0].edits
    session.say(
        f"{'Would change' if session.dry_run else 'Changed'} {count(len(edits), 'thing')} back to revision {revision}:"
    )
    for edit in edits:
        session.say(f"  {edit_text(edit)}")
    if session.dry_run:
        session.say("(--dry-run: nothing was written)")
    else:
        session.say(f"This is revision {made}; atlas rollback {made - 1} takes it back.")
