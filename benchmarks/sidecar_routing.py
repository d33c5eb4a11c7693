"""What a call through HAProxy's file costs: its processor time against one ACL for each service, and the time of the hop.

The instance behind every service is HAProxy too, which answers by itself: it costs little and always the same. One thread
each, so that the processor time of a process is what its requests cost.
"""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Claim, ratio_claim
from sidecar.layout import fresh_layout, lay_out
from sidecar.model import Route, Server
from sidecar.render import render
from sidecar.settings import Settings
from tests.processes import Child, accepts, free_port

_MANY = 1000
_FEW = 10
_ROUNDS = 15
_REQUESTS = 1000
_CONNECTIONS = 20
_TURN = 100
"""How many requests one of them gets before it is the turn of the next."""
_DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
_CALLS = 3000
"""How many single calls a round of the latency makes for each way."""


@dataclass(frozen=True)
class Proxy:
    """A running HAProxy and the services that it knows."""

    port: int
    process: int
    services: tuple[str, ...]

    def seconds(self) -> float:
        """The processor time that it has used."""
        tasks = Path(f"/proc/{self.process}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def names(count: int) -> tuple[str, ...]:
    return tuple(f"service-{number:04}" for number in range(count))


def request_to(service: str) -> bytes:
    """A call with the headers that smartclient sends from within a service, in its order."""
    number = random.randrange(10_000)
    return (
        f"GET /teams HTTP/1.1\r\nHost: {service}.smart-service\r\nUser-Agent: python-requests/2.34.2\r\n"
        "Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n"
        f"X-Request-ID: 8b1a9953c4611296a827abf8c478{number:04}\r\nSmart-Service: {service}\r\nSmart-Caller: billing\r\n"
        f"Smart-Bucket: {number}\r\nSmart-Attempt: 1\r\nSmart-Deadline: 4999\r\n"
        "traceparent: 00-afeeba9d46d0a245a3bbc916aefe2caa-c655b18c530d6f2f-01\r\n\r\n"
    ).encode()


def _process(folder: Path, port: int, text: str) -> str:
    return f"global\n    maxconn 9000\n    nbthread 1\ndefaults\n    mode http\n    timeout client 300s\n    timeout server 30s\n    timeout connect 1s\n{text}"


@contextmanager
def _running(folder: Path, name: str, port: int, services: Sequence[str]) -> Iterator[Proxy]:
    """HAProxy with the file that lies in the folder."""
    command: list[str | Path] = ["haproxy", "-db", "-f", folder / name]
    with Child(command, output=folder / f"{name}.log", cwd=folder) as child:
        child.wait_ready(lambda: accepts(port))
        yield Proxy(port, child.pid, tuple(services))


@contextmanager
def instance(folder: Path) -> Iterator[Proxy]:
    """What stands behind every service."""
    port = free_port()
    answer = 'http-request return status 200 content-type application/json string "{}"'
    text = f"frontend instance\n    bind 127.0.0.1:{port}\n    {answer}\n"
    (folder / "instance.cfg").write_text(_process(folder, port, text))
    with _running(folder, "instance.cfg", port, ()) as proxy:
        yield proxy


@contextmanager
def ours(folder: Path, count: int, upstream: int) -> Iterator[Proxy]:
    """What the sidecar writes."""
    home = folder / f"ours-{count}"
    (home / "maps").mkdir(parents=True)
    server = Server(f"127.0.0.1:{upstream}", "127.0.0.1", upstream)
    routes = {name: Route(name, (server,)) for name in names(count)}
    layout, state, _ = lay_out(routes, fresh_layout(routes))
    port = free_port()
    settings = Settings(directory=home, state=home / "state", port=port, socket=False)
    files = render(state, layout, settings, descriptors=_DESCRIPTORS, threads=1)
    (home / "haproxy.cfg").write_text(files.config)
    for name, text in files.maps.items():
        (home / "maps" / f"{name}.map").write_text(text)
    with _running(home, "haproxy.cfg", port, names(count)) as proxy:
        yield proxy


@contextmanager
def one_acl_each(folder: Path, count: int, upstream: int) -> Iterator[Proxy]:
    """The reference: an ACL and a use_backend for each service, and nothing else."""
    (folder / f"acl-{count}").mkdir()
    folder = folder / f"acl-{count}"
    port = free_port()
    lines = [f"frontend calls\n    bind 127.0.0.1:{port}\n"]
    lines += [f"    acl is_{name} req.hdr(Smart-Service) -m str {name}\n" for name in names(count)]
    lines += [f"    use_backend {name} if is_{name}\n" for name in names(count)]
    lines += [f"backend {name}\n    server one 127.0.0.1:{upstream}\n" for name in names(count)]
    (folder / "acl.cfg").write_text(_process(folder, port, "".join(lines)))
    with _running(folder, "acl.cfg", port, names(count)) as proxy:
        yield proxy


@contextmanager
def hop_alone(folder: Path, count: int, upstream: int) -> Iterator[Proxy]:
    """The hop without any choice: the header is the name of the backend, and nothing else is done."""
    port = free_port()
    lines = [f"frontend calls\n    bind 127.0.0.1:{port}\n    use_backend %[req.hdr(Smart-Service)]\n"]
    lines += [f"backend {name}\n    server one 127.0.0.1:{upstream}\n" for name in names(count)]
    (folder / "hop.cfg").write_text(_process(folder, port, "".join(lines)))
    with _running(folder, "hop.cfg", port, names(count)) as proxy:
        yield proxy


@contextmanager
def _apart(processes: Sequence[int]) -> Iterator[None]:
    """The caller on one processor and everything that answers it on another: else it is chance who shares one, and a call
    within one processor takes a third of the time of one between two."""
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(ours) < 2:
        yield
        return
    here, there = sorted(ours)[:2]
    for process in processes:
        os.sched_setaffinity(process, {there})
    os.sched_setaffinity(0, {here})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


class Caller:
    """Some connections that are kept, over which requests go in turns."""

    def __init__(self, port: int, connections: int) -> None:
        self.sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        for each in self.sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        for each in self.sockets:
            each.close()

    def send(self, requests: Sequence[bytes]) -> None:
        """Send the requests, as many at once as there are connections."""
        width = len(self.sockets)
        for begin in range(0, len(requests), width):
            batch = list(zip(self.sockets, requests[begin : begin + width], strict=False))
            for connection, request in batch:
                connection.sendall(request)
            for connection, _ in batch:
                _answer(connection)

    def times(self, requests: Sequence[bytes]) -> list[float]:
        """How long each of the requests takes, one after the other."""
        taken = []
        for request in requests:
            begun = time.perf_counter()
            self.sockets[0].sendall(request)
            _answer(self.sockets[0])
            taken.append(time.perf_counter() - begun)
        return taken


def _answer(connection: socket.socket) -> None:
    """Read one answer of the instance, which ends with its body of two bytes."""
    answer = b""
    while not answer.endswith(b"\r\n\r\n{}"):
        part = connection.recv(65_536)
        if not part:
            raise AssertionError(f"the connection ended after {answer!r}")
        answer += part
    if not re.match(rb"HTTP/1\.1 200 ", answer):
        raise AssertionError(answer)


def _uniform(services: Sequence[str], count: int) -> list[bytes]:
    """As many requests to each service."""
    chosen = [services[number % len(services)] for number in range(count)]
    random.shuffle(chosen)
    return [request_to(service) for service in chosen]


def _cost(proxies: dict[str, Proxy]) -> dict[str, float]:
    """Processor time of the proxy for one request, the median of rounds.

    They take turns after a few requests each: none finds the caches of the processor full of its own things, as on a host,
    where services run between the calls; and no connection to an instance is idle for so long that it would be ended.
    """
    taken: dict[str, list[float]] = {name: [] for name in proxies}
    with ExitStack() as stack:
        callers = {}
        for name, proxy in proxies.items():
            callers[name] = Caller(proxy.port, _CONNECTIONS)
            stack.callback(callers[name].close)
        for number in range(_ROUNDS + 1):
            requests = {name: _uniform(proxy.services, _REQUESTS) for name, proxy in proxies.items()}
            used = dict.fromkeys(proxies, 0.0)
            for begin in range(0, _REQUESTS, _TURN):
                for name, proxy in proxies.items():
                    begun = proxy.seconds()
                    callers[name].send(requests[name][begin : begin + _TURN])
                    used[name] += proxy.seconds() - begun
            if number:
                for name, seconds in used.items():
                    taken[name].append(seconds / _REQUESTS)
    return {name: statistics.median(costs) for name, costs in taken.items()}


def _latency(proxies: dict[str, Proxy]) -> dict[str, float]:
    """The median time of a call that is made alone."""
    taken: dict[str, list[float]] = {name: [] for name in proxies}
    with ExitStack() as stack:
        callers = {}
        for name, proxy in proxies.items():
            callers[name] = Caller(proxy.port, 1)
            stack.callback(callers[name].close)
        for number in range(_ROUNDS + 1):
            for name, proxy in proxies.items():
                times = callers[name].times(_uniform(proxy.services or ("service-0000",), _CALLS // _ROUNDS))
                if number:
                    taken[name] += times
    return {name: statistics.median(times) for name, times in taken.items()}


def run() -> list[Claim]:
    """The map at 1,000 services against one ACL for each of them, against 10 services, and against no hop."""
    if shutil.which("haproxy") is None:
        return [Claim("a call through HAProxy", "haproxy is installed", "it is not", "nothing", False)]
    with tempfile.TemporaryDirectory(prefix="routing-", dir="/tmp") as made, ExitStack() as stack:
        folder = Path(made)
        direct = stack.enter_context(instance(folder))
        many = stack.enter_context(ours(folder, _MANY, direct.port))
        few = stack.enter_context(ours(folder, _FEW, direct.port))
        acls = stack.enter_context(one_acl_each(folder, _MANY, direct.port))
        hop = stack.enter_context(hop_alone(folder, _MANY, direct.port))
        stack.enter_context(_apart([proxy.process for proxy in (direct, many, few, acls, hop)]))
        # Apart from the slow one: connections to instances that are idle for longer than a second are ended.
        cost = _cost({"many": many, "few": few, "hop": hop})
        slow = _cost({"acls": acls, "hop": hop})
        # In pairs, so that each service is called again before its connection has been idle for long.
        latency = {
            name: _latency({"hop": way, "direct": direct}) for name, way in ((_FEW, few), (_MANY, many), (0, hop))
        }
    return _claims(cost, slow, latency)


def _claims(cost: dict[str, float], slow: dict[str, float], latency: dict[int, dict[str, float]]) -> list[Claim]:
    """`slow` is what was measured beside the reference, `cost` beside the others: each is without the hop of its own time."""
    routing, reference = cost["many"] - cost["hop"], slow["acls"] - slow["hop"]
    whole = f"the whole request {slow['acls'] / cost['many']:.1f}x less: {cost['many'] * 1e6:.0f} us of {slow['acls'] * 1e6:.0f}"
    claims = [
        Claim(
            f"processor time of routing a request, {_MANY:,} services",
            "at least 10x less",
            f"{reference / routing:.0f}x less ({routing * 1e6:.1f} us; {whole})",
            f"one ACL for each service ({reference * 1e6:.0f} us), both without the hop alone ({cost['hop'] * 1e6:.0f} us)",
            reference >= 10 * routing,
        ),
        ratio_claim(
            f"processor time of a whole request, {_MANY:,} services",
            most=1.5,
            ours=cost["many"],
            reference=cost["few"],
            against=f"{_FEW} services ({cost['few'] * 1e6:.1f} us)",
        ),
    ]
    alone = latency[0]["hop"] / latency[0]["direct"]
    for count in (_FEW, _MANY):
        hop, direct = latency[count]["hop"], latency[count]["direct"]
        claims.append(
            Claim(
                f"p50 of a call through HAProxy, {count:,} services",
                "at most 3x",
                f"{hop / direct:.2f}x ({(hop - direct) * 1e6:.0f} us more)",
                f"the same call, direct ({direct * 1e6:.0f} us; the hop alone: {alone:.2f}x)",
                hop <= 3 * direct,
            )
        )
    return claims
