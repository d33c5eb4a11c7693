"""A prepared environment is used only when it fits and is whole; a lock is taken apart and put together right."""

from __future__ import annotations

import json
import os
import py_compile
import sys
from pathlib import Path

import pytest

from skeleton.environment import (
    Installer,
    Requirements,
    _copy_environment,
    _listing,
    _take_bytecode,
    cache_folder,
)
from skeleton.errors import InstallFailed, ToolMissing
from skeleton.processes import Processes


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A prepared environment of a few files."""
    shelf = tmp_path / "shelf"
    (shelf / "venv" / "bin").mkdir(parents=True)
    (shelf / "venv" / "lib").mkdir()
    (shelf / "venv" / "lib64").symlink_to("lib")
    (shelf / "venv" / "bin" / "python").symlink_to(sys.executable)
    (shelf / "venv" / "bin" / "flask").write_text("#!/built/here/bin/python\nrun\n")
    (shelf / "venv" / "bin" / "flask").chmod(0o755)
    (shelf / "venv" / "pyvenv.cfg").write_text("home = /usr/bin\ncommand = python -m venv /built/here\n")
    (shelf / "venv" / "lib" / "module.py").write_text("x = 1\n")
    os.utime(shelf / "venv" / "lib" / "module.py", (1000, 1000))  # what is written next has another time, on any clock
    manifest = {"built_at": "/built/here", "files": _listing(shelf / "venv")}
    (shelf / "manifest.json").write_text(json.dumps(manifest))
    return shelf


def test_a_whole_environment_is_linked_into_place(shelf: Path, tmp_path: Path) -> None:
    """Files are hard links, links stay links, and only what names its place is written anew."""
    target = tmp_path / "target"
    assert _copy_environment(shelf, target, Path("/final/.venv"))
    assert (target / "lib" / "module.py").samefile(shelf / "venv" / "lib" / "module.py")
    assert os.readlink(target / "lib64") == "lib"
    assert os.readlink(target / "bin" / "python") == sys.executable
    assert (target / "bin" / "flask").read_text() == "#!/final/.venv/bin/python\nrun\n"
    assert os.access(target / "bin" / "flask", os.X_OK)
    assert "/final/.venv" in (target / "pyvenv.cfg").read_text()
    assert "/built/here" in (shelf / "venv" / "bin" / "flask").read_text()


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "manifest", "absent"])
def test_a_damaged_environment_is_not_used(shelf: Path, tmp_path: Path, damage: str) -> None:
    """Whatever is not as it was prepared makes the whole environment unusable."""
    module = shelf / "venv" / "lib" / "module.py"
    if damage == "changed":
        module.write_text("x = 2\n")
    elif damage == "missing":
        module.unlink()
    elif damage == "added":
        (shelf / "venv" / "lib" / "other.py").touch()
    elif damage == "manifest":
        (shelf / "manifest.json").write_text("{")
    else:
        (shelf / "manifest.json").unlink()
    assert not _copy_environment(shelf, tmp_path / "target", Path("/final"))


def test_bytecode_is_taken_from_a_neighbour_for_unchanged_files_only(tmp_path: Path) -> None:
    """What another environment has compiled of the very same file is linked; anything else is left to the compiler."""
    shelf, venv = tmp_path / "shelves" / "one", tmp_path / "venv"
    for place in (shelf / "venv", venv):
        place.mkdir(parents=True)
        for name in ("same", "changed"):
            (place / f"{name}.py").write_text("x = 1\n")
            os.utime(place / f"{name}.py", (1000, 1000))
    os.utime(venv / "changed.py", (2000, 2000))
    for name in ("same", "changed"):
        py_compile.compile(str(shelf / "venv" / f"{name}.py"))
    manifest = {"files": _listing(shelf / "venv"), "python": sys.version}
    (shelf / "manifest.json").write_text(json.dumps(manifest))
    _take_bytecode(venv, tmp_path / "shelves")
    assert [path.name.partition(".")[0] for path in venv.rglob("*.pyc")] == ["same"]


def test_offline_without_a_kept_lock_says_what_to_do(tmp_path: Path) -> None:
    """--offline asks no index, ever: what was not done before cannot be repeated."""
    installer = Installer(Processes(), {}, tmp_path, None, offline=True)
    with pytest.raises(InstallFailed, match="run it once without --offline"):
        installer.lock(Requirements("flask\n", "pytest\n"))


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    """A uv that has gone since the plan was made ends with the code for missing tools."""
    installer = Installer(Processes(), {}, tmp_path, tmp_path / "uv")
    with pytest.raises(ToolMissing, match="is not installed here"):
        installer.lock(Requirements("flask\n", "pytest\n"))


def test_the_cache_follows_the_users_settings() -> None:
    """XDG_CACHE_HOME when it is absolute, else .cache under HOME (XDG base directory specification)."""
    assert cache_folder({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/smartservice")
    assert cache_folder({"XDG_CACHE_HOME": "relative", "HOME": "/h"}) == Path("/h/.cache/smartservice")
    assert cache_folder({"HOME": "/h"}) == Path("/h/.cache/smartservice")
