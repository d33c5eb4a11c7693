"""How soon a sidecar calls what is new, and stops calling what is disabled, in a realm of 1,000 services.

Everything is written through the HTTP API of `atlas serve`. Time runs from before the write is sent: to the first call that
an instance answered through the sidecar, or to the last answer of one that was disabled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from atlas.client import HttpDirectory
from atlas.model import Lease, Ruling
from benchmarks.measure import Claim
from benchmarks.realm_of_a_thousand import (
    BY,
    HOLD_SECONDS,
    INSTANCES,
    SERVICES,
    Door,
    Load,
    Town,
    filled,
    instance,
    lacking,
    percentile,
    scratch,
    service_name,
    settled,
)
from tests.atlas_server import ServedAtlas
from tests.processes import wait_until
from tests.sidecar_realm import SidecarHost

SAMPLES = 200
PAIRS = 10
"""Services that are under load while one of their two instances is disabled."""
LOOK_SECONDS = 0.3
"""How long after it was disabled an instance is left alone at least; its last answer is asked for at the end."""


def run() -> list[Claim]:
    """Instances that join, instances that are enabled, instances that are disabled under load."""
    if lacking():
        return lacking()
    everything = SERVICES + SAMPLES
    with scratch() as folder, filled(folder, services=everything, empty=SAMPLES) as store, ExitStack() as stack:
        served = stack.enter_context(ServedAtlas(folder / "atlas", store))
        host = stack.enter_context(Town(folder, served.url)).sidecar("h")
        host.start_sidecar()
        settled(host)
        directory = stack.enter_context(HttpDirectory(served.url))
        joined = _joining(directory, Door(host))
        enabled = _enabled(directory, Door(host))
        time.sleep(1)
        disabled = _disabled(directory, host)
    return [
        _claim("a new instance written to Atlas until it answers a call", joined),
        _claim("a ruling written to Atlas until the instance answers a call", enabled),
        Claim(
            "disabling an instance until its last call, under load",
            "p99 at most 150 ms",
            f"p50 {percentile(disabled, 0.5) * 1000:.0f} ms, p99 {percentile(disabled, 0.99) * 1000:.0f} ms",
            f"{len(disabled)} rulings through HTTP, one sidecar, {SERVICES:,} services x {INSTANCES}",
            percentile(disabled, 0.99) <= 0.15,
        ),
    ]


def _claim(what: str, taken: list[float]) -> Claim:
    p50, p99 = percentile(taken, 0.5), percentile(taken, 0.99)
    return Claim(
        f"{what}, {SERVICES:,} services",
        "p50 at most 50 ms, p99 at most 250 ms",
        f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, longest {max(taken) * 1000:.0f} ms",
        f"{len(taken)} writes; a sidecar that polls every 30 s needs 15 s and 30 s",
        p50 <= 0.05 and p99 <= 0.25,
    )


def _joining(directory: HttpDirectory, door: Door) -> list[float]:
    """An instance comes into a service that has none, one service after the other."""
    taken = []
    for number in range(SERVICES, SERVICES + SAMPLES):
        lease = Lease(f"new-{number}", "1", HOLD_SECONDS, (instance(number, 0),))
        taken.append(_until_served(door, number, lambda lease=lease: directory.hold(lease)))  # type: ignore[misc]
    return taken


def _enabled(directory: HttpDirectory, door: Door) -> list[float]:
    """The only instance of a service is enabled, which was disabled before."""
    taken = []
    for number in range(SERVICES, SERVICES + SAMPLES):
        directory.rule(_ruling(number, 0, "disabled"), by=BY, force=True)
        name = service_name(number)
        wait_until(lambda name=name: door.call(name)[0] == 503, what=f"{name} disabled")  # type: ignore[misc]
        ruling = _ruling(number, 0, "enabled")
        taken.append(_until_served(door, number, lambda ruling=ruling: directory.rule(ruling, by=BY)))  # type: ignore[misc]
    return taken


def _until_served(door: Door, number: int, write: Callable[[], object]) -> float:
    """Write in one thread, call in this one."""
    name = service_name(number)
    with ThreadPoolExecutor(1) as writer:
        began = time.monotonic()
        written = writer.submit(write)
        while door.call(name)[0] != 200:
            time.sleep(0.001)
        taken = time.monotonic() - began
        written.result()
    time.sleep(0.02)
    return taken


def _disabled(directory: HttpDirectory, host: SidecarHost) -> list[float]:
    """One instance of each of two is disabled, in one service under load after the other."""
    pairs = range(SERVICES, SERVICES + PAIRS)
    for number in pairs:
        directory.hold(Lease(f"second-{number}", "1", HOLD_SECONDS, (instance(number, 1),)))
    taken = []
    for turn in range(SAMPLES):
        number, which = SERVICES + turn % PAIRS, turn // PAIRS % 2
        name, gone = service_name(number), instance(number, which).address
        with Load(host, [name], connections=3, pause=0.001, posts=False) as load:
            wait_until(lambda load=load, gone=gone: gone in load.last, what=f"{gone} called")  # type: ignore[misc]
            time.sleep(0.05)
            began = time.monotonic()
            directory.rule(_ruling(number, which, "disabled"), by=BY)
            written = time.monotonic()
            while time.monotonic() - max(written, load.last[gone]) < LOOK_SECONDS:  # it is not called any more
                time.sleep(0.01)
            taken.append(max(0.0, load.last[gone] - began))
        assert not load.lost, load.lost[:3]
        directory.rule(_ruling(number, which, "enabled"), by=BY)
        time.sleep(0.05)
    return taken


def _ruling(number: int, which: int, state: object) -> Ruling:
    one = instance(number, which)
    return Ruling(one.service, one.host, one.port, state)  # type: ignore[arg-type]
