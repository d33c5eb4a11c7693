"""Where a value comes from, on a screen and for a program."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartconfig import Override, Overrides, load, render_explanations
from smartconfig.__main__ import main
from smartrealm import ConfigurationError
from tests.unit.smartconfig.configs import Teller, config, said, settings

SECRETS = """
A: Secret[str] = "hunter-a"
DB_PASSWORD = "hunter-b"
URL = "postgres://u:hunter-c@h/x"
EMPTY_TOKEN = ""
OPTIONS = {"password": "hunter-d", "size": 3}
PLAIN: Secret[int] = 1234567
"""


def test_a_table_has_a_line_for_each_value() -> None:
    """Key, value, type and origin; what was overridden below it."""
    found = settings("PAGE_SIZE: int = 20\nTITLE = 'x'", environ={"PAGE_SIZE": "30"})
    assert render_explanations(found.explain()).splitlines() == [
        "PAGE_SIZE  30   int  environment variable PAGE_SIZE",
        "           20        overridden: identity.config",
        'TITLE      "x"  str  identity.config',
    ]


def test_one_setting_is_told_in_full(tmp_path: Path) -> None:
    """A single key shows everything: type, origin, losers, author, version, restart, description."""
    module = config("# How many.\nWORKERS: NeedsRestart[int] = 2", file=tmp_path / "config.py")
    source = Teller(said("v1", None, identity={"WORKERS": 3}))
    found = load(module, source=source, environ={}, keep=False)
    source.tell(said("v2", None, identity={"WORKERS": 4}))
    found.refresh()
    assert render_explanations(found.explain("WORKERS")).splitlines() == [
        "WORKERS = 3",
        "  type         int",
        "  from         atlas, scope identity, by anna",
        "  overrode     2 from identity.config",
        "  author       anna",
        "  version      v2",
        "  restart      a change needs a restart: 4 waits for one",
        "  description  How many.",
    ]


def test_json_holds_the_same() -> None:
    """Programs get every field."""
    found = settings("PAGE_SIZE: int = 20", environ={"PAGE_SIZE": "30"})
    assert json.loads(render_explanations(found.explain("PAGE_SIZE"), as_json=True)) == [
        {
            "key": "PAGE_SIZE",
            "value": 30,
            "type": "int",
            "winner": "environment variable PAGE_SIZE",
            "losers": [{"origin": "identity.config", "value": 20, "author": None}],
            "version": "defaults",
            "author": None,
            "description": "",
            "secret": False,
            "needs_restart": False,
            "pending": None,
        }
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_no_secret_is_shown(as_json: bool) -> None:
    """Winners and losers, by mark, name, shape, nesting and number: masked with a fingerprint, empty says empty."""
    found = settings(SECRETS, environ={"A": "hunter-e", "PLAIN": "7654321"})
    for key in [None, *found.snapshot]:
        text = render_explanations(found.explain(key), as_json=as_json)
        assert "hunter" not in text
        assert "1234567" not in text
        assert "7654321" not in text
    text = render_explanations(found.explain())
    assert re.search(r"A +\*{8} \(hmac [0-9a-f]{6}\)", text)
    assert re.search(r"EMPTY_TOKEN +\(empty\)", text)
    assert re.search(r'OPTIONS +\{"password": "\*{8}", "size": 3\}', text)


def fingerprint(environ: dict[str, str], text: str = SECRETS, **arguments: str) -> object:
    return settings(text, environ=environ, **arguments).explain("A")[0].value


def test_fingerprints_compare_hosts() -> None:
    """Equal secrets look equal on every host that has the same key, and different otherwise."""
    assert fingerprint({}) == fingerprint({})
    assert fingerprint({}) != fingerprint({"A": "other"})
    assert fingerprint({"FINGERPRINT_KEY": "k"}) == fingerprint({"FINGERPRINT_KEY": "k"}, realm="testing")
    assert fingerprint({"FINGERPRINT_KEY": "k"}) != fingerprint({})
    with_key = SECRETS + "SECRET_KEY = ''"
    assert fingerprint({"SECRET_KEY": "s"}, with_key) == fingerprint({"SECRET_KEY": "s"}, with_key, realm="testing")
    assert fingerprint({}, realm="testing") != fingerprint({})


def test_nothing_from_outside_can_move_the_cursor() -> None:
    """Newlines and escape sequences in a value or an author are shown, not executed."""
    source = Teller(Overrides("v\n1", (Override("A", 2, scope="", author="bob\x1b[2J\nB"),)))
    found = settings("A: int | str = 'x'\nB = 1", environ={"B": "1"}, source=source, keep=False)
    found.override({"A": "\x1b[2Jevil\nB  1\u009b"})
    for text in (render_explanations(found.explain()), render_explanations(found.explain("A"))):
        assert '"\\u001b[2Jevil\\nB  1\\x9b"' in text
        assert r"by bob\x1b[2J\nB" in text
        assert all(line.isprintable() for line in text.splitlines())


def test_a_long_value_is_cut_in_the_table_only() -> None:
    """The table stays readable; the single view and JSON are complete."""
    found = settings("A = ''\nB = 1", environ={"A": "x" * 500})
    assert len(render_explanations(found.explain()).splitlines()[0]) < 120
    assert "x" * 500 in render_explanations(found.explain("A"))


def test_an_object_without_text_is_shown_by_its_type() -> None:
    """An explicit override may be any object, also one whose text cannot be had."""

    class Mute:
        def __str__(self) -> str:
            raise ValueError("no text")

    found = settings("", overrides={"PROVIDER": Mute(), "KIND": Mute})
    assert [item.value for item in found.explain()] == ["<Mute>", "<Mute>"]


def test_an_unknown_key_is_a_mistake() -> None:
    """It says what was likely meant."""
    with pytest.raises(ConfigurationError, match="did you mean PAGE_SIZE"):
        settings("PAGE_SIZE = 1").explain("PAGE_SZE")


def test_an_override_may_name_its_author() -> None:
    """Author and scope of an override are part of its origin."""
    source = Teller(Overrides("v1", (Override("A", 2, scope="*", author="bob"),)))
    (item,) = settings("A = 1", source=source, keep=False).explain("A")
    assert (item.winner, item.author) == ("atlas, scope *, by bob", "bob")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a config module, as an engineer has it."""
    (tmp_path / "explained").mkdir()
    (tmp_path / "explained" / "__init__.py").write_text("")
    (tmp_path / "explained" / "config.py").write_text("PAGE_SIZE: int = 20\nTOKEN_X = 'hunter2'\n")
    (tmp_path / "overrides.json").write_text('{"PAGE_SIZE": 50}')
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("explained")]:
        del sys.modules[name]


