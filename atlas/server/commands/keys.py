"""`atlas keys`: the keys with which secrets are encrypted."""

from __future__ import annotations

from typing import Any

import click

from atlas.server.terminal import AtlasGroup, Session, writes
from smartrealm.errors import ValidationFailed
from smartrealm.wording import count


@click.group("keys", cls=AtlasGroup, short_help="Make a key, encrypt secrets anew.")
def keys() -> None:
    """The keys with which secret settings are encrypted: ATLAS_KEYS, separated by commas; the first one encrypts."""


@keys.command("new", short_help="Print a new key.")
def new() -> None:
    """Print a new key. Put it in front in ATLAS_KEYS of every replica, reseal, then drop the old one."""
    from atlas.secrets import new_key

    click.echo(new_key())


@keys.command("reseal", short_help="Encrypt every secret with the first key.")
@writes
def reseal(session: Session) -> None:
    """Encrypt every secret anew with the first key of ATLAS_KEYS. Works on a store, not through an `atlas serve`."""
    directory: Any = session.open()  # In a dry run too: only the real one has the keys.
    if not hasattr(directory, "reseal"):
        raise ValidationFailed("Secrets are encrypted anew where the keys are: name the store, --atlas zookeeper://...")
    secrets = [one for one in directory.world().overrides.values() if one.secret]
    if session.dry_run:
        opened = {name for scope in {one.scope for one in secrets} for name in directory.secrets(scope)}
        closed = sorted({one.name for one in secrets} - opened)
        if closed:
            raise ValidationFailed(f"No key of ATLAS_KEYS opens {', '.join(closed)}: add the one it was sealed with.")
    revision = 0 if session.dry_run else directory.reseal(by=session.author())
    session.done(f"{count(len(secrets), 'secret')} encrypted anew", revision, secrets=len(secrets))
