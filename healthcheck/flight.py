"""One run of a function in a thread of its own, for which any number of threads may wait, each with a limit.

Python cannot end a thread, and signals work in the main thread only. So a run that misses its time is left behind, and
whoever started it must not start another before `landed`: that is what keeps it at one thread per hung check.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Flight(Generic[T]):
    """Runs `work()` in a daemon thread, in `context` (an empty one unless given)."""

    def __init__(self, work: Callable[[], T], *, name: str, context: contextvars.Context | None = None) -> None:
        self._done = threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._work: Callable[[], T] | None = work
        self._context = contextvars.Context() if context is None else context
        self._thread = threading.Thread(target=self._fly, name=name, daemon=True)

    def start(self) -> Flight[T]:
        """Begin. Raises RuntimeError when the system gives no thread."""
        self._thread.start()
        return self

    @property
    def landed(self) -> bool:
        """Whether the work is over (also because its thread did not survive a fork)."""
        return self._done.is_set() or not self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether the work was over within `seconds` (None: however long it takes)."""
        return self._done.wait(seconds)

    def result(self) -> T:
        """What the work returned; raises what it raised. Only after it has landed."""
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _fly(self) -> None:
        work, self._work = self._work, None
        assert work is not None
        try:
            self._result.append(self._context.run(work))
        except BaseException as error:  # SystemExit too: nobody above this frame could hear it
            self._error = error
        finally:
            self._done.set()
