"""A realm of 1,000 services with 10 instances each on one machine: what the benchmarks of the sidecar share.

All instances are one HAProxy that listens on 10,000 addresses and answers which of them was called. Nothing else is made up:
`atlas serve` or a store, `sidecar run` and its HAProxy are the programs that a user runs.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock, Thread

import atlas
from atlas.directory import Directory
from atlas.model import Author, Instance, Lease, Service
from benchmarks.measure import Claim
from tests.hosts import Host, Network
from tests.processes import Callers, Child, wait_until
from tests.sidecar_realm import SidecarHost, SidecarRealm

SERVICES, INSTANCES = 1000, 10
FIRST_PORT = 9000
BY = Author("benchmark")
HOLD_SECONDS = 3600.0
"""The length of the leases of the instances, which nobody renews."""

_NETWORK = f"127.{20 + os.getpid() % 200}.2"
"""Of the addresses of the instances; another run beside this one has others."""


def lacking() -> list[Claim]:
    """A claim that does not hold, where HAProxy is not installed."""
    if shutil.which("haproxy") is not None:
        return []
    return [Claim("a sidecar", "haproxy is installed", "it is not", "nothing", False)]


def service_name(number: int) -> str:
    return f"service-{number:04}"


def instance(service: int, number: int) -> Instance:
    """The instance with this number of a service; each service has a port of its own."""
    return Instance(service_name(service), f"{_NETWORK}.{number + 1}", FIRST_PORT + service)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that is not below `share` of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def fill(directory: Directory, *, services: int = SERVICES, empty: int = 0) -> None:
    """Bring services into a map, each but the last `empty` ones with ten instances, on twenty hosts."""
    for number in range(services):
        directory.put_service(Service(service_name(number), owner="benchmark"), by=BY)
    half = (services - empty) // 2
    for host in range(2 * INSTANCES):
        part = range(half) if host % 2 else range(half, services - empty)
        directory.hold(Lease(f"host-{host}", "1", HOLD_SECONDS, tuple(instance(number, host // 2) for number in part)))


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="sc-", dir="/tmp") as folder:
        yield Path(folder)


@contextmanager
def filled(folder: Path, *, services: int = SERVICES, empty: int = 0) -> Iterator[str]:
    """The URL of a SQLite map that is filled, with its instances listening."""
    url = f"sqlite:///{folder}/map.db"
    with atlas.open(url) as directory:
        fill(directory, services=services, empty=empty)
    with instances(folder, services):
        yield url


@contextmanager
def instances(folder: Path, services: int = SERVICES) -> Iterator[Child]:
    """All instances of that many services: each answers with its own `host:port`."""
    last = FIRST_PORT + services - 1
    binds = "".join(f"    bind {_NETWORK}.{number + 1}:{FIRST_PORT}-{last}\n" for number in range(INSTANCES))
    answer = 'http-request return status 200 content-type text/plain lf-string "%[dst]:%[dst_port]"'
    (folder / "instances.cfg").write_text(
        "global\n    nbthread 1\ndefaults\n    mode http\n    timeout client 60s\n    timeout http-keep-alive 60s\n"
        f"frontend instances\n{binds}    {answer}\n"
    )
    last_one = (f"{_NETWORK}.{INSTANCES}", last)
    with Child(["haproxy", "-db", "-f", folder / "instances.cfg"], output=folder / "instances.log") as child:
        child.wait_ready(lambda: _accepts(last_one), 60)
        yield child


def _accepts(place: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(place) == 0


class Town(SidecarRealm):
    """Sidecars on one loopback; ends them at the end."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, Network(apart=False), url)

    def __enter__(self) -> Town:
        return self

    def sidecar(self, name: str, address: str = "127.0.0.1") -> SidecarHost:
        """A host of its own directory, which is not started yet."""
        made = SidecarHost(self, Host(name, address))
        self.hosts.append(made)
        return made


