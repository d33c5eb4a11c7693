"""The rules of a plan, each for itself and in their order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from atlas.model import Instance, Ruling, Service
from atlas.world import Position, World
from sidecar.fields import check_route
from sidecar.model import Server
from sidecar.plan import Planner
from sidecar.rules import others_stand_by
from sidecar.servers import address_of, scaled, server_name, step
from tests.unit.sidecar.planning import START, Realm, addresses, callable_names, standings


def realm_of(count: int, **options: Any) -> tuple[Realm, list[str]]:
    realm = Realm(**options)
    realm.service("identity")
    at = addresses(count)
    realm.start("identity", *at)
    return realm, at


def test_instances_take_calls() -> None:
    """What is in the map takes calls, under the terms of the catalogue; a service without an instance has an empty route."""
    realm, at = realm_of(2)
    realm.service("identity", timeout_seconds=2.5, retry_class="none", callers="orders, billing")
    realm.service("empty")
    realm.start("uncatalogued", at[0])
    plan = realm.plan()
    route = plan.routes["identity"]
    assert route.servers == (Server(at[0], "10.0.0.1", 8000), Server(at[1], "10.0.0.2", 8000))
    assert (route.timeout_ms, route.repeatable, route.callers) == (2500, False, ("orders", "billing"))
    assert plan.routes["empty"].servers == ()
    assert callable_names(plan.routes["uncatalogued"].servers) == {at[0]}
    assert plan.position == realm.world.position
    assert (plan.guards, plan.quarantined, plan.again_at) == ({}, {}, None)
    assert plan.decisions["identity"][at[0]].says == "It takes calls."


@pytest.mark.parametrize(
    ("fields", "standing", "reason"),
    [
        ({"state": "disabled"}, "out", "ruling"),
        ({"state": "draining"}, "draining", "ruling"),
        ({"state": "enabled", "weight": 0}, "out", "ruling"),
        ({"state": "enabled", "weight": 7}, "in", "ruling"),
        ({"state": "enabled"}, "in", "map"),
        ({"state": "disabled", "expires_at": START}, "in", "map"),
    ],
)
def test_the_operator_rules(fields: dict[str, Any], standing: str, reason: str) -> None:
    """The operator's word decides, says who gave it and why, and names the revision from which on it did."""
    realm, at = realm_of(2)
    realm.rule("identity", at[0], author="ann", reason="disk full", **fields)
    plan = realm.plan()
    assert standings(plan, "identity")[at[0]] == (standing, reason)
    one = plan.decisions["identity"][at[0]]
    assert one.revision == (realm.world.position.revision if reason == "ruling" else 0)
    assert ("by ann: disk full." in one.says) == (reason == "ruling")
    servers = {server.name: server for server in plan.routes["identity"].servers}
    assert (at[0] in servers) == (standing != "out")
    if fields.get("weight"):
        assert servers[at[0]].weight == 7


def test_a_ruling_ends_by_itself() -> None:
    """The plan says when, and then the instance is in again without another word."""
    realm, at = realm_of(2)
    realm.rule("identity", at[0], state="disabled", expires_at=START + 30)
    plan = realm.plan()
    assert plan.again_at == pytest.approx(realm.now + 30)
    realm.pass_time(29.9)
    assert realm.plan().routes["identity"] is plan.routes["identity"]
    realm.pass_time(0.2)
    plan = realm.plan()
    assert standings(plan, "identity")[at[0]] == ("in", "map")
    assert plan.again_at is None


@pytest.mark.parametrize("wrong", [3600, -3600])
def test_a_ruling_ends_in_time_once_the_clock_is_right(wrong: float) -> None:
    """A clock that was wrong for a moment neither ends what is to last, nor makes it last longer."""
    realm, at = realm_of(2)
    realm.rule("identity", at[0], state="disabled", expires_at=START + 30)
    realm.plan()
    realm.today += wrong
    assert standings(realm.plan(), "identity")[at[0]][0] == ("in" if wrong > 0 else "out")
    realm.today -= wrong
    plan = realm.plan()
    assert standings(plan, "identity")[at[0]] == ("out", "ruling")
    assert plan.again_at == pytest.approx(realm.now + 30)
    realm.pass_time(30.1)
    assert standings(realm.plan(), "identity")[at[0]] == ("in", "map")


