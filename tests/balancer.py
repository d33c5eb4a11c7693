"""A small load balancer that probes its backends, and clients that send through it and count what gets lost."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from tests.processes import Callers, wait_until


class Balancer:
    """Forwards TCP connections in turn to the backends that are up.

    A backend is asked for /healthcheck/ready every `interval` seconds. It is up after the first good answer and down
    after `fall` bad ones (no answer is a bad one), like any balancer that trusts its probes.
    """

    def __init__(self, backends: Sequence[int], *, interval: float = 0.5, fall: int = 2) -> None:
        self.port = 0
        self.up: list[int] = []
        self._backends = list(backends)
        self._interval = interval
        self._fall = fall
        self._turn = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Balancer:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        watching = [asyncio.create_task(self._watch(port)) for port in self._backends]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in watching:
            task.cancel()

    async def _watch(self, port: int) -> None:
        bad = 0
        while True:
            if await self._probe(port):
                bad = 0
                if port not in self.up:
                    self.up.append(port)
            else:
                bad += 1
                if bad >= self._fall and port in self.up:
                    self.up.remove(port)
            await asyncio.sleep(self._interval)

    async def _probe(self, port: int) -> bool:
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(b"GET /healthcheck/ready HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
                    return (await reader.readline()).startswith(b"HTTP/1.1 200")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self.up:
                return
            self._turn += 1
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.up[self._turn % len(self.up)])
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
        except OSError:
            pass
        finally:
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class Load(Callers):
    """Clients that send GET and POST on fresh and on kept connections until told to stop, and count.

    A request is lost when it has no good answer, whatever the reason: this client never repeats one.
    """

    def __init__(self, port: int, *, pause: float = 0.01, path: str = "/work") -> None:
        self.good: Counter[str] = Counter()
        self.lost: list[str] = []
        self._port = port
        self._pause = pause
        self._path = path
        self._stop = threading.Event()
        kinds = [(method, kept) for method in ("GET", "POST") for kept in (False, True)]
        self._threads = [threading.Thread(target=self._send, args=kind, daemon=True) for kind in kinds]

    def total(self) -> int:
        return sum(self.good.values())

    def wait_for(self, more: int) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.total() + more
        wait_until(lambda: self.total() >= wanted, what=f"{more} more answers")

    def _send(self, method: str, kept: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        name = f"{method} {'kept' if kept else 'fresh'}"
        while not self._stop.is_set():
            try:
                connection.request(method, self._path, body=b"x" * 100 if method == "POST" else None)
                response = connection.getresponse()
                body = response.read()
                if response.status == 200 and body == b"done":
                    self.good[name] += 1
                else:
                    self.lost.append(f"{name}: status {response.status}")
                if response.will_close or not kept:
                    connection.close()  # the next request opens it anew
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{name}: {type(error).__name__} {error}")
                connection.close()
            time.sleep(self._pause)
        connection.close()
