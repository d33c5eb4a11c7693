"""Changes under load: of every kind, in bulk, and reloads. What is lost, and how often HAProxy is loaded anew.

Everything is real: a map in SQLite, two sidecars with their HAProxys on one machine, services under gunicorn, and a process
that stands for many instances (it breaks off whatever reaches it wrongly). The clients repeat nothing.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import atlas
from atlas.directory import Directory
from atlas.model import Author, Instance, Lease, Service
from benchmarks.measure import Claim
from sidecar.proxy import Proxy
from sidecar.render import Files
from sidecar.settings import Settings
from tests.hosts import hosts
from tests.many_instances import ManyInstances
from tests.mean_changes import SERVICES, MeanChanges
from tests.processes import free_port, wait_until
from tests.sidecar_realm import DoorLoad, SidecarHost, SidecarRealm, UnixHTTPConnection

CHANGES = 1000
SEED = int(os.environ.get("SIDECAR_SEED", "1"))
RELOADS = 100
REFERENCE_RELOADS = 20
BULK = 10_000
MANY_SERVICES = 110
NEW_SERVICES = 20
BY = Author("benchmark")
IDLE_CLOSE = "option idle-close-on-response"


def run() -> list[Claim]:
    return [kinds(), *reloads(), *bulk()]


@contextmanager
def realm(*names: str) -> Iterator[tuple[SidecarRealm, ManyInstances, Directory]]:
    """Hosts on addresses of the loopback, and the map that they follow."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sb", ignore_cleanup_errors=True)))
        url = f"sqlite:///{folder}/map.db"
        directory = stack.enter_context(atlas.open(url))
        instances = stack.enter_context(ManyInstances(folder))
        made = stack.enter_context(SidecarRealm(folder, stack.enter_context(hosts(apart=False)), url))
        for name in names:
            made.host(name)
        yield made, instances, directory


# -- changes of every kind ---------------------------------------------------------------------------------------------


def kinds() -> Claim:
    """A thousand changes by lot while every service is called from both hosts."""
    with realm("e", "w") as (town, instances, directory), ExitStack() as stack:
        for host, zone in zip(town.hosts, ("east", "west"), strict=True):
            host.start_sidecar(ZONE=zone)
        real = [host.start_service("identity") for host in town.hosts]
        changes = MeanChanges(
            directory,
            instances,
            standing=lambda service, where: [town.standing(host, service, where) for host in town.hosts],
            call=lambda service: _worst(town, service),
            fixed={"identity": [_host_and_port(town.addresses[child.pid]) for child in real]},
            seed=SEED,
        ).begin()
        for service in SERVICES:
            wait_until(lambda: _worst(town, service) == 200, what=service)  # noqa: B023
        called = [(host, service) for host in town.hosts for service in (*SERVICES, "identity")]
        loads = [
            stack.enter_context(DoorLoad(host, service, pause=0.02, path="/work?seconds=0.005"))
            for host, service in called
        ]
        begun = time.monotonic()
        while changes.total < CHANGES:
            changes.make()
        seconds = time.monotonic() - begun
        for load in loads:
            load.wait_for(20)
        stack.close()
        lost = [told for load in loads for told in load.lost]
        loaded, refused, drift = (
            sum(_count(host, what) for host in town.hosts) for what in ("reloads", "refusals", "drift")
        )
        for told in lost[:20]:
            print(told)
    return Claim(
        f"requests lost in {changes.total} changes of {len(changes.made)} kinds under load, in {seconds:.0f} s",
        "0",
        f"{len(lost)} of {sum(load.total for load in loads)}",
        f"reloads: {loaded}, refused commands: {refused}, differences found: {drift}",
        not lost and not loaded,
    )


# -- reloads -----------------------------------------------------------------------------------------------------------


def reloads() -> list[Claim]:
    """A hundred reloads one after the other, and some of the same file without its line about idle connections."""
    with realm("h") as (town, instances, directory):
        (host,) = town.hosts
        _fill(directory, instances, {"orders": ["127.3.0.1", "127.3.0.2"]})
        host.start_sidecar(SIDECAR_RELOAD_SECONDS=0)
        wait_until(lambda: host.call("orders")[0] == 200, what="orders")
        begun = time.monotonic()
        good, lost = _under_load(host, lambda: _reload(host), RELOADS)
        seconds = (time.monotonic() - begun) / RELOADS
        with _plain(host, without=IDLE_CLOSE) as (door, proxy):
            _, theirs = _under_load(door, proxy.reload, REFERENCE_RELOADS)
        for told in lost[:20]:
            print(told)
    return [
        Claim(
            f"requests lost over {RELOADS} forced reloads, {seconds * 1000:.0f} ms each, naive keep-alive clients",
            "0",
            f"{len(lost)} of {good}",
            f"the same file without {IDLE_CLOSE}: {len(theirs)} in {REFERENCE_RELOADS} reloads",
            not lost,
        )
    ]


