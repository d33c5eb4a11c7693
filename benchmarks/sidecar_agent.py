"""What the agent costs at 1,000 services x 10 instances, how soon it routes, and what a cut connection costs the registry."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

from atlas.client import HttpDirectory
from atlas.model import Ruling
from benchmarks.measure import Claim
from benchmarks.realm_of_a_thousand import (
    BY,
    INSTANCES,
    SERVICES,
    Door,
    Relay,
    Town,
    cpu_seconds,
    filled,
    instance,
    lacking,
    memory_mb,
    scratch,
    seconds_until_served,
    service_name,
    settled,
)
from tests.atlas_server import ServedAtlas
from tests.processes import wait_until
from tests.sidecar_realm import SidecarHost

MEMORY_MB, IDLE_SHARE, START_SECONDS, CUT_REQUESTS = 100, 0.02, 2.0, 10
IDLE_SECONDS = 60.0
"""Two comparisons with what HAProxy knows are in it."""
STARTS, CUTS = 3, 5
_REALM = f"{SERVICES:,} services x {INSTANCES}"


def run() -> list[Claim]:
    if lacking():
        return lacking()
    with scratch() as folder, filled(folder) as store, ExitStack() as stack:
        served = stack.enter_context(ServedAtlas(folder / "atlas", store))
        relay = Relay(served.port)
        stack.callback(relay.close)
        town = stack.enter_context(Town(folder, f"http://127.0.0.1:{relay.port}"))
        first = []
        for number in range(STARTS):
            for before in town.hosts:
                before.stop()
            host = town.sidecar(f"h{number}")
            first.append(_until_routed(host))
        settled(host)
        idle, memory = _at_rest(host)
        asked = _cut(host, relay, served)
        relay.close()
        cold = [_cold(host) for _ in range(STARTS)]
    return [
        Claim(
            f"memory of the agent, {_REALM}", f"at most {MEMORY_MB} MB", f"{memory:.0f} MB", "-", memory <= MEMORY_MB
        ),
        Claim(
            f"processor time of the idle agent, {_REALM}",
            f"at most {IDLE_SHARE:.0%} of a core",
            f"{idle:.2%} of a core",
            f"{IDLE_SECONDS:.0f} s in which nothing changes; it follows Atlas over HTTP",
            idle <= IDLE_SHARE,
        ),
        _starting("the start of a sidecar until its first call", first, "Atlas over HTTP; no file, no HAProxy before"),
        _starting(
            "a cold start without the registry until the first call", cold, "the map on disk; agent and HAProxy new"
        ),
        Claim(
            f"requests to the registry after a cut connection, {SERVICES:,} services",
            f"at most {CUT_REQUESTS}",
            f"{max(asked)}",
            f"the most of {CUTS} cuts, until the next change is in force; one watch for each service: 1,003",
            max(asked) <= CUT_REQUESTS,
        ),
    ]


def _starting(what: str, taken: list[float], how: str) -> Claim:
    found = statistics.median(taken)
    told = ", ".join(f"{one:.2f}" for one in taken)
    return Claim(
        f"{what}, {_REALM}",
        f"at most {START_SECONDS:g} s",
        f"{found:.2f} s",
        f"median of {told}; {how}",
        found <= START_SECONDS,
    )


def _until_routed(host: SidecarHost, **environ: object) -> float:
    door, begun = Door(host), time.monotonic()
    host.start_sidecar(wait=False, **environ)
    taken = seconds_until_served(door, service_name(SERVICES - 1), begun)
    door.close()
    return taken


def _at_rest(host: SidecarHost) -> tuple[float, float]:
    """The share of a core that the agent takes while nothing changes, and its memory afterwards."""
    assert host.agent is not None
    time.sleep(5)
    before, begun = cpu_seconds(host.agent.pid), time.monotonic()
    time.sleep(IDLE_SECONDS)
    share = (cpu_seconds(host.agent.pid) - before) / (time.monotonic() - begun)
    return share, memory_mb(host.agent.pid)


def _cut(host: SidecarHost, relay: Relay, served: ServedAtlas) -> list[int]:
    """How many requests pass from a cut until the agent has heard of a change that came after it."""
    found = []
    with HttpDirectory(served.url) as directory:
        for turn in range(CUTS):
            one = instance(turn, 0)
            assert relay.cut() > 0
            before = len(relay.requests)
            revision = directory.rule(Ruling(one.service, one.host, one.port, "disabled"), by=BY)
            wait_until(lambda revision=revision: _applied(host) >= revision, what="the change after the cut")  # type: ignore[misc]
            found.append(len(relay.requests) - before)
            time.sleep(1)
    return found


def _applied(host: SidecarHost) -> int:
    status, told = host.ask("/v1/status")
    return int(told["position"].split(".")[1]) if status == 200 else -1


def _cold(host: SidecarHost) -> float:
    """Start agent and HAProxy anew, with nobody at the address of the registry."""
    host.stop()
    wait_until(lambda: not host.proxy_pids(), what="the end of HAProxy")
    return _until_routed(host)
