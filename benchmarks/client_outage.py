"""What an outage makes of calls: attempts for each call while everything is down, through three tiers, and the recovery from a
slow-down.

Worker processes are real. An outage begins with the bucket of the retry budget full, which is the worst moment. Each fleet
is measured as it is, and with the breaker switched off, so that the budget is seen alone.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

import smartclient
from benchmarks.measure import Claim
from smartclient import breaker
from smartclient.runtime import Mesh, Observer, Options
from tests.faults import FaultServer, Reaction, Seen, answer, hang, world_of

OUTAGE_SECONDS = float(os.environ.get("BENCH_OUTAGE_SECONDS", "30"))
CALLS_A_SECOND = 100.0
"""Of a fleet, whatever its number of workers."""

WARM_SECONDS = 3.0
NEVER_OPEN = breaker.Settings(least_calls=1_000_000, newest_calls=1_000_000)

REFERENCE = "requests + Retry(3): 4.0x"


def run() -> list[Claim]:
    """Three fleets at once, each with and without the breaker; then the tiers; then the slow-down."""
    fleets = [(workers, settings) for workers in (1, 10, 100) for settings in (breaker.Settings(), NEVER_OPEN)]
    with tempfile.TemporaryDirectory() as folder:
        running = [_Fleet(workers, settings, f"{folder}/{number}") for number, (workers, settings) in enumerate(fleets)]
        smartclient.Session(
            mesh=Mesh(Options(state_dir=folder + "/first"), world=lambda: world_of([running[0].address]))
        ).get("service://identity/")  # everything is imported before the workers are forked
        told = mmap.mmap(-1, 8)  # when all have been forked, the moment at which they begin
        for fleet in running:
            fleet.start(told)
        begin = time.monotonic() + 4
        struct.pack_into("d", told, 0, begin)
        time.sleep(max(0.0, begin + WARM_SECONDS - time.monotonic()))
        for fleet in running:
            fleet.kill_server()
        measured = [fleet.result() for fleet in running]
        claims = []
        for (workers, settings), (calls, attempts, early_calls, early_attempts) in zip(fleets, measured, strict=True):
            alone = "" if settings is not NEVER_OPEN else ", budget alone"
            plural = "es" * (workers > 1)
            late, early = attempts / calls, early_attempts / early_calls
            claims.append(
                Claim(
                    f"total outage, {workers} process{plural}{alone}: attempts per call",
                    f"at most 1.1 in 5 s, 1.05 over {OUTAGE_SECONDS:g} s", f"{early:.3f}, {late:.3f}",
                    f"{REFERENCE} ({calls} calls)", early <= 1.1 and (late <= 1.05 or OUTAGE_SECONDS < 30),
                )
            )  # fmt: skip
        claims += [_tiers(folder, breaker.Settings(), ""), _tiers(folder, NEVER_OPEN, ", budget alone")]
        claims.append(_slow_down(folder))
    return claims


class _Fleet:
    """Workers that call one service at a steady pace. The service is a process of its own, which is killed."""

    def __init__(self, workers: int, settings: breaker.Settings, folder: str) -> None:
        self.workers, self._settings, self._folder = workers, settings, folder
        self._pipes: list[tuple[int, int]] = []
        reading, writing = os.pipe()
        self._server = os.fork()
        if self._server == 0:
            server = FaultServer()
            server.seen = _Forgetting()
            os.write(writing, server.address.encode())
            signal.pause()
        self.address = os.read(reading, 100).decode()
        os.close(reading)
        os.close(writing)

    def start(self, told: mmap.mmap) -> None:
        for number in range(self.workers):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                while not (begin := struct.unpack_from("d", told)[0]):
                    time.sleep(0.1)
                counts = _work(self.address, self._settings, self._folder, begin, self.workers, number)
                os.write(writing, struct.pack("4q", *counts))
                os._exit(0)
            os.close(writing)
            self._pipes.append((child, reading))

    def kill_server(self) -> None:
        os.kill(self._server, signal.SIGKILL)

    def result(self) -> tuple[int, int, int, int]:
        """Calls and attempts during the outage, and in its first five seconds."""
        total = [0, 0, 0, 0]
        for child, reading in self._pipes:
            counts = struct.unpack("4q", os.read(reading, 32))
            total = [one + other for one, other in zip(total, counts, strict=True)]
            os.close(reading)
            os.waitpid(child, 0)
        os.waitpid(self._server, 0)
        return total[0], total[1], total[2], total[3]


def _work(address: str, settings: breaker.Settings, folder: str, begin: float, workers: int, number: int) -> list[int]:
    known = world_of([address])
    mesh = Mesh(Options(state_dir=folder, breaker=settings), world=lambda: known)
    session = smartclient.Session(mesh=mesh)
    outage, end, pause = begin + WARM_SECONDS, begin + WARM_SECONDS + OUTAGE_SECONDS, workers / CALLS_A_SECOND
    counts = [0, 0, 0, 0]
    session.get("service://identity/")  # what a process does only once is done before the beginning
    due = begin + pause * number / workers
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        due += pause
        begun = time.monotonic()
        try:
            attempts = len(session.get("service://identity/", deadline=2).attempts)  # type: ignore[attr-defined]
        except requests.RequestException as error:
            attempts = len(error.attempts)  # type: ignore[attr-defined]
        if begun >= outage:
            early = begun < outage + 5
            counts = [counts[0] + 1, counts[1] + attempts, counts[2] + early, counts[3] + attempts * early]
    return counts


# -- three tiers -------------------------------------------------------------------------------------------------------


class _Attempts(Observer):
    def __init__(self) -> None:
        self.count = 0

    def attempt(self, service: str, attempt: object) -> None:
        self.count += 1


def _tiers(folder: str, settings: breaker.Settings, alone: str) -> Claim:
    """A calls B, B calls C, and C dies: how many attempts reach for C, for each call to A."""
    kind = folder + ("/tiers" + alone.replace(", ", "-").replace(" ", "-"))
    last = FaultServer()
    middle_to_last, first_to_middle = _Attempts(), _Attempts()
    with FaultServer(_tier(last.address, kind + "c", settings, middle_to_last)) as middle:  # noqa: SIM117
        with FaultServer(_tier(middle.address, kind + "b", settings, first_to_middle)) as first:
            known = world_of([first.address])
            mesh = Mesh(Options(state_dir=kind + "a", breaker=settings), world=lambda: known)
            session = smartclient.Session(mesh=mesh)
            for _ in range(300):
                session.get("service://identity/")
            last.close()
            middle_to_last.count = 0
            calls = 500
            for _ in range(calls):
                try:
                    session.get("service://identity/")
                except requests.RequestException:
                    pass
            mesh.close()
    ratio = middle_to_last.count / calls
    return Claim(
        f"three tiers, the last one down{alone}: amplification at the last", "at most 1.2x", f"{ratio:.2f}x",
        "three layers of Retry(3): 64x", ratio <= 1.2,
    )  # fmt: skip


def _tier(address: str, folder: str, settings: breaker.Settings, observer: Observer) -> Callable[[Seen], Reaction]:
    known = world_of([address])
    mesh = Mesh(Options(state_dir=folder, breaker=settings), world=lambda: known, observer=observer)
    session = smartclient.Session(mesh=mesh)

    def react(seen: Seen) -> Reaction:
        try:
            if session.get("service://identity/").ok:
                return answer()
        except requests.RequestException:
            pass
        return answer(503, headers=["Smart-Retry: no"])  # as a smart service answers when a call further down failed

    return react


# -- a slow-down -------------------------------------------------------------------------------------------------------

CAPACITY = 8
WORK_SECONDS = 0.02
LOAD = 240.0
"""Calls a second; 400 is what the server can do, and 133 while it is slow."""

SLOW_FROM, SLOW_UNTIL, STOP = 2.0, 7.0, 14.0


def _slow_down(folder: str) -> Claim:
    """A server with a queue, which works for callers that have left too, gets three times slower for five seconds."""
    reading, writing = os.pipe()
    begin = time.monotonic() + 0.5
    child = os.fork()
    if child == 0:
        _overloaded(begin, writing)
    address = os.read(reading, 100).decode()
    results: list[tuple[float, bool]] = []
    known = world_of([address])
    mesh = Mesh(Options(state_dir=folder + "/slow"), world=lambda: known)
    local = threading.local()

    def call(due: float) -> None:
        if not hasattr(local, "session"):
            local.session = smartclient.Session(mesh=mesh)
        try:
            good = local.session.get("service://identity/", deadline=0.5).ok
        except requests.RequestException:
            good = False
        results.append((due - begin, good))

    with ThreadPoolExecutor(200) as pool:
        for number in range(int(STOP * LOAD)):
            due = begin + number / LOAD
            time.sleep(max(0.0, due - time.monotonic()))
            pool.submit(call, due)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    mesh.close()
    seconds = Counter(int(at) for at, _ in results)
    good = Counter(int(at) for at, fine in results if fine)
    rates = {second: good[second] / seconds[second] for second in sorted(seconds)}
    during = sum(good[second] for second in range(3, 7)) / sum(seconds[second] for second in range(3, 7))
    recovered = next(
        (second for second in range(7, 14) if all(rates[later] >= 0.97 for later in range(second, 14))), None
    )
    told = "never" if recovered is None else f"from {recovered - SLOW_UNTIL:g} s after its end ({during:.0%} during it)"
    return Claim(
        "a 3x slow-down ends: success at least 97 %", "within 5 s", told, "requests + Retry: never recovers",
        recovered is not None and recovered - SLOW_UNTIL <= 5,
    )  # fmt: skip


def _overloaded(begin: float, writing: int) -> Any:
    places = threading.BoundedSemaphore(CAPACITY)

    def work(connection: socket.socket) -> None:
        with places:
            slow = SLOW_FROM <= time.monotonic() - begin < SLOW_UNTIL
            time.sleep(WORK_SECONDS * (3 if slow else 1))
        hang(0)(connection)

    server = FaultServer(lambda seen: work)
    os.write(writing, server.address.encode())
    signal.pause()
    os._exit(0)


class _Forgetting(list):  # type: ignore[type-arg]
    def append(self, item: object) -> None:
        pass
