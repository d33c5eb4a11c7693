"""Following the map in one worker: the world in memory, the last changes, and the readers who wait for the next one."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from atlas.directory import Directory
from atlas.model import Instance
from atlas.server.answers import Answers, Audience, Prepared
from atlas.server.bell import Bell
from atlas.world import Delta, Position, World
from smartrealm import on_fork
from smartrealm.errors import Overloaded, SmartError, Unavailable

_log = logging.getLogger("atlas")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two questions to a store that does not answer; short, to be right again soon after it does."""

LONGEST_RING = 1000
"""Changes kept for readers who come back; one who missed more takes the complete world."""

MOST_LOOKS, LOOKS_PER_SECOND = 50.0, 10.0
"""How often a token that is not known makes a worker ask the store: at once, and in the long run."""


class Backend(Directory, Protocol):
    """What the server needs of the Book besides the interface that everybody has."""

    def secrets(self, service: str) -> Mapping[str, Any]:
        """The opened secrets of a service and the shared ones, by `scope/KEY`; from memory."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are done, in seconds, and how many readers may wait."""

    wait: float = 5.0
    """For news from the store, in one question."""
    sweep: float = 2.0
    drain: float = 0.1
    """Between two looks whether this instance is about to stop."""
    draining_wait: float = 1.0
    """How long a reader may wait while it is."""
    first_world: float = 5.0
    """How long a request waits for the first world of this worker."""
    doubt: float = 1.0
    """How long a reader may be ahead of a store that answers before it counts as one from a map that is gone."""
    most_waiting: int = 1900


@dataclass(frozen=True, slots=True)
class _View:
    """The world and the changes that led to it, swapped in one reference."""

    world: World
    ring: tuple[Delta, ...] = ()


