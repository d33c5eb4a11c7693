"""Damping: an instance that comes and goes is taken back only after it has been there for a while.

Counted is how often an instance came back that had left without draining. Who drains before it stops, as in every deploy, is
never damped. Decided here, remembered by whoever asks; times are those of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

WINDOW_SECONDS = 300.0
FREE_RETURNS = 2
"""So many returns within the window are nobody's concern."""

_WAITS = (5.0, 15.0, 60.0)
LONGEST_WAIT = 300.0
_MOST_RETURNS = 16


def wait_for(returns: int) -> float:
    """Seconds that an instance has to be there after so many returns within the window."""
    beyond = returns - FREE_RETURNS
    if beyond <= 0:
        return 0.0
    if beyond <= len(_WAITS):
        return _WAITS[beyond - 1]
    return min(LONGEST_WAIT, _WAITS[-1] * 2.0 ** min(beyond - len(_WAITS), 16))


@dataclass(frozen=True, slots=True)
class Flaps:
    """How often one address came back, and until when it waits."""

    returns: tuple[float, ...] = ()
    """When it came back, oldest first."""
    until: float = 0.0
    left_at: float | None = None
    """When it left without draining; None while it is there, or after it drained."""

    def left(self, now: float) -> Flaps:
        """After it left without draining."""
        return Flaps(recent(self.returns, now), 0.0, now)

    def came(self, now: float) -> Flaps:
        """After it is there again."""
        returns = recent(self.returns, now)
        if self.left_at is not None:
            returns = (*returns, now)[-_MOST_RETURNS:]
        return Flaps(returns, now + wait_for(len(returns)))

    def parted(self, now: float) -> Flaps:
        """After it drained and left."""
        return Flaps(recent(self.returns, now))

    def begun_anew(self, now: float) -> Flaps:
        """After a pause of the one who watches: it is there, and how it came nobody saw."""
        returns = recent(self.returns, now)
        return Flaps(returns, now + wait_for(len(returns)))

    def waits(self, now: float) -> bool:
        """Whether it is there, and is kept out still."""
        return self.left_at is None and now < self.until

    def is_restless(self, now: float) -> bool:
        """Whether it waits, or would if it came back now."""
        if self.left_at is None:
            return self.waits(now)
        return wait_for(len(recent(self.returns, now)) + 1) > 0

    def is_over(self, now: float) -> bool:
        """Whether there is nothing left to remember."""
        times = self.returns if self.left_at is None else (*self.returns, self.left_at)
        return not self.waits(now) and not recent(times, now)

    def says(self) -> str:
        """Why it waits."""
        return (
            f"It came back {len(self.returns)} times within {WINDOW_SECONDS / 60:g} minutes without having drained, and is "
            f"taken back when it has been there for {wait_for(len(self.returns)):g} s"
        )


def recent(times: Iterable[float], now: float) -> tuple[float, ...]:
    """Those within the window."""
    return tuple(time for time in times if now - time < WINDOW_SECONDS)
