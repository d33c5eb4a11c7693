"""An `atlas serve` that goes away under services which call each other, and what that costs them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from tests.atlas_server import ServedAtlas
from tests.processes import free_port, wait_until
from tests.realm import IDENTITY, ORDERS, Realm, Running


@dataclass
class Calls:
    """What a caller in a loop has seen of `orders`, which calls `identity` for every answer."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)


@contextmanager
def calling(orders: Running) -> Iterator[Calls]:
    """Call `/orders` without a pause while the block runs."""
    calls, done = Calls(), threading.Event()

    def loop() -> None:
        while not done.is_set():
            try:
                status = orders.get("/orders").status_code
            except requests.RequestException as error:
                calls.failed.append(type(error).__name__)
                continue
            if status == 200:
                calls.answered += 1
            else:
                calls.failed.append(str(status))

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield calls
    finally:
        done.set()
        thread.join(30)


@dataclass(frozen=True)
class Outage:
    """What an outage of the map cost."""

    answered: int
    failed: list[str]
    newcomer_answers: int
    """The status of a call by a process that started while the map was away."""
    right_again_seconds: float
    """From the map's return until an instance that was started meanwhile is in it, and nobody alive is missing."""


def outage_of(folder: Path, seconds: float, *, lease_seconds: float = 3.0, how: str = "killed") -> Outage:
    """Two instances of `identity` and one of `orders`; their Atlas is `killed` or its process `frozen` for `seconds`.

    Meanwhile another instance of `identity` starts, and another one of `orders`, which calls. The first one's registration and all others must be right when the map is back.
    """
    port = free_port()
    store = f"sqlite:///{folder / 'realm.db'}"
    served = ServedAtlas(folder / "atlas", store, port=port).start()
    realm = Realm(folder, served.url)
    try:
        for _ in range(2):
            realm.start("identity", IDENTITY, LEASE_SECONDS=lease_seconds)
        orders = realm.start("orders", ORDERS, LEASE_SECONDS=lease_seconds)
        wait_until(lambda: len(realm.addresses("identity")) == 2 and realm.addresses("orders"), what="all are there")
        wait_until(lambda: orders.get("/orders").status_code == 200, what="a first call")
        with calling(orders) as calls:
            end = time.monotonic() + seconds
            back = _take_away(served, how)
            late = realm.start("identity", IDENTITY, LEASE_SECONDS=lease_seconds)
            newcomer = realm.start("orders", ORDERS, LEASE_SECONDS=lease_seconds)
            newcomer_answers = newcomer.get("/orders").status_code
            while time.monotonic() < end:
                time.sleep(0.05)
            served = back()
            begun = time.monotonic()
            everybody = sorted([late.address, *(running.address for running in realm.services["identity"][:2])])
            wait_until(lambda: realm.addresses("identity") == everybody, 60, what="every registration")
            right_again = time.monotonic() - begun
            time.sleep(1.2 * lease_seconds)  # nobody who lives is taken out afterwards
            assert realm.addresses("identity") == everybody
        return Outage(calls.answered, calls.failed, newcomer_answers, right_again)
    finally:
        realm.close()
        served.__exit__()


def _take_away(served: ServedAtlas, how: str) -> Callable[[], ServedAtlas]:
    """Make the map unreachable; gives what brings it back, ready."""
    if how == "frozen":
        served.freeze()

        def thaw() -> ServedAtlas:
            served.thaw()
            return served

        return thaw
    served.kill()
    return served.start
