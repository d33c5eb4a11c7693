"""What `flask` can do in a service: `config explain`, `db`, `doctor`, `debug-header`. Thin: parse, call, print."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from smartrealm import SmartError
from smartrealm.headers import DEBUG
from smartservice.app import SmartService
from smartservice.commands import ServiceGroup, service, with_service
from smartservice.migrations import db as db

if TYPE_CHECKING:
    from smartrealm.findings import Finding
    from smartservice.doctor import Facts
    from smartservice.sidecar import Found


config = ServiceGroup(
    "config", help="What the settings are and where each value comes from.", short_help="Explain the settings."
)


@config.command("explain", short_help="Show each setting and where it is from.")
@click.argument("key", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(key: str | None, as_json: bool) -> None:
    """Show each setting (or KEY): its value, its type, which layer won, and every value that lost.

    Exit code 2: there is no such KEY.
    """
    from smartconfig import render_explanations

    settings = service().settings
    try:
        explanations = settings.explain(key)
    except SmartError as error:
        raise click.UsageError(error.message) from None
    click.echo(render_explanations(explanations, as_json=as_json))


@click.command("debug-header", short_help="Print a header for debug level.")
@click.option("--minutes", default=10, show_default=True, type=click.IntRange(1, 24 * 60), help="How long it is valid.")
@with_service
def debug_header(minutes: int) -> None:
    """Print a header that raises each request which carries it to debug level.

    Exit code 1: DEBUG_HEADER_KEY is not set.
    """
    from smartservice import inbound

    key = service().settings.snapshot["DEBUG_HEADER_KEY"]
    if not key:
        raise click.ClickException("set DEBUG_HEADER_KEY first: a random text that all instances share.")
    click.echo(f"{DEBUG}: {inbound.debug_header(key, seconds=minutes * 60, now=time.time())}")


@click.command("doctor", short_help="Say what is wrong or risky.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--no-connect", is_flag=True, help="Look at the settings only; ask no database and run no health check.")
@with_service
def doctor(as_json: bool, no_connect: bool) -> None:
    """Say what is wrong or risky in this service's configuration, with the arithmetic.

    Exit code 1: something is wrong.
    """
    from smartservice.doctor import examine

    app = service()
    findings = examine(_facts(app, connect=not no_connect))
    if app.part("db") is not None:
        app.db.close_idle()
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            _print(finding)
    if any(finding.level == "wrong" for finding in findings):
        sys.exit(1)


def _print(finding: Finding) -> None:
    colour = {"wrong": "red", "risky": "yellow", "good": "green"}[finding.level]
    click.echo(f"{click.style(f'{finding.level:<6}', fg=colour)} {finding.topic:<9} {finding.says}")
    if finding.advice:
        click.echo(f"{'':17}-> {finding.advice}")


def _facts(app: SmartService, *, connect: bool) -> Facts:
    from smartservice.doctor import Facts
    from smartservice.gunicorn import drain_seconds

    status = app.settings.status
    sidecar = _sidecar(app, connect=connect)
    return Facts(
        settings=dict(app.config),
        realm=app.realm,
        environ=os.environ,
        drain_seconds=drain_seconds(app.settings.snapshot),
        max_connections=_max_connections(app) if connect else None,
        health=_failing(app) if connect else None,
        pending=tuple(app.settings.pending),
        refused=status.mistakes if status.state == "refused" else (),
        silent=status.mistakes if status.state != "refused" else (),
        sidecar=sidecar.url,
        sidecar_answers=sidecar.answers,
        sidecar_wants_token=sidecar.wants_token,
    )


def _sidecar(app: SmartService, *, connect: bool) -> Found:
    from smartservice.sidecar import find

    found = find(app.config["SIDECAR_URL"], app.sidecar_dir)
    return found.asked() if connect and found.url else found


def _failing(app: SmartService) -> dict[str, str]:
    report = app.health.report("ready")
    return {row.name: str(row.output) for row in report.rows if row.status == "fail"}


def _max_connections(app: SmartService) -> int | None:
    """What the PostgreSQL server takes; None where there is none, or it is away: its health check tells that."""
    if not app.config["DATABASE_URL"]:
        return None
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with app.db.engine.connect() as connection:
            if connection.dialect.name != "postgresql":
                return None
            return int(connection.execute(text("SHOW max_connections")).scalar_one())
    except SQLAlchemyError:
        return None
