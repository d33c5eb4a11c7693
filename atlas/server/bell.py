"""Waking very many threads without a stampede."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

AT_ONCE = 8
"""Threads that a ring wakes itself. Each of them wakes the next one, so about as many want to run at any moment.

Five hundred threads that all want the interpreter at once spend most of their time in asking for it: a
`Condition.notify_all` took three times as long for the same work.
"""


class _Sleeper:
    __slots__ = ("gone", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.gone = False


class Bell:
    """Threads sleep until the bell rings. Nobody misses a ring: one counts, and a sleeper says up to which it has heard."""

    def __init__(self, *, at_once: int = AT_ONCE, clock: Callable[[], float] = time.monotonic) -> None:
        self.rings = 0
        self._at_once = at_once
        self._clock = clock
        self._lock = threading.Lock()
        self._sleeping: dict[int, _Sleeper] = {}
        self._called: deque[_Sleeper] = deque()

    def ring(self) -> None:
        """Wake everybody who sleeps now."""
        with self._lock:
            self.rings += 1
            self._called.extend(self._sleeping.values())
            self._sleeping.clear()
        for _ in range(self._at_once):
            self._wake_one()

    def sleep(self, heard: int, seconds: float) -> None:
        """Return when the bell has rung more often than `heard`, at once if it has already, and after `seconds` anyway."""
        if self.rings != heard:
            return
        sleeper = _Sleeper()
        with self._lock:
            if self.rings != heard:
                return
            self._sleeping[id(sleeper)] = sleeper
        try:
            sleeper.lock.acquire(timeout=max(0.0, seconds))
        finally:
            with self._lock:
                sleeper.gone = True
                self._sleeping.pop(id(sleeper), None)
            self._wake_one()

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        """Return when `condition()` is true, looked at after each ring, and after `seconds` anyway."""
        end = self._clock() + seconds
        while True:
            heard = self.rings
            left = end - self._clock()
            if condition() or left <= 0:
                return
            self.sleep(heard, left)

    def _wake_one(self) -> None:
        with self._lock:
            while self._called:
                sleeper = self._called.popleft()
                if not sleeper.gone:  # one that went by itself would not wake the next
                    sleeper.gone = True
                    sleeper.lock.release()
                    return
