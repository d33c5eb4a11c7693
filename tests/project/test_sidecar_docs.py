"""The page of the command `sidecar` says what the command does."""

from __future__ import annotations

import re
from pathlib import Path

import click

from sidecar.cli import SidecarGroup, sidecar
from sidecar.environment import VARIABLES
from sidecar.facts import Facts
from sidecar.metrics import exposition, joined
from sidecar.model import Plan
from sidecar.terminal import EXIT_CODES, Entry
from sidecar.why import DECIDED_BY, STANDING

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
PAGE = (REFERENCE / "sidecar-command.md").read_text()
EVERYWHERE = {"--dir", "--realm", "--json", "--dry-run", "--help"}


def entries() -> dict[str, Entry]:
    return {name: entry for section in SidecarGroup.sections.values() for name, entry in section.items()}


def commands() -> dict[str, click.Command]:
    context = click.Context(sidecar)
    found = {name: sidecar.get_command(context, name) for name in entries()}
    return {name: command for name, command in found.items() if command is not None}


def test_every_variable_is_on_the_page() -> None:
    """Each setting by the name with which it is set."""
    names = {name for one in VARIABLES.values() for name in (one.name, one.also) if name}
    assert {name for name in names if f"`{name}`" not in PAGE} == set()


def test_every_command_and_option_is_in_the_reference() -> None:
    """On this page, or on another one of the reference that is about the sidecar; `run` has its settings by their variables."""
    pages = "".join(path.read_text() for path in REFERENCE.glob("sidecar-*.md"))
    known = {option for command in commands().values() for option in options(command)}
    by_variable = {f"--{name.replace('_', '-')}" for name in (*VARIABLES, "atlas")} - {"--host", "--zone"}
    assert {name for name in commands() if f"sidecar {name}" not in pages} == set()
    missing = {option for option in known - EVERYWHERE - by_variable if option not in pages}
    assert missing == set()


def options(command: click.Command) -> set[str]:
    below = command.commands.values() if isinstance(command, click.Group) else ()
    own = {word for one in command.params for word in one.opts if word.startswith("--")}
    return own.union(*(options(one) for one in below))


def test_every_metric_is_on_the_page() -> None:
    """And no other: whoever makes a graph finds what there is."""
    text = exposition(Facts(map_age_seconds=1.0), Plan(), 0.0) + joined("")
    told = set(re.findall(r"^# TYPE (sidecar_\w+)", text, re.MULTILINE))
    assert set(re.findall(r"`(sidecar_\w+)`", PAGE)) == told


def test_every_state_reason_and_exit_code_is_on_the_page() -> None:
    """What `why` prints can be looked up."""
    assert {name for name in (*DECIDED_BY, *STANDING) if f"`{name}`" not in PAGE} == set()
    assert {code for code in EXIT_CODES if not re.search(rf"\| [\d, ]*\b{code}\b", PAGE)} == set()
