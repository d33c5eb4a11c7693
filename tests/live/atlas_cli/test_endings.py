"""How commands end: documented codes, one sentence, never a traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from atlas.server.cli import atlas as command
from atlas.server.terminal import EXIT_CODES, Tools
from smartrealm import errors
from tests.live.atlas_cli.runs import Runs

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "atlas-command.md"


def ending(error: BaseException, *more: str) -> Any:
    """The result of a command whose directory raises this."""

    def open(url: str | None = None, **keywords: Any) -> Any:
        raise error

    tools = Tools(environ={"ATLAS_AUTHOR": "anna"}, open=open)
    return CliRunner().invoke(command, ["ls", *more], obj=tools, prog_name="atlas")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ValidationFailed("no"), 2),
        (errors.ConfigurationError("no"), 2),
        (errors.BadRequest("no"), 2),
        (errors.NotFound("no"), 3),
        (errors.Conflict("no"), 4),
        (errors.Unavailable("no"), 5),
        (errors.Overloaded("no"), 5),
        (errors.DeadlineExceeded("no"), 5),
        (errors.Unauthorized("no"), 6),
        (errors.Forbidden("no"), 6),
        (errors.SmartError("no"), 1),
    ],
)
def test_each_error_has_its_code(error: errors.SmartError, code: int) -> None:
    """One sentence on stderr, nothing on stdout."""
    result = ending(error)
    assert (result.exit_code, result.stderr, result.stdout) == (code, "atlas: no\n", "")


def test_programs_get_the_error_as_json() -> None:
    """With --json it is a document on stdout too."""
    result = ending(errors.NotFound("no such thing"), "--json")
    assert json.loads(result.stdout) == {"error": {"code": 3, "name": "not-found", "message": "no such thing"}}


def test_what_nobody_foresaw_is_no_traceback() -> None:
    """Its type and how to see more; never its text, which may hold anything."""
    result = ending(RuntimeError("hunter2"))
    assert result.exit_code == 1
    assert result.stderr == "atlas: RuntimeError, which nobody foresaw; ATLAS_TRACEBACK=1 shows where.\n"


def test_interrupts_are_quiet() -> None:
    """Ctrl-C ends with 130 and no words."""
    result = ending(KeyboardInterrupt())
    assert (result.exit_code, result.output.strip()) == (130, "")


def test_a_reader_that_went_away_is_quiet() -> None:
    """As in `atlas history | head -1`."""
    result = ending(BrokenPipeError())
    assert (result.exit_code, result.output) == (141, "")


def test_a_message_cannot_steer_the_terminal() -> None:
    """Escape sequences in an error are replaced."""
    assert "\x1b" not in ending(errors.NotFound("a\x1b[2Jb")).stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["wacth"], "there is no command 'wacth'; did you mean watch? See atlas --help."),
        (["token", "rebroke"], "did you mean revoke? See atlas token --help."),
        (["ls", "--jsn"], "No such option '--jsn'"),
        (["set", "identity"], "Missing argument 'KEY'; see atlas set --help."),
        (["set", "identity", "A"], "what shall A be?"),
        (["service", "change", "identity"], "nothing to change"),
        (["--atlas", "sqlit:///x", "ls"], "There is no store sqlit://. Did you mean sqlite://?"),
    ],
)
def test_wrong_use_is_explained(filled: Runs, words: list[str], told: str) -> None:
    """What is wrong and where to look, in one sentence, with code 2."""
    result = filled(*words)
    assert result.exit_code == 2
    assert told in result.stderr


def test_the_map_is_named_before_or_after_the_command(filled: Runs) -> None:
    """--atlas may stand in both places; the nearer one wins."""
    other = f"sqlite:///{filled.folder / 'other.db'}"
    assert filled.json("ls", "--atlas", other)["services"] == []
    assert filled.json("--atlas", other, "ls")["services"] == []
    assert len(filled.json("--atlas", other, "ls", "--atlas", filled.url)["services"]) == 2


def test_another_realm_needs_a_url(filled: Runs) -> None:
    """Nothing outside of the local realm is guessed."""
    result = filled("ls", REALM="production", ATLAS_URL="")
    assert result.exit_code == 2
    assert "ATLAS_URL" in result.stderr


def test_no_colours_where_they_are_not_wanted(filled: Runs) -> None:
    """A pipe gets none; a terminal does, unless NO_COLOR is set."""
    filled.ok("disable", "identity", "web-1")
    tools = Tools(environ=filled.environ)
    quiet = Tools(environ={**filled.environ, "NO_COLOR": "1"})
    coloured = CliRunner().invoke(command, ["ls"], obj=tools, color=True)
    plain = CliRunner().invoke(command, ["ls"], obj=quiet, color=True)
    assert "\x1b[" in coloured.stdout
    assert "\x1b[" not in plain.stdout
    assert "\x1b[" not in filled.ok("ls")


def every_command(group: click.Group, path: str = "atlas") -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, one in group.commands.items():
        found += every_command(one, f"{path} {name}") if isinstance(one, click.Group) else [(f"{path} {name}", one)]
    return found


def test_every_command_and_option_is_in_the_reference() -> None:
    """Whoever looks one up finds it."""
    text = REFERENCE.read_text()
    commands = every_command(command)
    assert len(commands) > 20
    missing = [path for path, _ in commands if path.split()[-1] not in text]
    options = {word for _, one in commands for option in one.params for word in option.opts if word.startswith("--")}
    assert missing + sorted(word for word in options if word not in text) == []


def test_every_exit_code_is_in_the_reference() -> None:
    """The table on the page and the help have the same codes."""
    rows = re.findall(r"^\| (\d+(?:, \d+)*) \|", REFERENCE.read_text(), re.M)
    table = {int(code) for row in rows for code in row.split(", ")}
    assert table == set(EXIT_CODES)


def test_every_command_that_writes_can_be_rehearsed() -> None:
    """--dry-run and --why stand beside everything that changes the map; --json beside everything but serve and keys new."""
    words = {path: {word for option in one.params for word in option.opts} for path, one in every_command(command)}
    looking = {"atlas ls", "atlas show", "atlas get", "atlas history", "atlas watch", "atlas doctor", "atlas token ls"}
    looking |= {"atlas sidecars"}
    apart = {"atlas serve", "atlas keys new", "atlas export"}
    assert {path for path, known in words.items() if "--dry-run" not in known} == looking | apart
    assert {path for path, known in words.items() if "--json" not in known} == {"atlas serve", "atlas keys new"}


@pytest.mark.parametrize("words", [[], ["token"], ["service"]])
def test_without_a_command_the_help_is_shown(words: list[str]) -> None:
    """Line by line, on stderr, as wrong use."""
    result = CliRunner().invoke(command, words, prog_name="atlas")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Usage: {' '.join(['atlas', *words])} ")
    assert "\nCommands:\n" in result.stderr
