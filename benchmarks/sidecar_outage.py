"""The registry is away for a while, and meanwhile an agent, a HAProxy and a whole host are restarted; then it is wiped.

A realm of 1,000 services x 10 instances, two sidecars and an instance that one of them carries. The clients repeat nothing.
Those of the first host call all the time. Those of the second one call, too, but while its HAProxy is not there: how long
that is, is told. SIDECAR_OUTAGE_SECONDS (40) is how long the registry is away.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import atlas
from atlas.announcement import Announcement, announce
from atlas.model import Service
from benchmarks.measure import Claim
from benchmarks.realm_of_a_thousand import (
    BY,
    INSTANCES,
    SERVICES,
    Door,
    Load,
    Town,
    filled,
    instance,
    lacking,
    scratch,
    seconds_until_served,
    service_name,
    settled,
)
from sidecar.runtime import Runtime
from tests.atlas_server import ServedAtlas
from tests.processes import wait_until
from tests.sidecar_realm import SidecarHost

SECONDS = float(os.environ.get("SIDECAR_OUTAGE_SECONDS", "40"))
COLD_SECONDS = 2.0
ALARM_SECONDS = 2.0
OWN = service_name(SERVICES)
"""The service whose only instance the second host carries."""

_STEP = SERVICES // 50
CALLED = (*(service_name(number) for number in range(0, SERVICES, _STEP)), OWN)


def run() -> list[Claim]:
    if lacking():
        return lacking()
    with scratch() as folder, filled(folder, services=SERVICES + 1, empty=1) as store, ExitStack() as stack:
        served = stack.enter_context(ServedAtlas(folder / "atlas", store))
        outage = _Outage(store, served, stack.enter_context(Town(folder, served.url)))
        return [*outage.run(), *outage.wiped()]


class _Outage:
    def __init__(self, store: str, served: ServedAtlas, town: Town) -> None:
        self._store, self._served = store, served
        self._first, self._second = town.sidecar("a", "127.0.0.1"), town.sidecar("b", "127.0.0.2")
        self._lost: list[str] = []
        self._sent = 0
        for host in (self._first, self._second):
            host.start_sidecar()
        self._announce()
        for host in (self._first, self._second):
            settled(host)
            door = Door(host)
            wait_until(lambda door=door: door.call(OWN)[0] == 200, what=f"{OWN} at {host.name}")  # type: ignore[misc]
            door.close()

    def run(self) -> list[Claim]:
        """All that may happen to the second host, with the registry dead."""
        with Load(self._first, CALLED, connections=3, pause=0.01) as load:
            time.sleep(1)
            self._served.kill()
            begun = time.monotonic()
            self._with_load(self._restart_agent)
            without_proxy = self._kill_proxy()
            self._with_load(lambda: self._let_pass(2))
            until_served = self._restart_host()
            self._with_load(lambda: self._let_pass(2))
            away = time.monotonic() - begun
            before = [_servers(host) for host in (self._first, self._second)]
            self._served.start()
            self._with_load(self._follow_again)
        self._note(load)
        after = [_servers(host) for host in (self._first, self._second)]
        for one in self._lost[:10]:
            print(f"lost: {one}", file=sys.stderr)
        return [
            Claim(
                f"registry dead for {away:.0f} s, {SERVICES:,} services x {INSTANCES}; agent, HAProxy and host restarted in it",
                "0 failed, no instance lost when it is back",
                f"{len(self._lost)} of {self._sent} failed; servers of each host {before} before, {after} after",
                f"GET and POST, repeated by nobody; not called: {without_proxy:.2f} s without HAProxy, {until_served:.2f} s without the host",
                not self._lost and before == after,
            ),
            Claim(
                f"a host that starts without the registry, {SERVICES:,} services x {INSTANCES}: until its first call",
                f"at most {COLD_SECONDS:g} s",
                f"{until_served:.2f} s",
                "agent and HAProxy new, the directory empty, the map on disk",
                until_served <= COLD_SECONDS,
            ),
        ]

    def wiped(self) -> list[Claim]:
        """The store is taken away under the running Atlas, and an empty one stands in its place."""
        before = _servers(self._first)
        with Load(self._first, CALLED, connections=2, pause=0.01) as load:
            _wipe(self._store)
            begun = time.monotonic()
            wait_until(lambda: _alarms(self._first), 30, what="the alarm")
            alarmed = time.monotonic() - begun
            time.sleep(3)
            removed = before - _servers(self._first)
        for one in load.lost[:10]:
            print(f"lost: {one}", file=sys.stderr)
        return [
            Claim(
                f"registry wiped, {SERVICES:,} services x {INSTANCES}",
                f"0 instances removed, alarm within {ALARM_SECONDS:g} s",
                f"{removed} removed, alarm after {alarmed:.2f} s, {len(load.lost)} of {load.total} calls failed",
                "an empty SQLite file in the place of the full one; alarm: log, readiness and metric",
                removed == 0 and alarmed <= ALARM_SECONDS and not load.lost,
            )
        ]

    def _restart_agent(self) -> None:
        self._let_pass(1)
        assert self._second.agent is not None
        self._second.agent.stop(how=signal.SIGKILL)
        time.sleep(1)
        self._second.start_sidecar()
        self._let_pass(1)

    def _kill_proxy(self) -> float:
        door, begun = Door(self._second), time.monotonic()
        self._second.kill_proxy()
        return seconds_until_served(door, CALLED[0], begun)

    def _restart_host(self) -> float:
        """The host loses its power, and comes up with an empty directory; its own instance begins anew, too."""
        assert self._second.agent is not None
        self._second.agent.stop(how=signal.SIGKILL)
        self._second.kill_proxy()
        wait_until(lambda: not self._second.proxy_pids(), what="the end of HAProxy")
        shutil.rmtree(self._second.directory)
        door, begun = Door(self._second), time.monotonic()
        self._second.start_sidecar(wait=False)
        self._announce()
        return seconds_until_served(door, CALLED[0], begun)

    def _follow_again(self) -> None:
        for host in (self._first, self._second):
            wait_until(lambda host=host: _follows(host), 30, what=f"Atlas followed by {host.name}")  # type: ignore[misc]
        time.sleep(5)

    def _let_pass(self, parts: int) -> None:
        """Wait: a sixth of the length is one part."""
        time.sleep(parts * SECONDS / 6)

    def _with_load(self, happens: Callable[[], object]) -> None:
        with Load(self._second, CALLED, pause=0.01) as load:
            happens()
        self._note(load)

    def _note(self, load: Load) -> None:
        self._sent += load.total
        self._lost += load.lost

    def _announce(self) -> None:
        one = instance(SERVICES, 0)
        self._second.directory.mkdir(exist_ok=True)
        announce(self._second.directory, Announcement(one.service, one.port, host=one.host, health="/"))


def _wipe(store: str) -> None:
    """Put a new map in the place of this one."""
    path = Path(store.removeprefix("sqlite:///"))
    fresh = path.with_name("fresh.db")
    with atlas.open(f"sqlite:///{fresh}") as directory:
        directory.put_service(Service("first"), by=BY)
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    fresh.rename(path)


def _follows(host: SidecarHost) -> bool:
    status, told = host.ask("/v1/status")
    return bool(status == 200 and told["map"]["from"] == "atlas" and told["map"]["failure"] is None)


def _servers(host: SidecarHost) -> int:
    """How many servers HAProxy knows that are not about to leave."""
    known = Runtime(host.directory / "haproxy.sock").read(Path("maps")).state
    return sum(len(servers) for servers in known.backends.values())


def _alarms(host: SidecarHost) -> bool:
    """Whether the log, the readiness and the metrics all tell of the guard."""
    assert host.agent is not None
    if " guard: " not in host.agent.text():
        return False
    status, told = host.ask("/healthcheck/ready")
    rows = {row["checker"]: row["status"] for row in told["results"]} if status == 200 else {}
    held = [line for line in host.ask("/metrics")[1].decode().splitlines() if line.startswith("sidecar_guards ")]
    return rows.get("guard") == "warn" and bool(held) and float(held[0].split()[1]) > 0
