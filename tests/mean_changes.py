"""Somebody who changes a map in every way there is, as fast as the map takes it, and never so that a call has nowhere to go.

with MeanChanges(directory, instances, standing=..., call=...).begin() as changes:
    for _ in range(1000):
        changes.make()

Instances that leave say so first, as a service does, and end when no sidecar calls them any more; everything else is not waited
for. What was made is in `made`, by kind.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from atlas.directory import Directory
from atlas.model import Author, Instance, Lease, Ruling, Service, address
from tests.many_instances import ManyInstances
from tests.processes import wait_until

SERVICES = ("orders", "billing", "teams")
ZONES = ("east", "west", "")
VERSIONS = ("1.3", "1.4.0", "1.4.1", "2.0")
SPLITS = ("1.4.*=5%", "1.4.*=50%,2.0=25%", "2.0=100%", "1.3=1%,1.4.0=1%,1.4.1=1%", "9.9=40%,1.3=30%")
POLICIES = ("any", "1.*", "1.4.?", "7.*")
BY = Author("changes", why="a try")
STAY = ("::1", "localhost")
"""An IPv6 address and a host name, which never leave."""
MOST = 8
"""So many instances has a service at most."""


class MeanChanges:
    """The map's instances, held by two leases, and the next change by lot."""

    def __init__(
        self,
        directory: Directory,
        instances: ManyInstances,
        *,
        standing: Callable[[str, str], Sequence[str]],
        call: Callable[[str], int],
        fixed: Mapping[str, Sequence[tuple[str, int]]] = {},
        seed: int = 1,
    ) -> None:
        self.made: Counter[str] = Counter()
        self.log: list[str] = []
        """Every change with its time of day."""
        self._directory, self._instances = directory, instances
        self._standing, self._call = standing, call
        self._fixed = fixed
        """Instances that somebody else carries: there are rulings on them, and nothing else."""
        self._random = random.Random(seed)
        self._services: dict[str, Service] = {}
        self._there: dict[str, dict[str, Instance]] = {}
        self._leases: dict[tuple[str, str], int] = {}
        """Which of the two leases carries an instance, by service and host."""
        self._rulings: dict[tuple[str, str], Ruling] = {}
        self._next = 0
        self._kinds = [
            (self._join, 10),
            (self._leave, 8),
            (self._weigh, 10),
            (self._weigh_nothing, 3),
            (self._rule, 22),
            (self._exchange_the_last, 2),
            (self._drain_all, 2),
            (self._split, 8),
            (self._let_callers, 6),
            (self._time, 5),
            (self._repeat, 2),
            (self._policy, 4),
            (self._zone, 7),
            (self._version, 5),
            (self._move, 2),
            (self._hand_over, 3),
            (self._come_and_go, 3),
            (self._rename, 1),
        ]

    def begin(self) -> MeanChanges:
        """Services with three instances each, IPv6 and a host name among them."""
        for service in (*SERVICES, *self._fixed):
            self._put(Service(service, owner="town"))
        for service in SERVICES:
            self._there[service] = {}
            for _ in range(3):
                self._add(service, self._host())
        for host in ("::1", "127.0.0.1"):  # both, since it is the machine that says what `localhost` means
            self._instances.serve(host, *SERVICES)
        self._add("orders", "::1")
        self._add("billing", "localhost")
        self.made.clear()
        return self

    @property
    def total(self) -> int:
        return sum(self.made.values())

    def make(self) -> None:
        """One change, or some that belong together."""
        kinds, weights = zip(*self._kinds, strict=True)
        self._random.choices(kinds, weights)[0]()

    # -- instances -----------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        service = self._any_service()
        if len(self._there[service]) < MOST:
            self._add(service, self._host())

    def _leave(self) -> None:
        service = self._any_service()
        found = [host for host in self._there[service] if host not in STAY and self._can_spare(service, host)]
        if found and len(self._there[service]) > 2:
            self._remove(service, self._random.choice(found))

    def _weigh(self) -> None:
        service, host = self._any_instance()
        self._change(service, host, "weight", weight=self._random.choice((1, 7, 50, 100, 256, 300, 1000)))

    def _weigh_nothing(self) -> None:
        service, host = self._any_instance()
        if self._can_spare(service, host):
            self._change(service, host, "weight 0", weight=0)

    def _zone(self) -> None:
        service, host = self._any_instance()
        self._change(service, host, "zone", zone=self._random.choice(ZONES))

    def _version(self) -> None:
        service, host = self._any_instance()
        self._change(service, host, "version", version=self._random.choice(VERSIONS))

    def _hand_over(self) -> None:
        """The other lease takes the instance before this one lets go of it."""
        service, host = self._any_instance()
        self._leases[service, host] = 1 - self._leases[service, host]
        for lease in (self._leases[service, host], 1 - self._leases[service, host]):
            self._hold(lease)
        self._made("handed over", f"{service}/{host}")

    def _move(self) -> None:
        """An address becomes that of another service, from one moment to the next; its process serves both for a while."""
        service, host = self._any_instance()
        other = self._random.choice([one for one in SERVICES if one != service])
        if not self._can_spare(service, host) or host in STAY:
            return
        self._serve(host, service, other)
        instance = self._there[service].pop(host)
        lease = self._leases.pop((service, host))
        self._forget_ruling(service, host)
        self._there[other][host] = replace(instance, service=other)
        self._leases[other, host] = lease
        self._hold(lease)
        self._made("moved", f"{service}/{host} to {other}")
        self._wait_gone(service, host)
        self._serve(host, other)
        self.log.append(f"{time.time():.3f} {host} serves {other} alone")

    def _add(self, service: str, host: str) -> None:
        self._serve(host, service)
        version, zone = self._random.choice(VERSIONS), self._random.choice(ZONES)
        self._next += 1
        self._there[service][host] = Instance(
            service, host, self._instances.port, zone, version, incarnation=str(self._next)
        )
        self._leases[service, host] = self._random.randrange(2)
        self._hold(self._leases[service, host])
        self._made("joined", f"{service}/{host}")

    def _remove(self, service: str, host: str) -> None:
        self._change(service, host, "left", draining=True)
        self._wait_gone(service, host)
        self._instances.leave(host)
        self.log.append(f"{time.time():.3f} ended {host}")
        del self._there[service][host]
        self._hold(self._leases.pop((service, host)))

    def _change(self, service: str, host: str, kind: str, **fields: Any) -> None:
        self._there[service][host] = replace(self._there[service][host], **fields)
        self._hold(self._leases[service, host])
        self._made(kind, f"{service}/{host} {fields}")

    def _serve(self, host: str, *services: str) -> None:
        if host not in STAY:
            self._instances.serve(host, *services)

    def _wait_gone(self, service: str, host: str) -> None:
        """Until no sidecar sends it calls of this service, and those that it had are over."""
        where = address(host, self._instances.port)
        called = {"in", "backup", "held"}
        wait_until(lambda: not called & set(self._standing(service, where)), 15, what=f"{service} at {where} let go")
        time.sleep(0.05)
        wait_until(lambda: not self._instances.busy(host), 15, what=f"the calls to {where}")

    def _hold(self, number: int) -> None:
        held = [
            self._there[service][host]
            for (service, host), lease in self._leases.items()
            if lease == number and host in self._there.get(service, {})
        ]
        self._directory.hold(Lease(f"town-{number}", "one", 3600.0, tuple(held)))

    # -- the operator's word -------------------------------------------------------------------------------------------

    def _rule(self) -> None:
        service, host, port = self._any_address()
        state = self._random.choice(("enabled", "enabled", "draining", "disabled"))
        if state != "enabled" and not self._can_spare(service, host, port):
            return
        weight = self._random.choice((None, None, 1, 20, 500))
        self._say(service, host, port, state, weight)

    def _exchange_the_last(self) -> None:
        """All but one drain; then that one drains, and only afterwards another is enabled."""
        service = self._any_service()
        hosts = [host for host, one in self._there[service].items() if one.weight and not one.draining]
        if len(hosts) < 2:
            return
        port = self._instances.port
        self._say(service, hosts[0], port, "enabled")
        for host in self._there[service]:
            if host != hosts[0]:
                self._say(service, host, port, "draining", force=True)
        self._say(service, hosts[0], port, "draining", force=True)
        self._say(service, hosts[1], port, "enabled")

    def _drain_all(self) -> None:
        """Everybody drains at once: those are called on. Then all are enabled again."""
        service = self._any_service()
        for state in ("draining", "enabled"):
            for host in self._there[service]:
                self._say(service, host, self._instances.port, state, force=True)

    def _say(
        self, service: str, host: str, port: int, state: Any, weight: int | None = None, *, force: bool = False
    ) -> None:
        ruling = Ruling(service, host, port, state, weight, reason="a try")
        self._directory.rule(ruling, by=BY, force=force)
        self._rulings[service, address(host, port)] = ruling
        self._made(f"ruling: {state}", f"{service}/{host}:{port} {weight}")

    def _forget_ruling(self, service: str, host: str) -> None:
        if self._rulings.pop((service, address(host, self._instances.port)), None):
            self._directory.rule(Ruling(service, host, self._instances.port), by=BY, force=True)

    # -- services ------------------------------------------------------------------------------------------------------

    def _split(self) -> None:
        self._amend("split", split=self._random.choice((*SPLITS, "", "")))

    def _let_callers(self) -> None:
        self._amend("callers", callers=self._random.choice(("load", "billing,load", "load,zebra", "", "")))

    def _time(self) -> None:
        self._amend("timeout", timeout_seconds=self._random.choice((5.0, 10.0, 12.5, 60.0)))

    def _repeat(self) -> None:
        self._amend("retry class", retry_class=self._random.choice(("none", "idempotent")))

    def _policy(self) -> None:
        self._amend("version policy", version_policy=self._random.choice(POLICIES))

    def _amend(self, kind: str, **fields: Any) -> None:
        service = self._random.choice((*SERVICES, *self._fixed))
        self._put(replace(self._services[service], **fields))
        self._made(kind, f"{service} {fields}")

    def _come_and_go(self) -> None:
        """A service that is new, is called at once, and goes."""
        name = self._new_service()
        self._check(name)
        self._end_service(name)

    def _rename(self) -> None:
        """A service gets another name: its instances are in the map under the new one from one moment to the next."""
        name = self._new_service()
        (host,) = self._there[name]
        new = f"{name}-renamed"
        self._there[new] = {}
        self._put(Service(new, owner="town"))
        self._serve(host, name, new)
        lease = self._leases.pop((name, host))
        self._there[new][host] = replace(self._there[name].pop(host), service=new)
        self._leases[new, host] = lease
        self._hold(lease)
        self._made("service renamed", f"{name} to {new}")
        self._check(new)
        self._directory.remove_service(name, by=BY, force=True)
        del self._there[name], self._services[name]
        self._end_service(new)

    def _new_service(self) -> str:
        self._next += 1
        name = f"new-{self._next}"
        self._there[name] = {}
        self._put(Service(name, owner="town"))
        self._add(name, self._host())
        self._made("service new", name)
        return name

    def _check(self, name: str) -> None:
        """It is called, once it has been for the first time."""
        wait_until(lambda: self._call(name) == 200, 10, what=f"a call to {name}")
        for _ in range(10):
            assert self._call(name) == 200, name

    def _end_service(self, name: str) -> None:
        (host,) = self._there[name]
        self._there[name][host] = replace(self._there[name][host], draining=True)
        self._hold(self._leases[name, host])
        where = address(host, self._instances.port)
        # A moment later it is gone: whoever missed the word before would call it on.
        wait_until(lambda: "in" not in self._standing(name, where), 15, what=f"the end of {name}")
        del self._there[name]
        self._hold(self._leases.pop((name, host)))
        self._directory.remove_service(name, by=BY)
        del self._services[name]
        self._made("service gone", name)

    def _put(self, service: Service) -> None:
        self._directory.put_service(service, by=BY)
        self._services[service.name] = service

    # -- by lot --------------------------------------------------------------------------------------------------------

    def _made(self, kind: str, told: str) -> None:
        self.made[kind] += 1
        self.log.append(f"{time.time():.3f} {kind} {told}")

    def _any_service(self) -> str:
        return self._random.choice(SERVICES)

    def _any_instance(self) -> tuple[str, str]:
        service = self._any_service()
        return service, self._random.choice(list(self._there[service]))

    def _any_address(self) -> tuple[str, str, int]:
        own = [(service, host, self._instances.port) for service in SERVICES for host in self._there[service]]
        others = [(service, host, port) for service, them in self._fixed.items() for host, port in them]
        return self._random.choice([*own, *others * 3])

    def _can_spare(self, service: str, host: str, port: int = 0) -> bool:
        """Whether somebody else takes calls for certain."""
        port = port or self._instances.port
        there = [(one.host, one.port, one.weight) for one in self._there.get(service, {}).values() if not one.draining]
        there += [(host, port, 100) for host, port in self._fixed.get(service, ())]
        return any(
            self._takes(service, other, at, weight) for other, at, weight in there if (other, at) != (host, port)
        )

    def _takes(self, service: str, host: str, port: int, weight: int) -> bool:
        ruling = self._rulings.get((service, address(host, port)))
        if ruling is None:
            return weight > 0
        return ruling.state == "enabled" and (weight if ruling.weight is None else ruling.weight) > 0

    def _host(self) -> str:
        """An address that nobody has now; likely one that somebody had."""
        used = {host for table in self._there.values() for host in table}
        free = [f"127.3.0.{number}" for number in range(1, 40)]
        return self._random.choice([host for host in free if host not in used])
