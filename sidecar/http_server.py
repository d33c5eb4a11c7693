"""A small HTTP/1.1 server for a few local callers, in bounded threads and bounded time.

One request for each connection. The standard library's server was not taken: it costs 50 ms at the start, a thread for
everybody who connects, and waits for a slow one as long as a byte comes in time.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from smartrealm.errors import BadRequest, ConfigurationError, SmartError

MOST_AT_ONCE = 16
"""Connections that are answered at the same time; the next one is told to come again."""

MOST_HEAD = 16 * 1024
MOST_BODY = 64 * 1024
READ_SECONDS = 5.0
"""Within which a request must have arrived, whole."""
WRITE_SECONDS = 15.0

LONGEST_SOCKET_PATH = 107
"""Bytes of a unix socket's path (`sun_path` of Linux)."""

_log = logging.getLogger("sidecar")


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole."""

    method: str
    path: str
    """Still percent-encoded, without the query."""
    query: Mapping[str, list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """By their names in small letters; of one that came twice the last."""
    body: bytes = b""
    local: bool = False
    """Whether it came through the socket that only the owner of the sidecar may open."""
    uid: int | None = None
    """Who is at the other end of that socket."""


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to it, whole."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response]


def json_answer(document: Any, status: int = 200) -> Response:
    return Response(
        status, json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(errors="replace") + b"\n"
    )


def problem(status: int, code: str, detail: str, **details: Any) -> Response:
    """An error as RFC 9457 has it."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": code, "detail": detail}
    encoded = json.dumps({**details, **body}, ensure_ascii=False, default=str).encode(errors="replace") + b"\n"
    return Response(status, encoded, "application/problem+json")


