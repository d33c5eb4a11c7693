"""A bounded queue with one daemon sender thread: work that must never slow a request, nor keep a process alive.

The thread belongs to one process: a fork begins with an empty queue and starts its own when it has something to send.
It ends by itself when nothing came for a while, so an outbox that is dropped leaves nothing behind.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from smartrealm import on_fork

T = TypeVar("T")

EXIT_SECONDS = 1.25
"""How long a process that ends waits for what is still queued, over all its outboxes."""

_COMPLAIN_EVERY = 60.0

_open: weakref.WeakSet[Outbox[object]] = weakref.WeakSet()
_logger = logging.getLogger(__name__)


class Outbox(Generic[T]):
    """Hands items to `send` in a thread of its own, in order. What does not fit is dropped, counted and logged.

    Nothing is retried. `send` should give up by itself within seconds; an error from it counts as one item lost.
    """

    def __init__(
        self,
        send: Callable[[T], object],
        *,
        limit: int = 100,
        idle_seconds: float = 10.0,
        name: str = "outbox",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._name = name
        self._clock = clock
        self._closed = False
        self._begin_anew()
        on_fork(self, Outbox._begin_anew)

    def _begin_anew(self) -> None:
        self._changed = threading.Condition()
        self._items: deque[T] = deque()
        self._thread: threading.Thread | None = None
        self._sending = False
        self._lost = 0
        self._complained_at = -_COMPLAIN_EVERY
        self._untold = 0

    @property
    def lost(self) -> int:
        """How many items this process has dropped or failed to send."""
        return self._lost

    def has_room(self) -> bool:
        """Whether an item fits now; when not, one counts as lost: ask before costly work."""
        if len(self._items) < self._limit and not self._closed:
            return True
        self._lose("the queue is full")
        return False

    def put(self, item: T) -> bool:
        """Queue an item; False when it was dropped. Never waits."""
        with self._changed:
            fits = len(self._items) < self._limit and not self._closed and self._has_sender()
            if fits:
                self._items.append(item)
                self._changed.notify_all()
        if not fits:
            self._lose("the queue is full")
        return fits

    def flush(self, seconds: float) -> bool:
        """Wait until everything is sent, at most `seconds`; whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or not (self._items or self._sending), seconds)

    def close(self, seconds: float = EXIT_SECONDS) -> None:
        """Send what is queued within `seconds`, drop the rest, end the thread. Idempotent."""
        self.flush(seconds)
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
        _open.discard(self)  # type: ignore[arg-type]

    def _has_sender(self) -> bool:
        if self._thread is not None:
            return True
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending
            return False
        self._thread = thread
        if not _open:
            atexit.unregister(_flush_all)
            atexit.register(_flush_all)
        _open.add(self)  # type: ignore[arg-type]
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._items or self._closed, self._idle_seconds) or self._closed:
                    self._thread = None
                    return
                item = self._items.popleft()
                self._sending = True
            try:
                self._send(item)
            except Exception as error:
                self._lose(f"{type(error).__name__} while sending")
            del item
            with self._changed:
                self._sending = False
                self._changed.notify_all()

    def _lose(self, reason: str) -> None:
        with self._changed:
            self._lost += 1
            self._untold += 1
            now = self._clock()
            if now - self._complained_at < _COMPLAIN_EVERY:
                return
            self._complained_at, count, self._untold = now, self._untold, 0
        _logger.warning("%s: %d lost, %s", self._name, count, reason)


def _flush_all() -> None:
    end = time.monotonic() + EXIT_SECONDS
    for outbox in tuple(_open):
        outbox.flush(max(0.0, end - time.monotonic()))
