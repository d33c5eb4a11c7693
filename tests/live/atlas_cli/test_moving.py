"""`atlas export` and `import`."""

from __future__ import annotations

from pathlib import Path

import atlas as package
from tests.live.atlas_cli.runs import Runs


def other(runs: Runs) -> str:
    return f"sqlite:///{runs.folder / 'other.db'}"


def test_nothing_is_lost_on_the_way(filled: Runs) -> None:
    """Services, instances, settings, tokens, revisions and history arrive as they left."""
    filled.ok("set", "identity", "PAGE_SIZE", "50", "--why", "slow")
    filled.ok("set", "identity", "KEY", "--secret", input="hunter2")
    filled.ok("token", "create", "reader", "wall")
    file = filled.folder / "realm.jsonl"
    assert "exported" in filled("export", str(file)).stderr
    assert "hunter2" not in file.read_text()
    filled.ok("--atlas", other(filled), "import", str(file))
    with package.open(other(filled), environ=filled.environ) as moved:
        assert list(moved.world().items()) == list(filled.map.world().items())
        assert moved.history(limit=100) == filled.map.history(limit=100)


def test_through_a_pipe(filled: Runs) -> None:
    """Lines of JSON on stdout, nothing else; stdin takes them."""
    text = filled.ok("export")
    assert filled("import", "--atlas", other(filled), input=text).exit_code == 0


def test_what_was_cut_off_is_refused(filled: Runs) -> None:
    """Half an export fills nothing, whole lines missing or half a line."""
    lines = filled.ok("export").splitlines(keepends=True)
    for text in ("".join(lines[:-1]), "".join(lines)[:-5], "", "hello\n"):
        result = filled("import", "--atlas", other(filled), input=text)
        assert result.exit_code == 2, text
        assert not result.stdout
    with package.open(other(filled), environ=filled.environ) as moved:
        assert not moved.world().services


def test_a_map_that_is_not_empty_is_not_filled(filled: Runs) -> None:
    """A conflict, also in the dry run."""
    text = filled.ok("export")
    for more in ([], ["--dry-run"]):
        assert filled("import", *more, input=text).exit_code == 4


def test_a_dry_import_checks_everything_and_writes_nothing(filled: Runs) -> None:
    """What would be refused is refused; what would do leaves the map empty."""
    text = filled.ok("export")
    assert "Would be done" in filled.ok("import", "--dry-run", "--atlas", other(filled), input=text)
    assert filled("import", "--dry-run", "--atlas", other(filled), input=text[:-20]).exit_code == 2
    with package.open(other(filled), environ=filled.environ) as moved:
        assert moved.world().position.revision == 0


def test_a_file_appears_whole_or_not_at_all(filled: Runs) -> None:
    """An export that fails leaves the file of the last one, and says what is wrong."""
    file = filled.folder / "realm.jsonl"
    file.write_text("the last one")
    broken = f"sqlite:///{filled.folder / 'no' / 'such' / 'place' / 'x.db'}"
    (filled.folder / "no").write_text("a file, not a folder")
    assert filled("--atlas", broken, "export", str(file)).exit_code != 0
    assert file.read_text() == "the last one"
    assert [path.name for path in Path(filled.folder).iterdir() if path.name.startswith(".realm")] == []


def test_a_file_of_something_else(filled: Runs) -> None:
    """Bytes that are no text are refused in words."""
    file = filled.folder / "picture"
    file.write_bytes(b"\x89PNG\xff\xfe")
    result = filled("import", "--atlas", other(filled), str(file))
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


def test_a_file_that_is_not_there(filled: Runs) -> None:
    """One sentence with its name."""
    result = filled("import", "nowhere.jsonl")
    assert result.exit_code == 2
    assert "nowhere.jsonl" in result.stderr


def test_a_file_that_cannot_be_written(filled: Runs) -> None:
    """The name that was given is told, not the one that is written first."""
    place = str(filled.folder / "nowhere" / "realm.jsonl")
    result = filled("export", place)
    assert (result.exit_code, f"{place} cannot be written" in result.stderr) == (2, True)
