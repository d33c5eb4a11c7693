"""The command `atlas`: look at the map of a realm and change it. Parse, call, print; see `terminal.py` for what is shared."""

from __future__ import annotations

import signal
import sys
from importlib import metadata
from types import FrameType

import click

from atlas.server.commands import (
    calling,
    catalogue,
    claiming,
    config,
    history,
    keys,
    looking,
    moving,
    places,
    rolling,
    serving,
    tokens,
)
from atlas.server.terminal import EXIT_CODES, AtlasGroup

_HELP = """The map of a realm: which services exist, where each instance runs, what overrides each has.

\b
Examples:
  atlas ls
  atlas show identity
  atlas set identity PAGE_SIZE 50 --why "the import is slow"
  atlas drain web-3:8010 --wait
  atlas roll identity --command 'ssh {host} sudo systemctl restart identity'
  atlas split identity 1.4=5%
  atlas disable identity web-3:8010 --reason "loses requests" --for 2h
  atlas rollback 41 identity PAGE_SIZE --dry-run

Which map: --atlas URL, else ATLAS_URL (with ATLAS_TOKEN), else the file that the local realm's services share.
Who: ATLAS_AUTHOR, else the name of the login; behind `atlas serve` the subject of the token.

\b
Exit codes:
""" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())


def _version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        try:
            click.echo(f"atlas {metadata.version('smartservice')}")
        except metadata.PackageNotFoundError:
            click.echo("atlas (from a checkout)")
        context.exit()


@click.group(
    "atlas",
    cls=AtlasGroup,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--atlas", "atlas_url", metavar="URL", help="Which map; also after the command.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def atlas(atlas_url: str | None) -> None:
    """The group; its help is above."""


for command in (
    looking.ls,
    looking.show,
    looking.sidecars,
    looking.watch,
    looking.doctor,
    config.set_,
    config.unset,
    config.get,
    places.enable,
    places.drain,
    places.disable,
    places.weight,
    rolling.roll,
    calling.split,
    calling.callers,
    calling.accept_loss,
    history.history,
    history.rollback,
    catalogue.service,
    tokens.token,
    keys.keys,
    moving.export,
    moving.import_,
    serving.serve,
):
    atlas.add_command(command)
catalogue.service.add_command(claiming.claim)


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # On the way out temporary files are removed.


def main() -> None:
    """The entry point of the program."""
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
        signal.signal(signal.SIGHUP, _stop)
    atlas.main(prog_name="atlas")


if __name__ == "__main__":
    main()
