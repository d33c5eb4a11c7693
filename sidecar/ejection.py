"""When a server that HAProxy has ejected is set up again. Decides only; the clock is handed in.

HAProxy takes a server out after some bad answers, and takes it in again after three mere connections, within 5 s. So it is kept
down and tried again by us: after 5 s, 10 s, 20 s ... 60 s, and the count begins anew once it has behaved well for some minutes.
A server that could not be connected to is tried at these times, too, or comes back when HAProxy can connect to it.

When more than half of the servers of a backend that should take calls are ejected for their answers, the fault is likely not
theirs: all of these are tried at once, and again each second. Calling bad ones beats calling none. Calling dead ones does not:
those that could not be connected to wait for their time while others are left, and those that a check found dead always do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sidecar.events import Cause, Event
from sidecar.model import Server

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 60.0
PANIC_SECONDS = 1.0
KEPT_DOWN_SECONDS = 1.0
"""How often HAProxy is told again that a server is down: its third look at one comes after 3 s, at times after 1.5 s."""
FORGIVEN_SECONDS = 300.0
"""After so long without an ejection the next one counts as the first."""

_UNREACHED = "L4 unsuccessful connection"
"""What HAProxy gives as the last error when calls could not even be connected."""


@dataclass(frozen=True, slots=True)
class Ejection:
    """A server that HAProxy does not call by its own decision."""

    backend: str
    server: str
    since: float
    """By the clock that is handed in."""
    cause: Cause
    reason: str
    times: int
    """The how manyeth within `FORGIVEN_SECONDS`."""
    tried_at: float | None
    """When it was set up again last, without having come up yet."""
    due_at: float

    @property
    def unreached(self) -> bool:
        """Whether calls could not be connected, so that there were no answers to be bad."""
        return _UNREACHED in self.reason


@dataclass(frozen=True, slots=True)
class Doubt:
    """A server that was ejected within `FORGIVEN_SECONDS`, and is called again."""

    backend: str
    server: str
    since: float
    """Called again since then, by the clock that is handed in."""
    times: int
    reason: str


@dataclass(slots=True)
class _Record:
    times: int = 0
    up_since: float | None = None
    tried_at: float | None = None
    reason: str = ""


class Ejections:
    """The ejected servers of one HAProxy. Not thread-safe: the one who gets the events hands them over to one thread."""

    def __init__(self) -> None:
        self._ejected: dict[tuple[str, str], Ejection] = {}
        self._records: dict[tuple[str, str], _Record] = {}

    def take(self, event: Event, now: float) -> None:
        """Take an event of HAProxy into account."""
        if event.up:
            self.up(event.backend, event.server, now)
        elif event.cause == "command":
            self._ejected.pop((event.backend, event.server), None)
        else:
            self.down(event.backend, event.server, now, event.reason, event.cause)

    def down(self, backend: str, server: str, now: float, reason: str = "", cause: Cause = "answers") -> None:
        """HAProxy has taken it out. Nothing new when that was known."""
        key = backend, server
        before = self._ejected.get(key)
        record = self._records.setdefault(key, _Record())
        if before is not None and before.tried_at is None:
            return
        if record.up_since is not None and now - record.up_since >= FORGIVEN_SECONDS:
            record.times, record.tried_at = 0, None
        record.times += 1
        record.up_since, record.reason = None, reason
        since = now if before is None else before.since
        self._ejected[key] = Ejection(
            backend, server, since, cause, reason, record.times, None, now + _pause(record.times)
        )

    def up(self, backend: str, server: str, now: float) -> None:
        """HAProxy calls it."""
        key = backend, server
        self._ejected.pop(key, None)
        record = self._records.get(key)
        if record is not None and record.up_since is None:
            record.up_since = now

    def compare(self, conditions: Mapping[str, Mapping[str, str]], now: float) -> None:
        """Make up for events that were lost, with the condition of every server (`Reading.conditions`)."""
        for backend, server in list(self._ejected):
            if conditions.get(backend, {}).get(server) != "down":
                self.up(backend, server, now)
        for backend, servers in conditions.items():
            for server, condition in servers.items():
                if condition == "down" and (backend, server) not in self._ejected:
                    self.down(backend, server, now, "found down", "check")
        for key, record in list(self._records.items()):
            if record.up_since is not None and now - record.up_since >= FORGIVEN_SECONDS:
                del self._records[key]

    def due(self, now: float, wanted: Mapping[str, Mapping[str, Server]]) -> tuple[tuple[str, str], ...]:
        """The servers (backend, name) to be set up again now, each once until it is due again. `wanted`: the servers of each
        backend that HAProxy is to have; those that drain and those that are gone are left alone."""
        found = []
        for ejection, at in self._due(wanted):
            if at <= now:
                key = ejection.backend, ejection.server
                found.append(key)
                times = self._records[key].times
                self._records[key].tried_at = now
                self._ejected[key] = Ejection(
                    *key, ejection.since, ejection.cause, ejection.reason, times, now, now + _pause(times)
                )
        return tuple(found)

    def next_at(self, wanted: Mapping[str, Mapping[str, Server]]) -> float | None:
        """When `due` has something next; None while nothing is ejected."""
        return min((at for _, at in self._due(wanted)), default=None)

    def kept_down(self, wanted: Mapping[str, Mapping[str, Server]]) -> tuple[tuple[str, str], ...]:
        """The servers (backend, name) that HAProxy must be told are down, every `KEPT_DOWN_SECONDS`: connecting to them says
        nothing, since their answers were bad, and their time has not come."""
        return tuple(
            (ejection.backend, ejection.server)
            for ejection, _ in self._due(wanted)
            if ejection.cause == "answers" and not ejection.unreached and ejection.tried_at is None
        )

    def all(self) -> tuple[Ejection, ...]:
        """What is ejected now, the longest first."""
        return tuple(sorted(self._ejected.values(), key=lambda ejection: ejection.since))

    def doubts(self, now: float) -> tuple[Doubt, ...]:
        """What was ejected of late and is called again."""
        return tuple(
            Doubt(*key, record.up_since, record.times, record.reason)
            for key, record in self._records.items()
            if record.up_since is not None and now - record.up_since < FORGIVEN_SECONDS
        )

    def _due(self, wanted: Mapping[str, Mapping[str, Server]]) -> Iterator[tuple[Ejection, float]]:
        for ejected, count in self._by_backend(wanted):
            observed = [ejection for ejection in ejected if ejection.cause == "answers"]
            bad = [ejection for ejection in observed if not ejection.unreached]
            hasty = observed if len(observed) == count else bad if len(bad) * 2 > count else []
            for ejection in ejected:
                if ejection not in hasty:
                    yield ejection, ejection.due_at
                    continue
                tried_at = self._records[ejection.backend, ejection.server].tried_at
                yield ejection, ejection.since if tried_at is None else min(ejection.due_at, tried_at + PANIC_SECONDS)

    def _by_backend(self, wanted: Mapping[str, Mapping[str, Server]]) -> Iterator[tuple[list[Ejection], int]]:
        """The ejected servers of each backend that should take calls, and how many of its servers should."""
        by_backend: dict[str, list[Ejection]] = {}
        for ejection in self._ejected.values():
            by_backend.setdefault(ejection.backend, []).append(ejection)
        for backend, ejected in by_backend.items():
            takes = {name for name, server in wanted.get(backend, {}).items() if not server.draining and server.weight}
            concerned = [ejection for ejection in ejected if ejection.server in takes]
            if concerned:
                yield concerned, len(takes)


def _pause(times: int) -> float:
    return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(times - 1, 10))
