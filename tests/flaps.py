"""Two instances that flap: one in its readiness, which its own host sees, and one in the map, which every host sees."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import atlas
from atlas.model import Author, Instance, Lease, Service
from tests.hosts import hosts
from tests.many_instances import ManyInstances
from tests.sidecar_realm import BIN, DoorLoad, SidecarRealm

BY = Author("flaps")


@dataclass(frozen=True)
class Flapped:
    """What came of it, at the worse of two hosts."""

    readiness: int
    """How often the standing of the one whose readiness flaps has changed."""
    map: int
    """The same for the one that comes into the map and leaves it."""
    flaps: int
    """How often the map was changed."""
    reloads: int
    lost: list[str] = field(default_factory=list)


def flapping(seconds: float) -> Flapped:
    """Let both flap for so long: 200 in one second and 503 in the next; half a second in the map and half a second not."""
    with (
        ExitStack() as stack,
        tempfile.TemporaryDirectory(prefix="sf", ignore_cleanup_errors=True) as folder,
        hosts(apart=False) as network,
        SidecarRealm(Path(folder), network, f"sqlite:///{folder}/map.db") as town,
        ManyInstances(Path(folder)) as instances,
        atlas.open(town.atlas_url) as directory,
    ):
        near, far = (town.host(name) for name in ("a", "b"))
        for host in (near, far):
            host.start_sidecar()
        for name in ("moody", "fleeting"):
            directory.put_service(Service(name, owner="town"), by=BY)
        for number in (1, 2, 3):
            instances.serve(f"127.3.0.{number}", "moody", "fleeting")
        instances.serve(near.address, "moody")
        steady = [
            Instance(name, f"127.3.0.{number}", instances.port) for name in ("moody", "fleeting") for number in (1, 2)
        ]
        fleeting = Instance("fleeting", "127.3.0.3", instances.port)
        directory.hold(Lease("town", "one", 3600.0, tuple(steady)))
        words = [str(BIN / "sidecar"), "register", "moody", str(instances.port), "--health", "/restless"]
        near.host.ask(words, env=near.environ())
        watched = (
            _Changes(town, "moody", f"{near.address}:{instances.port}"),
            _Changes(town, "fleeting", fleeting.address),
        )
        town.wait_called("fleeting", f"127.3.0.1:{instances.port}")
        loads = [
            stack.enter_context(DoorLoad(host, name, pause=0.02))
            for host in (near, far)
            for name in ("moody", "fleeting")
        ]
        flaps, end, there = 0, time.monotonic() + seconds, False
        while time.monotonic() < end:
            there, flaps = not there, flaps + 1
            directory.hold(Lease("town", "one", 3600.0, (*steady, fleeting) if there else tuple(steady)))
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                for each in watched:
                    each.look()
                time.sleep(0.03)
        reloads = sum(host.ask("/v1/status")[1]["reloads"]["count"] for host in town.hosts)
        stack.close()
        lost = [told for load in loads for told in load.lost]
    return Flapped(watched[0].most, watched[1].most, flaps, reloads, lost)


class _Changes:
    """Counts how often the standing of an instance changes, at each host."""

    def __init__(self, town: SidecarRealm, service: str, address: str) -> None:
        self._town, self._service, self._address = town, service, address
        self.seen: list[list[tuple[float, str]]] = [[] for _ in town.hosts]

    def look(self) -> None:
        for seen, host in zip(self.seen, self._town.hosts, strict=True):
            status, told = host.ask(f"/v1/why/{self._service}/{self._address}")
            found = told.get("instances", []) if status == 200 else []
            called = bool(found) and found[0]["standing"] in ("in", "backup", "held")
            now = "called" if called else "not called"
            if not seen or seen[-1][1] != now:
                seen.append((time.monotonic(), now))

    @property
    def most(self) -> int:
        """The first look is no change."""
        return max(len(seen) - 1 for seen in self.seen)
