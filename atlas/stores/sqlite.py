"""The embedded store: one SQLite file that every process of a host shares. No server.

Format: the table `documents(key, body, version)` in WAL mode, application id 0x41544C53 ("ATLS"). The file is made with
mode 0600, the directory (when it is missing) with 0700; SQLite gives its `-wal` and `-shm` files the mode of the file.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from atlas.stores.store import ANY, LARGEST_BODY, AnyVersion, Changed, Document, Guarantees, Refused
from smartrealm.errors import ConfigurationError, Unavailable

APPLICATION_ID = 0x41544C53

_INSERT = "INSERT INTO documents (key, body, version) VALUES (:key, :body, :version)"
_TABLE = "documents (key TEXT PRIMARY KEY, body BLOB NOT NULL, version TEXT NOT NULL)"
# Of a file without our application id: another process may have made the table and not yet the id.
_REFUSALS = frozenset(
    [
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    ]
)

_FOREIGN = "SELECT count(*) FROM sqlite_master WHERE sql IS NOT ? AND name NOT LIKE 'sqlite_autoindex_%'"


class SqliteStore:
    """Documents in one file. All threads of a process take turns on one connection; it is closed over every fork."""

    guarantees = Guarantees(
        name="sqlite",
        reads="linearizable",
        wait="polled",
        poll_seconds=0.03,
        survives="the end of any process and of the host's power; not the loss of its disk",
    )

    def __init__(
        self,
        path: Path | str,
        *,
        timeout_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        # Absolute from the start: a service that changes its directory keeps its map.
        self.path = Path(path).absolute()
        self.timeout_seconds = timeout_seconds
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        # Each connection and each own write has a number: `PRAGMA data_version` tells the writes of others only.
        self._opened = 0
        self._written = 0
        self._closed = 0
        self._news = threading.Condition()
        """Whoever waits in this process hears of its own writes at once; of others when it polls."""
        _stores.add(self)

    @classmethod
    def from_url(cls, url: str) -> SqliteStore:
        """The store of `sqlite:///relative.db` or `sqlite:////absolute.db`. Raises ConfigurationError."""
        scheme, _, rest = url.partition("://")
        if scheme != "sqlite" or not rest.startswith("/") or len(rest) < 2 or "?" in rest or rest == "/:memory:":
            raise ConfigurationError(
                f"{url!r} names no SQLite file: write sqlite:///realm.db (relative) or sqlite:////var/lib/realm.db "
                "(absolute), without options."
            )
        return cls(rest[1:])

    def get(self, key: str) -> Document | None:
        with self._session() as connection:
            return self._read(connection, key)

    def get_all(self, prefix: str) -> Mapping[str, Document]:
        after = prefix[:-1] + "0"  # the character that follows the slash
        query = "SELECT key, body, version FROM documents WHERE key >= ? AND key < ? ORDER BY key"
        with self._session() as connection:
            return {row[0]: Document(*row) for row in connection.execute(query, (prefix, after))}

    def put(self, key: str, body: bytes, expected: str | AnyVersion | None) -> str:
        if len(body) > LARGEST_BODY:
            raise ValueError(f"{key} has {len(body)} bytes; a store takes {LARGEST_BODY}")
        # Random, so that a document that is removed and made anew never has a version that it had before.
        values = {"key": key, "body": body, "version": secrets.token_hex(8), "expected": expected}
        # Each is one statement, and so one transaction, which takes the write lock before it reads.
        if isinstance(expected, AnyVersion):
            values.pop("expected")
            statement = f"{_INSERT} ON CONFLICT (key) DO UPDATE SET body = :body, version = :version"
        elif expected is None:
            statement = f"{_INSERT} ON CONFLICT (key) DO NOTHING"
        else:
            statement = "UPDATE documents SET body = :body, version = :version WHERE key = :key AND version = :expected"
        with self._session() as connection:
            count = connection.execute(statement, values).rowcount
            self._written += 1
        self._tell()
        if count == 0:
            raise Changed(key)
        return str(values["version"])

    def delete(self, key: str, expected: str | AnyVersion = ANY) -> None:
        with self._session() as connection:
            self._written += 1
            if isinstance(expected, AnyVersion):
                connection.execute("DELETE FROM documents WHERE key = ?", (key,))
                return
            query = "DELETE FROM documents WHERE key = ? AND version = ?"
            if connection.execute(query, (key, expected)).rowcount or self._read(connection, key) is None:
                return
        raise Changed(key)

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()

    def wait(self, key: str, seen: str | None, seconds: float) -> Document | None:
        end, closed = self._clock() + seconds, self._closed
        known: tuple[int, ...] | None = None
        while closed == self._closed:
            with self._session() as connection:
                (version,) = connection.execute("PRAGMA data_version").fetchone()
                state = (self._opened, self._written, version)
                if state != known:
                    known = state
                    document = self._read(connection, key)
                    if document is not None and document.version != seen:
                        return document
            left = end - self._clock()
            if left <= 0:
                return None
            with self._news:
                if (closed, known and known[1]) == (self._closed, self._written):
                    self._news.wait(min(self.guarantees.poll_seconds, left))
        return None

    def close(self) -> None:
        self._closed += 1  # whoever waits leaves, and does not connect anew
        self._tell()
        with self._lock:
            self._disconnect()

    # -- the connection ------------------------------------------------------------------------------------------------

    @contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        if not self._lock.acquire(timeout=self.timeout_seconds):
            raise self._unavailable("another thread has been using it for too long")
        try:
            yield self._connected()
        except sqlite3.Error as error:
            self._disconnect()
            raise self._unavailable(_reason(error), Refused if _is_refusal(error) else Unavailable) from error
        except OSError as error:
            self._disconnect()
            raise self._unavailable(error.strerror or type(error).__name__) from error
        finally:
            self._lock.release()

    def _connected(self) -> sqlite3.Connection:
        """The connection, made anew when the file is another one by now: somebody removed it, or put a copy there."""
        if self._connection is not None and self._inode == _inode(self.path):
            return self._connection
        self._disconnect()
        if self.path.is_dir():
            raise IsADirectoryError(0, "it is a directory; name a file")
        _make_file(self.path)
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=self.timeout_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._inode = connection, _inode(self.path)
        self._opened += 1
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        if found != APPLICATION_ID:
            (tables,) = connection.execute(_FOREIGN, (f"CREATE TABLE {_TABLE}",)).fetchone()
            if found or tables:
                raise sqlite3.DatabaseError("it is the database of another program")
            self._use_wal(connection)
            connection.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        # An acknowledged write must be there after the power was lost; WAL alone promises only that the file is whole.
        connection.execute("PRAGMA synchronous = FULL")

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """Switch to WAL. Two processes that do so at once can meet `locked` at once, whatever the busy timeout."""
        end = self._clock() + self.timeout_seconds
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError:
                if self._clock() > end:
                    raise
                self._sleep(0.01)
        if mode != "wal":
            raise sqlite3.OperationalError("its file system cannot share a SQLite file (a network share?)")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    @staticmethod
    def _read(connection: sqlite3.Connection, key: str) -> Document | None:
        row = connection.execute("SELECT key, body, version FROM documents WHERE key = ?", (key,)).fetchone()
        return None if row is None else Document(*row)

    def _unavailable(self, reason: str, kind: type[Unavailable] = Unavailable) -> Unavailable:
        return kind(f"The map in the SQLite file {self.path} cannot be used: {reason}.")

    # -- forks ---------------------------------------------------------------------------------------------------------

    def _before_fork(self) -> bool:
        """Close the connection and keep every thread from opening another; False when one did not let go in time."""
        held = self._lock.acquire(timeout=self.timeout_seconds + 1)
        if held:
            self._disconnect()
        return held

    def __repr__(self) -> str:
        return f"SqliteStore({str(self.path)!r})"


def _reason(error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text or "busy" in text:
        return "another process has held its lock for too long"
    if "not a database" in text or "malformed" in text:
        return f"it is no SQLite database, or it is damaged ({text})"
    if "unable to open" in text:
        return "it cannot be opened for reading and writing; look at the permissions of the file and its directory, and whether its file system is read-only"
    if "full" in text:
        return "its disk is full: make room"
    return text


def _is_refusal(error: sqlite3.Error) -> bool:
    """Whether nothing was written, and nothing will be until somebody mends it."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in _REFUSALS


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_file(path: Path) -> None:
    """Make an empty file with mode 0600 unless there is one.

    Never opens the file itself: closing any descriptor of it would drop the locks of other connections in this process
    (sqlite.org/howtocorrupt.html, 2.2).
    """
    if path.exists():
        return
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(0, f"{path.parent} is no directory")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp: 0600
    os.close(descriptor)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)


# A connection that is open over a fork costs SQLite its locks: the child believes it holds those of the parent
# (sqlite.org/howtocorrupt.html, 2.6). Abandoning it in the child is not enough, the locks are kept per process and file.
_stores: weakref.WeakSet[SqliteStore] = weakref.WeakSet()
_forking: list[SqliteStore] = []


def _before() -> None:
    _forking[:] = [store for store in list(_stores) if store._before_fork()]


def _after() -> None:
    for store in _forking:
        store._lock.release()
    _forking.clear()


def _after_in_child() -> None:
    for store in list(_stores):
        store._news = threading.Condition()  # a thread that is not here any more may have held it
    _after()


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