def test_what_was_decided_keeps_its_time_and_revision() -> None:
    """A decision was made when it was made first, however often the service is planned again."""
    realm, at = realm_of(2)
    realm.rule("identity", at[0], state="draining")
    first = realm.plan().decisions["identity"][at[0]]
    realm.pass_time(60)
    realm.rule("identity", at[1], state="enabled", weight=3)
    assert realm.plan().decisions["identity"][at[0]] == first
    realm.rule("identity", at[0], state="disabled")
    later = realm.plan().decisions["identity"][at[0]]
    assert (later.since, later.revision) == (START + 60, first.revision + 2)


def test_who_drains_takes_no_new_calls() -> None:
    """By its own word, or by the checks of this host; what it has goes on under the same server."""
    realm, at = realm_of(3)
    realm.start("identity", at[0], draining=True)
    realm.unready = {("identity", at[1]), ("nobody", "10.0.0.1:1")}
    plan = realm.plan()
    assert standings(plan, "identity") == {
        at[0]: ("draining", "drain"),
        at[1]: ("draining", "check"),
        at[2]: ("in", "map"),
    }
    assert [server.name for server in plan.routes["identity"].servers] == at
    assert callable_names(plan.routes["identity"].servers) == {at[2]}
    realm.unready = set()
    assert standings(realm.plan(), "identity")[at[1]] == ("in", "map")


def test_when_all_drain_they_go_on_as_backups() -> None:
    """An instance that is about to stop is better than none, whoever drains it; one that is disabled stays out."""
    realm, at = realm_of(4)
    realm.start("identity", at[0], draining=True)
    realm.rule("identity", at[1], state="draining")
    realm.unready = {("identity", at[2])}
    realm.rule("identity", at[3], state="disabled")
    plan = realm.plan()
    assert callable_names(plan.routes["identity"].servers) == {f"{at[0]}.b", f"{at[1]}.b"}
    assert all(server.backup for server in plan.routes["identity"].servers)
    assert standings(plan, "identity")[at[0]] == ("draining", "drain")
    assert "no other instance does" in plan.decisions["identity"][at[0]].says
    realm.start("identity", "10.0.0.9:8000")
    plan = realm.plan()
    assert callable_names(plan.routes["identity"].servers) == {"10.0.0.9:8000"}


def test_when_none_is_ready_they_are_called_all_the_same() -> None:
    """What the checks of this host find never empties a service either."""
    realm, at = realm_of(2)
    realm.unready = {("identity", one) for one in at}
    assert callable_names(realm.plan().routes["identity"].servers) == {f"{one}.b" for one in at}


def test_weight_0_takes_no_calls() -> None:
    """An instance says itself that it wants none."""
    realm, at = realm_of(2)
    realm.start("identity", at[0], weight=0)
    plan = realm.plan()
    assert standings(plan, "identity")[at[0]] == ("out", "weight")
    assert callable_names(plan.routes["identity"].servers) == {at[1]}


def test_weights_keep_their_ratio() -> None:
    """Up to 256 they are what they are; above, all of a service are halved or quartered, and none becomes 0."""
    realm, at = realm_of(3)
    for number, weight in enumerate((1000, 500, 1)):
        realm.start("identity", at[number], weight=weight)
    plan = realm.plan()
    assert [server.weight for server in plan.routes["identity"].servers] == [250, 125, 1]
    assert plan.decisions["identity"][at[0]].weight == 1000
    assert (step([256, 1]), step([257]), step([512]), step([513]), step([])) == (1, 2, 2, 4, 1)
    assert all(1 <= scaled(weight, step([weight])) <= 256 for weight in range(1, 1001))


