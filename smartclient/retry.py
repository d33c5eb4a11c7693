"""Whether a call is tried again, and when: one pure function over what is known of the failure."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

IDEMPOTENT = frozenset(["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
"""Methods that may be executed twice (RFC 9110, section 9.2.2)."""

REPEATABLE_STATUSES = frozenset([429, 502, 503, 504])
"""Answers by which a service says that it did not do the work, or may do it another time."""

NEVER_SENT = frozenset(["refused", "connect-timeout", "empty", "unreached"])
"""No instance has got the request. The last two are words of a sidecar."""

NEVER_REPEATED = frozenset(["name", "tls", "cancelled"])

FIRST_PAUSE_SECONDS = 0.025
LONGEST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every attempt of one call."""

    retries: int
    """How often it may be tried again."""
    idempotent: bool
    """By its method, or because the call has an idempotency key."""
    replayable: bool
    """Whether its body can be sent a second time."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt failed."""

    number: int
    """Of the attempt, counted from 1."""
    outcome: str
    """A word of `Attempt.outcome`."""
    body_touched: bool = False
    """Whether a part of a body that cannot be replayed is gone."""
    retry_after_seconds: float | None = None
    told_not_to: bool = False
    """The answer says that the failure lies further down, where it was retried."""
    elsewhere: bool = False
    """Whether another instance can be tried that has not failed this call."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Try again after `pause` seconds, or not, and why not."""

    again: bool
    pause: float = 0.0
    why: str = ""


def decide(
    rules: Rules, failure: Failure, left_seconds: float, *, spread: Callable[[], float] = random.random
) -> Decision:
    """Whether to try again, of a call that has `left_seconds` until its deadline. The budget is asked afterwards."""
    if failure.number > rules.retries:
        return Decision(False, why="retries used up")
    if failure.outcome in NEVER_REPEATED:
        return Decision(False, why="not a failure that passes")
    if failure.told_not_to:
        return Decision(False, why="retried further down")
    if failure.outcome not in NEVER_SENT and not rules.idempotent:
        return Decision(False, why="may have been executed")
    if failure.body_touched and not rules.replayable:
        return Decision(False, why="the body cannot be sent again")
    pause = pause_before(failure, spread)
    if pause >= left_seconds:
        return Decision(False, why="the deadline would pass first")
    return Decision(True, pause)


def pause_before(failure: Failure, spread: Callable[[], float] = random.random) -> float:
    """Seconds to wait before the next attempt.

    Full jitter over a doubling limit. None at all for an instance that could not be reached while another one can be asked.
    What the answer asks for counts, unless an instance spoke for itself alone (503) and there is another one.
    """
    if failure.elsewhere and failure.outcome in NEVER_SENT:
        return 0.0
    limit = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failure.number - 1, 16))
    return max(limit * spread(), failure.retry_after_seconds or 0.0)


def read_retry_after(header: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for: a number or an HTTP date (`now` is the time of day); None: nothing."""
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:12])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
