"""Calls against servers that fail in every way: nothing is executed twice that must not be, nothing arrives empty."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

import smartclient
from smartclient import breaker
from smartclient.runtime import Mesh, Options
from tests.faults import FaultServer, Reaction, Seen, answer, close, half, hang, reset, world_of

THREADS = 4
BODY = b"one-shot"


@dataclass
class Injected:
    """What came of the calls."""

    calls: int
    executed_twice: list[str]
    bodies: set[bytes]
    """Of every PUT that arrived."""
    wrong: list[str]
    repeated: int
    """How many calls with a key arrived more than once."""
    good: int


def inject(folder: Path, calls: int) -> Injected:
    """A third of all requests fail: refused, reset before and after the request, closed, half answered, late, 429, 500, 502, 503."""
    chance = random.Random(11)
    greetings: list[Reaction | None] = [None] * 30 + [reset, close]

    def react(seen: Seen) -> Reaction | None:
        echo = answer(body=seen.path.encode())
        faults = [reset, close, half, answer(503), answer(502), answer(429), hang(0.002), answer(500)]
        return echo if chance.random() < 0.67 else chance.choice(faults)

    servers = [FaultServer(react, greet=lambda: chance.choice(greetings)) for _ in range(3)]
    gone = FaultServer()
    gone.close()
    known = world_of([*(one.address for one in servers), gone.address])
    never_open = breaker.Settings(least_calls=calls * 10, newest_calls=calls * 10)
    mesh = Mesh(Options(state_dir=str(folder), breaker=never_open, deadline_seconds=5), world=lambda: known)
    wrong: list[str] = []
    outcomes: Counter[str] = Counter()
    threads = [
        threading.Thread(target=_call, args=(mesh, number, calls // THREADS, wrong, outcomes))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    for one in servers:
        one.close()
    mesh.close()
    seen = [request for one in servers for request in one.seen]
    arrived = Counter(request.path for request in seen)
    return Injected(
        sum(outcomes.values()),
        [path for path, times in arrived.items() if path.startswith("/once-") and times > 1],
        {request.body for request in seen if request.method == "PUT"},
        wrong,
        sum(path.startswith("/keyed-") and times > 1 for path, times in arrived.items()),
        outcomes["ok"],
    )


def test_two_thousand_fault_injected_calls(tmp_path: Path) -> None:
    """No POST without a key is executed twice, no one-shot body arrives short, and each answer is that of its call. (The benchmark
    sends 10,000.)"""
    injected = inject(tmp_path / "state", 2_000)
    assert injected.calls == 2_000
    assert injected.executed_twice == []
    assert injected.bodies == {BODY}
    assert injected.wrong == []
    assert injected.repeated > 0  # the faults were there
    assert injected.good > 1_000


def _call(mesh: Mesh, thread: int, calls: int, wrong: list[str], outcomes: Counter[str]) -> None:
    session = smartclient.Session(mesh=mesh)
    for number in range(calls):
        name = f"{thread}-{number}"
        kinds: list[tuple[str, Callable[[str], requests.Response]]] = [
            (f"/once-{name}", lambda path: session.post(f"service://identity{path}", data=b"x")),
            (f"/keyed-{name}", lambda path: session.post(f"service://identity{path}", data=b"x", idempotency_key=path)),
            (f"/put-{name}", lambda path: session.put(f"service://identity{path}", data=iter([b"one", b"-shot"]))),
            (f"/get-{name}", lambda path: session.get(f"service://identity{path}")),
        ]
        path, send = kinds[number % 4]
        try:
            response = send(path)
        except requests.RequestException as error:
            outcomes[type(error).__name__] += 1
            continue
        outcomes["ok" if response.ok else str(response.status_code)] += 1
        if response.ok and response.text not in (path, "{}"):
            wrong.append(f"{path}: {response.text}")
