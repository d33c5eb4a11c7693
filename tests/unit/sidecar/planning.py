"""Worlds and planners for tests, under clocks that stand still until they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from atlas.model import Instance, Ruling, Service
from atlas.world import Position, World
from sidecar.model import Plan, Server
from sidecar.plan import Planner

START = 1_000_000.0
"""The time of day at which a test begins."""


class Realm:
    """A World that is changed by hand, and the Planner that follows it."""

    def __init__(
        self, *, zone: str = "", resolve: Callable[[str], str | None] | None = None, epoch: str = "one"
    ) -> None:
        self.now = 100.0
        self.today = START
        self.zone = zone
        self.names: dict[str, str] = {}
        self.resolve = resolve or self.names.get
        self.world = World(Position(epoch, 1, 1))
        self.unready: set[tuple[str, str]] = set()
        self.planner = self.new_planner()

    def new_planner(self) -> Planner:
        """Another Planner under the same clocks."""
        return Planner(zone=self.zone, resolve=self.resolve, clock=lambda: self.now, wall_clock=lambda: self.today)

    def restart(self, *, loses: bool = False) -> None:
        """The agent ends and starts again, with what was remembered, or (`loses`) without."""
        remembered = self.planner.remember()
        self.planner = self.new_planner()
        if not loses:
            self.planner.restore(remembered)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.today += seconds

    def service(self, name: str, **fields: Any) -> None:
        """Put a service into the catalogue, or change it."""
        known = self.world.services.get(name, Service(name))
        self._turn(revision=1, services={**self.world.services, name: replace(known, **fields)})

    def unregister(self, name: str) -> None:
        self._turn(revision=1, services={key: one for key, one in self.world.services.items() if key != name})

    def start(self, service: str, *addresses: str, **fields: Any) -> None:
        """Put instances into the map, or change them."""
        table = dict(self.world.instances.get(service, {}))
        for address in addresses:
            host, _, port = address.rpartition(":")
            known = table.get(address, Instance(service, host.strip("[]"), int(port)))
            table[address] = replace(known, **fields)
        self._turn(instances={**self.world.instances, service: table})

    def vanish(self, service: str, *addresses: str) -> None:
        """Take instances (all, if none is named) out of the map, without a word."""
        kept = {
            at: one for at, one in self.world.instances.get(service, {}).items() if addresses and at not in addresses
        }
        others = {name: table for name, table in self.world.instances.items() if name != service}
        self._turn(instances={**others, service: kept} if kept else others)

    def rule(self, service: str, address: str, **fields: Any) -> None:
        """The operator's word on an address; without fields it is taken back."""
        host, _, port = address.rpartition(":")
        rulings = {key: one for key, one in self.world.rulings.items() if key != f"{service}/{address}"}
        if fields:
            rulings[f"{service}/{address}"] = Ruling(service, host.strip("[]"), int(port), **fields)
        self._turn(revision=1, rulings=rulings)

    def wipe(self, epoch: str = "two") -> None:
        """The map is another one, and empty."""
        self.world = World(Position(epoch, 0, 0))

    def plan(self) -> Plan:
        return self.planner.plan(self.world, unready=self.unready)

    def _turn(self, *, revision: int = 0, **tables: Mapping[str, Any]) -> None:
        at = self.world.position
        position = Position(at.epoch, at.revision + revision, at.presence + 1)
        self.world = replace(self.world, position=position, **tables)


def addresses(count: int, port: int = 8000) -> list[str]:
    """So many addresses, one for each host."""
    return [f"10.0.0.{number}:{port}" for number in range(1, count + 1)]


def realm_of(count: int, service: str = "identity") -> tuple[Realm, list[str]]:
    """A realm with one service, planned once."""
    realm = Realm()
    realm.service(service)
    at = addresses(count)
    realm.start(service, *at)
    realm.plan()
    return realm, at


def callable_names(servers: Iterable[Server]) -> set[str]:
    """The names of the servers that take new calls."""
    return {server.name for server in servers if not server.draining}


def standings(plan: Plan, service: str) -> dict[str, tuple[str, str]]:
    """What became of each instance, and by which rule."""
    return {at: (one.standing, one.reason) for at, one in plan.decisions.get(service, {}).items()}
