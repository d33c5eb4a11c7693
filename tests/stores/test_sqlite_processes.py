"""One SQLite file, many real processes."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import atlas
from atlas.directory import Directory
from atlas.model import Author, Service
from atlas.stores.sqlite import SqliteStore
from tests.stores.conftest import KEYS

WRITER = """
import sys, atlas
from atlas.model import Author
directory = atlas.open(sys.argv[1], keys=sys.argv[2], environ={})
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[4])):
    value = {"of": sys.argv[3], "number": number, "ballast": "x" * (number % 7 * 400)}
    print(directory.set_override("*", "KEY_" + sys.argv[3], value, by=Author(sys.argv[3])), flush=True)
"""

WRITERS = """
import os, sys, atlas
from atlas.model import Author
url, keys, processes, changes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
pids = []
for name in [f"P{number}" for number in range(processes)]:
    pids.append(os.fork())
    if pids[-1] == 0:
        directory = atlas.open(url, keys=keys, environ={})
        for number in range(changes):
            value = {"of": name, "number": number, "ballast": "x" * (number % 7 * 400)}
            revision = directory.set_override("*", "KEY_" + name, value, by=Author(name))
            os.write(1, f"{name} {revision}\\n".encode())
        os._exit(0)
sys.exit(any(os.waitpid(pid, 0)[1] for pid in pids))
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A fresh file."""
    return f"sqlite:///{tmp_path / 'realm.db'}"


@pytest.fixture
def directory(url: str) -> Iterator[Directory]:
    """The map in it."""
    with atlas.open(url, keys=KEYS, environ={}) as directory:
        yield directory


def writer(url: str, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, url, KEYS, name, str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def begin(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "ready\n"
    child.stdin.write("go\n")
    child.stdin.flush()


def test_twenty_processes_append_and_nothing_is_lost(url: str, directory: Directory) -> None:
    """Each change of each process is there exactly once, in its order, with the revision that its writer was told."""
    command = [sys.executable, "-c", WRITERS, url, KEYS, "20", "12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    told: dict[str, list[int]] = {f"P{number}": [] for number in range(20)}
    for name, revision in map(str.split, done.stdout.splitlines()):
        told[name].append(int(revision))
    history = directory.history(limit=1000)[::-1]
    assert [change.revision for change in history] == list(range(1, 241))
    for name, revisions in told.items():
        own = [change for change in history if change.author == name]
        assert [change.revision for change in own] == revisions
        assert [change.edits[0].after["value"]["number"] for change in own if change.edits[0].after] == list(range(12))


def test_many_processes_make_the_file_at_once(tmp_path: Path) -> None:
    """Services of a laptop that start together on a fresh machine all find their map."""
    for attempt in range(6):
        pids = []
        for number in range(12):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    store = SqliteStore(tmp_path / f"{attempt}.db")
                    store.put(f"lease/{number}", b"", None)
                    store.close()
                    code = 0
                finally:
                    os._exit(code)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 12
        store = SqliteStore(tmp_path / f"{attempt}.db")
        assert len(store.get_all("lease/")) == 12
        store.close()


def test_a_killed_writer_damages_nothing(url: str, directory: Directory, tmp_path: Path) -> None:
    """KILL at any moment: what was acknowledged is there, nothing is there twice or in part, and others go on."""
    seed = random.Random(3)
    acknowledged = 0
    for number in range(5):
        child = writer(url, f"P{number}", 100_000)
        begin(child)
        time.sleep(seed.uniform(0.02, 0.2))
        os.kill(child.pid, signal.SIGKILL)
        acknowledged += len(child.communicate()[0].split("\n")) - 1
        before = directory.world().position.revision
        assert directory.put_service(Service("identity", description=str(number)), by=Author("anna")) == before + 1
    history = directory.history(limit=100_000)
    revision = directory.world().position.revision
    assert [change.revision for change in history] == list(range(revision, 0, -1))
    assert acknowledged <= revision - 5 <= acknowledged + 5
    assert len({change.id for change in history}) == len(history)
    with sqlite3.connect(tmp_path / "realm.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_an_override_of_one_process_is_seen_by_another_at_once(url: str, directory: Directory) -> None:
    """A process that waits has the override 0.3 s after it was written, in the middle of ten times; five times that on a busy machine."""
    script = (
        "import sys, time, atlas; from atlas.model import Author\n"
        "directory = atlas.open(sys.argv[1], environ={}); directory.world()\n"
        "for line in sys.stdin:\n"
        "    print(time.time(), directory.set_override('*', 'N', int(line), by=Author('a')), flush=True)"
    )
    taken = []
    position = directory.world().position
    command = [sys.executable, "-c", script, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for number in range(10):
            child.stdin.write(f"{number}\n")
            child.stdin.flush()
            update = directory.wait(position, 20)
            seen = time.time()
            assert update is not None
            position = update.position
            taken.append(seen - float(child.stdout.readline().split()[0]))
        child.stdin.close()
    assert statistics.median(taken) < 1.5


def test_the_file_is_for_its_owner_only(url: str, directory: Directory, tmp_path: Path) -> None:
    """The file, what SQLite puts beside it and the key file have mode 0600; a directory that is made has 0700."""
    deep = tmp_path / "new" / "realm.db"
    with atlas.open(f"sqlite:///{deep}", environ={}) as other:
        other.set_override("identity", "API_KEY", "s3cret", by=Author("anna"), secret=True)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in deep.parent.iterdir()}
    assert modes == dict.fromkeys(("realm.db", "realm.db-wal", "realm.db-shm", "realm.db.key"), 0o600)
    assert stat.S_IMODE(deep.parent.stat().st_mode) == 0o700
    content = b"".join(path.read_bytes() for path in deep.parent.iterdir())
    assert b"s3cret" not in content


def test_a_preloading_parent_costs_its_children_nothing(url: str, tmp_path: Path) -> None:
    """A parent that has read and waited, and then forks workers, loses no change of any of them."""
    with atlas.open(url, keys=KEYS, environ={}) as directory:
        directory.put_service(Service("identity"), by=Author("anna"))
        directory.wait(directory.world().position, 0.1)
        pids = []
        for number in range(4):
            pid = os.fork()
            if pid == 0:
                try:
                    for step in range(15):
                        directory.set_override("*", f"KEY_{number}", step, by=Author(f"worker-{number}"))
                finally:
                    os._exit(0)
            pids.append(pid)
        for step in range(15):
            directory.set_override("*", "KEY_PARENT", step, by=Author("parent"))
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
        assert [change.revision for change in directory.history(limit=1000)] == list(range(76, 0, -1))
    store = SqliteStore(tmp_path / "realm.db")
    assert store.get("log/catalogue/head") is not None
    store.close()
