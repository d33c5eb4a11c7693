"""HAProxy's file follows what HAProxy was told: a while after it, many changes at once, in a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from smartrealm.errors import SmartError

FILE_SECONDS = 0.5
"""How long after a change the file is written, so that many changes are one write."""

AGAIN_SECONDS = 5.0
"""Until it is tried again to write a file that could not be written."""

LOOK_SECONDS = 0.05
"""How often it is looked whether a write has ended that another one waits for."""

_log = logging.getLogger("sidecar")

Work = Callable[[], object]
Begin = Callable[[Callable[[], float]], "Future[float]"]
"""Runs something in another thread, one after the other."""


class Filing:
    """Writes when it is time. The next change does not wait for that: a thousand services take a tenth of a second to write,
    and a busy disk may take as long as it likes. For one thread; `begin` runs the writing in another.
    """

    def __init__(self, *, clock: Callable[[], float], begin: Begin | None = None) -> None:
        self.failure = ""
        """Why the file could not be written; empty: it was."""
        self._clock = clock
        self._begin = begin or ThreadPoolExecutor(1, "sidecar-files").submit
        self._seconds = FILE_SECONDS
        self._due_at: float | None = None
        self._running: Future[float] | None = None

    @property
    def next_at(self) -> float | None:
        """When there is something to do."""
        if self._due_at is None or self._running is None:
            return self._due_at
        return max(self._due_at, self._clock() + LOOK_SECONDS)

    def changed(self) -> None:
        """The file is to be written soon."""
        self._due_at = self._due_at or self._clock() + self._seconds

    def begin_when_due(self, write: Callable[[], Work]) -> None:
        """Begin what `write()` gives, when it is time and nothing else is being written."""
        if self._running is not None:
            if not self._running.done():
                return
            self._end()
        if self._due_at is not None and self._clock() >= self._due_at:
            self._due_at = None
            work = write()
            self._running = self._begin(lambda: self._do(work))

    def settle(self) -> None:
        """Wait until nothing is being written, and forget what was to be: the caller writes the file himself."""
        if self._running is not None:
            self._end()
        self._due_at = None

    def _do(self, work: Work) -> float:
        """Write, in the other thread; gives when it is to be tried again, 0 when it need not be."""
        began = self._clock()
        try:
            work()
        except Exception as error:
            self.failure = error.message if isinstance(error, SmartError) else f"{type(error).__name__}: {error}"
            _log.error("HAProxy's file could not be written, trying again: %s", self.failure)
            return self._clock() + AGAIN_SECONDS
        self.failure = ""
        # At most a twentieth of the time goes into it.
        self._seconds = max(FILE_SECONDS, 20 * (self._clock() - began))
        return 0.0

    def _end(self) -> None:
        assert self._running is not None
        again_at, self._running = self._running.result(), None
        if again_at:
            self._due_at = again_at
