"""`atlas set`, `unset`, `get`: the overrides of settings."""

from __future__ import annotations

import json
import sys

import click

from atlas.model import EVERY_SERVICE, Override
from atlas.server.rendering import override_json, override_text
from atlas.server.terminal import Command, Session, reads, writes
from atlas.server.wording import kind_of, parse_value, table, value_and_kind
from smartrealm.errors import Conflict, Forbidden, NotFound
from smartrealm.wording import ago, plain


@click.command("set", cls=Command, short_help="Override a setting.")
@click.argument("scope")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--secret", is_flag=True, help="Read the value from stdin or a prompt, and keep it encrypted.")
@click.option("--text", "as_text", is_flag=True, help="The value is text, even where it looks like JSON.")
@writes
def set_(session: Session, scope: str, key: str, value: str | None, secret: bool, as_text: bool) -> None:
    """Override setting KEY of the service SCOPE, or of every service that declares it (SCOPE is '*').

    VALUE is JSON where it is JSON, else text: 50 is a number, "50" (with its quotes) is text, so is fast. The running
    instances take it over within a second; a value that a service cannot use is refused by it and shown in its health.
    """
    if "=" in key and value is None and not secret:
        key, _, value = key.partition("=")
    if secret and value is not None:
        raise click.UsageError("a secret is not written on a command line, which others can see: leave VALUE away.")
    if value is None and not secret:
        raise click.UsageError(f"what shall {plain(key)} be? atlas set {plain(scope)} {plain(key)} VALUE, or --secret.")
    _check_scope(session, scope)
    given = _ask_secret(key) if secret else str(value)
    before = session.world.overrides.get(f"{scope}/{key}")
    if before is not None and before.secret and not secret:
        raise Conflict(f"{plain(key)} of {plain(scope)} is a secret and stays one: use --secret, or unset it first.")
    understood = given if as_text or secret else parse_value(given)
    revision = session.directory.set_override(scope, key, understood, by=session.author(), secret=secret)
    shown = f"(secret, {kind_of(understood)})" if secret else value_and_kind(understood)
    was = f", was {override_text(before)}" if before else ""
    session.done(f"{scope} {key} = {shown}{was}", revision, scope=scope, key=key, kind=kind_of(understood))


def _ask_secret(key: str) -> str:
    """From a prompt that shows nothing, else all of stdin without its last line break."""
    if sys.stdin.isatty():
        given: str = click.prompt(f"{plain(key)} (not shown)", hide_input=True, confirmation_prompt=True, err=True)
        return given
    text = sys.stdin.read()
    if text.endswith("\n"):
        text = text[:-1].removesuffix("\r")
    if not text:
        raise click.UsageError("stdin holds no secret: pipe it in, or run this on a terminal.")
    return text


def _check_scope(session: Session, scope: str) -> None:
    if scope != EVERY_SERVICE:
        session.known(scope)


@click.command("unset", short_help="Take an override away.")
@click.argument("scope")
@click.argument("key")
@writes
def unset(session: Session, scope: str, key: str) -> None:
    """Take the override of KEY away: the default of the service is in force again."""
    _check_scope(session, scope)
    before = _override(session, scope, key)
    revision = session.directory.unset_override(scope, key, by=session.author())
    session.done(f"{scope} {key} unset, was {override_text(before)}", revision, scope=scope, key=key)


def _override(session: Session, scope: str, key: str) -> Override:
    found = session.world.overrides.get(f"{scope}/{key}")
    if found is not None:
        return found
    keys = [override.key for override in session.world.overrides.values() if override.scope == scope]
    told = f"set for {plain(scope)} are: {', '.join(sorted(keys))}." if keys else f"nothing is set for {plain(scope)}."
    raise NotFound(f"{plain(key)} is not set for {plain(scope)}; {told}")


@click.command("get", short_help="Show overrides.")
@click.argument("scope", required=False)
@click.argument("key", required=False)
@reads
def get(session: Session, scope: str | None, key: str | None) -> None:
    """Show every override, those of one SCOPE ('*' or a service), or only the value of one KEY.

    One KEY is printed for a script: text as it is, anything else as JSON; the one for every service where the service
    has none of its own. Secrets are not shown; only their service is given them.
    """
    if scope is not None:
        _check_scope(session, scope)
    if scope is not None and key is not None:
        _get_one(session, scope, key)
        return
    scopes = (scope, EVERY_SERVICE)
    found = [one for _, one in sorted(session.world.overrides.items()) if scope is None or one.scope in scopes]
    if session.as_json:
        session.give([override_json(one) for one in found])
        return
    if not found:
        session.note(
            "Nothing is overridden: every setting has the value of its service."
            if scope is None
            else f"Nothing is set for {scope}."
        )
        return
    now = session.clock()
    rows = [
        (one.scope, one.key, override_text(one), f"{ago(one.at, now)} by {plain(one.author or 'somebody')}")
        for one in found
    ]
    for line in table(("scope", "key", "value", "set"), rows):
        session.print(line)


def _get_one(session: Session, scope: str, key: str) -> None:
    own = session.world.overrides.get(f"{scope}/{key}")
    found = own or session.world.overrides.get(f"{EVERY_SERVICE}/{key}") or _override(session, scope, key)
    if session.as_json:
        session.give(override_json(found))
        return
    if found.secret:
        raise Forbidden(f"{plain(key)} of {plain(found.scope)} is a secret: it is given to its service only.")
    if own is None:
        session.note(f"(set for every service, not for {plain(scope)} alone)")
    value = found.value
    session.print(_text(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _text(text: str) -> str:
    """Text as it is on a pipe; without control characters on a terminal."""
    return "\n".join(plain(line) for line in text.split("\n")) if sys.stdout.isatty() else text