def test_a_version_policy_chooses() -> None:
    """Versions that do not fit are out while one that fits takes calls; then all are in."""
    realm, at = realm_of(3)
    realm.service("identity", version_policy="2.*")
    realm.start("identity", at[0], version="2.1")
    realm.start("identity", at[1], version="1.9")
    plan = realm.plan()
    assert standings(plan, "identity") == {
        at[0]: ("in", "map"),
        at[1]: ("out", "version"),
        at[2]: ("out", "version"),
    }
    assert plan.decisions["identity"][at[1]].revision == realm.world.position.revision
    realm.start("identity", at[0], draining=True)
    assert callable_names(realm.plan().routes["identity"].servers) == {at[1], at[2]}


def test_a_split_has_sides() -> None:
    """Each share has the instances of its version; the rest has the others, and those of the shares as backups."""
    realm, at = realm_of(4)
    realm.service("identity", split="1.4=5%,1.5.*=20%", version_policy="1.3")
    for number, version in enumerate(("1.3", "1.4", "1.5.1", "1.2")):
        realm.start("identity", at[number], version=version)
    plan = realm.plan()
    route = plan.routes["identity"]
    assert [(side.limit, callable_names(side.servers)) for side in route.sides] == [(500, {at[1]}), (2500, {at[2]})]
    assert {(server.name, server.backup) for server in route.servers} == {
        (at[0], False),
        (f"{at[1]}.b", True),
        (f"{at[2]}.b", True),
    }
    assert standings(plan, "identity") == {
        at[0]: ("in", "map"),
        at[1]: ("in", "version"),
        at[2]: ("in", "version"),
        at[3]: ("out", "version"),
    }


def test_a_side_without_an_instance_leaves_the_others_where_they_are() -> None:
    """Its callers go where the rest goes; the callers of the next share stay on their own side."""
    realm, at = realm_of(3)
    realm.service("identity", split="1.4=5%,1.5=20%,1.6=1%")
    realm.start("identity", at[0], version="1.5")
    route = realm.plan().routes["identity"]
    assert [side.limit for side in route.sides] == [500, 2500]
    assert route.sides[0].servers == route.servers
    assert callable_names(route.sides[1].servers) == {at[0]}
    realm.start("identity", at[0], draining=True)
    route = realm.plan().routes["identity"]
    assert route.sides == ()
    assert callable_names(route.servers) == set(at[1:])


def test_a_dead_main_side_is_answered_by_the_shares() -> None:
    """No instance but those of a share: the rest of the callers goes to them."""
    realm, at = realm_of(1)
    realm.service("identity", split="1.4=5%")
    realm.start("identity", at[0], version="1.4")
    route = realm.plan().routes["identity"]
    assert callable_names(route.servers) == {f"{at[0]}.b"}
    assert callable_names(route.sides[0].servers) == {at[0]}


def test_who_drains_on_a_side_keeps_its_server_there() -> None:
    """A drained instance of a share ends its calls where it has them."""
    realm, at = realm_of(3)
    realm.service("identity", split="1.4=5%")
    realm.start("identity", *at[:2], version="1.4")
    realm.start("identity", at[0], draining=True)
    side = realm.plan().routes["identity"].sides[0]
    assert {(server.name, server.draining) for server in side.servers} == {(at[0], True), (at[1], False)}


def test_zones_stay_local() -> None:
    """Other zones stand by, under other names, while at least half of this zone's instances take calls."""
    realm, at = realm_of(5, zone="a")
    realm.start("identity", *at[:3], zone="a")
    realm.start("identity", at[3], zone="b")
    plan = realm.plan()
    assert {server.name for server in plan.routes["identity"].servers} == {*at[:3], f"{at[3]}.b", f"{at[4]}.b"}
    assert standings(plan, "identity")[at[3]] == ("backup", "zone")
    realm.rule("identity", at[0], state="disabled")
    assert standings(realm.plan(), "identity")[at[3]] == ("backup", "zone")
    realm.start("identity", at[1], draining=True)
    plan = realm.plan()
    assert {server.name for server in plan.routes["identity"].servers if not server.backup} == set(at[1:])
    assert standings(plan, "identity")[at[3]] == ("in", "map")


