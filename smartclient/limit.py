"""How many calls to one service a process has under way at once: a fixed number, or one that follows how it goes."""

from __future__ import annotations

import threading

LEAST, MOST = 8, 1000
WINDOW_SECONDS = 0.5
LEAST_CALLS = 10
SIGNS = 0.2
"""Of the attempts that ended in a window: fewer are the trouble of one instance, or of one kind of request."""
CUT = 0.7


class Limit:
    """A bound on the calls under way. With `fixed` it stays.

    Otherwise there is practically none until a fifth of the attempts that ended in half a second shows that the service is
    overloaded (no answer in time, 429, 503). Then it is less than what is under way; it grows by one for each round of
    successes that used at least half of it (additive increase, multiplicative decrease).
    """

    __slots__ = ("_calls", "_fixed", "_lock", "_signs", "_until", "_value", "under_way")

    def __init__(self, fixed: int | None = None) -> None:
        self._fixed = fixed
        self._value = float(fixed or MOST)
        self._calls = self._signs = 0
        self._until = 0.0
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
        """Give the place back. In a forked child that of a call of the parent is no longer counted."""
        with self._lock:
            self.under_way = max(0, self.under_way - 1)

    def learn(self, overloaded: bool, now: float) -> None:
        """Follow how an attempt ended."""
        if self._fixed is not None:
            return
        with self._lock:
            if now >= self._until:
                self._judge()
                self._until, self._calls, self._signs = now + WINDOW_SECONDS, 0, 0
            self._calls += 1
            self._signs += overloaded
            if not overloaded and self.under_way * 2 >= self._value and self._value < MOST:
                self._value += 1 / self._value

    def _judge(self) -> None:
        if self._calls >= LEAST_CALLS and self._signs >= SIGNS * self._calls:
            self._value = max(LEAST, min(self._value, self.under_way + 1) * CUT)

    def begin_anew(self) -> None:
        """In a forked child: the calls under way are the parent's."""
        self._lock = threading.RLock()
        self.under_way = 0
