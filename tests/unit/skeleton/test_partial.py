"""What is built beside the target appears whole or not at all, and replaces nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skeleton import partial
from skeleton.partial import Partial, sweep


def test_the_tree_appears_at_the_target_and_nothing_else_stays(tmp_path: Path) -> None:
    """After put() the target holds what was built, and the hidden directory is gone."""
    with Partial(tmp_path, "hello") as building:
        (building.tree / "file").write_text("x")
        building.put(tmp_path / "hello")
    assert [path.name for path in tmp_path.iterdir()] == ["hello"]
    assert (tmp_path / "hello" / "file").read_text() == "x"


@pytest.mark.parametrize("kind", ["file", "empty directory", "full directory", "dangling link"])
@pytest.mark.parametrize("rename", [partial.rename_new, partial._rename_checked])
def test_nothing_is_ever_replaced(tmp_path: Path, kind: str, rename: object) -> None:
    """Whatever stands at the target, an empty directory included, the rename refuses and changes nothing."""
    target, source = tmp_path / "hello", tmp_path / "source"
    source.mkdir()
    if kind == "file":
        target.write_text("mine")
    elif kind == "dangling link":
        target.symlink_to("nowhere")
    else:
        target.mkdir()
        if kind == "full directory":
            (target / "mine").touch()
    before = os.lstat(target).st_ino
    with pytest.raises(FileExistsError):
        rename(source, target)  # type: ignore[operator]
    assert os.lstat(target).st_ino == before
    assert source.is_dir()


def test_leaving_the_block_removes_everything(tmp_path: Path) -> None:
    """What was not put anywhere is gone afterwards, read-only folders too."""
    with Partial(tmp_path, "hello") as building:
        (building.tree / "folder").mkdir()
        (building.tree / "folder" / "file").touch()
        (building.tree / "folder").chmod(0o500)
    assert list(tmp_path.iterdir()) == []


def test_removing_what_is_gone_leaves_the_folder_around_it_alone(tmp_path: Path) -> None:
    """Removing a directory that somebody else has removed does not change the mode of the one that it was in."""
    tmp_path.chmod(0o755)
    partial.remove(tmp_path / "gone")
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_what_a_living_run_builds_is_not_swept(tmp_path: Path) -> None:
    """The lock of a living process protects its directory."""
    with Partial(tmp_path, "hello") as building:
        assert sweep(tmp_path, "hello") == []
        assert building.tree.is_dir()


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    """A process killed with SIGKILL leaves a directory that the next run removes."""
    program = (
        "import os, signal, sys; from pathlib import Path; from skeleton.partial import Partial\n"
        "Partial(Path(sys.argv[1]), 'hello'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert ended.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    assert len(sweep(tmp_path, "hello")) == 1
    assert list(tmp_path.iterdir()) == []


def test_where_locks_mean_nothing_the_process_is_looked_at(tmp_path: Path) -> None:
    """Without a lock, a directory whose owner's pid now belongs to a younger process is dead."""
    for number, owner in enumerate((f"{os.getpid()} 1\n", f"{os.getpid()} {partial.started(os.getpid())}\n")):
        folder = tmp_path / f".hello.partial-{number:012d}"
        folder.mkdir()
        (folder / "owner").write_text(owner)
    swept = sweep(tmp_path, "hello")
    assert [path.name for path in swept] == [".hello.partial-000000000000"]


def test_a_directory_that_is_just_being_made_is_not_swept(tmp_path: Path) -> None:
    """Without an owner yet, a young directory stays and an old one goes."""
    young, old = tmp_path / ".hello.partial-000000000001", tmp_path / ".hello.partial-000000000002"
    for folder in (young, old):
        folder.mkdir()
    os.utime(old, (0, 0))
    assert sweep(tmp_path) == [old]
    assert young.is_dir()


def test_others_files_are_not_swept(tmp_path: Path) -> None:
    """Names that are not quite ours, and links, stay."""
    (tmp_path / ".hello.partial-abc").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".hello.partial-00000000000a").symlink_to(tmp_path / "elsewhere")
    os.utime(tmp_path / "elsewhere", (0, 0))
    assert sweep(tmp_path) == []
