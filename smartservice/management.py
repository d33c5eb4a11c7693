"""A small HTTP listener in each worker that answers probes and scrapes when every request thread is busy.

One daemon thread, no framework, everything bounded: connections, bytes of a request, seconds of a client. Liveness is
answered in that thread; whatever may take longer (readiness, metrics) in a second one, so that it cannot hold liveness up.
The socket is bound once, by the gunicorn master, and shared: a probe that waits is taken by whichever worker can, and
none is lost when a worker ends.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from smartservice.lifecycle import Lifecycle

Headers = Iterable[tuple[str, str]]
Reply = tuple[int, Headers, bytes]
Answer = Callable[[str, str], Reply]

_log = logging.getLogger("smartservice")
_JSON = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))


@dataclass(frozen=True)
class Limits:
    """How much a client may take."""

    connections: int = 64  # the one that has been open longest is closed for a new one
    head_bytes: int = 8192  # request line and headers
    seconds: float = 5.0  # from the connection to the end of the answer
    waiting: int = 16  # answers that may wait for the second thread
    closing_seconds: float = 0.5  # for clients that were accepted before the end


class Health(Protocol):
    """The part of healthcheck.Engine that answers."""

    def answer(self, group: str | None = None, accept: str = "", detailed: bool = False) -> Reply: ...


class Answers:
    """What the listener says: the health groups without details, and the metrics. Called as `answers(path, accept)`."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        *,
        health: Health | None = None,
        metrics: Callable[[str], tuple[str, bytes]] | None = None,
        health_path: str = "/healthcheck",
        metrics_path: str = "/metrics",
        wedged_seconds: float = 60.0,
    ) -> None:
        self._lifecycle = lifecycle
        self._health = health
        self._metrics = metrics
        self._health_path = (health_path or "/healthcheck").rstrip("/")
        self._metrics_path = metrics_path or "/metrics"
        self._wedged_seconds = wedged_seconds

    def __call__(self, path: str, accept: str) -> Reply:
        if self._metrics is not None and path == self._metrics_path:
            content_type, body = self._metrics(accept)
            return 200, (("Content-Type", content_type), ("Cache-Control", "no-store")), body
        if path == self._health_path:
            return self._group(None, accept)
        if path.startswith(self._health_path + "/"):
            return self._group(path[len(self._health_path) + 1 :], accept)
        return _plain(404, "not found")

    def is_quick(self, path: str) -> bool:
        """Whether this path is answered from memory, in microseconds: liveness is."""
        return path == self._health_path + "/live"

    def _group(self, group: str | None, accept: str) -> Reply:
        reason = None
        if group in ("live", None):
            reason = self._lifecycle.not_live(self._wedged_seconds)
        if reason is None and group in ("ready", None):
            reason = self._lifecycle.not_ready()
        if self._health is not None:
            answer = self._health.answer(group, accept, False)
            if reason is None or answer[0] >= 500:
                return answer
        elif group not in ("live", "ready", "startup", None):
            return _plain(404, "not found")
        return _plain(200, "pass") if reason is None else _plain(503, "fail")


def _plain(status: int, word: str) -> Reply:
    return status, _JSON, json.dumps({"status": word}).encode()


@dataclass(eq=False)
class _Client:
    """One connection: what has been read, what is still to be sent, when it must be gone."""

    socket: socket.socket
    until: float
    received: bytearray = field(default_factory=bytearray)
    sending: bytes = b""
    asked: bool = False  # the request is complete; what comes after it is thrown away
    answered: bool = False  # all is sent; only the client's end is waited for


