"""Killed at any moment, run twice at once, or met by something in its way: the target is absent or complete."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.processes import wait_until
from tests.skeleton.conftest import Generator

KILLS = 12


def _tracked(folder: Path) -> set[str]:
    """The files under version control, whatever the service's name and the toolkit's state."""
    listed = subprocess.run(["git", "ls-files"], cwd=folder, capture_output=True, text=True, check=True)
    return {re.sub(r"[^/]*\.whl$", "WHEEL", name.replace(folder.name, "NAME")) for name in listed.stdout.splitlines()}


def assert_complete(folder: Path, files: set[str]) -> None:
    """Everything is there: one commit with all files, nothing changed since, and an environment that works."""
    assert _tracked(folder) == files
    said = ["git", "status", "--porcelain"]
    assert subprocess.run(said, cwd=folder, capture_output=True, text=True, check=True).stdout == ""
    subprocess.run(["git", "fsck", "--strict"], cwd=folder, capture_output=True, check=True)
    subprocess.run([folder / ".venv/bin/python", "-c", "import flask"], cwd=folder, capture_output=True, check=True)


@pytest.mark.timeout(400)
def test_killed_at_random_moments_the_target_is_absent_or_complete(generator: Generator) -> None:
    """SIGKILL, SIGTERM or SIGINT at any moment leaves nothing, or the whole service; the next run sweeps the rest."""
    first = generator("first", "--no-verify", "--json")
    assert first.returncode == 0, first.stderr
    files = _tracked(generator.into / "first")
    begun = time.monotonic()
    assert generator("second", "--no-verify").returncode == 0
    whole = time.monotonic() - begun
    dice = random.Random(7)
    complete = 0
    for number in range(KILLS):
        before = set(generator.left())  # A killed run's rest stays until a later run sweeps it.
        how = dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        process = subprocess.Popen(
            generator.command("hello", "--no-verify"),
            cwd=generator.folder,
            env=generator.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(dice.uniform(0.02, whole * 1.4))
        except subprocess.TimeoutExpired:
            process.send_signal(how)
            code = process.wait(60)
            # Python itself answers 1 to a SIGINT that comes before its start is over.
            assert code in (-how, 128 + how, 0, *([1] if how == signal.SIGINT else [])), (number, how, code)
        target = generator.into / "hello"
        left = [name for name in generator.left() if "partial" in name and name not in before]
        if how != signal.SIGKILL and process.returncode in (0, 128 + how):
            assert left == [], (number, how)
        if target.exists():
            complete += 1
            assert_complete(target, files)
            target.rename(generator.folder / f"done-{number}")
    assert complete < KILLS
    assert generator("hello", "--no-verify").returncode == 0
    assert generator.left() == ["first", "hello", "second"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_what_the_proof_has_started_ends_with_the_run(generator: Generator, number: signal.Signals, code: int) -> None:
    """Stopped or killed during the proof, no server and no test of the new service goes on running."""
    assert generator("first", "--no-verify").returncode == 0  # The cache is filled.
    process = subprocess.Popen(
        generator.command("hello"), cwd=generator.folder, env=generator.env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    wait_until(lambda: len(_processes_in(generator.into)) >= 3, 60, what="the proof")
    process.send_signal(number)
    assert process.wait(60) == code
    process.stdout.close()
    wait_until(lambda: not _processes_in(generator.into), what="the end of everything that was started")
    if number != signal.SIGKILL:
        assert generator.left() == ["first"]
    assert not (generator.into / "hello").exists()


def _processes_in(folder: Path) -> list[int]:
    """The processes whose working directory is below this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "cwd").startswith(f"{folder}/"):
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def test_of_two_runs_at_once_one_wins_and_the_other_says_so(generator: Generator) -> None:
    """Both build, one rename succeeds; the other ends with 3 and leaves nothing."""
    assert generator("first", "--no-verify").returncode == 0
    both = [
        subprocess.Popen(
            generator.command("hello", "--no-verify", "--json"),
            cwd=generator.folder,
            env=generator.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    said = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert sorted(process.returncode for process in both) == [0, 3]
    assert sorted("error" in document for document in said) == [False, True]
    assert generator.left() == ["first", "hello"]
    assert_complete(generator.into / "hello", _tracked(generator.into / "first"))


def test_run_again_the_target_is_never_touched(generator: Generator) -> None:
    """The second run of the same name ends with 3 before anything is built."""
    target = generator.into / "hello"
    target.mkdir()
    (target / "mine").write_text("mine")
    ended = generator("hello", "--no-verify")
    assert ended.returncode == 3
    assert ended.stderr.count("\n") == 1
    assert "never touched" in ended.stderr
    assert (target / "mine").read_text() == "mine"
    assert generator.left() == ["hello"]


def test_the_same_options_give_the_same_files(generator: Generator) -> None:
    """Two services that differ in their name alone differ in nothing else; two runs of one name in nothing at all."""
    for folder in ("a", "b"):
        (generator.into / folder).mkdir()
        words = ["hello", "--with", "db,redis", "--no-verify", "--into", str(generator.into / folder)]
        ended = subprocess.run(
            [*generator.command()[:-2], *words], env=generator.env, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
    trees = [
        subprocess.run(
            ["git", "rev-parse", "HEAD^{tree}"], cwd=generator.into / folder / "hello", capture_output=True, check=True
        ).stdout
        for folder in ("a", "b")
    ]
    assert trees[0] == trees[1]
