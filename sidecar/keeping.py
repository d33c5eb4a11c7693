"""The map on disk follows the map: in a thread of its own, and with the last change, too."""

from __future__ import annotations

import threading
from collections.abc import Callable

from atlas.remembered import LEAST_SECONDS, RememberedWorld
from atlas.world import World

SOON_SECONDS = 0.3
"""How long after a change it is kept: first it comes into force."""


class Keeping:
    """Keeps the map for a start without Atlas. A large one takes a tenth of a second to write, for which no change waits;
    one that came too soon after the last write, or found a full disk, is kept a while later.
    """

    def __init__(
        self,
        remembered: RememberedWorld,
        world: Callable[[], World],
        *,
        soon_seconds: float = SOON_SECONDS,
        again_seconds: float = LEAST_SECONDS,
    ) -> None:
        self._remembered = remembered
        self._world = world
        self._soon_seconds = soon_seconds
        self._again_seconds = again_seconds
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Keep what changes from now on."""
        self._thread = threading.Thread(target=self._run, name="sidecar-keeping", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """There is another map."""
        self._changed.set()

    def close(self, seconds: float = 2.0) -> None:
        """Keep nothing more; the last word is the caller's."""
        self._stop.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._stop.wait(self._soon_seconds)
            self._changed.clear()
            while not self._stop.is_set() and not self._remembered.save(self._world()):
                self._stop.wait(self._again_seconds)
            if self._stop.is_set():
                return