def _under_load(host: Any, reload: Any, times: int) -> tuple[int, list[str]]:
    """Reload so often while busy and idle clients hold connections; what was answered, and what was lost."""
    with (
        DoorLoad(host, "orders", pause=0.01) as busy,
        DoorLoad(host, "orders", pause=0.2, threads=4) as idle,
        DoorLoad(host, "orders", pause=0.1, path="/work?seconds=0.1") as slow,
    ):
        loads = (busy, idle, slow)
        busy.wait_for(50)
        for _ in range(times):
            reload()
            busy.wait_for(10)
    return sum(load.total for load in loads), [told for load in loads for told in load.lost]


def _reload(host: SidecarHost) -> None:
    before = _count(host, "reloads")
    connection = UnixHTTPConnection(host.directory / "agent.sock")  # what `sidecar reload` does
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/reload", json.dumps({"why": "a try", "by": "benchmark"}), headers)
    assert connection.getresponse().status == 200
    connection.close()
    wait_until(lambda: _count(host, "reloads") > before, what="the reload")


class _Door:
    """The way into another HAProxy."""

    name = "plain"

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def door(self) -> UnixHTTPConnection:
        return UnixHTTPConnection(self._socket)


@contextmanager
def _plain(host: SidecarHost, *, without: str) -> Iterator[tuple[_Door, Proxy]]:
    """A HAProxy with the file of this host, but for one line."""
    folder = host.folder / "p"
    port = free_port()
    settings = Settings(directory=folder, state=folder / "state", port=port)
    text = (host.directory / "haproxy.cfg").read_text()
    assert text.count(f"    {without}\n") == 1
    text = text.replace(f"    {without}\n", "").replace(str(host.directory), str(folder))
    text = text.replace(f":{host.port} ", f":{port} ").replace(f":{host.port}\n", f":{port}\n")
    maps = {path.stem: path.read_text() for path in (host.directory / "maps").glob("*.map")}
    proxy = Proxy(settings)
    proxy.write(Files(text, maps))
    proxy.start()
    try:
        yield _Door(settings.calls_socket), proxy
    finally:
        proxy.stop(1.0)


# -- in bulk -----------------------------------------------------------------------------------------------------------


def bulk() -> list[Claim]:
    """Ten thousand changes of instances and twenty services that are new; then more new ones than there is room for."""
    with realm("h") as (town, instances, directory), ExitStack() as stack:
        (host,) = town.hosts
        crowd = _Crowd(directory, instances)
        crowd.begin()
        host.start_sidecar(SIDECAR_RELOAD_SECONDS=6)
        wait_until(lambda: _follows(host, directory), 30, what="the map")
        loads = [stack.enter_context(DoorLoad(host, name, pause=0.02)) for name in crowd.names[:3]]
        begun, before = time.monotonic(), _count(host, "changes")
        while crowd.changed < BULK:
            crowd.change()
            wait_until(lambda: _follows(host, directory), 30, what="the changes in force")
        seconds = time.monotonic() - begun
        commands = _count(host, "changes") - before
        for number in range(NEW_SERVICES):
            crowd.new(f"new-{number}")
            wait_until(lambda: host.call(f"new-{number}")[0] == 200, what="the new service")  # noqa: B023
        loaded = _count(host, "reloads")
        more, forced, least = _use_up(host, crowd)
        for load in loads:
            load.wait_for(20)
        stack.close()
        lost = [told for load in loads for told in load.lost]
        for told in lost[:20]:
            print(told)
    what = f"{crowd.changed} instance changes at {MANY_SERVICES} services, {NEW_SERVICES} new ones"
    return [
        Claim(
            f"reloads in {what}",
            "0",
            f"{loaded}; {len(lost)} of {sum(load.total for load in loads)} requests lost",
            f"in force after {seconds:.1f} s ({commands} commands)",
            not loaded and not lost,
        ),
        Claim(
            f"reloads for {more} new services when no backend is spare, least time 6 s",
            "one each 6 s",
            f"{forced}, at least {least:.1f} s apart",
            "",
            forced >= 1 and (forced == 1 or least >= 5.9),
        ),
    ]


