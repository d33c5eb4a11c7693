"""The reference tells the truth."""

from __future__ import annotations

import json
import re
from pathlib import Path

import smartconfig
from smartconfig import FileSource, Settings
from tests.unit.smartconfig.configs import mistakes, settings

REFERENCE = (Path(__file__).parents[3] / "docs" / "reference" / "config.md").read_text()


def block(language: str, number: int = 0) -> str:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", REFERENCE, re.DOTALL)
    return found[number]


def test_every_public_name_is_in_the_reference() -> None:
    """Public names, members of Settings and states of a source are all told."""
    members = [name for name in vars(Settings) if not name.startswith("_")]
    internal = {"heard", "catch_up", "seen_version"}
    for name in [*smartconfig.__all__, *members, "none", "fresh", "refused", "stale", "missing"]:
        if name not in internal:
            assert re.search(rf"\b{name}\b", REFERENCE), name


def test_the_example_loads() -> None:
    """The config module of the reference works, and its rule bites."""
    source = block("python")
    found = settings(source, environ={"PAYMENTS_KEY": "x", "ALLOWED_HOSTS": "a, b"})
    assert found.snapshot["PAGE_SIZE"] == 50
    assert found.snapshot["ALLOWED_HOSTS"] == ["a", "b"]
    environ = {"PAYMENTS_KEY": "x", "THEME": "dark", "PAGE_SIZE": "300"}
    assert mistakes(source, environ=environ) == [
        "identity.config: The dark theme shows at most 200 teams: lower PAGE_SIZE."
    ]


def test_the_file_of_the_example_is_read(tmp_path: Path) -> None:
    """The overrides file of the reference has four entries in three scopes."""
    path = tmp_path / "overrides.json"
    path.write_text(json.dumps(json.loads(block("json"))))
    assert [(entry.key, entry.scope, entry.secret) for entry in FileSource(path).current().entries] == [
        ("PAGE_SIZE", "", False),
        ("LOG_LEVEL", "*", False),
        ("THEME", "identity", False),
        ("BANNER", "identity", True),
    ]


def test_the_mistakes_of_the_example_are_what_is_printed() -> None:
    """The sentences of the reference are the program's own."""
    found = mistakes(block("python"), environ={"PAGE_SIZE": "many"})
    assert all(f"  - {sentence}" in REFERENCE for sentence in found)
    assert len(found) == 2
