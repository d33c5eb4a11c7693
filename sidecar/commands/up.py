"""`sidecar up`: HAProxy and the agent beside each other, for containers and laptops."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

from sidecar.commands.run import settings_options
from sidecar.environment import VARIABLES
from sidecar.settings import Settings
from sidecar.supervisor import Program
from sidecar.terminal import Session, runs

AGENT_SECONDS = 5.0
PROXY_SECONDS = 10.0


@click.command("up", short_help="Run HAProxy and the sidecar beside each other: containers, laptops.")
@click.option(
    "--leave", is_flag=True, help="Take this host out of the map at the end: for a pod, which never comes back."
)
@click.option(
    "--soft-seconds",
    type=click.FloatRange(0, 3600),
    default=PROXY_SECONDS,
    show_default=True,
    help="How long calls under way may take at the end.",
)
@settings_options
@runs
def up(session: Session, leave: bool, soft_seconds: float, **given: Any) -> None:
    """Run `sidecar proxy` and `sidecar run` beside each other, each started again when it ends, until told to stop.

    The first process of a container. Either may crash with calls under way. On TERM or Ctrl-C the agent ends first, then
    HAProxy takes no new calls and ends those it has; a second TERM hurries. One line of log for each event.

    \b
    Exit codes: 0 everything ended by itself, 1 something had to be killed, 2 HAProxy cannot be run with these settings,
    4 another `sidecar up` runs there.
    """
    from sidecar import supervisor

    settings = session.settings(**given)
    with supervisor.only_one(settings.directory):
        told = {VARIABLES[name].name: text for name, text in given.items() if text is not None}
        told |= {"SIDECAR_DIR": str(settings.directory), "REALM": settings.realm}
        system = supervisor.Spawned({**session.environ, **told})
        supervised = supervisor.Supervisor(
            programs(settings, os.getpid(), leave=leave, soft_seconds=soft_seconds), system=system
        )
        supervisor.say("begins", directory=str(settings.directory), realm=settings.realm, port=settings.port)
        code = supervisor.run(supervised)
        supervisor.say("ends", code=code)
    session.exit(code)


def programs(settings: Settings, parent: int, *, leave: bool, soft_seconds: float) -> tuple[Program, ...]:
    """HAProxy, then the agent, which finds it running."""
    from sidecar.probe import is_listened_on

    def command(number: int, *words: str) -> tuple[str, ...]:
        return (sys.executable, "-P", "-m", "sidecar.child", str(parent), str(int(number)), *words)

    return (
        Program(
            "haproxy",
            command(signal.SIGUSR1, "proxy"),
            stop_signal=signal.SIGUSR1,
            stop_seconds=soft_seconds,
            hurry_signal=signal.SIGTERM,
            is_ready=lambda: is_listened_on(settings.runtime_socket),
            needed=True,
        ),
        Program(
            "agent",
            command(signal.SIGTERM, "run", "--proxy", "external", *(["--leave"] if leave else [])),
            stop_seconds=AGENT_SECONDS,
        ),
    )