class _Crowd:
    """Many services with ten instances each, in ten leases, all of them changed at once."""

    def __init__(self, directory: Directory, instances: ManyInstances) -> None:
        self.names = [f"service-{number:03}" for number in range(MANY_SERVICES)]
        self.changed = 0
        self._directory, self._instances = directory, instances
        self._leases: list[list[Instance]] = []
        self._step = 0
        self._new: list[Instance] = []

    def begin(self) -> None:
        for name in self.names:
            self._directory.put_service(Service(name, owner="town"), by=BY)
        for lease in range(10):
            self._leases.append([self._instance(name, number, lease) for number, name in enumerate(self.names)])
        for number in range(10):
            self._hold(number)

    def change(self) -> None:
        """Every instance, in turns by weight, version, drain, and another one in its place."""
        kind = self._step % 4
        self._step += 1
        for number, held in enumerate(self._leases):
            if kind == 0:
                held = [replace(one, weight=50 + self._step) for one in held]
            elif kind == 1:
                held = [replace(one, version=f"1.{self._step}") for one in held]
            elif kind == 2:  # one half after the other, as in a deploy
                held = [replace(one, draining=True) if number % 2 else replace(one, weight=200) for one in held]
            elif number % 2:
                held = [
                    self._instance(one.service, place, number + 10 * (self._step // 4))
                    for place, one in enumerate(held)
                ]
            else:
                held = [replace(one, weight=100) for one in held]
            self._leases[number] = held
            self._hold(number)
            self.changed += len(held)

    def new(self, name: str) -> None:
        """A service that was not there before."""
        self._directory.put_service(Service(name, owner="town"), by=BY)
        self._new.append(self._instance(name, 150, len(self._new)))
        self._directory.hold(Lease("new", "one", 3600.0, tuple(self._new)))

    def _instance(self, service: str, place: int, number: int) -> Instance:
        host = f"127.{10 + place}.{number // 200}.{1 + number % 200}"
        self._instances.serve(host, service)
        return Instance(service, host, self._instances.port)

    def _hold(self, number: int) -> None:
        self._directory.hold(Lease(f"host-{number}", "one", 3600.0, tuple(self._leases[number])))


def _use_up(host: SidecarHost, crowd: _Crowd) -> tuple[int, int, float]:
    """New services without end: how many, how many reloads they took, and the least time between two of those."""
    seen: list[float] = []
    done = threading.Event()

    def watch() -> None:
        last = _status(host)["reloads"]["last_at"]
        while not done.wait(0.05):
            now = _status(host)["reloads"]["last_at"]
            if now != last:
                last = now
                seen.append(now)

    watching = threading.Thread(target=watch)
    watching.start()
    number, end = 0, time.monotonic() + 20
    while time.monotonic() < end:
        crowd.new(f"more-{number}")
        number += 1
        time.sleep(0.1)
    wait_until(lambda: host.call(f"more-{number - 1}")[0] == 200, 20, what="the last of the new services")
    done.set()
    watching.join()
    return number, len(seen), min((b - a for a, b in pairwise(seen)), default=0.0)


# -- what sidecars tell ------------------------------------------------------------------------------------------------


def _fill(directory: Directory, instances: ManyInstances, services: dict[str, list[str]]) -> None:
    held = []
    for name, addresses in services.items():
        directory.put_service(Service(name, owner="town"), by=BY)
        for one in addresses:
            instances.serve(one, name)
            held.append(Instance(name, one, instances.port))
    directory.hold(Lease("town", "one", 3600.0, tuple(held)))


def _status(host: SidecarHost) -> dict[str, Any]:
    status, told = host.ask("/v1/status")
    assert status == 200, told
    return cast(dict[str, Any], told)


def _count(host: SidecarHost, what: str) -> int:
    found = _status(host)[what]
    return int(found if isinstance(found, int) else found["count"])


def _follows(host: SidecarHost, directory: Directory) -> bool:
    told = _status(host)
    return not told["pending"] and told["position"] == str(directory.world().position)


def _worst(town: SidecarRealm, service: str) -> int:
    """What a call answers, from the host where it does not answer 200."""
    return max(host.call(service)[0] for host in town.hosts)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    for claim in run():
        print(claim)