class Follower:
    """One worker's view of the map. Reading costs no I/O; while the store is away, what is known stays in force.

    Threads (following, sweeping, watching for the drain) are begun by `start`, in the process that serves. Safe from any
    thread.
    """

    def __init__(
        self,
        book: Backend,
        *,
        draining: Callable[[], bool] = lambda: False,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.book = book
        self.pace = pace or Pace()
        self._view: _View | None = None
        self.problem: str | None = None
        """Why the store could not be asked the last time; None when it could."""
        self.waiting = 0
        self.told = 0
        """Answers with news that waiting readers were given."""
        self._is_draining = draining
        self._clock = clock
        self._spread = spread
        self._by_lease: tuple[object, dict[str, list[Instance]]] = (None, {})
        self._heard_at: float | None = None
        self._looked_at = clock()
        self._looks = MOST_LOOKS
        self._threads: list[threading.Thread] = []
        self._begin_anew()
        on_fork(self, Follower._begin_anew)

    # -- its life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to follow. Idempotent; nothing after `close`."""
        if self._threads or self._stop.is_set():
            return
        with self._starting:
            if self._threads or self._stop.is_set():
                return
            works = {"follow": self._follow, "sweep": self._sweep, "drain": self._watch_drain}
            self._threads = [
                threading.Thread(target=work, name=f"atlas-{name}", daemon=True) for name, work in works.items()
            ]
            for thread in self._threads:
                thread.start()

    def release(self) -> None:
        """Send everybody away who waits; from now on nobody waits for long."""
        self.draining = True
        self._bell.ring()

    def close(self) -> None:
        """End the threads and the book. Idempotent."""
        self._stop.set()
        self.release()
        self.book.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def world(self) -> World | None:
        """The world in memory; None before the first one."""
        return None if self._view is None else self._view.world

    @property
    def age_seconds(self) -> float | None:
        """How long ago the store last answered; None when it never did."""
        return None if self._heard_at is None else self._clock() - self._heard_at

    def known(self) -> World:
        """The world in memory. Raises Unavailable when there is none yet."""
        return self._known_view().world

    def _known_view(self) -> _View:
        self.start()
        if self._view is None:
            self.wait_for_first(self.pace.first_world)
        if self._view is None:
            raise Unavailable(f"The map has not been read yet: {self.problem or 'the store has not answered'}", 2)
        return self._view

    def carried(self, lease_id: str) -> Sequence[Instance]:
        """The instances that a lease carries, as far as this worker has heard."""
        instances = self.known().instances
        seen, by_lease = self._by_lease
        if seen is not instances:
            by_lease = {}
            for inner in instances.values():
                for instance in inner.values():
                    by_lease.setdefault(instance.lease, []).append(instance)
            self._by_lease = (instances, by_lease)
        return by_lease.get(lease_id, ())

    def wait_for_first(self, seconds: float) -> None:
        """Wait until there is a world in memory."""
        self._bell.wait_for(lambda: self.world is not None, seconds)

    def fresh(self) -> World:
        """The world of this moment, asked of the store; the one in memory while the store is away."""
        self.start()
        if self.problem is not None and self.world is not None:
            return self.world
        try:
            return self.book.world()
        except Unavailable as error:
            if self.world is None:
                raise
            self._note(error)  # so that the next one need not find out by itself
            return self.world

    def look_again(self) -> World:
        """Like `fresh`, but ten times a second in the long run; for questions that strangers may ask as often as they like."""
        now = self._clock()
        self._looks = min(MOST_LOOKS, self._looks + (now - self._looked_at) * LOOKS_PER_SECOND)
        self._looked_at = now
        if self._looks < 1:
            return self.known()
        self._looks -= 1
        return self.fresh()

    def complete(self, audience: Audience) -> Prepared:
        """All that this audience sees now."""
        return self._answers.complete(self.fresh(), audience)

    def news(self, since: Position, audience: Audience, seconds: float) -> Prepared | None:
        """What this audience sees changed since, as soon as there is something; None when there is nothing for `seconds`.

        A position that cannot be continued from gets the complete world. Raises Overloaded when too many wait already.
        """
        if since.epoch != self.known().position.epoch:  # or this worker is the one that has not heard yet
            return self._answers.complete(self.fresh(), audience)
        with self._counting:
            if seconds > 0 and self.waiting >= self.pace.most_waiting:
                raise Overloaded(f"{self.waiting} readers wait already; ask another replica.", 1)
            self.waiting += 1
        found = None
        try:
            found = self._wait_for_news(since, audience, seconds)
        finally:
            with self._counting:
                self.waiting -= 1
                self.told += found is not None
        return found

    def _wait_for_news(self, since: Position, audience: Audience, seconds: float) -> Prepared | None:
        begun = self._clock()
        was_draining = self.draining
        while True:
            heard = self._bell.rings
            found = self._since(since, audience)
            if found is not None:
                return found
            end = begun + (min(seconds, self.pace.draining_wait) if self.draining else seconds)
            left = end - self._clock()
            if left <= 0 or (self.draining and not was_draining):
                return self._nothing_seen(since, audience, begun, seconds)
            self._bell.sleep(heard, left)

    def _since(self, since: Position, audience: Audience) -> Prepared | None:
        view = self._known_view()
        world, here = view.world, view.world.position
        if since.epoch != here.epoch:
            return self._answers.complete(world, audience)
        if since == here or not _is_before(since, here):
            return None  # or it comes from a worker that is ahead of this one: wait until this one has caught up
        deltas: list[Delta] = []
        for delta in reversed(view.ring):
            deltas.append(delta)
            if _is_before(delta.since, since):
                return self._answers.delta(since, here, reversed(deltas), audience)
        return self._answers.complete(world, audience)

    def _nothing_seen(self, since: Position, audience: Audience, begun: float, seconds: float) -> Prepared | None:
        """After a wait without news: a reader that only missed what it may not see moves on, so that it never falls behind.

        One that is ahead of a store which answers comes from a map that is gone (a restored backup): it begins anew.
        """
        world = self.known()
        if since != world.position and _is_before(since, world.position):
            return self._answers.nothing(since, world.position)
        is_current = self._heard_at is not None and self._heard_at > begun and self.problem is None
        if since != world.position and seconds >= self.pace.doubt and is_current:
            return self._answers.complete(world, audience)
        return None

    # -- following -----------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            try:
                if self.world is None:
                    update: World | Delta | None = self.book.world()
                else:
                    update = self.book.wait(self.world.position, self.pace.wait)
                self._advance(update)
                pause = FIRST_PAUSE
            except Exception as error:
                self._note(error)
                self._stop.wait(pause * (0.5 + self._spread()))
                pause = min(LONGEST_PAUSE, 2 * pause)

    def _advance(self, update: World | Delta | None) -> None:
        if self.problem is not None:
            _log.info("the store answers again")
        self.problem = None
        self._heard_at = self._clock()
        if update is None:
            return
        if isinstance(update, World) or self._view is None:
            assert isinstance(update, World)
            self._view = _View(update)
        else:
            self._view = _View(self._view.world.apply(update), (*self._view.ring[1 - LONGEST_RING :], update))
        self._answers.forget()
        self._bell.ring()

    def _note(self, error: Exception) -> None:
        said = error.message if isinstance(error, SmartError) else type(error).__name__
        if self._stop.is_set():
            return
        if self.problem is None:
            if isinstance(error, Unavailable):
                _log.warning("following the map from memory: %s", said)
            else:
                _log.error("the map cannot be followed", exc_info=error)
        self.problem = said

    def _sweep(self) -> None:
        was_told = False
        while not self._stop.wait(self.pace.sweep * (0.75 + 0.5 * self._spread())):
            try:
                self.book.sweep()
                was_told = False
            except Unavailable:
                pass  # the follower tells of it
            except Exception:
                if not was_told:
                    _log.exception("leases cannot be swept")
                was_told = True

    def _watch_drain(self) -> None:
        while not self._stop.wait(self.pace.drain):
            if self._is_draining():
                self.release()
                return

    def _begin_anew(self) -> None:
        self._bell = Bell()
        self._starting, self._counting = threading.Lock(), threading.Lock()
        self._stop = threading.Event()
        self._threads = []
        self._answers = Answers(self.book.secrets)
        self.draining = False
        self.waiting = 0

    def __repr__(self) -> str:
        return f"<Follower of {self.world!r}, {self.waiting} waiting>"


def _is_before(one: Position, other: Position) -> bool:
    """Whether everything that `one` knows is known to `other` too."""
    return one.epoch == other.epoch and one.revision <= other.revision and one.presence <= other.presence
