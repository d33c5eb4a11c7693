"""The map on disk follows the map: in a thread of its own, and with the last change, too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from atlas.remembered import RememberedWorld
from atlas.world import World

SOON_SECONDS = 0.3
"""How long after a change it is kept: first it comes into force."""

LEAST_SECONDS = 1.0
"""The least time between two copies."""

AGAIN_SECONDS = 10.0
"""Until a copy is tried again that could not be written."""


class Keeping:
    """Keeps the map for a start without Atlas. A large one takes a tenth of a second to write: no change waits for that, and
    at most a twentieth of the time goes into it. What a full disk has not taken is kept a while later.
    """

    def __init__(
        self,
        remembered: RememberedWorld,
        world: Callable[[], World],
        *,
        soon_seconds: float = SOON_SECONDS,
        least_seconds: float = LEAST_SECONDS,
        again_seconds: float = AGAIN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remembered = remembered
        self._world = world
        self._soon_seconds, self._least_seconds, self._again_seconds = soon_seconds, least_seconds, again_seconds
        self._clock = clock
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
        while not self._stop.is_set():
            self._changed.wait()
            self._stop.wait(self._soon_seconds)
            self._changed.clear()
            if not self._stop.is_set():
                self._stop.wait(self._keep())

    def _keep(self) -> float:
        """Keep the map as it is now; gives how long there is to be none of it afterwards."""
        began = self._clock()
        # Not as seldom as other processes do, which keep their copy in the same place: this one starts a whole host.
        if self._remembered.save(self._world(), force=True):
            return max(self._least_seconds, 20 * (self._clock() - began))
        self._changed.set()
        return self._again_seconds
