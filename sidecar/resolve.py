"""Addresses of host names, looked up in the background: whoever asks never waits."""

from __future__ import annotations

import heapq
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sidecar.usable import literal

REFRESH_SECONDS = 30.0
"""How often each name is looked up again."""
FIRST_RETRY_SECONDS = 1.0
"""After a name had no answer; doubling, up to the above."""
FORGET_SECONDS = 3600.0
"""A name for which nobody has asked for so long is looked up no more."""
THREADS = 4
"""How many names are looked up at once: a name server that hangs on one name may not hold up all the others."""

_log = logging.getLogger("sidecar")


def look_up(name: str) -> list[str]:
    """The addresses of a name, as the system knows them. Raises OSError. Bounded by the system's own time limits."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def best_first(answers: Iterable[str]) -> list[str]:
    """Those that can be called, the one to be taken first: the smallest IPv4 address, else the smallest IPv6 address."""
    found = {address for text in answers if (address := literal(text)) is not None}
    return sorted(found, key=lambda address: (":" in address, address))


@dataclass(slots=True)
class _Entry:
    asked_at: float
    address: str | None = None
    failures: int = 0


class Resolver:
    """A cache of names. `resolve` takes no time; `changed` is called, in a thread of the resolver, when an answer is new or
    another one than before. While the name server is away, the last answers stay.

    Of several addresses the one in use is kept as long as it is among them, else the smallest IPv4 address is taken, else the
    smallest IPv6 address: a name server that shuffles its answers changes nothing. Safe from any thread.
    """

    def __init__(
        self,
        changed: Callable[[], object] = lambda: None,
        *,
        look_up: Callable[[str], Iterable[str]] = look_up,
        clock: Callable[[], float] = time.monotonic,
        threads: int = THREADS,
    ) -> None:
        self._changed = changed
        self._look_up = look_up
        self._clock = clock
        self._most_threads = threads
        self._entries: dict[str, _Entry] = {}
        self._due: list[tuple[float, str]] = []
        self._news = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def resolve(self, name: str) -> str | None:
        """The address of a name; None until it is known."""
        now = self._clock()
        with self._news:
            entry = self._entries.get(name)
            if entry is not None:
                entry.asked_at = now
                return entry.address
            if not self._closed:
                self._entries[name] = _Entry(now)
                heapq.heappush(self._due, (now, name))
                self._start()
                self._news.notify()
        return None

    def close(self) -> None:
        """Look up no more; what is known stays. Does not wait for a look-up that is under way."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def turn(self) -> float | None:
        """Look up the name that is due next, in this thread. Gives the seconds until one is due, 0 after a look-up; None when
        there are no names. What the threads do, and for tests without any."""
        with self._news:
            if not self._due:
                return None
            seconds = self._due[0][0] - self._clock()
            if seconds > 0:
                return seconds
            _, name = heapq.heappop(self._due)
            if self._clock() - self._entries[name].asked_at > FORGET_SECONDS:
                del self._entries[name]
                return 0.0
        try:
            found = best_first(self._look_up(name))
        except Exception as error:  # a name that cannot even be asked for (UnicodeError) is one without an answer
            _log.debug("the name %s was not found: %s", name, error)
            found = []
        if self._keep(name, found):
            try:
                self._changed()
            except Exception:
                _log.exception("what follows the names could not take an answer")
        return 0.0

    def _keep(self, name: str, found: list[str]) -> bool:
        """Whether the answer is another one than before."""
        with self._news:
            entry = self._entries[name]
            before = entry.address
            if found:
                entry.failures = 0
                if before not in found:
                    entry.address = found[0]
                pause = REFRESH_SECONDS
            else:
                pause = min(REFRESH_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(entry.failures, 8))
                entry.failures += 1
            heapq.heappush(self._due, (self._clock() + pause, name))
            self._news.notify()
            return entry.address != before

    def _start(self) -> None:
        """One thread more, while there are fewer than names. Called under the lock."""
        if len(self._threads) < min(self._most_threads, len(self._entries)):
            thread = threading.Thread(target=self._run, name="sidecar-names", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while not self._closed:
            seconds = self.turn()
            if seconds == 0.0:
                continue
            with self._news:
                due = self._due[0][0] - self._clock() if self._due else None
                if not self._closed and (due is None or due > 0):
                    self._news.wait(due)

    def __repr__(self) -> str:
        return f"<Resolver of {len(self._entries)} names>"
