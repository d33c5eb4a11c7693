"""Servers that take no new calls: their calls are counted until they are over, and those that are to go are deleted then."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from sidecar.model import State
from sidecar.proxy import Proxy
from sidecar.runtime import Runtime

COUNTING_SECONDS = 0.1
"""How often it is looked whether the calls to them are over."""

DELETING_SECONDS = 1.0
"""How often it is tried to delete servers that have no calls: one may keep an idle connection for a while."""


class Leaving:
    """The servers that drain, and those in maintenance, which are deleted. For one thread; `sessions` may be read from others."""

    def __init__(self, proxy: Proxy, runtime: Runtime, *, clock: Callable[[], float], idle_seconds: float) -> None:
        self.sessions: Mapping[tuple[str, str], int] = {}
        """Calls under way to servers that take no new ones, by backend and server."""
        self.servers: Mapping[str, tuple[str, ...]] = {}
        """Those in maintenance, by backend."""
        self.due_at = -1.0
        """When there is something to do."""
        self._draining: tuple[tuple[str, str], ...] = ()
        self._proxy, self._runtime, self._clock, self._idle_seconds = proxy, runtime, clock, idle_seconds

    def found(self, leaving: Mapping[str, Collection[str]]) -> None:
        """HAProxy was asked who is in maintenance."""
        self.servers = {backend: tuple(servers) for backend, servers in leaving.items()}

    def changed(self, before: State, after: State) -> None:
        """HAProxy was brought from one State to the other: who is in maintenance by that."""
        found = {name: set(servers) for name, servers in self.servers.items()}
        for name, servers in before.backends.items():
            wanted = after.backends.get(name, {})
            if servers is not wanted:
                found.setdefault(name, set()).update(server for server in servers if server not in wanted)
        self.servers = {
            name: left
            for name, servers in found.items()
            if (left := tuple(sorted(server for server in servers if server not in after.backends.get(name, {}))))
        }

    def look_at(self, known: State | None) -> None:
        """Note who drains, and look at all of them at once."""
        if known is None:
            return
        self._draining = tuple(
            (backend, server.name)
            for backend, servers in known.backends.items()
            for server in servers.values()
            if server.draining
        )
        self.due_at = self._clock()

    def follow(self) -> None:
        """Count the calls that are still under way, and delete the servers that have none. Raises Unavailable."""
        leaving = [(backend, server) for backend, servers in self.servers.items() for server in servers]
        watched = [*leaving, *self._draining]
        self.sessions = self._proxy.sessions(watched) if watched else {}
        if self.servers:
            self.servers = {name: tuple(left) for name, left in self._runtime.delete(self.servers).items() if left}
        pause = self._idle_seconds
        if any(self.sessions.values()):
            pause = COUNTING_SECONDS
        elif self.servers:
            pause = DELETING_SECONDS
        self.due_at = self._clock() + pause
