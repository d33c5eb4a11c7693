"""What is left of the caller's time, asked before each statement and each command that this service sends.

The deadline is that of the current call (`smartrealm.current_call()`): of the request, of the threads that took its
context along, and of nobody else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from smartrealm.headers import current_call, enter_call, leave_call

SHORTEST = 0.001
"""Seconds: what is shorter counts as no time at all (timeouts are told to servers and sockets in milliseconds)."""


def deadline() -> float | None:
    """The moment of `time.monotonic()` at which the caller stops waiting; None when it did not say."""
    call = current_call()
    return None if call is None else call.deadline


def seconds_left() -> float | None:
    """What is left of the caller's time, negative when it is used up; None without a deadline."""
    moment = deadline()
    return None if moment is None else moment - time.monotonic()


def is_passed() -> bool:
    """Whether there is a deadline and it has passed."""
    left = seconds_left()
    return left is not None and left < SHORTEST


@contextmanager
def ignored() -> Iterator[None]:
    """For what must be put in order even when nobody waits any more (a lock given back): no deadline in this block."""
    call = current_call()
    if call is None or call.deadline is None:
        yield
        return
    token = enter_call(replace(call, deadline=None))
    try:
        yield
    finally:
        leave_call(token)
