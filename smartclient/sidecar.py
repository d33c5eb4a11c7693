"""The way to other services through the sidecar of this host: where it is, and whether it answers.

Who calls asks `way` before each call, which costs next to nothing. A sidecar that refuses connections is left alone for a second
at a time; then one call tries it again, while the others go on directly.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from atlas.model import Instance
from atlas.world import Place
from smartrealm import on_fork
from smartrealm.errors import ConfigurationError

LOOK_SECONDS = 1.0
"""How often it is looked whether this host has a sidecar, or still has it."""

STALE_SECONDS = 15.0
"""So long without its agent, what HAProxy knows is too old for those who have a map of their own."""

PAUSE_SECONDS = 1.0
"""A sidecar that refused a connection is tried again after this time."""

_log = logging.getLogger("smartclient")


class Way:
    """One address under which every service can be called."""

    __slots__ = ("place", "sidecar", "url")

    def __init__(self, url: str, sidecar: Sidecar) -> None:
        self.url = url
        self.place = place_of(url)
        self.sidecar = sidecar

    def __repr__(self) -> str:
        return f"<Way through {self.url}>"


class Sidecar:
    """The sidecar that SIDECAR_URL names, or the one that runs on this host. Safe from any thread, and after a fork."""

    def __init__(
        self,
        url: str | None = None,
        *,
        directory: str | None = None,
        realm: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`url`: this one, whatever happens. None: the one whose agent lives in `directory`, while there is one."""
        self._directory = None if url or directory is None else Path(directory)
        self._realm = realm
        self._clock = clock
        self._way = Way(url, self) if url else None
        self._look_at = -math.inf
        self._seen_at = -math.inf
        self._refused = False
        self._again_at = -math.inf
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        on_fork(self, Sidecar._begin_anew)

    @property
    def known(self) -> Way | None:
        """The way there, whether it answers or not; None while there is no sidecar."""
        return self._way

    def way(self, now: float, *, alone: bool) -> Way | None:
        """The way for the next call, None: go directly. `alone`: there is no other way than this one."""
        if self._directory is not None and now >= self._look_at:
            self._look_once(self._directory, now, alone)
        way = self._way
        if way is None or alone or not self._refused:
            return way
        with self._lock:
            if now < self._again_at:
                return None
            self._again_at = now + PAUSE_SECONDS
        return way

    def refused(self, way: Way) -> None:
        """No connection came about there."""
        with self._lock:
            self._again_at = self._clock() + PAUSE_SECONDS
            news, self._refused = not self._refused, True
        if news:
            _log.warning("the sidecar at %s takes no connections: services are called directly until it does", way.url)

    def answered(self, way: Way) -> None:
        """An answer came from there. Cheap while nothing was wrong."""
        if self._refused:
            with self._lock:
                news, self._refused = self._refused, False
            if news:
                _log.info("the sidecar at %s takes connections again", way.url)

    def _look_once(self, directory: Path, now: float, alone: bool) -> None:
        # The first look is waited for by everybody: until it is over nobody knows of a sidecar.
        if not self._looking.acquire(blocking=self._look_at == -math.inf):
            return
        try:
            if now >= self._look_at:
                self._look(directory, now, alone)
        finally:
            self._look_at = now + LOOK_SECONDS
            self._looking.release()

    def _look(self, directory: Path, now: float, alone: bool) -> None:
        from atlas.announcement import is_carried, read_sidecar

        told = read_sidecar(directory)
        if told is None or (told.realm and self._realm and told.realm != self._realm):
            self._way = None
            return
        url = told.url or (f"unix://{told.socket}" if told.socket else "")
        is_alive = is_carried(directory)
        if is_alive:
            self._seen_at = now
        if not url or not (is_alive or alone or now - self._seen_at < STALE_SECONDS):
            self._way = None
        elif self._way is None or self._way.url != url:
            self._way, self._refused = Way(url, self), False
            _log.info("services are called through the sidecar at %s", url)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._looking = threading.Lock()

    def __repr__(self) -> str:
        if self._way is not None:
            return f"<Sidecar at {self._way.url}{', which takes no connections' if self._refused else ''}>"
        return f"<no Sidecar in {self._directory}>"


def place_of(url: str) -> Place:
    """`http://host:port` or `unix:///path` as a place in the map; the path of a socket stands for its host."""
    parts = urlsplit(url)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return Place(_Socket("sidecar", parts.path, 0), "enabled", 100)
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if parts.scheme != "http" or not host:
        raise ConfigurationError(
            f"SIDECAR_URL is {url!r}: write http://host:port, as in http://127.0.0.1:4000, or unix:///path of its socket."
        )
    return Place(Instance("sidecar", host, port), "enabled", 100)


class _Socket(Instance):
    """A unix socket where an instance is expected."""

    __slots__ = ()

    @property
    def address(self) -> str:
        return f"unix:{self.host}"
