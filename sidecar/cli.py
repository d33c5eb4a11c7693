"""The command `sidecar`: run the sidecar of a host, look at it, operate it. See `terminal.py` for what the commands share."""

from __future__ import annotations

import signal
from collections.abc import Mapping

import click

from atlas.terminal import CONTEXT, end_on, exit_codes_help, version_option
from sidecar.terminal import EXIT_CODES, Entry, LazyGroup

_HELP = """The sidecar of a host: keeps the local HAProxy in step with the map of the realm, and speaks in the map for the
services of this host.

\b
Examples:
  sidecar up
  sidecar status
  sidecar why identity 10.0.0.7:8000
  sidecar register billing 8080 --health /ready
  sidecar accept identity --why "rack 3 is gone for good"

Which sidecar: --dir DIRECTORY, else SIDECAR_DIR, else that of the realm (--realm, else REALM, else local).
""" + exit_codes_help(EXIT_CODES)


def _in(module: str, help_: str, attribute: str = "") -> Entry:
    return Entry(f"sidecar.commands.{module}", attribute or module, help_)


class SidecarGroup(LazyGroup):
    """The commands by section; each is imported when it is run."""

    sections: Mapping[str, Mapping[str, Entry]] = {
        "Run": {
            "run": _in("run", "Run the sidecar of this host, until it is told to stop."),
            "up": _in("up", "Run HAProxy and the sidecar beside each other: containers, laptops."),
            "proxy": _in("proxy", "Run HAProxy alone, in the foreground: for its unit."),
            "units": _in("units", "Write systemd units, a Dockerfile, a part of a manifest."),
            "reload": _in("operating", "Load HAProxy anew, without losing a call.", "reload"),
            "stop": _in("stop", "End the sidecar and, softly, its HAProxy."),
        },
        "Look": {
            "status": _in("looking", "How it stands: what is wrong, since when, what to do.", "status"),
            "why": _in("looking", "Why a service or an instance is called, or is not.", "why"),
            "check": _in("check", "What is wrong or risky about this host, before and while it runs."),
            "render": _in("render", "HAProxy's files for any map, without touching anything."),
        },
        "Instances of this host": {
            "register": _in("registering", "Bring a program that listens here into the map.", "register"),
            "unregister": _in("registering", "Take it out again.", "unregister"),
        },
        "Operate": {
            "accept": _in("operating", "Let go of instances that the guard holds.", "accept"),
            "token": _in("token", "Tokens with which services call through the sidecar."),
            "drill": _in("drill", "Rehearse faults on a realm of your own."),
        },
    }


@click.group(
    "sidecar",
    cls=SidecarGroup,
    help=_HELP,
    context_settings={**CONTEXT},
)
@click.option("--dir", "directory", metavar="DIRECTORY", help="Which sidecar; also after the command.")
@click.option("--realm", metavar="REALM", help="Which realm; also after the command.")
@version_option("sidecar")
def sidecar(directory: str | None, realm: str | None) -> None:
    """The group; its help is above."""


def main() -> None:
    """The entry point of the program."""
    end_on(signal.SIGTERM)
    sidecar.main(prog_name="sidecar")


if __name__ == "__main__":
    main()
