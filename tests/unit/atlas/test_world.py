"""The map in memory: cheap to change, never changed under a reader."""

from __future__ import annotations

from typing import Any

import pytest

from atlas.model import Edit, Instance, Lease, Override, Ruling, Service, Token
from atlas.world import Delta, Position, World
from smartrealm.errors import ValidationFailed

P1, P2 = Position("e", 1, 1), Position("e", 2, 2)


def world(*instances: Instance, service: Service | None = None, rulings: tuple[Ruling, ...] = ()) -> World:
    items = [("instance", one.key, one.to_json()) for one in instances]
    items += [("ruling", one.key, one.to_json()) for one in rulings]
    if service is not None:
        items.append(("service", service.name, service.to_json()))
    return World.from_items(P1, items)  # type: ignore[arg-type]


def at(port: int, version: str = "", **more: object) -> Instance:
    return Instance("identity", "h", port, version=version, **more)  # type: ignore[arg-type]


def test_items_and_back() -> None:
    """What a world consists of makes the same world."""
    items = [
        ("service", "identity", Service("identity", port=1).to_json()),
        ("override", "*/KEY", Override("*", "KEY", {"a": 1}, author="anna").to_json()),
        ("ruling", "identity/h:1", Ruling("identity", "h", 1, "disabled").to_json()),
        ("token", "t", Token("t", "reader", "anna", "d").to_json()),
        ("lease", "host", Lease("host", "i").to_json()),
        ("instance", "identity/h:1", at(1).to_json()),
    ]
    made = World.from_items(P1, items)  # type: ignore[arg-type]
    assert list(made.items()) == items
    assert World.from_items(P1, made.items()) == made


def test_applying_leaves_the_old_world_as_it_was() -> None:
    """A reader that holds a world never sees it change."""
    old = world(at(1), at(2))
    new = old.apply(
        Delta(
            P1,
            P2,
            (
                Edit("instance", "identity/h:1", None, None),
                Edit("instance", "identity/h:3", None, at(3).to_json()),
                Edit("service", "billing", None, {"name": "billing"}),
            ),
        )
    )
    assert (set(old.instances["identity"]), set(old.services)) == ({"h:1", "h:2"}, set())
    assert (set(new.instances["identity"]), set(new.services)) == ({"h:2", "h:3"}, {"billing"})
    assert (old.position, new.position) == (P1, P2)


def test_the_last_instance_takes_its_service_along() -> None:
    """A service that nobody runs and nobody recorded is not known."""
    old = world(at(1))
    new = old.apply(Delta(P1, P2, (Edit("instance", "identity/h:1", None, None),)))
    assert (old.knows("identity"), new.knows("identity")) == (True, False)


@pytest.mark.parametrize(
    ("instance", "ruling", "expected"),
    [
        (at(1), None, ("enabled", 100)),
        (at(1, draining=True), None, ("draining", 100)),
        (at(1, weight=0), None, ("enabled", 0)),
        (at(1), Ruling("identity", "h", 1, "disabled"), ("disabled", 100)),
        (at(1), Ruling("identity", "h", 1, weight=5), ("enabled", 5)),
        (at(1, draining=True), Ruling("identity", "h", 1, weight=5), ("draining", 5)),
        (at(1, draining=True), Ruling("identity", "h", 1, "disabled"), ("disabled", 100)),
        (at(1), Ruling("identity", "h", 1, "disabled", expires_at=50.0), ("enabled", 100)),
        (at(1), Ruling("identity", "h", 1, "disabled", expires_at=51.0), ("disabled", 100)),
    ],
)
def test_the_effective_state(instance: Instance, ruling: Ruling | None, expected: tuple[str, int]) -> None:
    """The operator's word is above the instance's own, until it ends."""
    (place,) = world(instance, rulings=(ruling,) if ruling else ()).places("identity", now=50.0)
    assert (place.state, place.weight) == expected
    assert place.takes_calls == (expected[0] == "enabled" and expected[1] > 0)


def test_calls_follow_the_version_policy() -> None:
    """To the versions that fit; to all while none does."""
    service = Service("identity", version_policy="2.*")
    found = world(at(1, "1.9"), at(2, "2.0"), at(3, "2.1"), service=service).callable_places("identity")
    assert [place.instance.port for place in found] == [2, 3]
    found = world(at(1, "1.9"), at(2, "2.0", draining=True), service=service).callable_places("identity")
    assert [place.instance.port for place in found] == [1]