class Listener:
    """Answers what comes to one socket with `handler`, each connection in a thread of its own. Nothing it is sent ends it."""

    def __init__(
        self, handler: Handler, *, local: bool, most: int = MOST_AT_ONCE, read_seconds: float = READ_SECONDS
    ) -> None:
        self._handler = handler
        self._local = local
        self._read_seconds = read_seconds
        self._free = threading.BoundedSemaphore(most)
        self._socket: socket.socket | None = None
        self._path: Path | None = None
        self._inode = 0
        self._closed = threading.Event()

    @property
    def port(self) -> int:
        """Where it listens, of a TCP socket."""
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    def listen_on_port(self, port: int) -> Listener:
        """Listen on this port of the loopback interface. Raises ConfigurationError when somebody else does."""
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(("127.0.0.1", port))
        except OSError as error:
            made.close()
            raise ConfigurationError(
                f"Port {port} of 127.0.0.1 cannot be opened for the page and the metrics ({error.strerror}): set "
                "SIDECAR_ADMIN_PORT to a free one, or to 0 for none."
            ) from error
        return self._start(made)

    def listen_on_path(self, path: Path) -> Listener:
        """Listen on a unix socket that only its owner may open; it takes the place of one that was left behind. Raises
        ConfigurationError."""
        check_socket_path(path)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fresh = path.with_suffix(".new")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)
            made.bind(str(fresh))
            # Nobody can connect before it listens, and it listens under its name only with the right mode.
            fresh.chmod(0o600)
            self._inode = fresh.stat().st_ino
            started = self._start(made)
            os.replace(fresh, path)
        except OSError as error:
            made.close()
            raise ConfigurationError(
                f"The control socket {path} cannot be made ({error.strerror}): SIDECAR_DIR must be a directory that this "
                "user may write."
            ) from error
        self._path = path
        return started

    def _start(self, made: socket.socket) -> Listener:
        made.listen(64)
        self._socket = made
        name = "sidecar-control" if self._local else "sidecar-page"
        threading.Thread(target=self._accept, args=(made,), name=name, daemon=True).start()
        return self

    def close(self) -> None:
        """Listen no more, and take the socket's file away when it is still ours. Idempotent."""
        self._closed.set()
        if self._path is not None:
            with suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # Wakes the thread that waits in accept.
            self._socket.close()

    def _accept(self, listening: socket.socket) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                if self._closed.is_set():
                    return
                time.sleep(0.05)  # No descriptors are left: wait until some are, instead of asking in a circle.
                continue
            if not self._free.acquire(blocking=False):
                _busy(connection)
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), name="sidecar-answer", daemon=True).start()
            except RuntimeError:  # No thread can be started now.
                self._free.release()
                _busy(connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._exchange(connection)
        except OSError:
            pass  # The other end went away, or was too slow.
        finally:
            self._free.release()

    def _exchange(self, connection: socket.socket) -> None:
        head_only = False
        try:
            request = _read(connection, time.monotonic() + self._read_seconds, self._local)
            if request is None:
                return
            head_only = request.method == "HEAD"
            answer = self._handler(request)
        except SmartError as error:
            answer = problem(error.status, error.code, error.message)
        except TimeoutError:
            answer = problem(408, "request-timeout", f"The request did not arrive within {self._read_seconds:g} s.")
        except OSError:
            raise
        except Exception as error:
            _log.error("a request could not be answered: %s", type(error).__name__, exc_info=error)
            answer = problem(500, "internal", "The sidecar failed at this request; its log says how.")
        _write(connection, answer, head_only)


def _busy(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        connection.settimeout(0.1)
        _write(connection, problem(503, "overloaded", "Too many ask at once: come again in a second."), False, 0.1)


def check_socket_path(path: Path) -> None:
    """Raise ConfigurationError for a path that is too long for a unix socket."""
    length = len(os.fsencode(path))
    if length > LONGEST_SOCKET_PATH:
        raise ConfigurationError(
            f"The path {path} has {length} bytes, and that of a unix socket at most {LONGEST_SOCKET_PATH}: set SIDECAR_DIR "
            "to a shorter one, such as /run/smartservice/REALM."
        )


# -- reading and writing -----------------------------------------------------------------------------------------------


def _receive(connection: socket.socket, deadline: float, size: int) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
    return connection.recv(size)


def _read(connection: socket.socket, deadline: float, local: bool) -> Request | None:
    """The request, or None when the other end went away without one. Raises BadRequest, TimeoutError, OSError."""
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > MOST_HEAD:
            raise _TooLarge(f"The head of the request is longer than {MOST_HEAD} bytes.")
        chunk = _receive(connection, deadline, 8192)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, query = _request_line(first)
    headers = _headers(lines)
    length = _length(headers)
    while len(body) < length:
        chunk = _receive(connection, deadline, length - len(body))
        if not chunk:
            raise BadRequest("The body of the request ended before its Content-Length.")
        body += chunk
    return Request(method, path, query, headers, body[:length], local, _uid(connection) if local else None)


class _TooLarge(BadRequest):
    code = "too-large"
    status = 413


def _request_line(text: str) -> tuple[str, str, Mapping[str, list[str]]]:
    parts = text.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not parts[1].startswith("/") or not parts[0].isalpha():
        raise BadRequest("This is no HTTP/1.1 request: it begins with METHOD /PATH HTTP/1.1.")
    path, _, query = parts[1].partition("?")
    try:
        return parts[0].upper(), path, parse_qs(query, keep_blank_values=True, max_num_fields=20)
    except ValueError as error:
        raise BadRequest("The query of the request cannot be read.") from error


def _headers(lines: list[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest("A header of the request cannot be read: write `Name: value`.")
        name = name.lower()
        if name in ("host", "content-length") and name in found:
            raise BadRequest(f"The header {name} came twice.")
        found[name] = value.strip()
    if "transfer-encoding" in found:
        raise BadRequest("Send the body with a Content-Length: no transfer encoding is understood here.")
    return found


def _length(headers: Mapping[str, str]) -> int:
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise BadRequest("The Content-Length of the request is no number.")
    if int(text) > MOST_BODY:
        raise _TooLarge(f"The body of the request is longer than {MOST_BODY} bytes.")
    return int(text)


def _uid(connection: socket.socket) -> int | None:
    """Who is at the other end of a unix socket, where the system tells."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    return int(uid)


def _write(connection: socket.socket, answer: Response, head_only: bool, seconds: float = WRITE_SECONDS) -> None:
    headers = {
        "Content-Type": answer.content_type,
        "Content-Length": str(len(answer.body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        **answer.headers,
    }
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
    connection.settimeout(seconds)
    connection.sendall(
        head if head_only or answer.status == 304 else head + answer.body
    )  # The timeout is for all of it.
    if answer.status < 400:
        return
    with suppress(OSError):
        # Without this, bytes that were sent and not read would take the answer away from the other end.
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(0.2)
        connection.recv(MOST_HEAD)
