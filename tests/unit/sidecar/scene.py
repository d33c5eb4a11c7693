"""A sidecar as the page, the commands and the metrics see it: facts and a plan to vary, and a source that gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from atlas.world import Position
from sidecar.facts import EjectedServer, Facts, Histogram, OwnInstance, ProxyFacts, Rate
from sidecar.model import Decision, Guard, Plan, Reason, Route, Server, Standing
from sidecar.settings import Settings
from smartrealm.errors import Unavailable

NOW = 1_780_000_000.0
HERE = Position("abc", 41, 7)


def decision(
    address: str, standing: Standing = "in", reason: Reason = "map", says: str = "It takes calls.", **more: Any
) -> Decision:
    values: dict[str, Any] = {"since": NOW - 60, "weight": 100, "version": "1.4", "zone": "a"}
    return Decision(address, standing, reason, says, **{**values, **more})


def service(name: str, *decisions: Decision, **more: Any) -> tuple[Route, dict[str, Decision]]:
    """A route to those of the decisions that are called, and the decisions by address."""
    called = [one for one in decisions if one.standing in ("in", "backup", "held")]
    servers = tuple(
        Server(one.address, one.address.rpartition(":")[0], int(one.address.rpartition(":")[2])) for one in called
    )
    return Route(name, servers, **more), {one.address: one for one in decisions}


def plan_of(*services: tuple[Route, dict[str, Decision]], position: Position = HERE, **more: Any) -> Plan:
    return Plan(
        position,
        {route.service: route for route, _ in services},
        {route.service: decisions for route, decisions in services},
        **more,
    )


IDENTITY = service("identity", decision("10.0.0.7:8000"), decision("10.0.0.8:8000", version="1.5", zone="b"))
BILLING = service("billing", decision("10.0.0.7:8080"))
CALM = plan_of(IDENTITY, BILLING)

WELL = Facts(
    pid=4242,
    started_at=NOW - 3600,
    version="0.1.0",
    realm="local",
    host="web-1",
    zone="a",
    position=HERE,
    applied_at=NOW - 30,
    map_from="atlas",
    map_age_seconds=1.5,
    proxy=ProxyFacts("2.6.12", 4243, 3600.0, True),
    changes=12,
    own=(OwnInstance("identity", "10.0.0.7:8000", "ready", "", NOW - 60),),
    apply_seconds=Histogram(((0.01, 3), (0.1, 11)), 12, 0.4),
    propagation_seconds=Histogram(((0.05, 4), (0.25, 12)), 12, 0.9),
)


def guarded() -> Plan:
    """Two of the three instances of identity were lost at once, and are held."""
    held = [
        decision(f"10.0.0.{at}:8000", "held", "guard", "It vanished with others.", since=NOW - 300) for at in (8, 9)
    ]
    addresses = tuple(one.address for one in held)
    guard = Guard("identity", NOW - 300, 2, 3, addresses, "2 of 3 were lost at once.")
    return plan_of(service("identity", decision("10.0.0.7:8000"), *held), BILLING, guards={"identity": guard})


def troubled() -> tuple[Facts, Plan]:
    """A sidecar in a bad night: the guard holds, a service is quarantined, another one empty, a server ejected, Atlas away."""
    held = guarded()
    out = decision("10.0.0.5:7000", "out", "ruling", "bert disabled it: loses requests.", revision=40, since=NOW - 900)
    teams = service("teams", out)
    plan = replace(
        held,
        routes={**held.routes, "teams": teams[0]},
        decisions={**held.decisions, "teams": teams[1]},
        quarantined={"broken": "its timeout is no number."},
    )
    ejected = EjectedServer("billing", "10.0.0.7:8080", NOW - 4, NOW + 6, "Layer7 wrong status, code: 500")
    failure = "nobody answers at http://atlas-1:7070"
    return replace(WELL, map_age_seconds=95.0, map_failure=failure, ejected=(ejected,), ejections=3), plan


def many(services: int, instances: int) -> Plan:
    """A plan of this size."""
    return plan_of(
        *(
            service(f"service-{number}", *(decision(f"10.0.{at}.1:{9000 + number}") for at in range(instances)))
            for number in range(services)
        )
    )


class FakeSource:
    """What an Agent is to the admin server. It notes what it is told to do."""

    def __init__(self, directory: Path, facts: Facts = WELL, plan: Plan = CALM, **settings: Any) -> None:
        self.settings = Settings(directory / "s", directory / "state", **{"admin_port": 0, **settings})
        self.now_facts = facts
        self.now_plan = plan
        self.now_rates: Mapping[str, Rate] | None = {
            "identity": Rate(12.5, 2, 3000, 4, {"10.0.0.7:8000": Rate(12.5, 2, 3000, 4)})
        }
        self.told: list[tuple[Any, ...]] = []
        self.asked_for_rates = 0

    def plan(self) -> Plan:
        return self.now_plan

    def facts(self) -> Facts:
        return self.now_facts

    def accept(self, service: str, *, by: str, why: str) -> tuple[str, ...]:
        self.told.append(("accept", service, by, why))
        return self.now_plan.guards[service].addresses

    def reload(self, *, why: str) -> None:
        self.told.append(("reload", why))

    def rates(self) -> Mapping[str, Rate]:
        self.asked_for_rates += 1
        if self.now_rates is None:
            raise Unavailable("HAProxy does not answer.")
        return self.now_rates

    def backends(self) -> Mapping[str, str]:
        return {name: name for name in self.now_plan.routes}
