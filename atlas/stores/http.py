"""HTTP to the servers of a store: several endpoints, a deadline over each exchange, connections kept but never over a fork.

Over the standard library: a request needs its whole time bounded and a stream a timeout that shrinks while it is read,
which the pools of other libraries do not give.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from atlas.stores.address import Address
from smartrealm.errors import ConfigurationError, Unavailable
from smartrealm.fork import on_fork

_KEPT = 8
"""Idle connections that are kept for each endpoint."""

_CHUNK = 256 * 1024
_TRY_ELSEWHERE = frozenset([429, 500, 502, 503, 504])
_BROKEN = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint said."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes


class Endpoints:
    """The servers behind one address. Safe from any thread and over a fork; connects when it is first asked."""

    def __init__(self, address: Address, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.shown = address.shown
        self._hosts = address.hosts
        self._tls = _tls(address)
        self._clock = clock
        self._preferred = 0
        self._idle: list[list[http.client.HTTPConnection]] = [[] for _ in self._hosts]
        self._streams: set[socket.socket] = set()
        self.closed = 0
        """How often it was closed: a wait that sees it change is over."""
        self._lock = threading.Lock()
        on_fork(self, Endpoints._begin_anew)

    def _begin_anew(self) -> None:
        """In a child: the parent's connections are its own; only our copies of the descriptors are closed."""
        self._lock = threading.Lock()
        self._streams = set()
        self.close()

    def close(self) -> None:
        """Close the idle connections and end the streams. What is being asked is answered, and not kept open."""
        with self._lock:
            idle, self._idle = self._idle, [[] for _ in self._hosts]
            streams, self._streams = self._streams, set()
            self.closed += 1
        for sock in streams:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for connection in (one for pool in idle for one in pool):
            connection.close()

    def ask(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], *, seconds: float, again: bool
    ) -> Answer:
        """The answer of one endpoint within `seconds`, the one that answered last time first.

        Another one is asked when a connection is refused, and with `again` (the request changes nothing) whenever one
        fails. Raises Unavailable; whether a request with `again=False` was carried out is then not known.
        """
        end = self._clock() + seconds
        closed = self.closed
        first = self._preferred
        trouble: BaseException | str = "no time was left"
        rounds = 0
        while (left := end - self._clock()) > 0:
            position = (first + rounds) % len(self._hosts)
            others = max(1, len(self._hosts) - rounds)
            rounds += 1
            connection: http.client.HTTPConnection | None = None
            try:
                connection = self._connect(position, left / others)
                answer = self._exchange(connection, method, target, body, headers, left / others if again else left)
            except _BROKEN as error:
                trouble = error
                never_sent = connection is None
                if connection is not None:
                    connection.close()
            else:
                self._keep(position, connection, closed)
                if answer.status not in _TRY_ELSEWHERE:
                    self._preferred = position
                    return answer
                trouble, never_sent = _said(answer), False
            self._preferred = (position + 1) % len(self._hosts)
            if not (again or never_sent):
                break
            if rounds >= len(self._hosts):
                time.sleep(max(0.0, min(0.1, end - self._clock())))
        raise Unavailable(f"{self.shown} did not answer: {_reason(trouble)}.")

    @contextmanager
    def stream(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], *, seconds: float
    ) -> Iterator[tuple[int, Callable[[float], bytes]]]:
        """An answer that goes on: its status, and a function that gives the next line within so many seconds.

        The function gives b"" at the end and raises TimeoutError when its time is up. Raises Unavailable when the endpoint
        cannot be asked. The connection is closed afterwards.
        """
        connection: http.client.HTTPConnection | None = None
        try:
            connection = self._connect(self._preferred, seconds)
            connection.request(method, target, body, dict(headers))
            sock = connection.sock
            response = connection.getresponse()
        except _BROKEN as error:
            self._preferred = (self._preferred + 1) % len(self._hosts)
            if connection is not None:
                connection.close()
            raise Unavailable(f"{self.shown} did not answer: {_reason(error)}.") from error

        def next_line(seconds: float) -> bytes:
            if seconds <= 0:
                raise TimeoutError
            with suppress(OSError):
                sock.settimeout(seconds)
            try:
                return response.readline()
            except TimeoutError:
                raise
            except (*_BROKEN, ValueError, AttributeError):
                return b""

        with self._lock:
            self._streams.add(sock)
        try:
            yield response.status, next_line
        finally:
            with self._lock:
                self._streams.discard(sock)
            response.close()
            connection.close()

    def _connect(self, position: int, seconds: float) -> http.client.HTTPConnection:
        """A connection to an endpoint, an idle one that is still open if there is one."""
        while True:
            with self._lock:
                idle = self._idle[position]
                connection = idle.pop() if idle else None
            if connection is None:
                break
            if _is_open(connection):
                connection.sock.settimeout(seconds)
                return connection
            connection.close()
        host = self._hosts[position]
        if self._tls is None:
            connection = http.client.HTTPConnection(host, timeout=seconds)
        else:
            connection = http.client.HTTPSConnection(host, timeout=seconds, context=self._tls)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection

    def _keep(self, position: int, connection: http.client.HTTPConnection, closed: int) -> None:
        with self._lock:
            if connection.sock is not None and closed == self.closed and len(self._idle[position]) < _KEPT:
                self._idle[position].append(connection)
                return
        connection.close()

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
        seconds: float,
    ) -> Answer:
        """Send a request and read the answer, all of it within `seconds`."""
        end = self._clock() + seconds
        connection.sock.settimeout(seconds)
        connection.request(method, target, body, dict(headers))
        sock = connection.sock
        self._allow(sock, end)
        with connection.getresponse() as response:
            parts = []
            while True:
                self._allow(sock, end)
                part = response.read1(_CHUNK)
                if not part:
                    break
                parts.append(part)
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, b"".join(parts))

    def _allow(self, sock: socket.socket, end: float) -> None:
        left = end - self._clock()
        if left <= 0:
            raise TimeoutError("timed out")
        with suppress(OSError):
            sock.settimeout(left)


def _is_open(connection: http.client.HTTPConnection) -> bool:
    """Whether an idle connection can be used: the server has neither closed it nor said anything unasked."""
    poll = select.poll()
    try:
        poll.register(connection.sock, select.POLLIN)
        return not poll.poll(0)
    except (OSError, ValueError, TypeError):
        return False


def _tls(address: Address) -> ssl.SSLContext | None:
    if not address.flag("tls", "ca" in address.options):
        return None
    try:
        return ssl.create_default_context(cafile=address.options.get("ca"))
    except OSError as error:
        raise ConfigurationError(
            f"The certificates of ca={address.options.get('ca')} cannot be read: {error}."
        ) from error


def _said(answer: Answer) -> str:
    return f"it answered {answer.status}"


def _reason(trouble: BaseException | str) -> str:
    if isinstance(trouble, str):
        return trouble
    if isinstance(trouble, TimeoutError):
        return "it was silent for too long"
    return f"{type(trouble).__name__}: {trouble}" if str(trouble) else type(trouble).__name__
