"""What holds in every world: random realms, changed at random, planned step by step."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from atlas.world import World
from sidecar.fields import check_route
from sidecar.model import Plan
from tests.unit.sidecar.planning import Realm, callable_names

SERVICES = ["identity", "teams", "billing", "orders"]
ADDRESSES = [f"10.0.{zone}.{number}:8000" for zone in range(2) for number in range(1, 5)]
SEEDS = range(12)


def change(realm: Realm, random: random.Random, *, drains: bool) -> None:
    """Something happens in the realm; `drains` as well as losses."""
    service, at = random.choice(SERVICES), random.choice(ADDRESSES)
    if not drains:  # an address that another service gets is let go, and rightly so
        at = at.replace("8000", str(8000 + SERVICES.index(service)))
    zone = "ab"[int(at.split(".")[2])]
    present = list(realm.world.instances.get(service, {}))
    some = random.sample(present, random.randint(1, len(present))) if present else []
    acts: list[Callable[[], object]] = [
        lambda: realm.start(service, at, zone=zone, version=random.choice(["1.0", "1.1", "2.0"])),
        lambda: realm.start(service, at, zone=zone, weight=random.choice([1, 50, 100, 300, 1000])),
        lambda: realm.vanish(service, *some) if some else None,
        lambda: realm.service(service, split=random.choice(["", "1.*=5%", "1.1=10%,2.*=20%"])),
        lambda: realm.service(service, version_policy=random.choice(["any", "1.*", "3.*"])),
        lambda: realm.unregister(service),
        lambda: realm.wipe(f"wiped-{random.random()}"),
        lambda: realm.planner.silent(service, at),
        lambda: realm.rule(service, at, state="enabled", weight=random.choice([None, 5])),
        lambda: realm.pass_time(random.choice([0.1, 1, 20, 400])),
        lambda: realm.restart(),
    ]
    if drains:
        acts += [
            lambda: realm.start(service, *some[:1], draining=True) if some else None,
            lambda: realm.start(service, *some[:1], draining=False) if some else None,
            lambda: realm.start(service, *some[:1], weight=0) if some else None,
            lambda: realm.rule(service, at, state=random.choice(["draining", "disabled"])),
            lambda: realm.rule(service, at, state="disabled", expires_at=realm.today + random.choice([1, 30])),
            lambda: realm.rule(service, at),
            lambda: realm.service(service, loss_accepted_at=realm.today),
            lambda: realm.planner.accept(service),
            lambda: realm.unready.symmetric_difference_update({(service, at)}),
        ]
    random.choice(acts)()


def takes_calls(plan: Plan, service: str) -> bool:
    return service in plan.routes and bool(callable_names(plan.routes[service].servers))


@pytest.mark.parametrize("seed", SEEDS)
def test_absence_never_empties_a_service(seed: int) -> None:
    """Whatever vanishes, is wiped, falls silent, or restarts: a service that took calls takes calls."""
    dice = random.Random(seed)
    realm = Realm(zone=dice.choice(["", "a"]))
    called: set[str] = set()
    for _ in range(80):
        change(realm, dice, drains=False)
        plan = realm.plan()
        called |= {service for service in SERVICES if takes_calls(plan, service)}
        assert called == {service for service in SERVICES if takes_calls(plan, service)}


@pytest.mark.parametrize("seed", SEEDS)
def test_every_instance_is_decided_once(seed: int) -> None:
    """The decisions name each instance of the map and each that is held, and nobody else; every route can be written; who
    drains or is disabled takes calls only where nobody else does."""
    dice = random.Random(1000 + seed)
    realm = Realm(zone=dice.choice(["", "a"]))
    for _ in range(80):
        change(realm, dice, drains=True)
        plan = realm.plan()
        for service in {*SERVICES, *plan.decisions}:
            held = plan.guards[service].addresses if service in plan.guards else ()
            there = set(realm.world.instances.get(service, {}))
            decisions = plan.decisions.get(service, {})
            assert not there & set(held)
            assert set(decisions) == there | set(held)
            assert all(one.address == at and one.says.endswith(".") for at, one in decisions.items())
        for name, route in plan.routes.items():
            check_route(route)
            decisions = plan.decisions.get(name, {})
            named = callable_names(route.servers)
            assert {at for at, one in decisions.items() if one.standing in ("in", "backup", "held")} == {
                name.removesuffix(".b") for name in named
            } or not any(one.standing in ("in", "backup", "held") for one in decisions.values())
            out = {at for at, one in decisions.items() if one.standing in ("out", "quarantined")}
            assert not out & {name.removesuffix(".b") for name in named}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_step_by_step_is_the_plan_made_afresh(seed: int) -> None:
    """Where nothing was lost, a plan that followed every change says what one says that sees the last world alone, and what
    did not change is the same object."""
    dice = random.Random(2000 + seed)
    realm = Realm(zone=dice.choice(["", "a"]))
    last = realm.plan()
    for _ in range(60):
        before, planner = realm.world, realm.planner
        change(realm, dice, drains=True)
        if any(set(table) - set(realm.world.instances.get(name, {})) for name, table in before.instances.items()):
            realm.world = before
        realm.pass_time(0.1)
        plan = realm.plan()
        fresh = realm.new_planner().plan(realm.world, unready=realm.unready)
        assert plan.routes == fresh.routes
        assert stripped(plan) == stripped(fresh)
        assert plan.again_at == pytest.approx(fresh.again_at, abs=0.02)
        if realm.planner is planner:
            kept = [name for name, route in last.routes.items() if plan.routes.get(name) == route]
            assert all(plan.routes[name] is last.routes[name] for name in kept)
        last = plan


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_the_map_does_not_matter(seed: int) -> None:
    """The same instances in another order are the same routes."""
    dice = random.Random(3000 + seed)
    realm = Realm(zone="a")
    for _ in range(40):
        change(realm, dice, drains=True)
    tables = [(name, list(table.items())) for name, table in realm.world.instances.items()]
    for _, items in tables:
        dice.shuffle(items)
    dice.shuffle(tables)
    shuffled: World = replace(realm.world, instances={name: dict(items) for name, items in tables})
    one, other = (realm.new_planner().plan(world) for world in (realm.world, shuffled))
    assert one.routes == other.routes
    assert stripped(one) == stripped(other)


def stripped(plan: Plan) -> dict[str, dict[str, tuple[object, ...]]]:
    """The decisions without the times and revisions at which they were made."""
    return {
        name: {at: (one.standing, one.reason, one.says, one.weight, one.version, one.zone) for at, one in table.items()}
        for name, table in plan.decisions.items()
    }
