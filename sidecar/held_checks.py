"""Asking the instances that the guard holds whether they live: slowly, and only while there are such.

An instance that is gone from the map and does not answer either is gone. One that answers is held on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from sidecar.checks import Answer, ask_once
from sidecar.model import Guard

EACH_SECONDS = 5.0
"""Between two questions to one instance."""

PAUSE_SECONDS = 0.05
"""Between two questions at all: a wiped map holds thousands, and every host asks."""

MOST_SILENT = 2
"""So many questions in a row go unanswered before an instance counts as silent."""

_IDLE_SECONDS = 1.0


class HeldChecks:
    """One daemon thread; from it `silent(service, address)` is called for an instance that does not answer, `answered` for one
    that does."""

    def __init__(
        self,
        guards: Callable[[], Mapping[str, Guard]],
        silent: Callable[[str, str], object],
        answered: Callable[[str, str], object],
        *,
        ask: Callable[[str, int], Answer] = ask_once,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._guards = guards
        self._silent = silent
        self._answered = answered
        self._ask = ask
        self._clock = clock
        self._seen: Mapping[str, Guard] = {}
        self._queue: deque[tuple[str, str]] = deque()
        self._due: dict[tuple[str, str], float] = {}
        self._missed: dict[tuple[str, str], int] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> HeldChecks:
        """Begin. Idempotent."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sidecar-held", daemon=True)
            self._thread.start()
        return self

    def close(self) -> None:
        self._stop.set()

    def turn(self) -> float:
        """Ask the one that was asked longest ago, if it is due; gives the seconds until the next question."""
        self._look(self._guards())
        if not self._queue:
            return _IDLE_SECONDS
        now, key = self._clock(), self._queue[0]
        wait = self._due.get(key, now) - now
        if wait > 0:
            return min(wait, _IDLE_SECONDS)
        self._queue.rotate(-1)
        self._due[key] = now + EACH_SECONDS
        self._note(key)
        return PAUSE_SECONDS

    def _look(self, guards: Mapping[str, Guard]) -> None:
        """Take over what is held now; those who are new come first."""
        if guards is self._seen:
            return
        self._seen = guards
        held = {(service, address) for service, guard in guards.items() for address in guard.addresses}
        known = [key for key in self._queue if key in held]
        self._queue = deque([*sorted(held.difference(known)), *known])
        self._due = {key: due for key, due in self._due.items() if key in held}
        self._missed = {key: missed for key, missed in self._missed.items() if key in held}

    def _note(self, key: tuple[str, str]) -> None:
        service, address = key
        host, _, port = address.rpartition(":")
        answer = self._ask(host.strip("[]"), int(port))
        # An answer of any kind is a sign of life: whether it is a good one, HAProxy sees for itself.
        self._missed[key] = 0 if answer.ok or answer.status is not None else self._missed.get(key, 0) + 1
        if self._missed[key] >= MOST_SILENT:
            self._silent(service, address)
        elif self._missed[key] == 0:
            self._answered(service, address)

    def _run(self) -> None:
        while not self._stop.wait(self.turn()):
            pass


def held_addresses(guards: Iterable[Guard]) -> int:
    """How many instances are held in all."""
    return sum(len(guard.addresses) for guard in guards)
