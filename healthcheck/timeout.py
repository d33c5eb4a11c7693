"""A limit on how long a function may take, in any thread and any worker class: no signals."""

from __future__ import annotations

import contextvars
import errno
import os
import threading
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from healthcheck.flight import Flight


class TimeoutError(Exception):
    """The function did not end in time."""


def timeout(
    seconds: float = 2, error_message: str = os.strerror(getattr(errno, "ETIME", errno.ETIMEDOUT))
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function to raise TimeoutError(error_message) when a call takes longer than `seconds`.

    The call runs in a helper thread, in a copy of the caller's context. Python cannot end a thread, so a call that
    hangs is left behind; while it hangs, further calls raise at once instead of leaving more threads behind.
    """

    def decorator(func: Callable[..., Any]) -> Callable[..., Any]:
        hanging: list[Flight[Any]] = []
        lock = threading.Lock()

        @wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with lock:
                hanging[:] = [flight for flight in hanging if not flight.landed]
                if hanging:
                    raise TimeoutError(error_message)
            flight = Flight(
                partial(func, *args, **kwargs), name=f"timeout-{_name(func)}", context=contextvars.copy_context()
            ).start()
            if flight.wait(seconds):
                return flight.result()
            with lock:
                hanging.append(flight)
            raise TimeoutError(error_message)

        return wrapper

    return decorator


def _name(func: object) -> str:
    return str(getattr(func, "__name__", type(func).__name__))
