"""The record of a new service: what is asked of the command `atlas`, what is made of its answers, what is taken back."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from skeleton import cli
from skeleton.atlas import Record, Wanted, is_there_a_map

STAND_IN = """
import json, os, sys, time
words = sys.argv[1:]
with open(os.environ["ASKED"], "a") as asked:
    asked.write(json.dumps(words) + "\\n")
print("a line for people", file=sys.stderr)
answer = os.environ["ANSWER_" + words[1].upper()]
time.sleep(float(os.environ.get("SECONDS_IT_TAKES", "0")))
print(answer)
sys.exit(int('"error"' in answer))
"""


class Map:
    """A stand-in for the command: says what it is told to say, and notes what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.asked_file = folder / "asked"
        self.script = folder / "atlas.py"
        self.script.write_text(STAND_IN)
        self.environ = {**os.environ, "ASKED": str(self.asked_file), "ANSWER_REMOVE": "{}"}

    def record(self, claim: str, *, port: int | None = None, dry_run: bool = False, seconds: float = 10) -> Record:
        wanted = Wanted("hello", "accounts", "Greets", Path("/srv/hello"), port)
        command = (sys.executable, "-S", str(self.script))
        environ = {**self.environ, "ANSWER_CLAIM": claim}
        return Record(wanted, environ, dry_run=dry_run, command=command, seconds=seconds).begin()

    @property
    def asked(self) -> list[list[str]]:
        return [json.loads(line) for line in self.asked_file.read_text().splitlines()]


@pytest.fixture
def atlas(tmp_path: Path) -> Map:
    return Map(tmp_path)


def said(port: int = 8004, *, made: bool = True, clashes: tuple[str, ...] = ()) -> str:
    return json.dumps({"service": {"name": "hello", "port": port}, "made": made, "clashes": clashes}, indent=2)


def test_an_empty_url_means_that_there_is_no_map() -> None:
    """Only an ATLAS_URL that is there and empty says so: the local realm has a map without it."""
    assert is_there_a_map({})
    assert is_there_a_map({"ATLAS_URL": "sqlite:///x.db"})
    assert not is_there_a_map({"ATLAS_URL": " "})


def test_the_map_is_told_everything_and_gives_the_port(atlas: Map) -> None:
    """Name, owner, description and place are recorded; the port is the one that the map gave; nothing is warned of."""
    record = atlas.record(said())
    answer = record.answer()
    assert (answer.port, answer.made, answer.recorded, answer.warnings) == (8004, True, True, ())
    assert atlas.asked == [
        "service claim hello --owner accounts --repository /srv/hello --description Greets --json --why generated".split()
    ]
    record.keep()
    assert record.take_back() == ""
    assert len(atlas.asked) == 1


def test_a_record_of_this_run_is_taken_back(atlas: Map) -> None:
    """Unless it is kept, the record goes again, also when nobody has waited for the answer."""
    assert atlas.record(said()).take_back() == ""
    assert atlas.asked[1][:3] == ["service", "remove", "hello"]


def test_a_record_of_somebody_else_stays(atlas: Map) -> None:
    """A service that was in the map before keeps its record and gives its port, with a warning."""
    record = atlas.record(said(8010, made=False))
    answer = record.answer()
    assert answer.port == 8010
    assert answer.warnings == ("hello is in the map of the realm already, with port 8010, which it keeps.",)
    record.take_back()
    assert len(atlas.asked) == 1


def test_a_port_that_is_named_is_taken_whatever_the_map_says(atlas: Map) -> None:
    """The map hears of it; another port there, or another service that has it, is a warning with a name in it."""
    record = atlas.record(said(8010, clashes=("billing", "wages")), port=8010)
    assert record.answer().port == 8010
    assert record.answer().warnings == ("port 8010 clashes in this realm with billing, wages.",)
    assert atlas.asked[0][9:11] == ["--port", "8010"]
    record.take_back()
    record = atlas.record(said(8000, made=False), port=8010)
    assert record.answer().port == 8010
    assert "atlas service change hello --port 8010" in record.answer().warnings[0]
    record.take_back()


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        ('{"error": {"code": 5, "message": "The map cannot be reached."}}', "The map cannot be reached"),
        ("no document at all", "its answer could not be understood"),
        ('{"service": {}}', "its answer could not be understood"),
    ],
)
def test_without_an_answer_the_port_is_8000(atlas: Map, claim: str, reason: str) -> None:
    """One line says why the map was not asked and how to record the service later; nothing is taken back."""
    record = atlas.record(claim)
    answer = record.answer()
    assert (answer.port, answer.made, answer.recorded) == (8000, False, False)
    (warning,) = answer.warnings
    assert f"({reason})" in warning
    assert "atlas service add hello --port 8000" in warning
    assert "\n" not in warning
    record.take_back()
    assert len(atlas.asked) == 1


def test_a_map_that_does_not_answer_is_given_up(atlas: Map) -> None:
    """A command that hangs is ended after its time, and the generation goes on."""
    atlas.environ["SECONDS_IT_TAKES"] = "60"
    record = atlas.record(said(), seconds=0.3)
    assert record.answer().port == 8000
    assert "did not end within 0.3 s" in record.answer().warnings[0]
    record.take_back()


def test_a_missing_command_is_told_in_one_line(atlas: Map) -> None:
    """An installation without the program says so, and generates."""
    wanted = Wanted("hello", "accounts", "", Path("/srv/hello"))
    record = Record(wanted, atlas.environ, command=(sys.executable, "-S", "-m", "there_is_no_such_atlas")).begin()
    assert "No module named there_is_no_such_atlas" in record.answer().warnings[0]
    record.take_back()


def test_a_record_that_cannot_be_taken_back_is_told(atlas: Map) -> None:
    """What is left in the map is named, with the way to remove it."""
    atlas.environ["ANSWER_REMOVE"] = '{"error": {"code": 4, "message": "hello has instances."}}'
    assert atlas.record(said()).take_back() == (
        "hello is still in the map of the realm (hello has instances); take it out with: atlas service remove hello"
    )


def test_a_rehearsal_takes_nothing_back(atlas: Map) -> None:
    """A dry run asks with --dry-run and leaves it at that."""
    record = atlas.record(said(), dry_run=True)
    assert record.answer().port == 8004
    assert "--dry-run" in atlas.asked[0]
    record.take_back()
    assert len(atlas.asked) == 1


def test_a_dry_run_shows_the_port_of_the_real_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan has a port that the map would give, and there is no map afterwards where there was none."""
    monkeypatch.setenv("ATLAS_URL", f"sqlite:///{tmp_path}/map/realm.db")
    assert cli.run(["hello", "--into", str(tmp_path), "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["plan"]["port"] in range(8000, 9000)
    assert document["warnings"] == []
    assert list(tmp_path.iterdir()) == []


def test_no_atlas_asks_no_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --no-atlas the port is 8000 and a map that cannot be is not even tried."""
    monkeypatch.setenv("ATLAS_URL", "nonsense://")
    assert cli.run(["hello", "--into", str(tmp_path), "--dry-run", "--no-atlas", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["port"], plan["atlas"]) == (8000, False)
