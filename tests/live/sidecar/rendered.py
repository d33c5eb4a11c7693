"""A real HAProxy that runs what was rendered, with instances behind it, for the tests of its file."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sidecar.layout import Layout, fresh_layout, lay_out
from sidecar.model import Route, Server, State
from sidecar.probe import is_listened_on
from sidecar.render import render
from sidecar.runtime import Runtime
from sidecar.servers import server_name
from sidecar.settings import Settings
from tests.processes import Callers, Child, accepts, free_port


class Instance:
    """An instance of a service: answers with its own name and what it was asked; `/empty` ends the connection instead,
    `/slow` and `/left` answer when it is let go, and `/tunnel` gives back each line that it gets, for as long as it gets any."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []
        """Method and path of each request, in the order of arrival."""
        self.let_go = threading.Event()
        instance = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                instance.asked.append(f"{self.command} {self.path}")
                if self.path == "/empty":
                    self.close_connection = True
                    return
                if self.path == "/tunnel":
                    self.send_response(101)
                    self.send_header("Connection", "Upgrade")
                    self.send_header("Upgrade", "lines")
                    self.end_headers()
                    while line := self.rfile.readline():
                        self.wfile.write(line)
                    return
                if self.path in ("/slow", "/left"):
                    instance.let_go.wait(10)
                headers = [[key.lower(), value] for key, value in self.headers.items()]
                said = json.dumps({"instance": instance.name, "headers": headers, "body": len(body)}).encode()
                self.send_response(500 if self.path == "/500" else 200)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(said)

            do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = answer

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing."""

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Say nothing of callers that left."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Instance:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def server(port: int, *, weight: int = 100, backup: bool = False, draining: bool = False) -> Server:
    """The server for an instance on this machine."""
    name = server_name(f"127.0.0.1:{port}", "127.0.0.1", backup=backup)
    return Server(name, "127.0.0.1", port, weight, backup, draining)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.content)
        return body

    @property
    def seen(self) -> dict[str, str]:
        """The headers that the instance got; several of one name are joined."""
        seen: dict[str, str] = {}
        for name, value in self.body["headers"]:
            seen[name] = f"{seen[name]}|{value}" if name in seen else value
        return seen


@dataclass
class Proxy:
    """A running HAProxy, what it was given, and how to ask it."""

    settings: Settings
    child: Child
    state: State
    layout: Layout
    runtime: Runtime = field(init=False)

    def __post_init__(self) -> None:
        self.runtime = Runtime(self.settings.runtime_socket)

    @property
    def port(self) -> int:
        return self.settings.port

    def ask(
        self,
        service: str | None,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> Answer:
        """The answer to one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in [*([] if service is None else [("Smart-Service", service)]), *headers]:
                connection.putheader(name, value.encode())
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(
                response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()


@contextmanager
def running(
    routes: Mapping[str, Route], *, tokens: Mapping[str, str] | None = None, program: str = "haproxy", **more: Any
) -> Iterator[Proxy]:
    """HAProxy with the files for these routes; `tokens` None: it asks for none. `more` are settings."""
    directory = Path(tempfile.mkdtemp(prefix="ren-", dir="/tmp"))  # short: a unix socket lies in it
    (directory / "maps").mkdir()
    if tokens is not None:
        more["tokens_file"] = directory / "tokens"
    settings = Settings(directory=directory, state=directory / "state", port=free_port(), **more)
    layout, state, _ = lay_out(routes, fresh_layout(routes, settings.spare_backends), tokens=tokens or {})
    files = render(state, layout, settings, descriptors=4000, threads=2)
    settings.proxy_config.write_text(files.config)
    for name, text in files.maps.items():
        (settings.proxy_maps / f"{name}.map").write_text(text)
    try:
        with Child([program, "-db", "-f", settings.proxy_config], output=directory / "haproxy.log") as child:
            # It listens on its ports before its sockets are there.
            child.wait_ready(lambda: accepts(settings.port) and is_listened_on(settings.runtime_socket))
            yield Proxy(settings, child, state, layout)
    finally:
        shutil.rmtree(directory)


@contextmanager
def quick_instances(count: int) -> Iterator[tuple[int, ...]]:
    """The ports of instances that answer `PORT BUCKET` as fast as can be; they are one HAProxy."""
    ports = [free_port() for _ in range(count)]
    lines = ["global", "    maxconn 900", "    nbthread 1", "defaults", "    mode http"]
    lines += ["    timeout client 30s", "    timeout server 30s", "    timeout connect 1s"]
    for port in ports:
        said = f"{port} %[req.fhdr(Smart-Bucket)]\n"
        answer = f'http-request return status 200 content-type text/plain lf-string "{said.strip()}"'
        lines += [f"frontend on-{port}", f"    bind 127.0.0.1:{port}", f"    {answer}"]
    with tempfile.TemporaryDirectory(prefix="ren-") as made:
        config = Path(made, "instances.cfg")
        config.write_text("\n".join(lines) + "\n")
        with Child(["haproxy", "-db", "-f", config], output=Path(made, "log")) as child:
            child.wait_ready(lambda: all(accepts(port) for port in ports))
            yield tuple(ports)


def pipelined(port: int, requests: list[bytes], *, at_once: int = 400) -> list[str]:
    """The bodies of the answers to these requests, all over one connection, many under way at once."""
    bodies: list[str] = []
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        reader = connection.makefile("rb")
        for begin in range(0, len(requests), at_once):
            batch = requests[begin : begin + at_once]
            connection.sendall(b"".join(batch))
            for _ in batch:
                assert reader.readline().split()[1] == b"200"
                length = 0
                while line := reader.readline().strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                bodies.append(reader.read(length).decode())
    return bodies


class Load(Callers):
    """Calls to some services, one after the other in a few threads, until it is left; what was not answered 200 is `lost`."""

    def __init__(self, port: int, services: Iterable[str], *, threads: int = 2) -> None:
        self._port = port
        self._services = list(services)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        self.good = 0
        self.lost: list[str] = []

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._stop.is_set():
            number += 1
            service = self._services[number % len(self._services)]
            method = "POST" if number % 3 == 0 else "GET"
            try:
                connection.request(method, f"/{number}", headers={"Smart-Service": service})
                response = connection.getresponse()
                said = response.read()
                if response.status != 200:
                    self.lost.append(f"{method} {service}: {response.status} {said[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{method} {service}: {error!r}")
                connection.close()
            else:
                self.good += 1
        connection.close()


def seconds(begun: float) -> float:
    """How long ago that was, by the monotonic clock."""
    return time.monotonic() - begun
