"""What must never happen to a call: another caller's body after a fork, a POST executed twice, a body sent again empty; and how
fast the breaker opens."""

from __future__ import annotations

import random
import tempfile
import threading
from pathlib import Path

from benchmarks.measure import Claim
from smartclient.breaker import Breaker
from tests.live.test_client_faults import BODY, inject
from tests.live.test_client_fork import wrong_after_fork


def run() -> list[Claim]:
    """The fork, 10,000 calls with faults, the breaker."""
    with tempfile.TemporaryDirectory() as folder:
        wrong, calls = wrong_after_fork(Path(folder, "fork"))
        injected = inject(Path(folder, "faults"), 10_000)
    empty = len(injected.bodies - {BODY})
    opened, probes = _opens_after(), _probes()
    return [
        Claim(f"fork after first use, {calls} calls: wrong bodies", "0", str(wrong), "requests.Session: 460", wrong == 0),
        Claim(
            f"{injected.calls} fault-injected calls: POST executed twice without a key", "never",
            str(len(injected.executed_twice)), f"{injected.repeated} calls with a key were repeated", not injected.executed_twice,
        ),
        Claim(f"{injected.calls} fault-injected calls: one-shot body sent again empty", "never", str(empty), "requests + Retry: it is, and gets 200", empty == 0),
        Claim("breaker opens at every second call a failure", "within 20 calls", f"after {opened}", "others: never", opened <= 20),
        Claim("probes admitted of 20 at once", "1", str(probes), "others: 20", probes == 1),
    ]  # fmt: skip


def _opens_after() -> int:
    breaker = Breaker()
    for number in range(1, 101):
        if breaker.leave("pass", number % 2 == 0, number * 0.01) == "open":
            return number
    return 101


def _probes() -> int:
    """The most of a hundred tries."""
    return max(_admitted() for _ in range(100))


def _admitted() -> int:
    breaker = Breaker(spread=random.random)
    for _ in range(20):
        breaker.leave("pass", True, 0.0)
    barrier = threading.Barrier(20)
    admitted: list[str | None] = []

    def ask() -> None:
        barrier.wait()
        admitted.append(breaker.enter(10.0))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(permit is not None for permit in admitted)
