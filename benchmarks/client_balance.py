"""One of five instances fails, in the direct route: calls that succeed, attempts that it takes, and how long the slowest are.

The instances are threads of one process, the caller is another with 20 threads. Nothing is known of the instances when the
first call begins, and the bad one is bad from the start.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests

import smartclient
from benchmarks.measure import Claim
from smartclient.runtime import Mesh, Options
from tests.faults import FaultServer, Reaction, Seen, answer, hang, world_of

CALLS = 4000
THREADS = 20
ATTEMPT_SECONDS = 0.3


def run() -> list[Claim]:
    """Once with an instance that answers 503, once with one that hangs."""
    claims = []
    for name, fault in (("answers 503", answer(503)), ("hangs", hang(5))):
        succeeded, attempts, p99, bad = _measure(fault)
        claims += [
            Claim(f"one of five instances {name}: success", "at least 99.9 %", f"{succeeded:.2%}", f"{bad} calls reached it; requests + Retry: 99.8 %", succeeded >= 0.999),
            Claim(f"one of five instances {name}: amplification", "at most 1.10x", f"{attempts:.3f}x", "requests + Retry: 1.25x", attempts <= 1.10),
            Claim(f"one of five instances {name}: p99", "at most 1.3x the attempt timeout", f"{p99 / ATTEMPT_SECONDS:.2f}x", "requests + Retry: 2.5x", p99 <= 1.3 * ATTEMPT_SECONDS),
        ]  # fmt: skip
    return claims


def _measure(fault: Reaction) -> tuple[float, float, float, int]:
    """The part of calls that succeeded, attempts for each call, the 99th percentile in seconds, calls that met the fault."""
    taken: list[float] = []
    tried: list[int] = []
    met: list[int] = []
    with _instances(fault) as addresses, tempfile.TemporaryDirectory() as folder:
        known = world_of(addresses)
        options = Options(state_dir=folder + "/state", attempt_seconds=ATTEMPT_SECONDS)
        mesh = Mesh(options, world=lambda: known)
        threads = [threading.Thread(target=_call, args=(mesh, addresses[0], taken, tried, met)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        mesh.close()
    return len(taken) / CALLS, sum(tried) / CALLS, sorted(taken)[int(len(taken) * 0.99)], len(met)


def _call(mesh: Mesh, bad: str, taken: list[float], tried: list[int], met: list[int]) -> None:
    session = smartclient.Session(mesh=mesh)
    for _ in range(CALLS // THREADS):
        begun = time.monotonic()
        try:
            response = session.get("service://identity/", deadline=2)
            attempts = response.attempts  # type: ignore[attr-defined]
            if response.ok:
                taken.append(time.monotonic() - begun)
        except requests.RequestException as error:
            attempts = error.attempts  # type: ignore[attr-defined]
        tried.append(len(attempts))
        met += [1 for attempt in attempts if attempt.instance == bad]


@contextmanager
def _instances(fault: Reaction) -> Iterator[list[str]]:
    """Five instances in a process of their own; the first one has the fault, the others take 4 ms."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        servers = [FaultServer(_always(fault)), *(FaultServer(_always(hang(0.004))) for _ in range(4))]
        os.write(writing, " ".join(server.address for server in servers).encode())
        signal.pause()
        os._exit(0)
    try:
        yield os.read(reading, 1000).decode().split()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


def _always(reaction: Reaction) -> Callable[[Seen], Reaction]:
    return lambda seen: reaction
