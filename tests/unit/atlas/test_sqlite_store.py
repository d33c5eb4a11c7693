"""The SQLite file: what stands in its way is said clearly."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from atlas.stores.sqlite import SqliteStore
from atlas.stores.store import ANY, LARGEST_BODY, Refused
from smartrealm.errors import ConfigurationError, Unavailable


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///realm.db", "realm.db"), ("sqlite:////var/lib/realm.db", "/var/lib/realm.db"), ("sqlite:///a b/c.db", "a b/c.db")],
)  # fmt: skip
def test_three_slashes_are_relative_four_absolute(url: str, path: str) -> None:
    """As everywhere else; a relative path is fixed when it is opened, so that a change of directory moves nothing."""
    store = SqliteStore.from_url(url)
    assert store.path == Path(path).absolute()
    assert not store.path.exists()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/x", "sqlite:///a?mode=ro"]
)
def test_a_url_without_a_file_is_refused(url: str) -> None:
    """Memory, hosts and options are none, and the sentence says what is."""
    with pytest.raises(ConfigurationError, match="sqlite:///"):
        SqliteStore.from_url(url)


def unavailable(path: Path) -> str:
    store = SqliteStore(path, timeout_seconds=0.3)
    try:
        with pytest.raises(Unavailable) as caught:
            store.put("head", b"1", None)
        return str(caught.value)
    finally:
        store.close()


def test_what_is_no_map_is_named(tmp_path: Path) -> None:
    """A directory, a text file and the database of another program are refused by name and stay as they were."""
    text, foreign = tmp_path / "text", tmp_path / "foreign.db"
    text.write_text("hello " * 1000)
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE users (name)")
    connection.close()
    before = foreign.read_bytes()
    for path, reason in ((tmp_path, "directory"), (text, "no SQLite database"), (foreign, "another program")):
        told = unavailable(path)
        assert reason in told
        assert str(path) in told
    assert text.read_text() == "hello " * 1000
    assert foreign.read_bytes() == before


def test_a_file_that_another_process_is_making_is_a_map(tmp_path: Path) -> None:
    """The table may be there before the mark of our files is; another table of that name is another program's."""
    for name, table in (
        ("ours", "key TEXT PRIMARY KEY, body BLOB NOT NULL, version TEXT NOT NULL"),
        ("theirs", "key TEXT"),
    ):
        with sqlite3.connect(tmp_path / name) as connection:
            connection.execute(f"CREATE TABLE documents ({table})")
        connection.close()
    store = SqliteStore(tmp_path / "ours")
    store.put("head", b"1", None)
    store.close()
    assert "another program" in unavailable(tmp_path / "theirs")


def test_a_path_below_a_file_is_named(tmp_path: Path) -> None:
    """A directory that cannot be made is said."""
    (tmp_path / "file").write_text("")
    assert "is no directory" in unavailable(tmp_path / "file" / "realm.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_path_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    """Permissions are said as what they are."""
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "ermission" in unavailable(tmp_path / "closed" / "realm.db")


def test_a_lock_that_is_held_is_unavailable(tmp_path: Path) -> None:
    """A process that holds the file for too long is told as that, and afterwards all is well."""
    store = SqliteStore(tmp_path / "realm.db", timeout_seconds=0.2)
    store.put("head", b"1", None)
    other = sqlite3.connect(tmp_path / "realm.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="lock"):
        store.put("head", b"2", ANY)
    assert store.get("head").body == b"1"  # type: ignore[union-attr]
    other.execute("ROLLBACK")
    other.close()
    store.put("head", b"2", ANY)
    store.close()


def test_a_file_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    """Who removes the file, or puts a copy in its place, is not written to behind his back."""
    path = tmp_path / "realm.db"
    store = SqliteStore(path)
    store.put("head", b"1", None)
    store.close()
    shutil.copy(path, tmp_path / "copy.db")
    store.put("head", b"2", ANY)
    os.replace(tmp_path / "copy.db", path)
    for leftover in ("-wal", "-shm"):
        Path(f"{path}{leftover}").unlink(missing_ok=True)
    assert store.get("head").body == b"1"  # type: ignore[union-attr]
    path.unlink()
    for leftover in ("-wal", "-shm"):
        Path(f"{path}{leftover}").unlink(missing_ok=True)
    assert store.get("head") is None
    store.close()


def test_closing_ends_a_wait(tmp_path: Path) -> None:
    """Who waits when the store is closed gets None soon, and opens nothing again."""
    store = SqliteStore(tmp_path / "realm.db")
    store.put("head", b"1", None)
    told: list[object] = []
    thread = threading.Thread(target=lambda: told.append(store.wait("other", None, 60)))
    thread.start()
    while store._connection is None:
        pass
    store.close()
    thread.join(30)
    assert told == [None]
    store.close()


def test_a_body_that_is_too_big_is_refused(tmp_path: Path) -> None:
    """What other stores could not take is refused here too, so that a map can be moved."""
    store = SqliteStore(tmp_path / "realm.db")
    with pytest.raises(ValueError, match="262145"):
        store.put("head", b"x" * (256 * 1024 + 1), None)
    store.close()


def test_its_repr_names_the_file(tmp_path: Path) -> None:
    """And nothing is opened by making one."""
    assert repr(SqliteStore(tmp_path / "realm.db")) == f"SqliteStore('{tmp_path}/realm.db')"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_at_once(tmp_path: Path) -> None:
    """A write that cannot be kept is refused, and what is there can be read and written again when there is room."""
    store = SqliteStore(tmp_path / "realm.db")
    version = store.put("log/a", b"a", None)
    connection = store._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Refused, match="disk is full: make room"):
        store.put("log/b", bytes(LARGEST_BODY), None)
    assert store.get("log/b") is None
    assert store.put("log/a", b"b", version)
    store.close()


def test_a_write_of_the_same_process_is_heard_at_once(tmp_path: Path) -> None:
    """Who waits in the process that writes does not wait for the next poll."""

    class Slow(SqliteStore):
        guarantees = replace(SqliteStore.guarantees, poll_seconds=5.0)

    store = Slow(tmp_path / "a.db")
    seen = store.put("a", b"1", None)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.wait, "a", seen, 10.0)
        store.put("a", b"2", seen)
        found = waiting.result(2)
        assert found is not None
        assert found.body == b"2"
    store.close()