def test_zones_count_the_versions_that_may_be_called() -> None:
    """Instances that the version policy leaves out are not missed in the zone."""
    realm, at = realm_of(5, zone="a")
    realm.service("identity", version_policy="2")
    realm.start("identity", *at[:4], zone="a", version="1")
    realm.start("identity", at[0], version="2")
    realm.start("identity", at[4], zone="b", version="2")
    assert standings(realm.plan(), "identity")[at[4]] == ("backup", "zone")


@pytest.mark.parametrize(
    ("zone", "able", "every", "expected"),
    [
        ("", "ab", "ab", False),
        ("a", "ab", "ab", True),
        ("a", "b", "b", False),
        ("a", "ab", "aab", True),
        ("a", "ab", "aaab", False),
    ],
)
def test_the_zone_rule(zone: str, able: str, every: str, expected: bool) -> None:
    """Half is enough; less is not; and where there is none, there is nothing to prefer."""
    assert others_stand_by(zone, able, every) is expected


def test_host_names_are_called_by_their_address() -> None:
    """A name waits until it has an address; another address is another server; the last one stays when there is none."""
    realm = Realm()
    realm.start("identity", "web-1:8000", "localhost:8001")
    plan = realm.plan()
    assert standings(plan, "identity") == {
        "web-1:8000": ("quarantined", "invalid"),
        "localhost:8001": ("quarantined", "invalid"),
    }
    realm.names["web-1"] = "10.0.0.7"
    route = realm.plan().routes["identity"]
    assert route.servers == (Server("web-1:8000.10.0.0.7", "10.0.0.7", 8000),)
    realm.names["web-1"] = "::7"
    assert realm.plan().routes["identity"].servers == (Server("web-1:8000.::7", "::7", 8000),)
    del realm.names["web-1"]
    assert realm.plan().routes["identity"].servers == (Server("web-1:8000.::7", "::7", 8000),)
    realm.restart()
    assert realm.plan().routes["identity"].servers == (Server("web-1:8000.::7", "::7", 8000),)
    realm.vanish("identity")
    assert realm.plan().guards["identity"].lost == 1


def test_a_resolver_that_fails_costs_its_name_alone() -> None:
    """What it raises, and what is no address, is no answer."""

    def resolve(name: str) -> str | None:
        if name == "bad":
            raise RuntimeError("no")
        return "not an address"

    realm = Realm(resolve=resolve)
    realm.start("identity", "bad:1", "worse:2", "10.0.0.1:3")
    assert callable_names(realm.plan().routes["identity"].servers) == {"10.0.0.1:3"}


@pytest.mark.parametrize(
    ("address", "host", "name"),
    [
        ("10.0.0.7:8000", "10.0.0.7", "10.0.0.7:8000"),
        ("[2001:db8::1]:8000", "2001:db8::1", "2001:db8::1:8000"),
        ("[0:0:0:0:0:0:0:1]:8000", "::1", "0:0:0:0:0:0:0:1:8000"),
        ("web-1:8000", "10.0.0.7", "web-1:8000.10.0.0.7"),
        ("a.b_c:8000", "::1", "a.b_c:8000.::1"),
    ],
)
def test_server_names_lead_back_to_their_address(address: str, host: str, name: str) -> None:
    """The name of a server tells its instance, backup or not."""
    assert server_name(address, host) == name
    assert server_name(address, host, backup=True) == f"{name}.b"
    assert address_of(name) == address_of(f"{name}.b") == address


def test_long_host_names_are_cut() -> None:
    """HAProxy is given no name that is longer than can be read, and no two alike."""
    names = {server_name(f"{'a' * 200}-{number}:8000", "10.0.0.1", backup=True) for number in range(100)}
    assert len(names) == 100
    assert max(map(len, names)) <= 100


