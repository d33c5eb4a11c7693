"""Following the map: one daemon thread that keeps a World current, and never forgets what it knew."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable

from atlas.directory import Directory
from atlas.remembered import RememberedWorld
from atlas.world import Delta, Position, World
from smartrealm import on_fork
from smartrealm.errors import Unavailable

WAIT_SECONDS = 25.0
"""How long one question may wait for news."""

FIRST_WAIT_SECONDS = 2.0
"""The same of the question after a failure: without news, too, it is soon known that the map answers again."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two questions while nobody answers; short, since registrations are to be right soon after an outage."""

PATIENCE = 0.5
"""Seconds for the first answer, before what is remembered stands in for it."""

_log = logging.getLogger("atlas")


class Reader:
    """A World in memory, brought up to date as soon as something changes.

    While the directory cannot be reached the last World stays in force: absence of news is never a removal. `remembered` keeps it
    for processes that start while the directory is away. Reading `world` takes no lock and no time. Safe from any thread; after a fork the child keeps the World and follows anew with its first
    `start()`. A reader that nobody holds any more ends its thread by itself, within one question.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        remembered: RememberedWorld | None = None,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = random.random,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self.world = World()
        self.failure: str | None = None
        """Why the last question was not answered; None when it was."""
        self._directory = directory
        self._remembered = remembered
        self._clock = clock
        self._spread = spread
        self._wait_seconds = wait_seconds
        self._heard_at: float | None = None
        self._news = threading.Condition()
        self._making = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._callbacks: list[Callable[[World, World], object]] = []
        on_fork(self, Reader._begin_anew)

    @property
    def heard(self) -> bool:
        """Whether the directory has answered at least once."""
        return self._heard_at is not None

    @property
    def ready(self) -> bool:
        """Whether there is a world to go by: one that was heard, or one that is remembered from an earlier process. The
        latter has no overrides."""
        return self._heard_at is not None or self.world.position != Position()

    @property
    def age_seconds(self) -> float | None:
        """How long ago the directory last answered, with or without news; None when it never did."""
        return None if self._heard_at is None else self._clock() - self._heard_at

    def start(self) -> Reader:
        """Follow the map from now on. Idempotent, and cheap when it runs already."""
        if self._thread is not None:
            return self
        with self._making:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(
                    target=_follow,
                    args=(weakref.ref(self), self._directory, self._stop),
                    name="atlas-reader",
                    daemon=True,
                )
                self._thread.start()
        return self

    def read(self) -> World:
        """Ask for the whole map now, in this thread, unless it is followed already. Raises what the directory raises."""
        if not self.heard or self._thread is None:
            self._take(self._directory.world())
        return self.world

    def wait_ready(self, seconds: float) -> bool:
        """Wait until there is a world to go by; False when there was none within `seconds`. One that is remembered is taken
        after half a second."""
        first = seconds if self._remembered is None else min(seconds, PATIENCE)
        with self._news:
            if self._news.wait_for(lambda: self.ready, first):
                return True
        self._recall()
        with self._news:
            return self._news.wait_for(lambda: self.ready, max(0.0, seconds - first))

    def wait_for(self, condition: Callable[[World], object], seconds: float) -> bool:
        """Wait until the World fulfils a condition; False when it did not within `seconds`."""
        with self._news:
            return bool(self._news.wait_for(lambda: condition(self.world), seconds))

    def raise_failure(self) -> None:
        """Raise Unavailable while the last question was not answered."""
        if self.failure is not None:
            raise Unavailable(self.failure)

    def on_update(self, callback: Callable[[World, World], object]) -> None:
        """Call `callback(old, new)` after each update, in the reader's thread. One that raises is logged."""
        self._callbacks.append(callback)

    def close(self) -> None:
        """Follow no more; the World stays readable. The directory is its opener's to close."""
        self._stop.set()
        with self._news:
            self._news.notify_all()

    def _ask(self) -> tuple[Directory, World, bool, float]:
        return self._directory, self.world, self.heard, self._wait_seconds

    def _heard(self, answer: World | Delta | None) -> None:
        if isinstance(answer, Delta):
            answer = self.world.apply(answer)
        if answer is not None:
            self._take(answer)
            return
        with self._news:
            self._heard_at, self.failure = self._clock(), None
            self._news.notify_all()

    def _take(self, world: World) -> None:
        with self._news:
            old, self.world = self.world, world
            self._heard_at, self.failure = self._clock(), None
            self._news.notify_all()
        for callback in tuple(self._callbacks):
            try:
                callback(old, world)
            except Exception:
                _log.exception("what follows the map could not take an update")
        if self._remembered is not None:  # last: with a large map it takes a tenth of a second
            self._remembered.save(world)

    def _recall(self) -> None:
        """Go by what is remembered, as long as nothing was heard."""
        remembered = None if self.ready or self._remembered is None else self._remembered.load()
        if remembered is None:
            return
        with self._news:
            if not self.heard:
                self.world = remembered
                self._news.notify_all()

    def _failed(self, error: Exception, failures: int) -> None:
        self._recall()
        with self._news:
            self.failure = str(error) or type(error).__name__
            self._news.notify_all()
        if failures == 1:
            _log.warning("the map cannot be followed, going on with what is known: %s", self.failure)

    def _begin_anew(self) -> None:
        self._news = threading.Condition()
        self._making = threading.Lock()
        stopped, self._stop = self._stop.is_set(), threading.Event()
        if stopped:
            self._stop.set()
        self._thread = None

    def __repr__(self) -> str:
        return f"<Reader of {self._directory!r} at {self.world.position}>"


def pause(failures: int, spread: Callable[[], float]) -> float:
    """Seconds until the next question after so many failures in a row: doubling, between half and all of it."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + spread() / 2)


def _follow(reference: weakref.ref[Reader], directory: Directory, stop: threading.Event) -> None:
    failures, pid = 0, os.getpid()
    while (reader := reference()) is not None and not stop.is_set() and os.getpid() == pid:
        _, world, ready, seconds = reader._ask()
        spread = reader._spread
        if failures:
            seconds = min(seconds, FIRST_WAIT_SECONDS)
        del reader  # nothing may keep the reader alive while this thread waits
        answer: World | Delta | Exception | None
        try:
            answer = directory.wait(world.position, seconds) if ready else directory.world()
        except Exception as error:
            answer = error
        reader = reference()
        if reader is None or stop.is_set():
            return
        if isinstance(answer, Exception):
            failures += 1
            reader._failed(answer, failures)
        else:
            if failures:
                _log.info("the map is followed again")
            failures = 0
            reader._heard(answer)
        del reader, answer
        if failures and stop.wait(pause(failures, spread)):
            return
