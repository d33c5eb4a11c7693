"""Servers that take requests and end the connection without an answer.

HAProxy repeats such a request elsewhere where it may, and counts no bad answer: it would never eject them, and the requests that
cannot be repeated fail. So its counters are looked at whenever it is compared: where it repeats much, the servers of the backend
are looked at each second, until nothing of that kind was found for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sidecar.ejection import FORGIVEN_SECONDS
from sidecar.runtime import Repeats

LOOK_SECONDS = 1.0
LEAST = 10
"""So many repeated requests of a backend between two comparisons are a reason to look closer."""
ENOUGH = 5
"""So many of one server, and a quarter of what it got, are a reason to eject it."""

Read = Callable[[Sequence[str] | None], Mapping[tuple[str, str], Repeats]]


@dataclass(frozen=True, slots=True)
class Silent:
    """A server that gives too few answers."""

    backend: str
    server: str
    says: str


class Repeated:
    """Who makes HAProxy repeat requests. `read` gives its counters (`Runtime.repeats`)."""

    def __init__(self, read: Read, *, clock: Callable[[], float]) -> None:
        self.due_at = float("inf")
        """When `follow` has something to do."""
        self._read, self._clock = read, clock
        self._backends: Mapping[tuple[str, str], Repeats] = {}
        self._until: dict[str, float] = {}
        self._servers: dict[tuple[str, str], Repeats] = {}

    def look(self) -> None:
        """Note the backends that repeat much, and begin to count anew."""
        before, self._backends = self._backends, self._read(None)
        for key, now in self._backends.items():
            if key in before and now.repeated - before[key].repeated >= LEAST:
                self._watch(key[0])
        self._servers.clear()

    def forget(self, backend: str, server: str) -> None:
        """It went down or came up: what was repeated until then says nothing of it."""
        self._servers.pop((backend, server), None)

    def follow(self) -> list[Silent]:
        """The servers to be ejected, with what to say of each."""
        now = self._clock()
        self._until = {backend: until for backend, until in self._until.items() if until > now}
        self.due_at = now + LOOK_SECONDS if self._until else float("inf")
        found = []
        for key, one in (self._read(tuple(self._until)) if self._until else {}).items():
            before = self._servers.setdefault(key, one)
            repeated, requests = one.repeated - before.repeated, one.requests - before.requests
            if repeated >= ENOUGH and 4 * repeated >= requests:
                found.append(Silent(*key, f"It ended {repeated} connections without an answer"))
                self._watch(key[0])
                self.forget(*key)
        return found

    def _watch(self, backend: str) -> None:
        self._until[backend] = self._clock() + FORGIVEN_SECONDS
        self.due_at = min(self.due_at, self._clock())
