"""Ends plain calls whose server drips: at the deadline the socket of the call is shut, whatever is being read from it.

urllib3 bounds each read of a socket, not the head of an answer nor a line of a chunked body. Its pools are asked to
say which connection a call holds; nothing else about them changes, and calls without a deadline are not looked at.
"""

from __future__ import annotations

import heapq
import itertools
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import requests
from urllib3 import PoolManager

from smartrealm import on_fork

IDLE_SECONDS = 5.0
"""The watching thread ends when it had nothing to watch for so long."""

_LEAST_TO_TIDY = 256


class Watch:
    """One call: the connection that it holds now, and whether its time was up."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.fired = False
        self.done = False
        self._lock = threading.Lock()
        self._connection: Any = None
        self._answer: Any = None

    def hold(self, connection: Any) -> None:
        """The call has taken a connection from its pool."""
        self._connection, self._answer = connection, None

    def reads(self, answer: Any) -> None:
        """The call reads the body of an answer (of urllib3), whose connection may have let go of its socket."""
        self._answer = answer

    def let_go(self, connection: Any) -> None:
        """The connection goes back: from here on it may be another call's."""
        with self._lock:
            if connection is self._connection:
                self._connection = self._answer = None

    def end(self) -> None:
        """The call has ended."""
        with self._lock:
            self.done = True
            self._connection = self._answer = None

    def fire(self) -> None:
        """The time is up: wake whoever reads."""
        with self._lock:
            if self.done or self._connection is None:
                return
            self.fired = True
            sock = getattr(self._connection, "sock", None)
            try:
                if sock is not None:
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS, which would wait for the other side
                elif self._answer is not None:
                    self._answer.shutdown()
            except (OSError, ValueError, TypeError):
                pass  # it is closed already, or a library's stand-in


class _Watcher:
    """The thread that looks at the clock for all calls of this process."""

    def __init__(self) -> None:
        self._begin_anew()
        on_fork(self, _Watcher._begin_anew)

    def _begin_anew(self) -> None:
        self._news = threading.Condition()
        self._due: list[tuple[float, int, Watch]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def add(self, watch: Watch) -> None:
        with self._news:
            if len(self._due) > _LEAST_TO_TIDY and sum(one.done for _, _, one in self._due) * 2 > len(self._due):
                self._due = [entry for entry in self._due if not entry[2].done]
                heapq.heapify(self._due)
            heapq.heappush(self._due, (watch.until, next(self._numbers), watch))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="smartclient-watch", daemon=True)
                self._thread.start()
            elif self._due[0][2] is watch:
                self._news.notify()

    def _run(self) -> None:
        while True:
            with self._news:
                now = time.monotonic()
                while not self._due or self._due[0][0] > now:
                    if not self._news.wait(self._due[0][0] - now if self._due else IDLE_SECONDS) and not self._due:
                        self._thread = None
                        return
                    now = time.monotonic()
                watch = heapq.heappop(self._due)[2]
            watch.fire()


_watcher = _Watcher()
_current: ContextVar[Watch | None] = ContextVar("smartclient_watch", default=None)


@contextmanager
def watched(session: requests.Session, until: float) -> Iterator[Watch]:
    """What the session sends within the block is cut off at `until`, of the monotonic clock."""
    for adapter in tuple(getattr(session, "adapters", {}).values()):
        manager = getattr(adapter, "poolmanager", None)
        if isinstance(manager, PoolManager):
            _follow_pools(manager)
    watch = Watch(until)
    _watcher.add(watch)
    token = _current.set(watch)
    try:
        yield watch
    finally:
        _current.reset(token)
        watch.end()


def _follow_pools(manager: PoolManager) -> None:
    if "connection_from_pool_key" in vars(manager):
        return

    known = weakref.proxy(manager)  # no cycle: sessions that are dropped close at once, as ever
    kind = type(manager)

    def connection_from_pool_key(*arguments: Any, **keywords: Any) -> Any:
        pool = kind.connection_from_pool_key(known, *arguments, **keywords)
        if _current.get() is not None:
            _follow(pool)
        return pool

    vars(manager)["connection_from_pool_key"] = connection_from_pool_key


def _follow(pool: Any) -> None:
    if "_get_conn" in vars(pool):
        return

    known, kind = weakref.proxy(pool), type(pool)

    def get(*arguments: Any, **keywords: Any) -> Any:
        connection = kind._get_conn(known, *arguments, **keywords)
        watch = _current.get()
        if watch is not None:
            watch.hold(connection)
        return connection

    def put(connection: Any) -> None:
        watch = _current.get()
        if watch is not None:
            watch.let_go(connection)
        kind._put_conn(known, connection)

    vars(pool).update(_get_conn=get, _put_conn=put)
