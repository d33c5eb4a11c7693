"""`sidecar proxy`: HAProxy in the foreground, in place of this process."""

from __future__ import annotations

import click

from sidecar.terminal import Session, runs


@click.command("proxy", short_help="Run HAProxy alone, in the foreground.")
@click.option("--systemd", is_flag=True, help="Tell systemd when it is ready (Type=notify).")
@click.option("--dry-run", is_flag=True, help="Say what would be run; run and write nothing.")
@runs
def proxy(session: Session, systemd: bool) -> None:
    """Become HAProxy, in the foreground, with the file in the directory of the sidecar.

    When there is none, as after a boot, one is written first from the map that was kept on disk: HAProxy serves at once,
    without Atlas and without the agent. Units and `sidecar up` run this.
    """
    from sidecar import coldstart
    from sidecar.proxy import command

    settings = session.settings(needs_atlas=False)
    if session.dry_run:
        session.print(" ".join(command(settings, notify=systemd)))
        return
    coldstart.refuse_a_second(settings)
    if done := coldstart.prepare(settings):
        session.note(f"sidecar proxy {done}")
    coldstart.become(settings, session.environ, notify=systemd)
