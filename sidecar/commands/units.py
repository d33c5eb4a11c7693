"""`sidecar units`: what a host, an image or a pod needs to run the sidecar."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import click

from sidecar import units as files
from sidecar.terminal import Session, acts
from smartrealm.errors import BadRequest, Conflict

_WHAT = {"new": "wrote", "same": "is as it should be:", "differs": "replaced"}
_WOULD = {"new": "would write", "same": "is as it should be:", "differs": "would replace"}
_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")


@click.command("units", short_help="Write systemd units, a Dockerfile, a part of a manifest.")
@click.option("--to", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Where to; else they are printed.")
@click.option(
    "--user", default="smartservice", show_default=True, metavar="NAME", help="User and group of the sidecar."
)
@click.option("--program", metavar="PATH", help="The command sidecar of that host; else this one.")
@click.option("--force", is_flag=True, help="Replace files that differ, too.")
@acts
def units(session: Session, folder: Path | None, user: str, program: str | None, force: bool) -> None:
    """Write two systemd units with their user and folders, a Dockerfile, and the part of a Kubernetes manifest.

    For the realm of --realm or REALM. A file that is there and differs stays as it is, unless --force: then it is said.
    """
    if not _USER.fullmatch(user) or user == "root":
        raise BadRequest(f"--user is {user!r}: write the name of a user of its own, a-z 0-9 _ -, and not root.")
    rendered = files.rendered(_place(session, user, program))
    if folder is None:
        _print(session, rendered)
        return
    standing = files.standing(folder, rendered)
    differing = [name for name, how in standing.items() if how == "differs"]
    written = [name for name, how in standing.items() if how == "new" or (how == "differs" and force)]
    if not session.dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        for name in written:
            (folder / name).write_text(rendered[name])
    _report(session, folder, standing, force)
    if differing and not force:
        raise Conflict(
            f"{', '.join(differing)} in {folder} {'differs' if len(differing) == 1 else 'differ'} and stayed as "
            f"{'it is' if len(differing) == 1 else 'they are'}: compare with what `sidecar units` prints, or use --force."
        )


def _place(session: Session, user: str, program: str | None) -> files.Place:
    context = click.get_current_context()
    asked = context.params.get("directory") or context.find_root().params.get("directory")
    directory, state = asked or session.environ.get("SIDECAR_DIR"), session.environ.get("STATE_DIR")
    for path in filter(None, (directory, state)):
        if not _PATH.fullmatch(path):
            raise BadRequest(
                f"{path!r} cannot stand in a unit: give an absolute path of letters, digits and . _ - alone."
            )
    try:
        version = metadata.version("smartservice").partition("+")[0]
    except metadata.PackageNotFoundError:
        version = ""
    return files.Place(
        program=(str(Path(program).absolute()),) if program else _this_program(),
        realm=session.realm,
        user=user,
        directory=Path(directory) if directory else Path("/run/smartservice") / session.realm,
        state=Path(state) if state else Path("/var/lib/smartservice"),
        version=version,
    )


def _this_program() -> tuple[str, ...]:
    beside = Path(sys.executable).with_name("sidecar")
    return (str(beside),) if beside.exists() else (sys.executable, "-P", "-m", "sidecar.cli")


def _print(session: Session, rendered: dict[str, str]) -> None:
    if session.as_json:
        session.give({"files": rendered})
        return
    for number, (name, text) in enumerate(rendered.items()):
        session.print(f"{'' if number == 0 else chr(10)}# ---- {name}")
        session.print(text.rstrip("\n"))


def _report(session: Session, folder: Path, standing: dict[str, files.Standing], force: bool) -> None:
    if session.as_json:
        told = {name: "kept" if how == "differs" and not force else how for name, how in standing.items()}
        session.give({"folder": str(folder), "files": told, "dry_run": session.dry_run})
        return
    words = _WOULD if session.dry_run else _WHAT
    for name, how in standing.items():
        session.print(f"{'differs, kept:' if how == 'differs' and not force else words[how]} {folder / name}")