def test_the_command_explains_everything(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0; a file of overrides counts, nothing is written to the state directory."""
    assert main(["explained.config", "--file", "overrides.json"]) == 0
    out = capsys.readouterr().out
    assert f"PAGE_SIZE  50                      int  {here}/overrides.json" in out
    assert "hunter2" not in out
    assert main(["explained.config", "PAGE_SIZE", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["value"] == 20


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["nowhere.config"], 2, "sys.path"),
        (["explained.nowhere"], 2, "There is no module explained.nowhere"),
        (["explained.config", "PAGE_SIZES"], 2, "did you mean PAGE_SIZE?"),
        (["explained.config", "--file", "absent.json"], 2, "absent.json cannot be read"),
        (["explained.config", "--base", "nowhere"], 2, "There is no module nowhere"),
        (["explained.config", "--file", "bad.json"], 1, "PAGE_SIZED"),
        (["explained.config", "--file", "garbage.json"], 1, "is not JSON"),
        (["explained.broken"], 1, "Importing explained.broken failed with NameError"),
        (["explained.config", "--service", "No Name"], 1, "is not a service name"),
    ],
)
def test_the_command_fails_with_a_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, complaint: str
) -> None:
    """1: the configuration has mistakes; 2: wrong use. Everything on stderr, nothing on stdout."""
    (here / "bad.json").write_text('{"PAGE_SIZED": 1, "PAGE_SIZE": "x"}')
    (here / "garbage.json").write_text("{")
    (here / "explained" / "broken.py").write_text("A = nothing\n")
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