BAD_INSTANCES: list[dict[str, Any]] = [
    {"port": 0}, {"port": 65536}, {"port": "8000"}, {"port": True}, {"port": None},
    {"host": ""}, {"host": "a b"}, {"host": "a\nserver evil 1.2.3.4:1"}, {"host": "10.1"}, {"host": "0x7f.1"},
    {"host": "1.2.3.999"}, {"host": "0.0.0.0"}, {"host": "::"}, {"host": "fe80::1%eth0"}, {"host": None}, {"host": "a" * 300},
    {"host": "é"}, {"host": "a..b"}, {"weight": -1}, {"weight": 1001}, {"weight": "5"}, {"weight": None},
    {"draining": "no"}, {"version": None}, {"zone": 7}, {"service": "other"},
]  # fmt: skip


@pytest.mark.parametrize("fields", BAD_INSTANCES, ids=str)
def test_an_instance_that_cannot_be_used_is_quarantined(fields: dict[str, Any]) -> None:
    """It is named with its reason, and the others of its service go on."""
    realm, at = realm_of(2, resolve=lambda name: "10.0.0.5")
    bad = replace(Instance("identity", "10.0.0.9", 8000), **fields)
    key = bad.address if isinstance(bad.host, str) else "10.0.0.9:8000"
    table = {**realm.world.instances["identity"], key: bad}
    tables: Any = {"identity": table, "teams": {key: "nonsense"}, "billing": 7}
    realm.world = replace(realm.world, instances=tables)
    plan = realm.plan()
    assert standings(plan, "identity")[key] == ("quarantined", "invalid")
    assert "cannot be called" in plan.decisions["identity"][key].says
    assert callable_names(plan.routes["identity"].servers) == set(at)
    assert standings(plan, "teams") == {key: ("quarantined", "invalid")}
    assert not plan.quarantined


@pytest.mark.parametrize(
    "ruling",
    [
        "nonsense",
        Ruling("identity", "10.0.0.1", 8000, state="gone"),  # type: ignore[arg-type]
        Ruling("identity", "10.0.0.1", 8000, weight=-1),
        Ruling("identity", "10.0.0.1", 8000, expires_at="tomorrow"),  # type: ignore[arg-type]
    ],
)
def test_a_ruling_that_cannot_be_read_costs_its_instance(ruling: Any) -> None:
    """Who was meant to be out is not called because nobody understands the word."""
    realm, at = realm_of(2)
    realm.world = replace(realm.world, rulings={f"identity/{at[0]}": ruling})
    plan = realm.plan()
    assert standings(plan, "identity")[at[0]] == ("quarantined", "invalid")
    assert callable_names(plan.routes["identity"].servers) == {at[1]}


BAD_SERVICES: list[Any] = [
    {"timeout_seconds": 0}, {"timeout_seconds": "10"}, {"timeout_seconds": float("nan")}, {"timeout_seconds": 1e9},
    {"timeout_seconds": True}, {"retry_class": "always"}, {"version_policy": None}, {"split": "1.4=200%"}, {"split": None},
    {"split": "1=1%,2=1%,3=1%,4=1%"}, {"callers": "a b"}, {"callers": 7}, {"callers": ","}, {"name": "other"},
    {"loss_accepted_at": "now"}, {"loss_accepted_at": -1}, {"version_policy": ["2"]}, {"retry_class": []},
]  # fmt: skip


@pytest.mark.parametrize("fields", BAD_SERVICES, ids=str)
def test_a_service_that_cannot_be_used_is_quarantined(fields: dict[str, Any]) -> None:
    """It has no route, its instances are named, and the others go on. Where it was known before, that stays in force."""
    realm, at = realm_of(2)
    realm.start("teams", *at)
    good = realm.world
    bad = replace(good, services={"identity": replace(Service("identity"), **fields), "teams": Service("teams")})
    realm.world = bad
    plan = realm.plan()
    assert set(plan.routes) == {"teams"}
    assert plan.quarantined["identity"]
    assert standings(plan, "identity") == dict.fromkeys(at, ("quarantined", "invalid"))
    realm.world = good
    plan = realm.plan()
    assert not plan.quarantined
    realm.world = replace(bad, position=Position("one", 9, 9))
    after = realm.plan()
    assert after.routes["identity"] is plan.routes["identity"]
    assert "stays in force" in after.quarantined["identity"]


