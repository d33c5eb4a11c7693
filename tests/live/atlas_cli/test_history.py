"""`atlas history` and `rollback`."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner

from atlas.model import Change
from atlas.server.cli import atlas as command
from atlas.server.terminal import Tools
from smartrealm.errors import Forbidden
from tests.live.atlas_cli.runs import Runs


def changed(runs: Runs) -> None:
    """Revision 3: 20. 4: LEVEL. 5: 50. 6: web-1 disabled. 7: a token."""
    runs.ok("set", "identity", "PAGE_SIZE", "20", "--why", "to begin with")
    runs.ok("set", "*", "LEVEL", "debug")
    runs.ok("set", "identity", "PAGE_SIZE", "50", "--why", "slow import")
    runs.ok("disable", "identity", "web-1:8010", "--reason", "slow")
    runs.ok("token", "create", "reader", "wall")


def test_history_says_who_changed_what_and_why(filled: Runs) -> None:
    """The newest first, from what to what."""
    changed(filled)
    text = filled.ok("history")
    assert "anna: slow import\n        identity PAGE_SIZE = 50 (was 20)" in text
    assert text.index("token") < text.index("web-1:8010") < text.index("PAGE_SIZE")


def test_history_of_one_thing(filled: Runs) -> None:
    """Of a service, a setting, an instance: what concerns it and nothing else."""
    changed(filled)
    revisions = {
        words: [change["revision"] for change in filled.json("history", *words.split())]
        for words in ("identity", "identity PAGE_SIZE", "identity web-1:8010", "* LEVEL", "teams")
    }
    assert revisions == {
        "identity": [6, 5, 3, 1],
        "identity PAGE_SIZE": [5, 3],
        "identity web-1:8010": [6],
        "* LEVEL": [4],
        "teams": [2],
    }


def test_history_in_pages(filled: Runs) -> None:
    """--limit and --before walk through it; a hint names the next page."""
    changed(filled)
    result = filled("history", "--limit", "2")
    assert "(older ones: --before 6)" in result.stderr
    assert [change["revision"] for change in filled.json("history", "--limit", "2", "--before", "6")] == [5, 4]


def test_rollback_of_a_setting(filled: Runs) -> None:
    """One key goes back, everything else stays; it can be taken back itself."""
    changed(filled)
    text = filled.ok("rollback", "3", "identity", "PAGE_SIZE", "--why", "a mistake")
    assert "identity PAGE_SIZE = 20 (was 50)" in text
    assert "atlas rollback 7 takes it back" in text
    world = filled.map.world()
    assert (world.overrides["identity/PAGE_SIZE"].value, world.overrides["*/LEVEL"].value) == (20, "debug")
    assert filled.map.history(limit=1)[0].why == "a mistake"


def test_rollback_of_an_instance(filled: Runs) -> None:
    """The word on one address goes back."""
    changed(filled)
    filled.ok("rollback", "5", "identity", "web-1:8010")
    assert not filled.map.world().rulings
    assert filled.map.world().overrides["identity/PAGE_SIZE"].value == 50


def test_rollback_of_the_map(filled: Runs) -> None:
    """Everything but tokens is what it was, as one change."""
    changed(filled)
    text = filled.ok("rollback", "3")
    assert "Changed 3 things back to revision 3" in text
    world = filled.map.world()
    assert list(world.overrides) == ["identity/PAGE_SIZE"]
    assert not world.rulings
    assert len(world.tokens) == 1


def test_a_dry_rollback_shows_what_would_change(filled: Runs) -> None:
    """The same list as the real one, and nothing is written."""
    changed(filled)
    before = filled.revision
    text = filled.ok("rollback", "3", "--dry-run")
    assert "Would change 3 things" in text
    assert "identity PAGE_SIZE = 20 (was 50)" in text
    assert len(filled.json("rollback", "3", "--dry-run")["change"]["edits"]) == 3
    assert filled.revision == before


def test_a_rollback_to_what_is_changes_nothing(filled: Runs) -> None:
    """It says so, and makes no revision."""
    changed(filled)
    assert "Nothing to do" in filled.ok("rollback", "5", "identity", "PAGE_SIZE")
    assert filled.revision == 7


def test_a_revision_that_is_not_there(filled: Runs) -> None:
    """The present one is named."""
    result = filled("rollback", "99")
    assert result.exit_code == 3
    assert "the map is at 2" in result.stderr


def test_a_token_that_may_not_see_settings_sees_the_rest(filled: Runs) -> None:
    """Services and rulings, each change once, the newest first."""

    class Narrow:
        """What a server shows to a token that is no operator's."""

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def history(self, **asked: Any) -> list[Change]:
            if asked["kind"] not in ("service", "ruling"):
                raise Forbidden("That needs the scope operator.")
            return filled.map.history(**asked)

        def __getattr__(self, name: str) -> Any:
            return getattr(filled.map, name)

    filled.ok("set", "identity", "LIMIT", "50")
    filled.ok("disable", "identity", "web-1:8010")
    filled.ok("service", "remove", "identity", "--force")
    tools = Tools(environ=filled.environ, open=lambda *_, **__: Narrow())
    result = CliRunner().invoke(command, ["history", "--json"], obj=tools, prog_name="atlas")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [[edit["kind"] for edit in change["edits"]] for change in told[:2]] == [["service", "ruling"], ["ruling"]]
    assert "LIMIT" not in result.stdout
