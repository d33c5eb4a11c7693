"""Many instances in one process: every address of 127.0.0.0/8, and ::1, on one port.

with ManyInstances(folder) as instances:
    instances.serve("127.3.0.1", "orders")      # from now on it answers calls to orders
    instances.leave("127.3.0.1")                # its process ends: what it has not answered by now is lost

Whoever is called without being there, or for a service that it does not have, breaks the connection off and counts it. Each
answer says which address gave it. `/work?seconds=0.01` takes a while; `/restless` answers 200 in one second and 503 in the next.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.processes import Child, accepts, free_port

ROOT = Path(__file__).parents[1]


class ManyInstances:
    """The process, and what it is told."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._log = folder / "many-instances.log"
        self._child: Child | None = None

    def serve(self, host: str, *services: str) -> None:
        """It is there for these services, and for no other one."""
        self._tell({host: services})

    def leave(self, host: str) -> None:
        """It is there no more; its connections are cut."""
        self._tell({host: []})

    def told(self) -> dict[str, Any]:
        """`stray`: calls that reached somebody who was not there, as texts. `busy`: calls under way, by address."""
        return self._tell({})

    @property
    def stray(self) -> list[str]:
        return list(self.told()["stray"])

    def busy(self, host: str) -> int:
        """How many calls it is answering now."""
        return int(self.told()["busy"].get(host, 0))

    def _tell(self, who: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("PUT", "/-/who", body=json.dumps(who))
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()

    def __enter__(self) -> ManyInstances:
        command = [sys.executable, "-m", "tests.many_instances", str(self.port)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._child = Child(command, output=self._log, env=environ, cwd=self._log.parent)
        self._child.wait_ready(lambda: accepts(self.port))
        return self

    def __exit__(self, *error: object) -> None:
        if self._child is not None:
            self._child.stop(0.1)


class _Everybody:
    def __init__(self) -> None:
        self.services: dict[str, frozenset[str]] = {}
        self.stray: list[str] = []
        self.busy: Counter[str] = Counter()
        self.connections: dict[str, set[_Connection]] = {}

    def tell(self, body: bytes) -> bytes:
        for host, services in json.loads(body).items():
            self.services[host] = frozenset(services)
            if not services:
                for connection in list(self.connections.get(host, ())):
                    connection.end()
        return json.dumps({"stray": self.stray, "busy": +self.busy}).encode()


class _Connection(asyncio.Protocol):
    def __init__(self, everybody: _Everybody) -> None:
        self._everybody = everybody
        self._data = b""
        self._host = ""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._host = str(transport.get_extra_info("sockname")[0])
        self._everybody.connections.setdefault(self._host, set()).add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._everybody.connections[self._host].discard(self)

    def end(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (cut := self._data.find(b"\r\n\r\n")) >= 0:
            lines = self._data[:cut].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            end = cut + 4 + int(headers.get("content-length", 0))
            if len(self._data) < end:
                return
            body, self._data = self._data[cut + 4 : end], self._data[end:]
            self._take(lines[0].split()[1], headers, body)

    def _take(self, target: str, headers: dict[str, str], body: bytes) -> None:
        everybody = self._everybody
        if target == "/-/who":
            self._answer(everybody.tell(body))
            return
        if target == "/restless":
            self._answer(b"{}", "200 OK" if int(time.time()) % 2 else "503 Service Unavailable")
            return
        service = headers.get("smart-service", "")
        if service not in everybody.services.get(self._host, ()):
            everybody.stray.append(f"{time.time():.3f} {service} at {self._host}")
            self.end()
            return
        everybody.busy[self._host] += 1
        seconds = float(parse_qs(urlsplit(target).query).get("seconds", ["0"])[0])
        said = json.dumps({"service": service, "port": self._host}).encode()
        asyncio.get_running_loop().call_later(seconds, self._finish, said)

    def _finish(self, said: bytes) -> None:
        self._everybody.busy[self._host] -= 1
        self._answer(said)

    def _answer(self, body: bytes, status: str = "200 OK") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        if not self._transport.is_closing():
            self._transport.write(head.encode() + body)


async def _serve(port: int) -> None:
    everybody, loop = _Everybody(), asyncio.get_running_loop()
    await loop.create_server(lambda: _Connection(everybody), "0.0.0.0", port, backlog=1024)
    with suppress(OSError):  # not every machine has it
        await loop.create_server(lambda: _Connection(everybody), "::1", port, backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