class Listener:
    """Answers on a bound, listening socket from a thread of its own, in the process that calls `start`."""

    def __init__(
        self,
        listening: socket.socket | None,
        answer: Answer,
        *,
        is_quick: Callable[[str], bool] = lambda path: True,
        tick: Callable[[], object] = lambda: None,
        tick_seconds: float = 0.5,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tick()` is called about every `tick_seconds` in the listener's thread; with no socket that is all it does."""
        self._listening = listening
        self._answer = answer
        self._is_quick = is_quick
        self._tick = tick
        self._tick_seconds = tick_seconds
        self._limits = limits or Limits()
        self._clock = clock
        self._clients: dict[_Client, None] = {}  # in the order in which they came
        self._slow: queue.Queue[tuple[_Client, str, str, bool] | None] = queue.Queue(self._limits.waiting)
        self._answered: queue.SimpleQueue[tuple[_Client, bytes]] = queue.SimpleQueue()
        self._helper: threading.Thread | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._selector: selectors.BaseSelector
        self._wake_in = self._wake_out = -1

    def start(self) -> Listener:
        """Begin to answer. The thread is a daemon; `close` ends it."""
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        if self._listening is not None:
            self._listening.setblocking(False)
            self._selector.register(self._listening, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="smartservice-management", daemon=True)
        self._thread.start()
        return self

    def close(self, seconds: float = 2.0) -> None:
        """End the threads and the open connections; the listening socket is the master's and stays open there."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping = True
        self._wake()
        if thread is not threading.current_thread():
            thread.join(seconds)

    def _run(self) -> None:
        ticked = self._clock()
        self._ticking()
        while not self._stopping:
            self._turn(max(0.0, ticked + self._tick_seconds - self._clock()))
            if self._clock() >= ticked + self._tick_seconds:
                ticked = self._clock()
                self._ticking()
                self._expire(ticked)
        if self._listening is not None:
            self._selector.unregister(self._listening)
        end = self._clock() + self._limits.closing_seconds
        while any(not client.answered for client in self._clients) and self._clock() < end:
            self._turn(0.05)
        self._end()

    def _turn(self, seconds: float) -> None:
        try:
            for key, _ in self._selector.select(seconds):
                self._handle(key)
        except Exception:
            _log.exception("the management listener met an error and goes on")
            time.sleep(0.05)

    def _ticking(self) -> None:
        try:
            self._tick()
        except Exception:
            _log.exception("the management listener's tick failed")

    def _handle(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._listening:
            self._accept()
        elif key.fileobj == self._wake_in:
            self._take_answers()
        else:
            client: _Client = key.data
            try:
                self._write(client) if client.sending else self._read(client)
            except OSError:
                self._drop(client)

    def _accept(self) -> None:
        assert self._listening is not None
        for _ in range(self._limits.connections):
            try:
                connection, _ = self._listening.accept()
            except OSError as error:  # another worker took it, the client went, or no descriptor is free
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    time.sleep(0.05)
                return
            connection.setblocking(False)
            if len(self._clients) >= self._limits.connections:
                self._drop(next(iter(self._clients)))
            client = _Client(connection, self._clock() + self._limits.seconds)
            self._clients[client] = None
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _read(self, client: _Client) -> None:
        part = client.socket.recv(4096)
        if not part:
            self._drop(client)
            return
        if client.asked:
            return
        client.received += part
        if b"\r\n\r\n" in client.received or b"\n\n" in client.received:
            client.asked = True
            self._serve(client)
        elif len(client.received) > self._limits.head_bytes:
            client.asked = True
            self._send(client, _message(_plain(431, "too large")))

    def _serve(self, client: _Client) -> None:
        request = _parse(bytes(client.received))
        client.received.clear()
        if request is None:
            self._send(client, _message(_plain(400, "bad request")))
            return
        method, path, accept = request
        if method not in ("GET", "HEAD"):
            status, headers, body = _plain(405, "method not allowed")
            self._send(client, _message((status, [*headers, ("Allow", "GET, HEAD")], body)))
        elif self._is_quick(path):
            self._send(client, self._message_for(path, accept, method == "HEAD"))
        else:
            self._hand_over(client, path, accept, method == "HEAD")

    def _hand_over(self, client: _Client, path: str, accept: str, headless: bool) -> None:
        if self._helper is None:
            self._helper = threading.Thread(target=self._help, name="smartservice-management-slow", daemon=True)
            self._helper.start()
        try:
            self._slow.put_nowait((client, path, accept, headless))
        except queue.Full:
            self._send(client, _message(_plain(503, "busy")))

    def _help(self) -> None:
        while (task := self._slow.get()) is not None:
            client, path, accept, headless = task
            self._answered.put((client, self._message_for(path, accept, headless)))
            self._wake()

    def _take_answers(self) -> None:
        try:
            os.read(self._wake_in, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                client, message = self._answered.get_nowait()
            except queue.Empty:
                return
            if client in self._clients:
                self._send(client, message)

    def _message_for(self, path: str, accept: str, headless: bool) -> bytes:
        try:
            return _message(self._answer(path, accept), headless)
        except Exception:
            _log.exception("the management listener could not answer %s", path)
            return _message(_plain(500, "error"), headless)

    def _send(self, client: _Client, message: bytes) -> None:
        client.sending = message
        try:
            self._write(client)
        except OSError:
            self._drop(client)

    def _write(self, client: _Client) -> None:
        try:
            client.sending = client.sending[client.socket.send(client.sending) :]
        except BlockingIOError:
            pass
        if client.sending:
            self._selector.modify(client.socket, selectors.EVENT_WRITE, client)
            return
        # Only our direction is closed now: closing both with unread bytes would be a reset, which eats the answer.
        client.answered = True
        client.socket.shutdown(socket.SHUT_WR)
        client.until = min(client.until, self._clock() + 1.0)
        self._selector.modify(client.socket, selectors.EVENT_READ, client)

    def _expire(self, now: float) -> None:
        for client in [client for client in self._clients if client.until <= now]:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client, self) is self:
            return
        try:
            self._selector.unregister(client.socket)
        except (KeyError, ValueError):
            pass
        client.socket.close()

    def _wake(self) -> None:
        try:
            os.write(self._wake_out, b"x")
        except OSError:
            pass

    def _end(self) -> None:
        for client in list(self._clients):
            self._drop(client)
        try:
            self._slow.put_nowait(None)
        except queue.Full:
            pass
        self._selector.close()
        for handle in (self._wake_in, self._wake_out):
            os.close(handle)
        self._wake_in = self._wake_out = -1


def bind(host: str, port: int) -> socket.socket:
    """A listening socket for the management port. Raises OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=128)
    listening.setblocking(False)
    return listening


def _parse(head: bytes) -> tuple[str, str, str] | None:
    """Method, path and Accept of a request head (RFC 9112); None when it is not one."""
    line, _, rest = head.partition(b"\n")
    parts = line.decode("latin-1").rstrip("\r").split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not parts[1].startswith("/") or not parts[0].isalpha():
        return None
    accept = ""
    for entry in rest.split(b"\n"):
        name, _, value = entry.partition(b":")
        if name.strip().lower() == b"accept":
            accept = value.decode("latin-1").strip()
    return parts[0], parts[1].partition("?")[0], accept


def _message(reply: Reply, headless: bool = False) -> bytes:
    """The reply as the bytes of an HTTP/1.1 message that ends its connection."""
    status, headers, body = reply
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + (b"" if headless else body)
