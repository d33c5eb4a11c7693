"""Overrides from Atlas: what the map says for `*` and for one service, followed through a reader of the map."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from atlas.model import Override as MapOverride
from atlas.reader import Reader
from atlas.world import World
from smartconfig.sources import Override, Overrides
from smartrealm.errors import ConfigurationError


class AtlasSource:
    """The overrides of one service in a map. Several parts of a process may share the reader.

    The version is `<revision>-<hash>`: the revision of the map's catalogue that set the newest of them, and a hash over
    which there are, so that it is the same on every host that sees the same overrides. `atlas history` speaks of the same
    revisions.
    """

    def __init__(self, reader: Reader, service: str, *, name: str = "atlas") -> None:
        self.name = name
        self.paces_itself = True  # the reader pauses between its questions while nobody answers
        self._told: str | None = None
        self._reader = reader
        self._service = service

    def current(self) -> Overrides:
        """What the map says now. Raises what the directory raises, and ConfigurationError for a secret that is not shown."""
        return self._of(self._reader.read())

    def wait(self, version: str, seconds: float) -> Overrides | None:
        """The overrides as soon as their version is another one. Raises Unavailable while the map cannot be followed."""
        reader = self._reader.start()

        def has_news(world: World) -> bool:
            # A map that was never read has no overrides here, and a remembered one has none either.
            return reader.heard and self._version(world) != version

        reader.wait_for(lambda world: has_news(world) or (reader.failure is None) != (self._told is None), seconds)
        self._told = reader.failure
        reader.raise_failure()
        return self._of(reader.world) if has_news(reader.world) else None

    def _of(self, world: World) -> Overrides:
        found = self._relevant(world)
        hidden = sorted(override.key for override in found if override.hidden)
        if hidden:
            raise ConfigurationError(
                mistakes=[
                    f"{self.name}: {key} is a secret that was not shown to {self._service}: its token must be one of this "
                    f"service (`atlas token create service {self._service}`), and the map needs the key that sealed it."
                    for key in hidden
                ]
            )
        entries = tuple(
            Override(override.key, override.value, override.scope, override.secret, override.author or None)
            for override in found
        )
        return Overrides(_version(found), entries)

    def _version(self, world: World) -> str:
        return _version(self._relevant(world))

    def _relevant(self, world: World) -> list[MapOverride]:
        return list(world.overrides_of(self._service))

    def __repr__(self) -> str:
        return f"AtlasSource({self.name!r}, {self._service!r})"


def _version(overrides: Iterable[MapOverride]) -> str:
    # Not over the values: a short hash over a secret would let it be guessed.
    marks = sorted((one.scope, one.key, one.revision, one.at) for one in overrides)
    if not marks:
        return "0"
    newest = max(revision for _, _, revision, _ in marks)
    return f"{newest}-{hashlib.sha256(repr(marks).encode()).hexdigest()[:6]}"
