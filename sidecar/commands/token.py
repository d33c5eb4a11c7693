"""`sidecar token create`: who may call through the sidecar, where it asks for that."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from pathlib import Path

import click

from sidecar.terminal import Session, acts
from smartrealm.errors import ConfigurationError, NotConfigured, Unavailable
from smartrealm.names import ServiceName


@click.group("token")
def token() -> None:
    """Tokens with which services call through the sidecar, where SIDECAR_TOKENS names a file of them."""


@token.command("create")
@click.argument("caller")
@click.option("--file", "file", metavar="FILE", help="The file of tokens; else SIDECAR_TOKENS.")
@acts
def create(session: Session, caller: str, file: str | None) -> None:
    """Make a token for the service CALLER. It is printed once, alone on stdout; the file gets its SHA-256."""
    caller = str(ServiceName(caller))
    name = file or session.environ.get("SIDECAR_TOKENS")
    if not name:
        raise NotConfigured(
            "Nobody says where the tokens are kept: set SIDECAR_TOKENS for the sidecar, or give --file."
        )
    path = Path(name).expanduser().absolute()
    if session.dry_run:
        session.done(f"a token for {caller} is added to {path}", caller=caller, file=str(path))
        return
    bearer = secrets.token_urlsafe(32)
    append(path, f"{caller} {hashlib.sha256(bearer.encode()).hexdigest()}\n")
    if session.as_json:
        session.give({"token": bearer, "caller": caller, "file": str(path), "dry_run": False})
        return
    session.print(bearer)
    session.note(f"For {caller}, shown this once: hand it over as SIDECAR_TOKEN. {path} has its SHA-256.")


def append(path: Path, line: str) -> None:
    """Add a line to a file that its owner alone may read; two at once do not mix. Raises ConfigurationError, Unavailable."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _own(descriptor, path)
            size = os.fstat(descriptor).st_size
            broken = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, (("\n" if broken else "") + line).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except PermissionError as error:
        raise ConfigurationError(
            f"{path} cannot be written by this user: run it as the one who runs the sidecar."
        ) from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}.") from error


def _own(descriptor: int, path: Path) -> None:
    found = os.fstat(descriptor)
    if found.st_size == 0 and os.geteuid() == 0:
        # Made by root, read by the user of the sidecar, whose directory it is.
        folder = path.parent.stat()
        os.fchown(descriptor, folder.st_uid, folder.st_gid)
    if found.st_mode & 0o077:
        os.fchmod(descriptor, 0o600)
