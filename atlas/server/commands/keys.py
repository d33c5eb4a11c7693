"""`atlas keys`: the keys with which secrets are encrypted."""

from __future__ import annotations

import click

from atlas.server.terminal import AtlasGroup, Session, writes
from atlas.server.wording import count
from smartrealm.errors import ValidationFailed


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
    directory = session.directory
    again = getattr(directory, "reseal", None)
    if again is None:
        raise ValidationFailed("Secrets are encrypted anew where the keys are: name the store, --atlas zookeeper://...")
    secrets = sum(1 for override in session.world.overrides.values() if override.secret)
    revision = again(by=session.author())
    session.done(f"{count(secrets, 'secret')} encrypted anew", revision, secrets=secrets)
