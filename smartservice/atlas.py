"""The map of the realm as this service sees it: one directory and one reader, shared by config, calls and registration.

A service without a map imports nothing of Atlas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartrealm.places import state_directory
from smartrealm.redaction import redact_url

if TYPE_CHECKING:
    from atlas.directory import Directory
    from atlas.remembered import RememberedWorld
    from atlas.world import World
    from smartconfig import Source
    from smartconfig.loading import Beginning

_TRUE = ("1", "true", "yes", "on")


class Atlas:
    """`app.atlas`: `world` is the map in memory, `directory` reads and writes the map itself.

    Nothing is connected before it is asked; safe to make before a fork.
    """

    def __init__(self, directory: Directory, *, name: str, remembered: RememberedWorld | None = None) -> None:
        from atlas.reader import Reader

        self.name = name
        self.directory = directory
        self.reader = Reader(directory, remembered=remembered)

    @property
    def world(self) -> World:
        """The map as this process knows it; it is followed from the first time on."""
        return self.reader.start().world

    def overrides_of(self, service: str) -> Source:
        """What the map sets for a service, as a source of its configuration."""
        from smartconfig.atlas import AtlasSource

        return AtlasSource(self.reader, service, name=self.name)

    def close(self) -> None:
        """Follow the map no more."""
        self.reader.close()
        self.directory.close()

    def __repr__(self) -> str:
        return f"<Atlas {self.name}: {self.reader.world!r}>"


def open_atlas(beginning: Beginning) -> Atlas | None:
    """The map that ATLAS_URL names. None where there is none: it is empty, or not set outside of the local realm.

    With TESTING on only an explicit override counts, so that a test never meets the map of its machine.
    """
    url = beginning.explicit.get("ATLAS_URL") if _is_testing(beginning) else beginning.value("ATLAS_URL")
    if url == "" or (url is None and (_is_testing(beginning) or not beginning.realm.is_local)):
        return None
    import atlas

    directory = atlas.open(
        url,
        token=str(beginning.value("ATLAS_TOKEN") or "") or None,
        service=beginning.service,
        environ=beginning.environ,
    )
    if url is None or url.startswith("sqlite:"):  # a file of this host is there whenever this host is
        return Atlas(directory, name=redact_url(url) if url else "local map")
    from atlas.remembered import RememberedWorld

    remembered = RememberedWorld(state_directory(beginning.environ), url=url, realm=beginning.realm)
    return Atlas(directory, name=redact_url(url), remembered=remembered)


def _is_testing(beginning: Beginning) -> bool:
    value = beginning.value("TESTING")
    return value.lower() in _TRUE if isinstance(value, str) else bool(value)
