"""`sidecar check`: what is wrong or risky about this host."""

from __future__ import annotations

from dataclasses import asdict

import click

from sidecar.telling import COLOURS
from sidecar.terminal import Session, looks
from smartrealm.errors import ConfigurationError
from smartrealm.findings import Finding
from smartrealm.wording import plain


@click.command("check")
@click.option("--no-connect", is_flag=True, help="Do not ask Atlas.")
@looks
def check(session: Session, no_connect: bool) -> None:
    """What is wrong or risky about this host, before the sidecar runs and while it does: HAProxy, its file, directories, ports,
    limits, Atlas, the kept map. Each with what to do. Exit code 1: something is wrong."""
    findings = _findings(session, not no_connect)
    if session.as_json:
        session.give([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            _print(session, finding)
    if any(finding.level == "wrong" for finding in findings):
        session.exit(1)


def _findings(session: Session, connect: bool) -> list[Finding]:
    try:
        settings = session.settings()
    except ConfigurationError as error:
        advice = "The rest is looked at once these are right."
        return [Finding("wrong", "settings", mistake, advice) for mistake in error.mistakes or (error.message,)]
    from sidecar.findings import examine

    return examine(settings, session.environ, connect=connect, clock=session.now)


def _print(session: Session, finding: Finding) -> None:
    level = click.style(f"{finding.level:<6}", fg=COLOURS[finding.level])
    session.print(f"{level} {finding.topic:<12} {plain(finding.says)}")
    if finding.advice:
        session.print(f"{'':20}-> {plain(finding.advice)}")
