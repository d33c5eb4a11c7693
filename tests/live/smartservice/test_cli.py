"""What `flask` can do in a service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from click.testing import Result
from flask import Flask

from smartservice import cli, inbound
from smartservice.app import SmartService
from tests.unit.smartservice.making import Make, make

__all__ = ["make"]


def run(app: Flask, command: object, *words: str) -> Result:
    return app.test_cli_runner().invoke(command, words)


def test_explain_says_where_a_value_comes_from(make: Make) -> None:
    """Value, winner and the overridden loser of one key, for people and for programs."""
    app = make(environ={"PAGE_SIZE": "5"})
    shown = run(app, cli.config, "explain", "PAGE_SIZE")
    assert shown.exit_code == 0
    assert "5" in shown.output
    assert "environment" in shown.output
    assert "20" in shown.output
    (explained,) = json.loads(run(app, cli.config, "explain", "PAGE_SIZE", "--json").output)
    assert explained["value"] == 5


def test_explain_of_an_unknown_key_proposes_a_known_one(make: Make) -> None:
    """A typing mistake costs one more call, not a search: exit code 2."""
    shown = run(make(), cli.config, "explain", "PAGE_SIZ")
    assert shown.exit_code == 2
    assert "PAGE_SIZE" in shown.output


def test_explain_masks_secrets(make: Make) -> None:
    """Everything explained, nothing given away."""
    app = make(PARTNER_TOKEN="planted-one", DATABASE_URL="postgresql://u:planted2@h/d")
    for words in (["explain"], ["explain", "--json"]):
        assert "planted" not in run(app, cli.config, *words).output


def test_doctor_ends_with_1_when_something_is_wrong(make: Make) -> None:
    """A deploy script can stop at the doctor's word."""
    good = run(make(), cli.doctor, "--no-connect")
    assert good.exit_code == 0
    bad = run(make(HEALTH_TRUSTED_NETWORKS=["0.0.0.0/0"]), cli.doctor, "--no-connect", "--json")
    assert bad.exit_code == 1
    assert json.loads(bad.output)[0]["topic"] == "exposure"


def test_doctor_asks_the_health_checks(make: Make) -> None:
    """A database that is away is named with its check."""
    app = make(DATABASE_URL="postgresql://u@127.0.0.1:1/d")
    shown = run(app, cli.doctor)
    assert shown.exit_code == 1
    assert "database" in shown.output


def test_doctor_tells_a_silent_source_from_a_refused_update(make: Make, tmp_path: Path) -> None:
    """Nobody looks for a mistake in an update when the file is away; a real mistake is called one."""
    away = run(make(environ={"CONFIG_FILE": str(tmp_path / "away.json")}), cli.doctor, "--no-connect")
    assert away.exit_code == 1
    assert "the source gives no overrides" in away.output
    assert "refused" not in away.output


def test_the_list_of_commands_is_not_cut_off() -> None:
    """What `flask --help` and `flask db --help` say of each command is a whole sentence."""
    for command in (
        cli.config,
        cli.db,
        cli.doctor,
        cli.debug_header,
        *cli.config.commands.values(),
        *cli.db.commands.values(),
    ):
        assert command.get_short_help_str().endswith("."), command.name
        assert not command.get_short_help_str().endswith("..."), command.name


def test_debug_header_makes_a_header_that_works(make: Make) -> None:
    """The printed line can be given to curl -H; without the key the command says what to set."""
    shown = run(make(DEBUG_HEADER_KEY="k"), cli.debug_header, "--minutes", "1")
    name, _, value = shown.output.strip().partition(": ")
    assert name == "Smart-Debug"
    assert inbound.is_debug_header(value, "k", now=0)
    refused = run(make(), cli.debug_header)
    assert refused.exit_code == 1
    assert "DEBUG_HEADER_KEY" in refused.output


def test_mistakes_in_the_settings_are_a_message(tmp_path: Path) -> None:
    """A command on a service that cannot start prints every mistake and ends with 1, without a traceback."""
    (tmp_path / "wsgi.py").write_text(
        "from smartservice import create_app\nPAGE: int = 1\napp = create_app(__name__)\n"
    )
    env = {**os.environ, "PAGE": "many", "WORKERS": "0", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "flask", "doctor"]
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "PAGE" in ran.stderr
    assert "WORKERS" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_plain_flask_app_is_refused() -> None:
    """The commands are installed for every Flask app; on one that is not ours they say so."""
    for command, *words in ([cli.doctor], [cli.config, "explain"], [cli.db, "check"]):
        shown = run(Flask("plain"), command, *words)
        assert shown.exit_code == 2
        assert "create_app" in shown.output
    assert not isinstance(Flask("plain"), SmartService)
