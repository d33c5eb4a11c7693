"""The map that the agent goes by: as Atlas tells it; until it does, as an earlier agent kept it on this disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from atlas.directory import Directory
from atlas.reader import Reader
from atlas.remembered import RememberedWorld
from atlas.world import World
from sidecar.facts import MapSource

FIRST_MAP_SECONDS = 0.3
"""So long the first plan waits for Atlas before it takes the map that was kept; not when Atlas cannot be reached."""

FIRST_LOOK_SECONDS = 0.02
"""How often it is looked meanwhile whether Atlas can be reached."""

KEPT_COUNTS_SECONDS = 3600.0
"""So old the kept map may be for what the same map has lost since to be held: see `Follower.lost_from`."""

SOON_SECONDS = 0.3
"""How long after a change it is kept: first it comes into force."""

LEAST_SECONDS = 1.0
"""The least time between two copies."""

AGAIN_SECONDS = 10.0
"""Until a copy is tried again that could not be written."""


class Follower:
    """Follows the map, and keeps it for a start without Atlas. `heard` is called, in a thread of the reader, whenever there is
    another one."""

    def __init__(
        self,
        directory: Directory,
        remembered: RememberedWorld,
        heard: Callable[[], object],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kept: World | None = None
        """The map that was kept, as it is to be gone by."""
        self._kept_age: float | None = None
        self._patient_until = 0.0
        self._remembered = remembered
        self._reader = Reader(directory)
        self._reader.on_update(self._updated)
        self._keeping = Keeping(remembered, lambda: self._reader.world)
        self._heard = heard
        self._clock = clock

    def start(self) -> World | None:
        """Begin; gives the map that was kept."""
        self._reader.start()
        self._keeping.start()
        self._patient_until = self._clock() + FIRST_MAP_SECONDS
        kept = self._remembered.load()
        # An ATLAS_URL that is forgotten or mistyped leads to another map, as empty as one that was wiped.
        self.kept = self._remembered.load_elsewhere(KEPT_COUNTS_SECONDS) or kept
        self._kept_age = self._remembered.age_seconds
        return self.kept

    def close(self) -> None:
        """Keep the map as it is now, and follow it no more."""
        self._keeping.close()
        if self.heard:
            self._remembered.save(self._reader.world, force=True)
        self._reader.close()

    @property
    def heard(self) -> bool:
        """Whether Atlas has told the map since the start."""
        return self._reader.heard

    @property
    def source(self) -> MapSource:
        """Where the map comes from."""
        return "atlas" if self.heard else "disk" if self._remembered.saved_at is not None else "none"

    @property
    def age_seconds(self) -> float | None:
        """How long ago Atlas last answered; of a map from disk, when it was kept. None: there is no map."""
        age = self._reader.age_seconds
        return self._remembered.age_seconds if age is None else age

    @property
    def failure(self) -> str | None:
        """Why Atlas did not answer the last question."""
        return self._reader.failure

    @property
    def disk_failure(self) -> str | None:
        """Why the map could not be kept the last time; None: it was."""
        return self._remembered.failure

    def world(self) -> World | None:
        """The map to go by; None: there is none yet, and it is worth asking again in `look_seconds`."""
        if self.heard:
            return self._reader.world
        if self._reader.failure is None and self._is_patient():
            return None
        return self.kept

    @property
    def look_seconds(self) -> float:
        """Until it is worth asking again for a first map; news comes by itself."""
        return FIRST_LOOK_SECONDS if self._is_patient() else 1.0

    def lost_from(self, world: World) -> World | None:
        """The kept map, where what the first map lacks of it counts as lost: always where it is another map, which may have been
        wiped; in the same one as long as the agent was not away for so long that losses are old news."""
        if self.kept is None or self.kept is world:
            return None
        if self.kept.position.epoch != world.position.epoch:
            return self.kept
        return self.kept if self._kept_age is not None and self._kept_age < KEPT_COUNTS_SECONDS else None

    def keep_accepted(self, world: World) -> None:
        """Keep a map that lacks what an operator has let go, at once: the one on disk would bring it back with the next start."""
        self._remembered.save(world, force=True, accept=True)

    def _is_patient(self) -> bool:
        return self._clock() < self._patient_until

    def _updated(self, _: World, __: World) -> None:
        self._heard()
        self._keeping.changed()


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
