"""A store that can be told to fail, and a clock that is turned by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from atlas.stores.sqlite import SqliteStore
from atlas.stores.store import ANY, AnyVersion, Document, Guarantees
from smartrealm.errors import Unavailable


class Time:
    """Both the time of day and the monotonic clock; sleeping turns it."""

    def __init__(self, start: float = 1_000_000.0) -> None:
        self.value = start

    def __call__(self) -> float:
        return self.value

    def sleep(self, seconds: float) -> None:
        self.value += seconds


class FaultyStore:
    """A SQLite store whose writes can be refused, lost on the way back, or preceded by somebody else's."""

    def __init__(self, path: Path) -> None:
        self.inner = SqliteStore(path / "realm.db")
        self.guarantees: Guarantees = self.inner.guarantees
        self.frozen = False
        self.before_put: Callable[[str], None] | None = None
        """Called before each write; what it raises is raised instead of writing."""
        self.after_put: Callable[[str], None] | None = None
        """Called after each write; what it raises is raised though it was written."""
        self.before_delete: Callable[[str], None] | None = None
        self.written: list[str] = []
        self.read: list[str] = []

    def get(self, key: str) -> Document | None:
        self._thaw()
        self.read.append(key)
        return self.inner.get(key)

    def get_all(self, prefix: str) -> Mapping[str, Document]:
        self._thaw()
        return self.inner.get_all(prefix)

    def put(self, key: str, body: bytes, expected: str | AnyVersion | None) -> str:
        self._thaw()
        if self.before_put is not None:
            self.before_put(key)
        version = self.inner.put(key, body, expected)
        self.written.append(key)
        if self.after_put is not None:
            self.after_put(key)
        return version

    def delete(self, key: str, expected: str | AnyVersion = ANY) -> None:
        self._thaw()
        if self.before_delete is not None:
            self.before_delete(key)
        self.inner.delete(key, expected)

    def wait(self, key: str, seen: str | None, seconds: float) -> Document | None:
        self._thaw()
        return self.inner.wait(key, seen, seconds)

    def close(self) -> None:
        self.inner.close()

    def keys(self, prefix: str) -> list[str]:
        return list(self.inner.get_all(prefix))

    def _thaw(self) -> None:
        if self.frozen:
            raise Unavailable("The store is frozen.")


def once(action: Callable[[str], object], key: str) -> Callable[[str], None]:
    """A hook that acts on the first write of a key only."""
    done: list[str] = []

    def hook(written: str) -> None:
        if written == key and not done:
            done.append(written)
            action(written)

    return hook


def lost(key: str) -> None:
    """The answer never came."""
    raise Unavailable(f"no answer about {key}")
