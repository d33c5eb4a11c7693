"""A server of odd behaviours that remembers every request just as it came."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Seen:
    """One request as the server saw it."""

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    def header(self, name: str) -> str | None:
        """The value of the first header of this name, whatever its case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass
class Server:
    """A listening server on 127.0.0.1; `seen` is what came in since `forget()`."""

    port: int
    scheme: str = "http"
    seen: list[Seen] = field(default_factory=list)
    certificate: str = ""

    def url(self, path: str = "/echo", *, host: str = "127.0.0.1", user: str = "") -> str:
        """The URL of a path here; `host` may be `localhost`, another origin for the same server."""
        return f"{self.scheme}://{user}{host}:{self.port}{path}"

    def forget(self) -> None:
        """Begin a new list of requests."""
        self.seen = []


Answer = bytes | Iterator[bytes]


def answer(status: str, body: bytes = b"", *headers: tuple[str, str], length: bool = True) -> bytes:
    """The bytes of an answer; Content-Length is added unless told otherwise."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin1") + b"\r\n\r\n" + body


def echo(seen: Seen, query: dict[str, str]) -> Answer:
    told = {"line": seen.line, "headers": seen.headers, "body": seen.body.decode("latin1")}
    return answer("200 OK", json.dumps(told).encode(), ("Content-Type", "application/json"))


def redirect(seen: Seen, query: dict[str, str]) -> Answer:
    """/redirect?code=302&times=3 counts down to /echo; /redirect?to=<url> goes there."""
    times = int(query.get("times", "1"))
    code = query.get("code", "302")
    target = query.get("to") or ("/echo" if times == 1 else f"/redirect?code={code}&times={times - 1}")
    cookie = [("Set-Cookie", f"hop{times}=yes; Path=/")] if "cookie" in query else []
    return answer(f"{code} Moved", b"moved", ("Location", target), *cookie)


def cookies(seen: Seen, query: dict[str, str]) -> Answer:
    headers = [("Set-Cookie", f"{name}={value}; Path=/") for name, value in query.items()]
    return answer("200 OK", (seen.header("Cookie") or "").encode(), *headers)


def encoded(seen: Seen, query: dict[str, str]) -> Answer:
    plain = b"a text that was packed " * 20
    how = query.get("how", "gzip")
    packer = zlib.compressobj(wbits=-15)
    packers: dict[str, Callable[[], bytes]] = {
        "gzip": lambda: gzip.compress(plain, mtime=0),
        "deflate": lambda: zlib.compress(plain),
        "raw-deflate": lambda: packer.compress(plain) + packer.flush(),
        "broken": lambda: b"this is not gzip",
    }
    packed = packers[how]()
    name = "gzip" if how == "broken" else how.removeprefix("raw-")
    return answer("200 OK", packed, ("Content-Encoding", name), ("Content-Type", "text/plain; charset=utf-8"))


def chunked(seen: Seen, query: dict[str, str]) -> Iterator[bytes]:
    yield answer("200 OK", b"", ("Transfer-Encoding", "chunked"), ("Content-Type", "text/plain"), length=False)
    for number in range(int(query.get("count", "5"))):
        piece = f"line {number}\n".encode()
        yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    if "broken" in query:
        yield b"zz\r\n"
    else:
        yield b"0\r\n\r\n"


def slow(seen: Seen, query: dict[str, str]) -> Iterator[bytes]:
    """Nothing for `before` seconds, then one byte every `between` seconds."""
    time.sleep(float(query.get("before", "0")))
    yield answer("200 OK", b"", ("Content-Length", "10"), length=False)
    for _ in range(10):
        time.sleep(float(query.get("between", "0")))
        yield b"x"


def short(seen: Seen, query: dict[str, str]) -> Iterator[bytes]:
    yield answer("200 OK", b"", ("Content-Length", "100"), length=False) + b"only this"
    raise ConnectionAbortedError


def close(seen: Seen, query: dict[str, str]) -> Answer:
    raise ConnectionAbortedError


def status(seen: Seen, query: dict[str, str]) -> Answer:
    code = query.get("code", "200")
    headers = [(name, value) for name, value in query.items() if name not in ("code", "body")]
    return answer(f"{code} {query.get('reason', 'Said so')}", query.get("body", "").encode("utf-8"), *headers)


def text(seen: Seen, query: dict[str, str]) -> Answer:
    """/text?codec=latin1&type=text/plain"""
    body = "größe: 5 µm, café".encode(query.get("codec", "utf-8"))
    headers = [("Content-Type", query["type"])] if "type" in query else []
    return answer("200 OK", body, *headers)


def basic(seen: Seen, query: dict[str, str]) -> Answer:
    if seen.header("Authorization"):
        return answer("200 OK", b"welcome")
    return answer("401 Who are you", b"", ("WWW-Authenticate", 'Basic realm="here"'))


def digest(seen: Seen, query: dict[str, str]) -> Answer:
    said = seen.header("Authorization") or ""
    if said.startswith("Digest ") and 'nonce="fixed"' in said:
        return answer("200 OK", b"welcome", ("Set-Cookie", "in=yes"))
    challenge = f'Digest realm="here", nonce="fixed", qop="{query.get("qop", "auth")}", algorithm={query.get("algorithm", "MD5")}'
    return answer("401 Who are you", b"no", ("WWW-Authenticate", challenge), ("Set-Cookie", "asked=yes"))


def drip(seen: Seen, query: dict[str, str]) -> Iterator[bytes]:
    """A chunked body that never ends, a piece every 50 ms."""
    yield answer("200 OK", b"", ("Transfer-Encoding", "chunked"), length=False)
    while True:
        time.sleep(0.05)
        yield b"1\r\nx\r\n"


def garbage(seen: Seen, query: dict[str, str]) -> Iterator[bytes]:
    yield b"this is no HTTP\r\n\r\n"
    raise ConnectionAbortedError


ROUTES: dict[str, Callable[[Seen, dict[str, str]], Answer]] = {
    f"/{route.__name__}": route
    for route in (
        echo,
        redirect,
        cookies,
        encoded,
        chunked,
        slow,
        short,
        close,
        status,
        text,
        basic,
        digest,
        drip,
        garbage,
    )
}


@contextmanager
def serving(context: ssl.SSLContext | None = None, certificate: Path | None = None) -> Iterator[Server]:
    """A running server; with a TLS context it speaks https."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    server = Server(listener.getsockname()[1], "https" if context else "http", certificate=str(certificate or ""))
    open_sockets: set[socket.socket] = set()
    thread = threading.Thread(target=_accept, args=(listener, server, context, open_sockets), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in list(open_sockets):
            connection.close()
        thread.join(2)


def _accept(
    listener: socket.socket, server: Server, context: ssl.SSLContext | None, open_sockets: set[socket.socket]
) -> None:
    number = 0
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        number += 1
        threading.Thread(target=_talk, args=(connection, number, server, context, open_sockets), daemon=True).start()


def _talk(
    plain: socket.socket, number: int, server: Server, context: ssl.SSLContext | None, open_sockets: set[socket.socket]
) -> None:
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = context.wrap_socket(plain, server_side=True) if context else plain
        open_sockets.add(connection)
        with connection, connection.makefile("rb") as lines:
            while _one_exchange(connection, lines, number, server):
                pass
    except (OSError, ValueError):
        pass  # the client has gone, or was told that the connection ends here
    finally:
        open_sockets.discard(plain)
        plain.close()


def _one_exchange(connection: socket.socket, reader: BinaryIO, number: int, server: Server) -> bool:
    first = reader.readline()
    if b" HTTP/1." not in first:
        return False  # the client has gone, or greets in TLS
    headers = []
    while line := reader.readline().strip():
        name, _, value = line.decode("latin1").partition(":")
        headers.append((name, value.strip()))
    seen = Seen(first.decode("latin1").strip(), tuple(headers), b"", number)
    seen = Seen(seen.line, seen.headers, _body(reader, seen), number)
    server.seen.append(seen)
    if seen.method == "CONNECT":
        connection.sendall(answer("403 Not through here"))
        return False
    parts = urlsplit(seen.target)
    route = ROUTES.get(parts.path, echo)
    made = route(seen, {name: values[-1] for name, values in parse_qs(parts.query).items()})
    for piece in [made] if isinstance(made, bytes) else made:
        connection.sendall(piece.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if seen.method == "HEAD" else piece)
    return True


def _body(reader: BinaryIO, seen: Seen) -> bytes:
    if seen.header("Transfer-Encoding") == "chunked":
        pieces = []
        while size := int(reader.readline(), 16):
            pieces.append(b"[%d]" % size + reader.read(size))
            reader.read(2)
        reader.read(2)
        return b"".join(pieces)
    return reader.read(int(seen.header("Content-Length") or 0))
