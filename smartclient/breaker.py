"""The breaker of one service: when most calls fail, callers are told at once, and one of them at a time tries it out."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class Settings:
    """When it opens, and for how long."""

    failure_rate: float = 0.5
    least_calls: int = 10
    window_seconds: float = 10.0
    most_calls: int = 100
    """The window holds no more: the rate is that of the last hundred calls, or of the last ten seconds."""
    newest_calls: int = 20
    newest_failure_rate: float = 0.8
    """A sudden outage does not wait until it outweighs the good calls before it."""
    clean_failure_rate: float = 0.1
    """Where no more of the calls before the newest ones failed, the change is sudden: then `failure_rate` of the newest is
    enough. A service that always fails a little reaches that by chance."""
    open_seconds: float = 0.5
    longest_open_seconds: float = 2.0
    """Short on purpose: a probe costs one call, and a service that is well again should be used at once."""
    probe_seconds: float = 30.0
    """After this long a probe that never came back is given up."""


class Breaker:
    """Counts failures of the last seconds. Closed: all calls pass. Open: none. Half-open: exactly one, the probe.

    `enter` before each attempt, then `leave` with what it gave. Safe from any thread; takes about a microsecond.
    """

    __slots__ = (
        "_failures",
        "_lock",
        "_outcomes",
        "_probe_until",
        "_settings",
        "_spread",
        "_times_opened",
        "_until",
        "state",
    )

    def __init__(self, settings: Settings | None = None, *, spread: Callable[[], float] = random.random) -> None:
        self._settings = settings or Settings()
        self._spread = spread
        self._lock = threading.Lock()
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._until = 0.0
        self._probe_until: float | None = None
        self._times_opened = 0
        self.state: State = "closed"

    def enter(self, now: float) -> Literal["pass", "probe"] | None:
        """Whether a call may go; None: it may not. A `probe` must be given back to `leave` or `cancel`."""
        if self.state == "closed":
            return "pass"
        with self._lock:
            if self._is_closed():  # by now
                return "pass"
            if now < self._until or (self._probe_until is not None and now < self._probe_until):
                return None
            self.state = "half-open"
            self._probe_until = now + self._settings.probe_seconds
            return "probe"

    def leave(self, permit: str, failed: bool, now: float) -> State | None:
        """Count an outcome; gives the new state when that changed it."""
        with self._lock:
            if permit == "probe":
                return self._judge_probe(failed, now)
            if self.state != "closed":
                return None
            outcomes, settings = self._outcomes, self._settings
            outcomes.append((now, failed))
            self._failures += failed
            oldest = now - settings.window_seconds
            while outcomes[0][0] < oldest or len(outcomes) > settings.most_calls:
                self._failures -= outcomes.popleft()[1]
            if failed and self._is_failing():
                self._open(now)
                return "open"
            return None

    def cancel(self, permit: str) -> None:
        """The attempt says nothing about the service: it was not sent, or nobody waited for its end."""
        if permit == "probe":
            with self._lock:
                self._probe_until = None

    def begin_anew(self) -> None:
        """In a forked child: another thread of the parent may have held the lock, and the probe is the parent's."""
        self._lock = threading.Lock()
        self._probe_until = None

    def seconds_left(self, now: float) -> float:
        """Until the next probe; 0 when calls pass."""
        return 0.0 if self.state == "closed" else max(0.0, self._until - now)

    def _is_failing(self) -> bool:
        outcomes, settings = self._outcomes, self._settings
        count = len(outcomes)
        if count >= settings.least_calls and self._failures >= settings.failure_rate * count:
            return True
        if count < settings.newest_calls:
            return False
        newest = sum(outcomes[at][1] for at in range(-settings.newest_calls, 0))
        before = self._failures - newest
        was_clean = before <= settings.clean_failure_rate * (count - settings.newest_calls)
        rate = settings.failure_rate if was_clean else settings.newest_failure_rate
        return newest >= rate * settings.newest_calls

    def _is_closed(self) -> bool:
        return self.state == "closed"

    def _judge_probe(self, failed: bool, now: float) -> State:
        self._probe_until = None
        if failed:
            self._open(now)
            return "open"
        self._times_opened = 0
        self.state = "closed"
        return "closed"

    def _open(self, now: float) -> None:
        settings = self._settings
        seconds = min(settings.longest_open_seconds, settings.open_seconds * 2.0 ** min(self._times_opened, 16))
        self._until = now + seconds * (0.8 + 0.4 * self._spread())
        self._times_opened += 1
        self._outcomes.clear()
        self._failures = 0
        self.state = "open"
