"""Running the server under gunicorn: many threads that are made when they are needed, our drain, one loaded app."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gunicorn.app.base import BaseApplication

from atlas.server.app import NO_MAP_ABOVE, check_tokens, make_app, open_book
from smartservice import SmartService
from smartservice.config import load_settings
from smartservice.gunicorn import from_values

_CONNECTIONS_PER_THREAD = 4


def settings(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """gunicorn's settings for an `atlas serve`: those of every service, with room for the connections of many readers.

    Raises ConfigurationError with every mistake.
    """
    environ = os.environ if environ is None else environ
    loaded = load_settings("atlas.server.config", environ=environ, overrides=NO_MAP_ABOVE).settings
    try:
        found = from_values(loaded.snapshot, service=str(loaded.service))
        return {**found, "worker_connections": loaded.snapshot["THREADS"] * _CONNECTIONS_PER_THREAD}
    finally:
        loaded.close()


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
