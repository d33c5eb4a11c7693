"""`atlas service`: which services exist, and what their callers need to know of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from atlas.model import Service
from atlas.server.terminal import AtlasGroup, Session, writes
from smartrealm.errors import Conflict
from smartrealm.wording import count, plain


@click.group("service", cls=AtlasGroup, short_help="Add, change, remove a service.")
def service() -> None:
    """Which services exist, and what their callers need to know of them."""


_FACTS = (
    click.option("--owner", metavar="TEAM", help="Who answers for it."),
    click.option("--description", metavar="TEXT", help="What it is for."),
    click.option("--repository", metavar="URL", help="Where its code is."),
    click.option("--health-path", metavar="PATH", help="Where its readiness is asked for."),
    click.option("--timeout", "timeout_seconds", type=float, metavar="SECONDS", help="How long its callers wait."),
    click.option("--retry-class", type=click.Choice(["none", "idempotent"]), help="What its callers may repeat."),
    click.option("--version-policy", metavar="any|2.*", help="Which versions are called, while one of them runs."),
)


def _with_facts(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_FACTS):
        function = option(function)
    return function


@service.command("add", short_help="Add a service.")
@click.argument("name")
@click.option("--port", metavar="N|free", help="Where its instances listen; free takes one that no service has.")
@_with_facts
@writes
def add(session: Session, name: str, port: str | None, **facts: Any) -> None:
    """Add the service NAME."""
    if name in session.world.services:
        raise Conflict(f"{plain(name)} is registered already: atlas service change {plain(name)} changes it.")
    wanted = Service(name, port=None if port == "free" else _port(port), **_given(facts))
    wanted.check()
    if port == "free":
        claimed = session.directory.claim_port(wanted, by=session.author())
        revision = session.directory.world().position.revision
        session.done(f"{name} added with port {claimed.port}", revision, service=claimed.to_json())
        return
    revision = session.directory.put_service(wanted, by=session.author())
    session.done(f"{name} added", revision, service=wanted.to_json())


@service.command("change", short_help="Change what is known of a service.")
@click.argument("name")
@click.option("--port", metavar="N|none", help="Where its instances listen.")
@_with_facts
@writes
def change(session: Session, name: str, port: str | None, **facts: Any) -> None:
    """Change what is known of the service NAME; what is not named stays."""
    present = session.world.services.get(session.known(name), Service(name))
    given = _given(facts)
    if port is not None:
        given["port"] = None if port == "none" else _port(port)
    if not given:
        raise click.UsageError("nothing to change: name an option, for instance --owner.")
    wanted = dataclasses.replace(present, **given)
    wanted.check()
    revision = session.directory.change_service(present.name, given, by=session.author())
    told = ", ".join(f"{name} {plain(value)}" for name, value in given.items())
    session.done(f"{name}: {told}", revision, service=wanted.to_json())


@service.command("remove", short_help="Remove a service.")
@click.argument("name")
@click.option("--force", is_flag=True, help="Even while it has instances.")
@writes
def remove(session: Session, name: str, force: bool) -> None:
    """Remove the service NAME with its overrides and the words on its instances. Refused while it has instances."""
    session.known(name)
    overrides = sum(1 for override in session.world.overrides.values() if override.scope == name)
    revision = session.directory.remove_service(name, by=session.author(), force=force)
    session.done(f"{name} removed with {count(overrides, 'override')}", revision, service=name)


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal():
        raise click.UsageError(f"{plain(text)!r} is no port: write a whole number from 1 to 65535.")
    return int(text)


def _given(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
