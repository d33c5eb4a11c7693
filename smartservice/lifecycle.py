"""Whether this instance is draining, what its workers are busy with, and what to close when a process ends.

An *instance* is one gunicorn master with its workers. They share a `Board`, made before the first fork, so that all of
them turn to draining at the same moment and each can tell how every other one is. Outside of gunicorn there is no
board, and a Lifecycle speaks for its own process alone.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from smartrealm import on_fork

_FIELDS = 6  # pid, beat, busy, capacity, oldest, newest
_ROWS = 128
_SILENT_AT_LEAST = 10.0
_STOPPING: tuple[Literal["no", "gracefully", "quickly"], ...] = ("no", "gracefully", "quickly")
_shared: Board | None = None


@dataclass(frozen=True)
class Worker:
    """What one worker last wrote about itself; times are of the monotonic clock, which all processes of a host share."""

    pid: int
    beat: float  # when it wrote this; 0 while it is still starting
    busy: int
    capacity: int
    oldest: float  # when the request began that has been running longest
    newest: float  # when the request began that was begun last

    def is_ready(self) -> bool:
        """Whether its app is loaded and it takes requests."""
        return self.beat > 0

    def trouble(self, now: float, seconds: float) -> str | None:
        """What is wrong with this worker, as a sentence, or None.

        It is wedged when every thread is busy and no request was begun for `seconds`: a thread that had finished one in
        that time would be idle now or would have begun another. So one long request beside free threads is no trouble.
        It is silent when it has not written for `seconds` (and at least ten), although it had started.
        """
        if seconds <= 0 or not self.is_ready():
            return None
        if self.capacity and self.busy >= self.capacity and now - self.newest > seconds:
            return f"worker {self.pid} is wedged: all {self.capacity} threads busy, none finished for {now - self.newest:.0f} s"
        if now - self.beat > max(seconds, _SILENT_AT_LEAST):
            return f"worker {self.pid} gave no sign of life for {now - self.beat:.0f} s"
        return None


class Board:
    """One shared page: the drain flag, the stop flag and a row for each worker. Each row has one writer and any number of readers.

    There are no locks in it: a process that dies leaves nothing behind. The page must be made before the fork.
    """

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, 8 * (1 + _FIELDS * _ROWS))
        self._numbers = memoryview(self._page).cast("d")

    @property
    def draining(self) -> bool:
        return self._page[0] != 0

    def begin_draining(self) -> None:
        self._page[0] = 1

    @property
    def stopping(self) -> Literal["no", "gracefully", "quickly"]:
        """Whether the master has told its workers to end."""
        return _STOPPING[self._page[1]]

    def begin_stopping(self, *, quick: bool) -> None:
        """Note that the workers are told to end, for one that does not listen to signals yet."""
        self._page[1] = max(self._page[1], 2 if quick else 1)

    def claim(self) -> int | None:
        """A free row for a worker about to be forked (call in the master); None when all are taken."""
        for row in range(_ROWS):
            if self._numbers[self._at(row)] == 0:
                self.write(row, Worker(-1, 0, 0, 0, 0, 0))
                return row
        return None

    def release(self, row: int) -> None:
        """Free the row of a worker that has ended (call in the master)."""
        self.write(row, Worker(0, 0, 0, 0, 0, 0))

    def write(self, row: int, worker: Worker) -> None:
        fields = (worker.pid, worker.beat, worker.busy, worker.capacity, worker.oldest, worker.newest)
        for at, value in enumerate(fields, self._at(row)):
            self._numbers[at] = value

    def workers(self) -> list[Worker]:
        """Every worker that has a row, those that are still starting included."""
        found = []
        for row, used in enumerate(self._numbers[1::_FIELDS].tolist()):
            if used:
                at = self._at(row)
                pid, beat, busy, capacity, oldest, newest = self._numbers[at : at + _FIELDS].tolist()
                found.append(Worker(int(pid), beat, int(busy), int(capacity), oldest, newest))
        return found

    @staticmethod
    def _at(row: int) -> int:
        return 1 + row * _FIELDS


def share() -> Board:
    """The board of this instance; the first call makes it, in the gunicorn master, before anything is forked."""
    global _shared
    if _shared is None:
        _shared = Board()
    return _shared


def shared() -> Board | None:
    """The board of this instance, or None outside of gunicorn."""
    return _shared


class Desk:
    """What the workers of one instance share: made in the master before the first fork."""

    def __init__(self) -> None:
        self.incarnation = os.urandom(8).hex()
        self.pid = os.getpid()
        """Of the master, whose end is the end of the instance."""
        self._lock, path = tempfile.mkstemp(prefix="smartservice-")  # open as long as the instance lives
        os.unlink(path)

    def is_mine(self) -> bool:
        """Whether this process is the one that speaks for the instance; the first to ask is, until it ends."""
        try:
            # Of the two kinds of locks this is the one that belongs to a process, not to the file that was inherited.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def note(self, text: str) -> None:
        """Leave a word for the master, which does not see what its workers know."""
        if text != self.noted():
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, text.encode(), 0)

    def noted(self) -> str:
        """The word that was left last; empty while there is none."""
        return os.pread(self._lock, 4096, 0).decode()


class Lifecycle:
    """Begin, work, drain, close: the life of one app in one process. Cheap enough for every request."""

    def __init__(self, *, board: Board | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._own_board = board
        self._clock = clock
        self._draining = False
        self._started: dict[int, float] = {}
        self._nested: dict[int, int] = {}
        self._callbacks: list[Callable[[], object]] = []
        on_fork(self, Lifecycle._begin_anew)

    @property
    def draining(self) -> bool:
        """Whether this instance is about to stop: readiness is red, requests are still served."""
        if self._draining:
            return True
        board = self._own_board or _shared
        return board is not None and board.draining

    def begin_draining(self) -> None:
        """Turn readiness red, in every worker of the instance at once. There is no way back."""
        self._draining = True
        board = self._own_board or _shared
        if board is not None:
            board.begin_draining()

    def enter(self) -> None:
        """Note that the current thread begins a request. One inside of another on the same thread counts as one."""
        ident = threading.get_ident()
        if ident in self._started:
            self._nested[ident] = self._nested.get(ident, 0) + 1
        else:
            self._started[ident] = self._clock()

    def leave(self) -> None:
        """Note that the current thread has ended its request."""
        ident = threading.get_ident()
        if self._nested and ident in self._nested:
            depth = self._nested.pop(ident) - 1
            if depth:
                self._nested[ident] = depth
            return
        self._started.pop(ident, None)

    def busy(self) -> int:
        """How many threads of this process are serving a request now."""
        return len(self._started)

    def row(self, capacity: int) -> Worker:
        """What this process writes about itself on the board; `capacity` is how many requests it can serve at once."""
        began = self._started.copy().values()
        return Worker(
            os.getpid(), self._clock(), len(began), capacity, min(began, default=0.0), max(began, default=0.0)
        )

    def not_ready(self) -> str | None:
        """Why this instance is to get no new requests, or None: the gate of readiness."""
        return "draining: this instance is about to stop" if self.draining else None

    def not_live(self, seconds: float) -> str | None:
        """Which workers of the instance are wedged or silent for `seconds`, or None: the gate of liveness.

        Every worker answers for all of them, so that a probe sees a wedged one whichever worker it reaches. None outside
        of gunicorn, where nobody knows how many requests can be served at once.
        """
        board = self._own_board or _shared
        if board is None:
            return None
        now = self._clock()
        found = [sentence for worker in board.workers() if (sentence := worker.trouble(now, seconds)) is not None]
        return "; ".join(found) or None

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call `callback()` in `close()`; the last one registered is called first."""
        self._callbacks.append(callback)

    def close(self) -> None:
        """Call what was registered, each callback once, the last first. One that raises is logged, the others go on."""
        while self._callbacks:
            callback = self._callbacks.pop()
            try:
                callback()
            except Exception:
                logging.getLogger("smartservice").exception("could not close %r", callback)

    def _begin_anew(self) -> None:
        self._started = {}
        self._nested = {}
