"""Running the server under gunicorn: many threads that are made when they are needed, our drain, one loaded app."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from typing import Any

from gunicorn.app.base import BaseApplication

from atlas.server.app import NO_MAP_ABOVE, check_tokens, make_app, open_book
from smartrealm import ConfigurationError
from smartservice import SmartService
from smartservice.config import load_settings
from smartservice.gunicorn import from_values

_CONNECTIONS_PER_THREAD = 4
_OTHER_FILES = 250
"""Files that a worker has open beside its connections."""


def settings(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """gunicorn's settings for an `atlas serve`: those of every service, with room for the connections of many readers.

    Raises ConfigurationError with every mistake.
    """
    environ = os.environ if environ is None else environ
    loaded = load_settings("atlas.server.config", environ=environ, overrides=NO_MAP_ABOVE).settings
    try:
        found = from_values(loaded.snapshot, service=str(loaded.service))
        return {**found, "worker_connections": _room_for_connections(loaded.snapshot["THREADS"])}
    finally:
        loaded.close()


def _room_for_connections(
    threads: int,
    *,
    read: Callable[[], tuple[int, int]] = lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
    write: Callable[[tuple[int, int]], object] = lambda limits: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
) -> int:
    """How many connections a worker may hold; takes as many open files as this process is allowed to. Raises
    ConfigurationError when waiting readers alone would need more: a worker that cannot accept would answer nobody."""
    soft, hard = read()
    wanted = threads * _CONNECTIONS_PER_THREAD + _OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        write((allowed, hard))
    if allowed - _OTHER_FILES <= threads:
        raise ConfigurationError(
            f"THREADS is {threads}, and this process may open {hard} files: raise that (ulimit -n, LimitNOFILE=) above "
            f"{threads + _OTHER_FILES}, or lower THREADS."
        )
    return allowed - _OTHER_FILES


def run(
    store: str | None = None,
    host: str | None = None,
    port: int | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Serve until told to stop. What is None comes from the environment (ATLAS_STORE, else ATLAS_URL; HOST, PORT).

    Raises ConfigurationError before anything is bound, also when strangers would be let in. Changes the environment of
    this process, which the workers inherit: call it from a program that does nothing else.
    """
    given = dict(os.environ if environ is None else environ)
    store = store or given.get("ATLAS_STORE") or given.get("ATLAS_URL") or ""
    for name, value in (("ATLAS_STORE", store), ("HOST", host), ("PORT", port)):
        if value:
            given[name] = str(value)
    os.environ.update(given)
    _Application(settings(given), make_checked(given)).run()


def make_checked(environ: Mapping[str, str] | None = None) -> SmartService:
    """The app, when it may be served as it is set up. Raises ConfigurationError."""
    app = make_app(environ=environ)
    with open_book(app, environ) as book:  # one of its own: nothing is connected when the workers are forked
        check_tokens(app, book)
    return app


class _Application(BaseApplication):  # type: ignore[misc]
    """gunicorn over an app that is there already; its settings are read again when it is told to reload."""

    def __init__(self, found: Mapping[str, Any], app: SmartService) -> None:
        self._settings: Mapping[str, Any] | None = found
        self._app = app
        super().__init__(prog="atlas serve")

    def load_config(self) -> None:
        found, self._settings = self._settings, None
        for name, value in (settings() if found is None else found).items():
            if name in self.cfg.settings and value is not None:
                self.cfg.set(name, value)

    def load(self) -> SmartService:
        return self._app
