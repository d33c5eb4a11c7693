"""`sidecar run`: the agent, with every setting as an option."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from typing import Any

import click

from sidecar.environment import VARIABLES, Variable, option_name
from sidecar.settings import Settings
from sidecar.terminal import Session, runs
from smartrealm.errors import ConfigurationError


def settings_options(function: Callable[..., None]) -> Callable[..., None]:
    """An option for each setting that may be seen on a command line, beside --dir and --realm; text, since settings are checked
    together."""
    for name, variable in reversed(list(VARIABLES.items())):
        if variable.option and name not in ("directory", "realm"):
            help_ = option_help(name)
            function = click.option(f"--{option_name(name)}", name, metavar=metavar(variable), help=help_)(function)
    return function


def option_help(name: str) -> str:
    """What a setting is, the variable that sets it as well, and what it is when nobody does."""
    usual = next(one.default for one in fields(Settings) if one.name == name)
    told = ""
    if usual is True:
        told = ", else yes"
    elif isinstance(usual, tuple):
        told = f", else {','.join(usual)}"
    elif usual and isinstance(usual, (str, int, float)):
        told = f", else {usual:g}" if isinstance(usual, float) else f", else {usual}"
    return f"{VARIABLES[name].help} [{VARIABLES[name].name}{told}]"


def metavar(variable: Variable) -> str:
    """What stands for the value in the help."""
    return "yes|no" if variable.read.__name__ == "_switch" else "VALUE"


@click.command("run")
@settings_options
@click.option(
    "--proxy",
    type=click.Choice(["own", "external"]),
    help="Whether the agent starts HAProxy itself, or somebody else does (systemd, a container). Else SIDECAR_PROXY, else own.",
)
@click.option(
    "--leave", is_flag=True, help="Take this host's instances out of the map at the end: it does not come back."
)
@runs
def run(session: Session, proxy: str | None, leave: bool, **given: Any) -> None:
    """Run the sidecar of this host until it is told to stop. HAProxy outlives it: calls pass while the agent is away.

    Every option can come from the environment, by the name in brackets (behind it: what it is else); the token of Atlas only from there (ATLAS_TOKEN).
    """
    settings = session.settings(**given)
    how = proxy or session.environ.get("SIDECAR_PROXY") or "own"
    if how not in ("own", "external"):
        raise click.UsageError(f"SIDECAR_PROXY is {how!r}: write own or external")
    there = next(one for one in (settings.directory, *settings.directory.parents) if one.exists())
    if not there.is_dir():
        raise ConfigurationError(
            f"{settings.directory} cannot be made: {there} is no directory. Set SIDECAR_DIR to another one."
        )
    from sidecar import agent  # Only this command needs it.

    def started() -> None:
        with suppress(OSError):  # a log on a full disk keeps nobody from serving
            click.echo(welcome(settings))

    agent.run(settings, external=how == "external", leave=leave, started=started)


def welcome(settings: Settings) -> str:
    """Where it listens and what to try; said once it does."""
    calls = settings.run_url if settings.loopback else f"unix:{settings.calls_socket}"
    how = f"{settings.run_url}/" if settings.loopback else f"--unix-socket {settings.calls_socket} http://localhost/"
    page = f"; page: http://127.0.0.1:{settings.admin_port}/" if settings.admin_port else ""
    return (
        f"The sidecar of realm {settings.realm} takes calls at {calls}{page}. "
        f"Try: sidecar status, or curl -H 'Smart-Service: NAME' {how}"
    )
