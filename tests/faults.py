"""An HTTP server that fails as it is told to: refuses, resets, drips, hangs, answers half, and remembers what reached it."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from atlas.model import Instance, Service
from atlas.world import World


@dataclass(frozen=True)
class Seen:
    """One request that reached the server whole."""

    method: str
    path: str
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes


Reaction = Callable[[socket.socket], None]


def answer(status: int = 200, body: bytes = b"{}", headers: Iterable[str] = ()) -> Reaction:
    """An ordinary answer, after which the connection stays open."""
    lines = [
        f"HTTP/1.1 {status} Whatever",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
        "",
        "",
    ]
    whole = "\r\n".join(lines).encode() + body
    return lambda connection: connection.sendall(whole)


def reset(connection: socket.socket) -> None:
    """Break the connection off, without an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionAbortedError


def close(connection: socket.socket) -> None:
    """End the connection politely, without an answer."""
    raise ConnectionAbortedError


def half(connection: socket.socket) -> None:
    """Promise more than is sent."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
    raise ConnectionAbortedError


def hang(seconds: float) -> Reaction:
    """Answer after `seconds`."""

    def later(connection: socket.socket) -> None:
        time.sleep(seconds)
        answer()(connection)

    return later


def drip(connection: socket.socket) -> None:
    """Send one byte of the body every 20 ms, for five seconds."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 250\r\n\r\n")
    for _ in range(250):
        connection.sendall(b"x")
        time.sleep(0.02)


def drip_head(connection: socket.socket) -> None:
    """Send one byte of the headers every 20 ms, for five seconds."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(250):
        connection.sendall(b"x")
        time.sleep(0.02)


@dataclass
class FaultServer:
    """Serves on a free port until it is closed; `react` says what happens to each request. None: an ordinary answer.

    `react` may also be put to another function while it serves. A reaction for a connection before anything is read from
    it is what `greet` gives.
    """

    react: Callable[[Seen], Reaction | None] = lambda seen: None
    greet: Callable[[], Reaction | None] = lambda: None
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Refuse everything from now on."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self._thread.join(2)
        for connection in tuple(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self) -> FaultServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        try:
            with connection, connection.makefile("rb") as stream:
                greeting = self.greet()
                if greeting is not None:
                    greeting(connection)
                while (seen := _read(stream)) is not None:
                    self.seen.append(seen)
                    (self.react(seen) or answer())(connection)
        except OSError:
            pass
        finally:
            self._open.discard(connection)


def _read(stream: object) -> Seen | None:
    line = stream.readline().decode("latin-1").split()  # type: ignore[attr-defined]
    if len(line) != 3:
        return None
    headers: dict[str, str] = {}
    while (text := stream.readline().decode("latin-1").strip()) != "":  # type: ignore[attr-defined]
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while (size := int(stream.readline() or b"0", 16)) > 0:  # type: ignore[attr-defined]
            body += stream.read(size)  # type: ignore[attr-defined]
            stream.readline()  # type: ignore[attr-defined]
        stream.readline()  # type: ignore[attr-defined]
    elif "content-length" in headers:
        body = stream.read(int(headers["content-length"]))  # type: ignore[attr-defined]
    return Seen(line[0], line[1], headers, body)


def world_of(addresses: Iterable[str | Instance], service: str = "identity", **known: object) -> World:
    """A map with one service and its instances, by `host:port`."""
    instances = {}
    for one in addresses:
        if isinstance(one, str):
            host, _, port = one.rpartition(":")
            one = Instance(service, host, int(port))
        instances[one.address] = one
    return World(services={service: Service(service, **known)}, instances={service: instances})  # type: ignore[arg-type]
