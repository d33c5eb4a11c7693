"""How long calls take beyond their deadline, against servers that drip, hang, ask to come back in an hour, or are not there."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests

import smartclient
from benchmarks.measure import Claim
from smartclient.runtime import Mesh, Options
from tests.faults import FaultServer, Reaction, Seen, answer, drip, drip_head, hang, reset, world_of

DEADLINE = 0.4
TIMES = 5


def run() -> list[Claim]:
    """The worst of five calls for each fault, and the breaker beside it."""
    claims = []
    with tempfile.TemporaryDirectory() as folder:
        for name, reaction in _FAULTS.items():
            with FaultServer(_always(reaction)) as server:
                claims.append(_claim(name, _overtime(_session(server.address, folder, name))))
        with _black_hole() as address:
            claims.append(_claim("black hole", _overtime(_session(address, folder, "hole"))))
        with FaultServer(_always(drip)) as server:
            claims.append(
                _claim("body read from a stream", _overtime(_session(server.address, folder, "stream"), _read_stream))
            )
    return claims


def _late_reset(connection: socket.socket) -> None:
    time.sleep(0.15)
    reset(connection)


_FAULTS: dict[str, Reaction] = {
    "dripping body": drip,
    "dripping headers": drip_head,
    "hang": hang(3),
    "Retry-After 3600": answer(503, headers=["Retry-After: 3600"]),
    "three retries, each reset late": _late_reset,
}


def _always(reaction: Reaction) -> Callable[[Seen], Reaction]:
    return lambda seen: reaction


def _session(address: str, folder: str, name: str) -> smartclient.Session:
    known = world_of([address], "identity")
    return smartclient.Session(mesh=Mesh(Options(state_dir=f"{folder}/{name}", retries=3), world=lambda: known))


def _call(session: smartclient.Session) -> None:
    session.get("service://identity/", deadline=DEADLINE)


def _read_stream(session: smartclient.Session) -> None:
    for _ in session.get("service://identity/", deadline=DEADLINE, stream=True).iter_content(7):
        pass


def _overtime(session: smartclient.Session, call: Callable[[smartclient.Session], None] = _call) -> float:
    """Seconds beyond the deadline, of the worst call."""
    worst = -DEADLINE
    for _ in range(TIMES):
        begun = time.monotonic()
        try:
            call(session)
        except requests.RequestException:
            pass
        worst = max(worst, time.monotonic() - begun - DEADLINE)
    return worst


def _claim(name: str, overtime: float) -> Claim:
    told = f"{overtime * 1000:+.0f} ms" if overtime > -0.02 else f"{-overtime * 1000:.0f} ms before it"
    return Claim(f"deadline of {DEADLINE:g} s against: {name}", "within +50 ms", told, "requests: 6 s for a timeout of 1 s", overtime <= 0.05)  # fmt: skip


@contextmanager
def _black_hole() -> Iterator[str]:
    """An address whose queue of connections is full: it neither accepts nor refuses."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        filling = [socket.socket() for _ in range(4)]
        for one in filling:
            one.setblocking(False)
            one.connect_ex(address)
        yield f"127.0.0.1:{address[1]}"
        for one in filling:
            one.close()
