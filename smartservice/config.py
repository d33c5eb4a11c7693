"""`app.config`: Flask's mapping, read through the config snapshot that is pinned to the current request."""

from __future__ import annotations

import os
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from flask import Config, Flask

import smartconfig
from smartconfig.loading import Beginning
from smartrealm.places import sidecar_directory
from smartrealm.redaction import redact
from smartservice.atlas import Atlas, open_atlas

BASE = ("smartservice.defaults",)


@dataclass(frozen=True)
class Loaded:
    """The settings of a service, and the map that they come from where there is one."""

    settings: smartconfig.Settings
    atlas: Atlas | None
    state_dir: str | None = None
    """STATE_DIR of its environment, where that is set."""
    sidecar_dir: Path | None = None
    """Where it meets the sidecar of its host; None in tests, which never meet that of their machine."""


def load_settings(
    config: str | ModuleType,
    *,
    source: smartconfig.Source | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """The settings of a service: the framework's defaults, its config module, its source, the environment, `overrides`.

    The source is the one given, else the file that CONFIG_FILE names, else the map of the realm. Raises
    ConfigurationError with every mistake at once.
    """
    environ = os.environ if environ is None else environ
    maps: list[Atlas] = []

    def first_source(beginning: Beginning) -> smartconfig.Source | None:
        found = open_atlas(beginning)
        if found is not None:
            maps.append(found)
        if source is not None:
            return source
        if environ.get("CONFIG_FILE"):
            return smartconfig.FileSource(environ["CONFIG_FILE"])
        return None if found is None else found.overrides_of(beginning.service)

    settings = smartconfig.load(
        config,
        base=BASE,
        source_for=first_source,
        environ=environ,
        overrides=overrides or {},
        known=Flask.default_config,
    )
    sidecar_dir = None if settings.snapshot.get("TESTING") else sidecar_directory(environ, str(settings.realm))
    return Loaded(settings, maps[0] if maps else None, environ.get("STATE_DIR") or None, sidecar_dir)


class LiveConfig(Config):
    """Flask's own defaults, under the settings of the pinned snapshot, under what the program wrote into it.

    One request sees one snapshot from its first line to its last, whatever arrives meanwhile. Writing a declared setting
    is an explicit override: it is converted and checked like every other, and raises ConfigurationError.
    """

    def __init__(
        self, root_path: str | os.PathLike[str], defaults: dict[str, Any], settings: smartconfig.Settings
    ) -> None:
        super().__init__(root_path, defaults)
        self._settings = settings
        self._written: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._removed: set[str] = set()
        self._view: tuple[object, dict[str, Any]] = (None, {})

    def _now(self) -> dict[str, Any]:
        snapshot = self._settings.pinned()
        seen, view = self._view
        if seen is not snapshot:
            view = {key: dict.__getitem__(self, key) for key in dict.__iter__(self)}
            view.update(snapshot)
            view.update(self._written)
            for key in self._removed:
                view.pop(key, None)
            self._view = (snapshot, view)
        return view

    def __getitem__(self, key: str) -> Any:
        return self._now()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self._settings.snapshot:
            self._before.setdefault(key, self._settings.snapshot[key])
            self._settings.override({key: value})
            value = self._settings.snapshot[key]
        self._written[key] = value
        self._removed.discard(key)
        self._view = (None, {})

    def __delitem__(self, key: str) -> None:
        if key not in self._now():
            raise KeyError(key)
        self._written.pop(key, None)
        self._removed.add(key)
        self._view = (None, {})

    def __contains__(self, key: object) -> bool:
        return key in self._now()

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def __eq__(self, other: object) -> bool:
        return self._now() == other

    __hash__ = None  # type: ignore[assignment]

    def get(self, key: str, default: Any = None) -> Any:
        return self._now().get(key, default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return self._now().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return self._now().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return self._now().items()

    def copy(self) -> dict[str, Any]:
        return dict(self._now())

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **more: Any) -> None:
        for key, value in dict(*others, **more).items():
            self[key] = value

    def __ior__(self, other: Any) -> LiveConfig:  # type: ignore[misc]
        self.update(other)
        return self

    def pop(self, key: str, *default: Any) -> Any:
        if default and key not in self:
            return default[0]
        value = self[key]
        del self[key]
        return value

    def written(self) -> dict[str, Any]:
        """What the program has written into the mapping so far, for `restore`."""
        return dict(self._written)

    def restore(self, written: dict[str, Any]) -> None:
        """Undo what was written or removed since `written()` was called."""
        declared = {key: value for key, value in self._before.items() if key not in written}
        self._settings.override(declared)
        self._written, self._removed, self._view = dict(written), set(), (None, {})

    def __repr__(self) -> str:
        shown = redact(dict(self._now()), self._settings.secrets())
        return f"<LiveConfig {self._settings.snapshot.version} {shown!r}>"