@pytest.mark.parametrize("name", ["Upper", "a--b", "", "a b", "x\ny", "é", "_spare_001", "identity:1"])
def test_a_name_that_is_none_is_quarantined(name: str) -> None:
    """No such name gets near HAProxy."""
    world = World(Position("one", 1, 1), services={name: Service(name), "good": Service("good")})
    plan = Planner(resolve=lambda host: None).plan(world)
    assert set(plan.routes) == {"good"}
    assert set(plan.quarantined) == {name}


def test_what_nobody_foresaw_costs_one_service() -> None:
    """A table that raises when it is read: the service keeps its route, every instance is named, and the others go on."""

    class Broken(dict[str, Instance]):
        def __getitem__(self, key: str) -> Instance:
            raise RuntimeError("broken")

    realm, at = realm_of(2)
    realm.start("teams", *at)
    before = realm.plan()
    broken = Broken(realm.world.instances["identity"])
    broken["10.0.0.9:1"] = Instance("identity", "10.0.0.9", 1)
    realm.world = replace(realm.world, instances={**realm.world.instances, "identity": broken})
    plan = realm.plan()
    assert plan.routes["identity"] is before.routes["identity"]
    assert "RuntimeError" in plan.quarantined["identity"]
    assert set(plan.decisions["identity"]) == {*at, "10.0.0.9:1"}
    realm.vanish("teams", at[0])
    assert callable_names(realm.plan().routes["teams"].servers) == {at[1]}
    realm.start("identity", *at)
    del realm.world.instances["identity"]["10.0.0.9:1"]  # type: ignore[attr-defined]
    assert not realm.plan().quarantined


def test_what_does_not_change_stays_the_same_object() -> None:
    """Routes and decisions of a service are other objects only when they differ, even in a map that was read anew."""
    realm, at = realm_of(2)
    realm.start("teams", *at)
    first = realm.plan()
    realm.start("identity", at[0], weight=7)
    second = realm.plan()
    assert second.routes["teams"] is first.routes["teams"]
    assert second.routes["identity"] != first.routes["identity"]
    realm.world = World.from_items(realm.world.position, realm.world.items())
    third = realm.plan()
    assert all(third.routes[name] is route for name, route in second.routes.items())
    assert all(third.decisions[name] is found for name, found in second.decisions.items())
    assert realm.plan().routes is third.routes


def test_every_route_can_be_written() -> None:
    """What a plan gives passes the checks of whoever writes it for HAProxy."""
    realm, at = realm_of(3, zone="a")
    realm.service("identity", split="2.*=1%,1=5%", callers="orders")
    realm.start("identity", at[0], version="2.0", zone="a", weight=1000)
    realm.start("identity", "[2001:db8::1]:8000", f"{'long-' * 40}name:8000", version="1")
    realm.names[f"{'long-' * 40}name"] = "10.0.0.9"
    (route,) = realm.plan().routes.values()
    check_route(route)
    assert {server.port for side in route.sides for server in side.servers} == {8000}
    assert len(route.servers) == 5


@pytest.mark.parametrize(
    "data",
    [None, {}, [], {"format": 2}, {"format": 1}, {"format": 1, "services": 7, "names": []}]
    + [
        {"format": 1, "services": {"identity": one}}
        for one in (None, {"held": 7}, {"held": [7, {}]}, {"flaps": {"a": None}})
    ],
    ids=str,
)
def test_what_cannot_be_restored_is_left_out(data: Any) -> None:
    """A file from another time, or a broken one, keeps nobody from starting."""
    realm, at = realm_of(2)
    realm.planner.restore(data)
    assert callable_names(realm.plan().routes["identity"].servers) == set(at)
