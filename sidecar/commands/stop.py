"""`sidecar stop`: the end of the agent, and the soft end of its HAProxy."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import click

from atlas import announcement as announcements
from sidecar.terminal import Session, acts
from smartrealm.errors import Forbidden, Unavailable
from smartrealm.wording import span

AGENT_SECONDS = 20.0


@click.command("stop")
@click.option("--agent", "only_agent", is_flag=True, help="The agent alone: HAProxy goes on with what it knows.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 3600),
    default=30.0,
    help="How long HAProxy may take to end the calls it has; else 30.",
)
@acts
def stop(session: Session, only_agent: bool, seconds: float) -> None:
    """End the sidecar of this host: first the agent, then HAProxy, which takes no new calls and ends those that it has.

    The instances of this host leave the map when its lease ends (`sidecar run --leave`: at once).

    Where systemd or `sidecar up` keeps them running they are started again: stop those instead.
    """
    pid = _agent(session)
    if session.dry_run:
        what = [] if pid is None else [f"the agent (process {pid}) ends"]
        what += [] if only_agent else [f"HAProxy ends within {span(seconds)}"]
        session.done("; ".join(what) or "nothing runs", agent=pid)
        return
    if pid is not None:
        _end_agent(session, pid)
    told = "No agent ran" if pid is None else f"The agent (process {pid}) has ended"
    if only_agent:
        session.done(f"{told}; HAProxy goes on.", agent=pid)
        return
    from sidecar.proxy import Proxy

    softly = Proxy(session.places).stop(seconds)
    how = "HAProxy has ended all its calls, and itself." if softly else "HAProxy was ended with calls under way."
    session.done(f"{told}. {how}", agent=pid, softly=softly)


def _agent(session: Session) -> int | None:
    """The pid of the agent that lives in this directory; None when there is none."""
    if not announcements.is_carried(session.directory):
        return None
    with suppress(OSError, ValueError):
        return int((session.directory / announcements.LOCK).read_text())
    found = announcements.read_sidecar(session.directory)
    if found is None or not found.pid:
        raise Unavailable(
            f"A sidecar lives in {session.directory}, and its process cannot be told: end it where it runs."
        )
    return found.pid


def _end_agent(session: Session, pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise Forbidden(f"Process {pid} belongs to somebody else: run this as its user, or as root.") from error
    except ProcessLookupError as error:
        raise Unavailable(f"The agent is process {pid} of another container: end it there.") from error
    begun = session.now()
    while announcements.is_carried(session.directory):
        if session.now() - begun > AGENT_SECONDS:
            raise Unavailable(
                f"The agent (process {pid}) has not ended within {AGENT_SECONDS:g} s; HAProxy was left alone."
            )
        session.tools.sleep(0.05)
