"""A HAProxy for one test, changed as the agent would, with instances in this process and clients that forgive nothing."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from sidecar.diff import commands, removals
from sidecar.layout import Layout, adopt_layout, fresh_layout, lay_out
from sidecar.model import Route, Server, State
from sidecar.proxy import Proxy, descriptors
from sidecar.render import Files, render
from sidecar.runtime import Refusal, Runtime
from sidecar.settings import Settings
from tests.processes import Callers, free_port, wait_until

MAPS = Path("maps")


class Steered:
    """HAProxy of one directory, and what it is to know."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.proxy = Proxy(settings, start_seconds=15)
        self.runtime = Runtime(settings.runtime_socket)
        self.layout = Layout()
        self.wanted = State()
        self.known = State()
        self.leaving: Mapping[str, tuple[str, ...]] = {}

    def files(self, *routes: Route) -> Files:
        """The files for these services, each in a backend of its own name."""
        by_name = {route.service: route for route in routes}
        self.layout, self.wanted, _ = lay_out(by_name, fresh_layout(by_name, 3, dynamic=False))
        return render(self.wanted, self.layout, self.settings, descriptors=descriptors(), threads=2)

    def begin(self, *routes: Route) -> Steered:
        """Start HAProxy with these services."""
        self.proxy.write(self.files(*routes))
        assert self.proxy.start()
        self.read()
        return self

    def read(self) -> None:
        """Learn what HAProxy knows."""
        reading = self.runtime.read(MAPS)
        self.known = reading.state
        self.leaving = {name: tuple(servers) for name, servers in reading.leaving.items()}

    def adopt(self) -> None:
        """Begin with a HAProxy that somebody else has started."""
        self.read()
        self.layout = adopt_layout(self.known)

    def steer(self, *routes: Route) -> list[Refusal]:
        """Bring HAProxy to these services through its socket alone."""
        by_name = {route.service: route for route in routes}
        self.layout, self.wanted, needs_reload = lay_out(by_name, self.layout, dynamic=self.proxy.dynamic_backends)
        assert not needs_reload
        return self.tell()

    def tell(self) -> list[Refusal]:
        """Say what differs."""
        todo = commands(self.known, self.wanted, leaving=self.leaving, dynamic=self.proxy.dynamic_backends)
        refused = self.runtime.run(todo)
        self.read()
        return refused

    def tidy(self) -> None:
        """Delete the servers in maintenance, once their calls are over."""

        def none_left() -> bool:
            self.runtime.run(removals(self.leaving, self.wanted))
            self.read()
            return not self.leaving

        wait_until(none_left, 10, what="the servers in maintenance deleted")

    def rewrite(self) -> None:
        """Write the files anew, as HAProxy is."""
        self.proxy.write(render(self.wanted, self.layout, self.settings, descriptors=descriptors(), threads=2))

    def get(self, service: str, path: str = "/") -> tuple[int, bytes]:
        """One call through HAProxy on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Smart-Service": service})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@contextmanager
def steered(program: str = "haproxy") -> Iterator[Steered]:
    """A HAProxy in a directory of its own (a short one: the paths of sockets are bounded), gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="sc-", dir="/tmp"))
    settings = Settings(
        directory=directory, state=directory / "state", port=free_port(), max_connections=2_000, haproxy=program
    )
    one = Steered(settings)
    try:
        yield one
    finally:
        one.proxy.stop(1.0)
        shutil.rmtree(directory, ignore_errors=True)


def route(service: str, *instances: Instance, **fields: object) -> Route:
    """The route to these instances; `fields` are those of every server."""
    return Route(service, tuple(replace(instance.server, **fields) for instance in instances))  # type: ignore[arg-type]


class Instance:
    """An HTTP server of this process: it answers with its port, with `status`, while `answers` is set. Keeps connections open;
    with the status 0 it ends them without an answer."""

    def __init__(self) -> None:
        self.status = 200
        self.answers = threading.Event()
        self.answers.set()
        self.calls = 0
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    @property
    def server(self) -> Server:
        return Server(f"127.0.0.1:{self.port}", "127.0.0.1", self.port)

    def __enter__(self) -> Instance:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, and every connection that it has."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(5)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, backlog=1_000)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line.split(b":")[1]))
                self.calls += 1
                while not self.answers.is_set():
                    await asyncio.sleep(0.005)
                if not self.status:
                    return
                body = str(self.port).encode()
                writer.write(b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n%s" % (self.status, len(body), body))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@contextmanager
def instances(count: int) -> Iterator[list[Instance]]:
    """So many instances, ended afterwards."""
    running = [Instance() for _ in range(count)]
    try:
        for instance in running:
            instance.__enter__()
        yield running
    finally:
        for instance in running:
            instance.__exit__(None, None, None)


class Clients(Callers):
    """Clients that call one service on kept connections, GET and POST, until they are told to end. None repeats a call: each
    that has no answer 200 is counted as lost, with what came instead."""

    def __init__(self, steered: Steered, service: str, count: int = 4, *, pause: float = 0.001) -> None:
        self.good: Counter[str] = Counter()
        self.lost: list[str] = []
        self._port = steered.settings.port
        self._service = service
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=("GET" if number % 2 else "POST",), daemon=True)
            for number in range(count)
        ]

    def __enter__(self) -> Self:
        super().__enter__()
        self.wait_for(20)
        return self

    def total(self) -> int:
        return sum(self.good.values()) + len(self.lost)

    def wait_for(self, more: int) -> None:
        """Until so many more calls were answered."""
        before = self.total()
        wait_until(lambda: self.total() >= before + more, 20, what=f"{more} more calls")

    def _call(self, method: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._stop.is_set():
            try:
                body = b"x" * 100 if method == "POST" else None
                connection.request(method, "/", body=body, headers={"Smart-Service": self._service})
                response = connection.getresponse()
                said = response.read()
                if response.status == 200:
                    self.good[said.decode()] += 1
                else:
                    self.lost.append(f"{method}: {response.status} {said[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{method}: {type(error).__name__} {error}")
                connection.close()
            time.sleep(self._pause)
        connection.close()


def is_alive(pid: int) -> bool:
    """Whether this process is there, zombies excepted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
