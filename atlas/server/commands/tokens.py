"""`atlas token`: who may ask an `atlas serve`, and what."""

from __future__ import annotations

import click

from atlas.server.terminal import AtlasGroup, Session, reads, writes
from atlas.server.wording import parse_span, table
from smartrealm.errors import NotFound
from smartrealm.wording import ago, moment, plain, span

_ROLES = ("operator", "service", "host", "reader")


@click.group("token", cls=AtlasGroup, short_help="Make, list, revoke tokens.")
def token() -> None:
    """Who may ask an `atlas serve`, and what. Tokens are kept as hashes: a lost one is revoked and made anew."""


@token.command("create", short_help="Make a token.")
@click.argument("role", type=click.Choice(_ROLES))
@click.argument("subject")
@click.option("--for", "length", metavar="90d", help="How long it is valid; for ever when not given.")
@writes
def create(session: Session, role: str, subject: str, length: str | None) -> None:
    """Make a token for SUBJECT: a person, a service or a host. It is printed this once, alone on stdout.

    \b
    operator  everything
    service   its own settings and the shared ones, its own instances
    host      the map, and the instances on that host
    reader    the map
    """
    expires_at = session.clock() + parse_span(length) if length else None
    if role == "service":
        session.known(subject)
    bearer, kept = session.directory.create_token(role, subject, by=session.author(), expires_at=expires_at)
    if session.dry_run:
        session.done(f"a token made, {role} for {plain(subject)}", 0, role=role, subject=subject)
        return
    if session.as_json:
        session.give({"token": bearer, "id": kept.id, "role": role, "subject": subject, "expires_at": expires_at})
        return
    until = f", valid for {span(expires_at - session.clock())}" if expires_at else ""
    session.note(f"token {kept.id} ({role} for {plain(subject)}{until}); it is not shown again:")
    session.print(bearer)


@token.command("ls", short_help="List the tokens.")
@reads
def ls(session: Session) -> None:
    """Which tokens there are; never the tokens themselves."""
    found = sorted(session.world.tokens.values(), key=lambda one: (one.role, one.subject, one.id))
    if session.as_json:
        session.give([{name: value for name, value in one.to_json().items() if name != "digest"} for one in found])
        return
    if not found:
        session.note(
            "No token is shown: only operators see them; atlas token create operator YOUR-NAME makes the first one."
        )
        return
    now = session.clock()
    rows = [
        (one.id, one.role, plain(one.subject), ago(one.created_at, now), _end(one.expires_at, now)) for one in found
    ]
    for line in table(("id", "role", "subject", "made", "valid"), rows):
        session.print(line)


def _end(expires_at: float | None, now: float) -> str:
    if expires_at is None:
        return "for ever"
    return f"until {moment(expires_at, now)}" if expires_at > now else click.style("expired", fg="red")


@token.command("revoke", short_help="Refuse a token from now on.")
@click.argument("token_id", metavar="ID")
@writes
def revoke(session: Session, token_id: str) -> None:
    """Refuse the token ID from now on; `atlas token ls` shows the ids."""
    found = session.world.tokens.get(token_id)
    if found is None:
        raise NotFound(f"There is no token {plain(token_id)}; atlas token ls shows their ids.")
    revision = session.directory.revoke_token(token_id, by=session.author())
    session.done(f"token {token_id} ({found.role} for {plain(found.subject)}) revoked", revision, id=token_id)
