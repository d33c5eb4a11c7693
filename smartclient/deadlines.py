"""Until when: one moment for a call and everything that is done for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from smartrealm.headers import CallContext, current_call, enter_call, leave_call, new_request_id


@contextmanager
def deadline(seconds: float) -> Iterator[float]:
    """Everything that is called within the block ends after `seconds` in all, or with the deadline around it if that is
    sooner. Gives the moment, of `time.monotonic()`.

    Calls to services, to plain URLs, SQL and Redis of a smart service keep to it; it interrupts no other work.
    """
    if not seconds >= 0:
        raise ValueError(f"A deadline is a number of seconds from now, not {seconds!r}.")
    moment = time.monotonic() + seconds
    around = current_call()
    if around is not None and around.deadline is not None:
        moment = min(moment, around.deadline)
    context = CallContext(new_request_id(), deadline=moment) if around is None else replace(around, deadline=moment)
    token = enter_call(context)
    try:
        yield moment
    finally:
        leave_call(token)


def moment_of(seconds: float | None, default: float, context: CallContext | None, now: float) -> float:
    """When a call has to be done: `seconds` from now, else `default` from now; never later than its context allows."""
    if seconds is not None and not seconds >= 0:
        raise ValueError(f"A deadline is a number of seconds from now, not {seconds!r}.")
    moment = now + (default if seconds is None else seconds)
    if context is not None and context.deadline is not None and context.deadline < moment:
        return context.deadline
    return moment