def test_near_names() -> None:
    """A slip of the finger is understood, a foreign word is not."""
    some = world(at(1), service=Service("billing"))
    assert some.near("identty") == ["identity"]
    assert some.near("zzz") == []


@pytest.mark.parametrize("text", ["", "e", "e.1", "e.1.2.3", "e.x.1", "e.-1.1", "e.1.٣"])
def test_a_position_that_is_none_is_refused(text: str) -> None:
    """What nobody handed out is ValidationFailed."""
    with pytest.raises(ValidationFailed):
        Position.parse(text)


@pytest.mark.parametrize("position", [Position(), P1, Position("ab-cd", 10**12, 7)])
def test_a_position_is_text_and_back(position: Position) -> None:
    """`str` and `parse` are inverse."""
    assert Position.parse(str(position)) == position


def test_an_entry_that_cannot_be_read_costs_nobody_but_itself() -> None:
    """Somebody wrote into the store by hand, or a newer version did: what was known of that entry stays, the others go on."""
    world = World.from_items(Position("e", 1, 1), [("service", "identity", {"name": "identity", "owner": "accounts"})])
    edits: list[tuple[Any, str, Any]] = [
        ("service", "identity", "text"),
        ("service", "orders", {"name": "orders"}),
        ("service", "shop", {"no": "name"}),
        ("ruling", "orders/h:1", 7),
        ("instance", "orders/h:1", ["h", 1]),
        ("instance", "orders/h:2", {"service": "orders", "host": "h", "port": 2}),
        ("lease", "h", {"id": 3}),
        ("quota", "orders", {"most": 3}),
    ]
    told = world.apply(
        Delta(world.position, Position("e", 2, 2), tuple(Edit(kind, key, None, to) for kind, key, to in edits))
    )
    assert told.services == {"identity": Service("identity", owner="accounts"), "orders": Service("orders")}
    assert told.instances == {"orders": {"h:2": Instance("orders", "h", 2)}}
    assert (told.rulings, told.leases, told.position) == ({}, {}, Position("e", 2, 2))


def test_an_entry_whose_fields_make_no_key_can_be_kept_and_handed_on() -> None:
    """Somebody wrote a number where a host belongs: whoever keeps the map on disk, or serves it, goes on."""
    items = [("instance", "orders/5:1", {"service": "orders", "host": 5, "port": 1})]
    world = World.from_items(P1, items)  # type: ignore[arg-type]
    assert list(world.items()) == items


def test_a_field_of_a_newer_version_is_left_out() -> None:
    """A reader that does not know it goes on following the map."""
    told = (
        Edit("service", "billing", None, {"name": "billing", "colour": "red"}),
        Edit("instance", "identity/h:1", None, {**at(1).to_json(), "colour": "red"}),
        Edit("ruling", "identity/h:1", None, {**Ruling("identity", "h", 1).to_json(), "colour": "red"}),
    )
    found = World().apply(Delta(P1, P2, told))
    assert (found.services, found.instances["identity"]) == ({"billing": Service("billing")}, {"h:1": at(1)})
    assert found.rulings["identity/h:1"] == Ruling("identity", "h", 1)


@pytest.mark.parametrize(
    ("bucket", "split", "policy", "expected"),
    [
        (0, "1.4=5%", "any", [1]),
        (499, "1.4=5%", "any", [1]),
        (500, "1.4=5%", "any", [2, 3]),
        (9999, "1.4=5%", "any", [2, 3]),
        (None, "1.4=5%", "any", [1, 2, 3]),
        (0, "", "any", [1, 2, 3]),
        (0, "1.4=5%", "2.*", [1]),
        (500, "1.4=5%", "2.*", [3]),
        (600, "1.4=5%,2.*=5%", "any", [3]),
        (1000, "1.4=5%,2.*=5%", "any", [2]),
        (0, "1.5=5%", "any", [1, 2, 3]),
        (0, "1.5=5%", "2.*", [3]),
        (500, "*=5%", "any", [1, 2, 3]),
        (600, "1.4=5%,1.*=5%", "any", [2]),
        (0, "nonsense", "any", [1, 2, 3]),
    ],
)
def test_a_bucket_is_called_on_its_side_of_the_split(
    bucket: int | None, split: str, policy: str, expected: list[int]
) -> None:
    """A share reaches its version, the rest the versions of no share; a side on which nobody takes calls, the others."""
    service = Service("identity", split=split, version_policy=policy)
    here = world(at(1, "1.4"), at(2, "1.3"), at(3, "2.0"), at(4, "1.5", draining=True), service=service)
    assert [place.instance.port for place in here.callable_places("identity", None, bucket)] == expected
