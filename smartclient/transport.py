"""One exchange with one instance: connect, send, read, each step bounded by a moment and not by a pause between bytes.

Calls to services do not pass through urllib3's pool manager: they need no proxy, no environment and no TLS, but they need
to know whether a request can have been executed, and a deadline that a dripping answer cannot outlive. The answer is an
ordinary `urllib3.HTTPResponse`, so decoding, streaming and everything of requests.Response work as ever.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import requests.exceptions
import urllib3
import urllib3.connection
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError
from urllib3.response import HTTPResponse

from smartclient.errors import Attempt, BodyBroken, DeadlineExceeded
from smartclient.heads import Head
from smartrealm import on_fork

if TYPE_CHECKING:
    from requests import PreparedRequest

__all__ = ["Answer", "Failed", "Lease", "Pools", "exchange"]

_ONE_WRITE = 64 * 1024
MOST_IDLE = 64
"""Connections to one instance that are kept for later."""

IDLE_SECONDS = 60.0
"""An idle connection is used again for this long, if the other side has not closed it."""

SHORT_SECONDS = 60.0
"""So long it is remembered that an instance closes idle connections sooner than that."""

IDLE_SECONDS_ONCE = 1.0
"""The same for a request that may be sent only once: a server that closes an idle connection at the moment of the request
leaves it open whether that was executed, and gunicorn closes after two seconds."""


class Failed(Exception):
    """An exchange that brought no answer. `outcome` is a word of `Attempt.outcome`; `sent`: it may have been executed."""

    def __init__(self, outcome: str, cause: BaseException, *, sent: bool) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.cause = cause
        self.sent = sent


class _TimedSocket(socket.socket):
    """A socket on which nothing waits beyond the moment `deadline` of the monotonic clock."""

    __slots__ = ("deadline",)
    deadline: float

    def _limit(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline passed")
        self.settimeout(left)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self._limit()
        return super().recv_into(buffer, nbytes, flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        self._limit()
        super().sendall(data, flags)


class Wire:
    """One connection to one instance."""

    __slots__ = ("address", "idle_since", "keep", "sock")

    def __init__(self, address: tuple[str, int], sock: _TimedSocket) -> None:
        self.address = address
        self.sock: _TimedSocket | None = sock
        self.idle_since = 0.0
        self.keep = False

    def close(self) -> None:
        sock, self.sock = self.sock, None
        if sock is not None:
            sock.close()

    def __del__(self) -> None:
        self.close()  # of a mesh that nobody closed

    def shut(self) -> None:
        """Wake whoever waits on it, from another thread."""
        sock = self.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Pools:
    """The connections of one process that wait for their next call. After a fork the child begins with none."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._idle: dict[tuple[str, int], deque[Wire]] = {}
        self._gone: set[tuple[str, int]] = set()
        self._short: dict[tuple[str, int], tuple[float, float]] = {}
        self._closed = False
        on_fork(self, Pools._begin_anew)

    def take(self, address: tuple[str, int], *, idle_seconds: float) -> Wire | None:
        """The connection to an instance that was used last, if it is still good; None: make one."""
        self._gone.discard(address)
        if address in self._short:
            idle_seconds = min(idle_seconds, self._known_idle_seconds(address))
        idle = self._idle.get(address)
        while idle:
            try:
                wire = idle.pop()
            except IndexError:
                return None
            if self._clock() - wire.idle_since <= idle_seconds and _is_quiet(wire.sock):
                return wire
            wire.close()
        return None

    def give(self, wire: Wire) -> None:
        """Keep a connection whose answer was read to the end."""
        if wire.sock is None:
            return
        idle = self._idle.get(wire.address)
        if idle is None:
            idle = self._idle.setdefault(wire.address, deque())
        if not wire.keep or self._closed or wire.address in self._gone or len(idle) >= MOST_IDLE:
            wire.close()
            return
        now = wire.idle_since = self._clock()
        idle.append(wire)
        if now - idle[0].idle_since > IDLE_SECONDS:  # the newest is used first: old ones would stay for ever
            self._close_oldest(idle)

    def broke(self, wire: Wire) -> None:
        """A connection that had been idle was closed at the moment of its next request. Those to that instance are used
        again only after a shorter time from now on, or not at all."""
        now = self._clock()
        idle = now - wire.idle_since
        self._short[wire.address] = (idle / 2 if idle > 0.2 else -1.0, now + SHORT_SECONDS)

    def _known_idle_seconds(self, address: tuple[str, int]) -> float:
        seconds, until = self._short.get(address, (IDLE_SECONDS, 0.0))
        if self._clock() < until:
            return seconds
        self._short.pop(address, None)
        return IDLE_SECONDS

    def forget(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Close what waits for instances that are gone, and what comes back from calls that are under way there."""
        for address in addresses:
            self._gone.add(address)
            self._short.pop(address, None)
            for wire in tuple(self._idle.pop(address, ())):
                wire.close()

    def close(self) -> None:
        """Close what waits. A connection in use is closed when its answer has been read."""
        self._closed = True
        self.forget(tuple(self._idle))

    @staticmethod
    def _close_oldest(idle: deque[Wire]) -> None:
        try:
            idle.popleft().close()
        except IndexError:
            pass  # another thread took it

    def _begin_anew(self) -> None:
        for idle in self._idle.values():  # closes the child's copies of the sockets, and sends nothing
            for wire in tuple(idle):
                wire.close()
        self._idle = {}


class Lease:
    """What an answer holds until its body is read or closed: a connection, and a place among the calls under way.

    urllib3 takes it for its connection pool and gives the connection back here.
    """

    __slots__ = ("_done", "_pools", "wire")

    def __init__(self, pools: Pools, done: Callable[[], object]) -> None:
        self._pools = pools
        self._done: Callable[[], object] | None = done
        self.wire: Wire | None = None

    def _put_conn(self, wire: Wire) -> None:
        self.wire = None  # from here on it may be another call's
        self._pools.give(wire)
        self.release()

    def release(self) -> None:
        """The call is no longer under way. Idempotent."""
        done, self._done = self._done, None
        if done is not None:
            done()

    def drop(self) -> None:
        """The same, and the connection is not used again."""
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.close()
        self.release()

    def __del__(self) -> None:
        self.release()


class Answer(HTTPResponse):
    """An answer whose body ends by the deadline of the call, whenever it is read. What goes wrong then names the call."""

    service = ""
    attempts: tuple[Attempt, ...] = ()

    def read(self, *arguments: Any, **keywords: Any) -> bytes:
        try:
            return super().read(*arguments, **keywords)
        except ReadTimeoutError as error:
            raise self._too_late() from error

    def read_chunked(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            yield from super().read_chunked(*arguments, **keywords)
        except ReadTimeoutError as error:
            raise self._too_late() from error

    def stream(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            yield from super().stream(*arguments, **keywords)
        except ProtocolError as error:
            raise BodyBroken(
                f"The answer of {self.service} broke off.", service=self.service, attempts=self.attempts
            ) from error

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"The deadline passed before the whole body of {self.service} had come.",
            service=self.service,
            attempts=self.attempts,
        )


def _is_quiet(sock: _TimedSocket | None) -> bool:
    """Whether an idle connection is open and has nothing to say: whatever comes now is not an answer to us."""
    if sock is None:
        return False
    try:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return not poll.poll(0)
    except (OSError, ValueError):
        return False


def _connect(address: tuple[str, int], until: float) -> Wire:
    """A new connection by `until`; every address of the name shares the time. Raises Failed, never sent."""
    failure: OSError = OSError("the name has no address")
    for family, kind, protocol, where in _found(address):
        try:
            sock = _TimedSocket(family, kind, protocol)
        except OSError as error:
            failure = error
            continue
        try:
            sock.deadline = until
            sock._limit()
            sock.connect(where)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return Wire(address, sock)
        except OSError as error:
            sock.close()
            failure = error
    raise Failed("connect-timeout" if isinstance(failure, TimeoutError) else "refused", failure, sent=False)


def _found(address: tuple[str, int]) -> Iterable[tuple[int, int, int, Any]]:
    """Where an address may be reached; a path instead of a host is that of a unix socket."""
    if address[0].startswith("/"):
        return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, address[0])]
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Failed("name", error, sent=False) from error
    return [(family, kind, protocol, where) for family, kind, protocol, _, where in found]


def is_chunked(request: PreparedRequest) -> bool:
    """Whether the body goes in chunks: whatever its kind, when nobody said its length, as in requests."""
    headers = request.headers
    return (request.body is not None or "Transfer-Encoding" in headers) and "Content-Length" not in headers


def head_of(method: str, path: str, host: str, headers: Mapping[str, Any], *, chunked: bool = False) -> bytes:
    """The first lines of a request. Raises InvalidHeader for what would break out of its line."""
    lines = [f"{method} {path} HTTP/1.1"] if "Host" in headers else [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    if chunked and "Transfer-Encoding" not in headers:
        lines.append("Transfer-Encoding: chunked")
    for name, value in headers.items():
        if not chunked and len(name) == 17 and name.lower() == "transfer-encoding":
            continue  # the length is said: with both, it is open where the request ends
        text = value if type(value) is str else value.decode("latin-1") if isinstance(value, bytes) else str(value)
        lines.append(f"{name}: {text}")
    lines.append("\r\n")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) or head.count("\r") != len(lines):
        raise requests.exceptions.InvalidHeader("A header or the URL holds a line break.")
    if " " in path:
        raise requests.exceptions.InvalidURL("The path of the URL holds a space.")
    try:
        return head.encode("latin-1")
    except UnicodeEncodeError:
        raise requests.exceptions.InvalidHeader("A header holds a character outside of Latin-1.") from None


def exchange(
    pools: Pools,
    address: tuple[str, int],
    request: PreparedRequest,
    path: str,
    lease: Lease,
    *,
    host: str,
    connect_until: float,
    answer_until: float,
    body_until: float,
    once: bool,
    headers: Mapping[str, Any] | None = None,
) -> Answer:
    """Send the request and give the answer, its body unread. Raises Failed, having released the lease.

    `once`: a request that must not be repeated; it avoids connections that are about to be closed. `headers` are sent
    instead of those of the request, where they are given.
    """
    try:
        headers = request.headers if headers is None else headers
        is_recorded = urllib3.connection.HTTPConnection.__module__ != "urllib3.connection"  # such as by vcrpy
        if is_recorded and not address[0].startswith("/"):
            return _through_urllib3(
                address, request, path, lease, {"Host": host, **headers}, connect_until, answer_until
            )
        chunked = is_chunked(request)
        head = head_of(request.method or "GET", path, host, headers, chunked=chunked)
        wire = pools.take(address, idle_seconds=IDLE_SECONDS_ONCE if once else IDLE_SECONDS)
        reused = wire is not None
        if wire is None:
            wire = _connect(address, min(connect_until, answer_until))
        lease.wire = wire
        sock = wire.sock
        assert sock is not None
        sock.deadline = answer_until
        try:
            answer = _send_and_read(sock, wire, head, request, lease, chunked=chunked)
        except Failed as failed:
            if reused and failed.outcome == "reset":
                pools.broke(wire)
            raise
        sock.deadline = body_until
        return answer
    except BaseException:
        lease.drop()
        raise


def _send_and_read(
    sock: _TimedSocket, wire: Wire, head: bytes, request: PreparedRequest, lease: Lease, *, chunked: bool
) -> Answer:
    broken: OSError | None = None
    try:
        _send(sock, head, request.body, chunked=chunked)
    except TimeoutError as error:
        raise Failed("timeout", error, sent=True) from error
    except ssl.SSLError as error:
        raise Failed("tls", error, sent=True) from error
    except (BrokenPipeError, ConnectionResetError) as error:
        broken = error  # a server may refuse a long body before it has read it: there may be an answer
    method = request.method or "GET"
    read = Head(sock, method=method)
    try:
        read.begin()
    except TimeoutError as error:
        read.close()
        raise Failed("timeout", error, sent=True) from error
    except (OSError, http.client.HTTPException) as error:
        read.close()
        raise Failed("reset", broken or error, sent=True) from error
    wire.keep = not read.will_close and broken is None
    return Answer(
        body=read,
        headers=read.pairs,  # type: ignore[arg-type]
        status=read.status,
        version=read.version,
        version_string="HTTP/1.1" if read.version == 11 else "HTTP/1.0",
        reason=read.reason,
        preload_content=False,
        decode_content=False,
        original_response=read,
        pool=lease,  # type: ignore[arg-type]
        connection=wire,  # type: ignore[arg-type]
        request_method=method,
        sock_shutdown=sock.shutdown,
    )


def _send(sock: _TimedSocket, head: bytes, body: Any, *, chunked: bool) -> None:
    if isinstance(body, str):
        body = body.encode()
    if not body:
        sock.sendall(head)
    elif isinstance(body, bytes | bytearray) and len(body) <= _ONE_WRITE and not chunked:
        sock.sendall(head + body)
    else:
        sock.sendall(head)
        for part in _parts(body):
            sock.sendall(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
    if chunked:
        sock.sendall(b"0\r\n\r\n")


def _parts(body: Any) -> Iterable[bytes]:
    if isinstance(body, bytes | bytearray | memoryview):
        yield memoryview(body).tobytes() if isinstance(body, memoryview) else bytes(body)
        return
    read = getattr(body, "read", None)
    parts = iter(lambda: read(_ONE_WRITE), None) if read is not None else iter(body)
    for part in parts:
        if not part:
            if read is not None:
                return
            continue
        yield part.encode() if isinstance(part, str) else bytes(part)


def _through_urllib3(
    address: tuple[str, int],
    request: PreparedRequest,
    path: str,
    lease: Lease,
    headers: Mapping[str, Any],
    connect_until: float,
    answer_until: float,
) -> Answer:
    """The same exchange by urllib3's own connection, which a recorder has replaced."""
    now = time.monotonic()
    limit = urllib3.Timeout(connect=max(0.001, connect_until - now), read=max(0.001, answer_until - now))
    pool = urllib3.HTTPConnectionPool(*address)
    try:
        answer = pool.urlopen(
            request.method or "GET",
            path,
            body=request.body,
            headers=headers,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
            timeout=limit,
            chunked=is_chunked(request),
        )
    except ReadTimeoutError as error:
        raise Failed("timeout", error, sent=True) from error
    except (HTTPError, OSError) as error:
        sent = isinstance(error, ProtocolError)
        raise Failed("reset" if sent else "refused", error, sent=sent) from error
    lease.release()
    return cast(Answer, answer)  # an HTTPResponse, without the deadline over its body
