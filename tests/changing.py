"""Settings that a test changes by hand, in place of smartconfig's watched ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DEFAULTS: Mapping[str, Any] = {
    "DATABASE_URL": "",
    "DATABASE_POOL_SIZE": 5,
    "DATABASE_POOL_OVERFLOW": 5,
    "DATABASE_POOL_TIMEOUT": 2.0,
    "DATABASE_CONNECT_TIMEOUT": 2,
    "DATABASE_STATEMENT_TIMEOUT": 30.0,
    "DATABASE_RECYCLE": 1800,
    "MIGRATIONS_DIRECTORY": "migrations",
    "REDIS_URL": "",
    "REDIS_TIMEOUT": 0.5,
    "REDIS_CONNECT_TIMEOUT": 0.5,
    "REDIS_MAX_CONNECTIONS": 50,
}


class ChangingSettings:
    """The defaults with `values` over them; `change()` tells whoever asked to be told."""

    def __init__(self, service: str = "hello", /, **values: Any) -> None:
        self.service = service
        self.snapshot: Mapping[str, Any] = {**DEFAULTS, **values}
        self._callbacks: list[tuple[list[str], Callable[[Any, Any], None]]] = []

    def on_change(self, keys: list[str], callback: Callable[[Any, Any], None], /) -> None:
        self._callbacks.append((keys, callback))

    def change(self, **values: Any) -> None:
        """Put a new snapshot in force, then tell."""
        old, self.snapshot = self.snapshot, {**self.snapshot, **values}
        for keys, callback in self._callbacks:
            if any(old[key] != self.snapshot[key] for key in keys):
                callback(old, self.snapshot)
