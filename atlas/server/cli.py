"""The command `atlas`: look at the map of a realm and change it. Parse, call, print; see `terminal.py` for what is shared."""

from __future__ import annotations

import signal

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
from atlas.terminal import CONTEXT, end_on, exit_codes_help, version_option

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
""" + exit_codes_help(EXIT_CODES)


@click.group(
    "atlas",
    cls=AtlasGroup,
    help=_HELP,
    context_settings={**CONTEXT},
)
@click.option("--atlas", "atlas_url", metavar="URL", help="Which map; also after the command.")
@version_option("atlas")
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


def main() -> None:
    """The entry point of the program."""
    end_on(signal.SIGTERM)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
        end_on(signal.SIGHUP)
    atlas.main(prog_name="atlas")


if __name__ == "__main__":
    main()
