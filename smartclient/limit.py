"""How many calls to one service a process has under way at once: a fixed number, or one that follows how it goes."""

from __future__ import annotations

import threading

LEAST, FIRST, MOST = 4, 100, 1000
FASTEST_CUT_SECONDS = 0.1


class Limit:
    """A bound on the calls under way. With `fixed` it stays; otherwise it is cut by a tenth when the service shows that it
    is overloaded (no answer in time, 429, 503), at most ten times a second, and grows by one for each round of successes
    that used it at least half (additive increase, multiplicative decrease)."""

    __slots__ = ("_cut_at", "_fixed", "_lock", "_value", "under_way")

    def __init__(self, fixed: int | None = None) -> None:
        self._fixed = fixed
        self._value = float(fixed or FIRST)
        self._cut_at = -1.0
        self._lock = threading.RLock()  # a lease that is collected as garbage may leave in the middle of anything
        self.under_way = 0

    @property
    def value(self) -> int:
        """How many calls may be under way now."""
        return int(self._value)

    def enter(self) -> bool:
        """Take a place; False when there is none."""
        with self._lock:
            if self.under_way >= self._value:
                return False
            self.under_way += 1
            return True

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            self.under_way -= 1

    def learn(self, overloaded: bool, now: float) -> None:
        """Follow how an attempt ended."""
        if self._fixed is not None:
            return
        if overloaded:
            with self._lock:
                if now - self._cut_at >= FASTEST_CUT_SECONDS:
                    self._cut_at = now
                    self._value = max(LEAST, min(self._value, max(LEAST, 2 * self.under_way)) * 0.9)
        elif self.under_way * 2 >= self._value and self._value < MOST:
            with self._lock:
                self._value += 1 / self._value

    def begin_anew(self) -> None:
        """In a forked child: the calls under way are the parent's."""
        self._lock = threading.RLock()
        self.under_way = 0
