"""Asking one instance whether it is ready: a GET, or a connection, that never blocks whoever asks.

A `Check` is driven by a selector, so that one thread asks all instances of a host and none of them holds up another.
`ask_once` is the same for a single question.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from atlas.model import address

MOST_BYTES = 64 * 1024
"""After so much of an answer nobody reads on: the status has long been told."""

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?\n")
_LENGTH = re.compile(rb"\r?\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r?\n", re.IGNORECASE)
_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one check."""

    ok: bool
    says: str
    """For the operator: `answered 200`, `refused the connection`, `did not answer within 0.8 s`."""
    status: int | None = None
    refused: bool = False
    """Nobody listens there."""
    seconds: float = 0.0


class Check:
    """One question to one instance. Begin it with `start`, call `advance` when its descriptor is ready, `expire` at its
    deadline: each gives the Answer as soon as there is one, and has then closed the connection. Raises nothing."""

    __slots__ = (
        "_clock",
        "_received",
        "_request",
        "_seconds",
        "_socket",
        "_started",
        "_status",
        "host",
        "path",
        "port",
    )

    def __init__(
        self, host: str, port: int, path: str, seconds: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.host, self.port, self.path = host, port, path
        self._seconds = seconds
        self._clock = clock
        self._started = 0.0
        self._socket: socket.socket | None = None
        self._request = b""
        self._received = b""
        self._status: int | None = None

    @property
    def deadline(self) -> float:
        return self._started + self._seconds

    @property
    def writes(self) -> bool:
        """Whether it waits until it can write; else until there is something to read."""
        return bool(self._request) or not self.path

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def start(self) -> Answer | None:
        """Connect; an answer is there at once when that is refused."""
        self._started = self._clock()
        if self.path:
            self._request = (
                f"GET {self.path} HTTP/1.1\r\nHost: {address(self.host, self.port)}\r\n"
                "User-Agent: smartservice-sidecar\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            ).encode("ascii", "replace")
        try:
            self._socket = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_STREAM)
            self._socket.setblocking(False)
            code = self._socket.connect_ex((self.host, self.port))
        except OSError as error:  # no more descriptors, no IPv6, an address that is none
            return self._ended(False, f"cannot be asked: {error.strerror or error}")
        if code != 0 and code not in _UNDER_WAY:
            return self._failed(code)
        # On this host the connection stands already: the request goes out without waiting for the selector.
        return self._attempt(self._write) if self.path else None

    def advance(self) -> Answer | None:
        """Go on after the descriptor became ready."""
        if self._socket is None:
            return None
        if self.writes and (code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            return self._failed(code)
        return self._attempt(self._write if self.writes else self._read)

    def _attempt(self, step: Callable[[], Answer | None]) -> Answer | None:
        try:
            return step()
        except BlockingIOError:
            return None
        except OSError as error:
            return self._failed(error.errno or 0)

    def expire(self) -> Answer:
        """The time is up. A status that has been told counts, however long the rest of the answer takes."""
        if self._status is not None:
            return self._told()
        return self._ended(False, f"did not answer within {self._seconds:g} s")

    def close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
            self._socket = None

    def _write(self) -> Answer | None:
        assert self._socket is not None
        if not self.path:
            return self._ended(True, "accepted a connection")
        self._request = self._request[self._socket.send(self._request) :]
        return None

    def _read(self) -> Answer | None:
        assert self._socket is not None
        part = self._socket.recv(16 * 1024)
        self._received += part
        if self._status is None:
            found = _STATUS.match(self._received)
            if found is None:
                return self._without_status(ended=not part)
            self._status = int(found[1])
        # The rest is read, too: an answer that is cut off looks like a fault to the instance.
        return self._told() if not part or self._is_whole() else None

    def _is_whole(self) -> bool:
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if not ended:
            return len(self._received) > MOST_BYTES
        length = _LENGTH.search(head + b"\r\n")
        most = min(int(length[1]), MOST_BYTES) if length else MOST_BYTES
        return len(body) >= most or body.endswith(b"0\r\n\r\n")

    def _without_status(self, *, ended: bool) -> Answer | None:
        if ended and not self._received:
            return self._ended(False, "closed the connection without an answer")
        if ended or len(self._received) > 1024 or not b"HTTP/1.".startswith(self._received[:7]):
            return self._ended(False, "answered something that is not HTTP")
        return None

    def _told(self) -> Answer:
        status = self._status or 0
        return self._ended(200 <= status < 300, f"answered {status}", status=status)

    def _failed(self, code: int) -> Answer:
        if self._status is not None:
            return self._told()
        if code == errno.ECONNREFUSED:
            return self._ended(False, "refused the connection", refused=True)
        return self._ended(False, f"cannot be reached: {os.strerror(code)}")

    def _ended(self, ok: bool, says: str, *, status: int | None = None, refused: bool = False) -> Answer:
        self.close()
        return Answer(ok, says, status, refused, self._clock() - self._started)


def ask_once(host: str, port: int, path: str = "", timeout: float = 1.0) -> Answer:
    """Ask once, in this thread, for at most `timeout` seconds: an address, a port, and a path (empty: a connection is
    enough)."""
    check = Check(host, port, path, timeout)
    answer = check.start()
    poll = select.poll()
    while answer is None:
        left = check.deadline - time.monotonic()
        if left <= 0:
            return check.expire()
        poll.register(check.fileno(), select.POLLOUT if check.writes else select.POLLIN)
        if poll.poll(left * 1000):
            answer = check.advance()
    return answer