class Door:
    """A client of one sidecar with one connection, which is kept; it repeats nothing."""

    def __init__(self, host: SidecarHost, timeout: float = 10.0) -> None:
        self._path, self._timeout = str(host.directory / "calls.sock"), timeout
        self._socket: socket.socket | None = None

    def call(self, service: str, method: str = "GET") -> tuple[int, str]:
        """Status and body. Raises OSError when there is no answer."""
        try:
            status, closes, body = self._exchange(service, method)
        except OSError:
            self.close()
            raise
        if closes:
            self.close()
        return status, body

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, service: str, method: str) -> tuple[int, bool, str]:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(self._timeout)
            self._socket.connect(self._path)
        body = "x=1" if method == "POST" else ""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} / HTTP/1.1\r\nHost: {service}\r\nSmart-Service: {service}\r\n{length}\r\n"
        self._socket.sendall((head + body).encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive(received)
        told, _, answer = received.partition(b"\r\n\r\n")
        found = re.search(rb"content-length: *(\d+)", told, re.IGNORECASE)
        while len(answer) < (int(found[1]) if found else 0):
            answer += self._receive(received)
        closes = re.search(rb"connection: *close", told, re.IGNORECASE) is not None
        return int(told.split(b" ", 2)[1]), closes, answer.decode()

    def _receive(self, before: bytes) -> bytes:
        assert self._socket is not None
        more = self._socket.recv(65_536)
        if not more:
            raise ConnectionResetError(f"the connection ended after {before!r}")
        return more


class Load(Callers):
    """Clients that call services in turn through one sidecar, and repeat nothing. A call without an answer 200 is lost."""

    def __init__(
        self,
        host: SidecarHost,
        services: Sequence[str],
        *,
        connections: int = 2,
        pause: float = 0.002,
        posts: bool = True,
    ) -> None:
        self.services = tuple(services)
        self.sent: Counter[str] = Counter()
        self.lost: list[str] = []
        self.last: dict[str, float] = {}
        """When each instance (`host:port`) last answered, by the monotonic clock."""
        self._host, self._pause, self._posts = host, pause, posts
        self._stop, self._lock = Event(), Lock()
        self._threads = [Thread(target=self._run, args=(number,), daemon=True) for number in range(connections)]

    @property
    def total(self) -> int:
        return sum(self.sent.values())

    def _run(self, number: int) -> None:
        door = Door(self._host)
        while not self._stop.is_set():
            number += 1
            method = "POST" if self._posts and number % 5 == 0 else "GET"
            service = self.services[number % len(self.services)]
            self._send(door, service, method)
            self._stop.wait(self._pause)
        door.close()

    def _send(self, door: Door, service: str, method: str) -> None:
        try:
            status, body = door.call(service, method)
            fault = "" if status == 200 else f"{status} {body[:200]}"
        except OSError as error:
            body, fault = "", f"{type(error).__name__}: {error}"
        with self._lock:
            self.sent[method] += 1
            if fault:
                self.lost.append(f"{time.time():.3f} {method} {service}: {fault}")
            else:
                self.last[body] = time.monotonic()


class Relay:
    """A TCP relay before a server: counts the HTTP requests that pass, and cuts its connections when told to."""

    def __init__(self, port: int) -> None:
        self.requests: list[str] = []
        self._target = port
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """End every connection; gives how many there were. New ones are taken."""
        cut, self._open = self._open, set()
        for one in cut:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        return len(cut) // 2

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open |= {client, server}
                Thread(target=self._pass, args=(client, server, True), daemon=True).start()
                Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if counts:
                    found = re.findall(rb"((?:GET|PUT|POST|DELETE) /\S+) HTTP/1\.1\r\n", data)
                    self.requests += [one.decode() for one in found]
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def memory_mb(pid: int) -> float:
    """What a process has in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used, all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def seconds_until_served(door: Door, service: str, began: float, most: float = 30.0) -> float:
    """How long after `began` the first call of a service was answered 200."""
    while time.monotonic() - began < most:
        with suppress(OSError):
            if door.call(service)[0] == 200:
                return time.monotonic() - began
        time.sleep(0.005)
    raise AssertionError(f"no call of {service} was answered within {most:g} s")


def settled(host: SidecarHost, seconds: float = 30.0) -> None:
    """Wait until the agent has brought all of the map to HAProxy and has been quiet for a moment."""
    wait_until(lambda: host.ask("/healthcheck/ready")[0] == 200, seconds, what="the sidecar")
    time.sleep(3)
