"""The agent ends and starts again: what was held is held, and what is wiped meanwhile is noticed."""

from __future__ import annotations

import pytest

from tests.unit.sidecar.planning import START, Realm, addresses, realm_of


@pytest.mark.parametrize("kept", ["full", "empty"])
def test_what_is_held_survives_a_restart(kept: str) -> None:
    """A restart within the hold, over a kept map from before or after the loss: the routes stay, and so does the guard."""
    realm = Realm(zone="a")
    realm.service("identity", callers="orders", timeout_seconds=4)
    at = addresses(4)
    realm.start("identity", *at[:2], zone="a")
    realm.start("identity", *at[2:], zone="b", weight=400)
    realm.rule("identity", at[0], weight=20)
    before, full = realm.plan(), realm.world
    realm.wipe()
    realm.plan()
    empty = realm.world
    realm.restart()
    realm.world = full if kept == "full" else empty
    assert realm.plan().routes == before.routes
    realm.world = empty
    plan = realm.plan()
    assert plan.routes == before.routes
    assert plan.guards["identity"].addresses == tuple(at)
    realm.pass_time(600)
    realm.restart()
    assert realm.plan().routes == before.routes


def test_whom_the_operator_let_go_does_not_come_back_with_a_restart() -> None:
    """A wiped map, one of two losses accepted, here or in the catalogue: the map that is kept from then on brings back the other."""
    for here in (True, False):
        realm, at = realm_of(2)
        realm.service("orders")
        realm.start("orders", "10.9.0.1:8000")
        realm.plan()
        realm.wipe()
        assert set(realm.plan().guards) == {"identity", "orders"}
        if here:
            assert set(realm.planner.accept("identity")) == set(at)
        else:
            realm.service("identity", loss_accepted_at=START + 1)
        realm.plan()
        assert realm.planner.acceptances == 1
        wiped, realm.world = realm.world, realm.planner.with_held(realm.world)
        realm.restart()
        realm.world = realm.planner.without_held(realm.world)
        realm.plan()
        realm.world = wiped
        assert set(realm.plan().guards) == {"orders"}


def test_what_is_held_was_lost_before_the_restart() -> None:
    """The age of a hold is that of the loss, however often the agent starts anew."""
    realm, at = realm_of(2)
    full = realm.world
    realm.wipe()
    since = realm.plan().guards["identity"].since
    wiped = realm.world
    realm.pass_time(500)
    realm.restart()
    realm.world = realm.planner.without_held(full)
    realm.plan()
    realm.world = wiped
    guard = realm.plan().guards["identity"]
    assert (guard.since, guard.addresses) == (since, tuple(at))


def test_a_restart_opens_no_service_whose_entry_is_broken() -> None:
    """What was last usable of a held service is kept, also when its entry could not be read before the map was wiped."""
    for wiped in (True, False):
        realm = Realm()
        realm.service("identity", callers="orders")
        realm.start("identity", *addresses(3))
        realm.plan()
        realm.service("identity", callers="two words")
        realm.plan()
        if wiped:
            realm.wipe()
        else:
            realm.vanish("identity")
        realm.plan()
        realm.restart()
        assert realm.plan().routes["identity"].callers == ("orders",)


def test_a_map_that_was_wiped_while_the_agent_was_away_is_held() -> None:
    """The kept map is what the live one is compared with, also when nothing was held before."""
    realm, _ = realm_of(3)
    realm.restart(loses=True)
    before = realm.plan()
    realm.wipe()
    plan = realm.plan()
    assert plan.routes["identity"] is before.routes["identity"]
    assert plan.guards["identity"].lost == 3


def test_an_acceptance_is_not_taken_twice() -> None:
    """A word from before the loss does not end the hold after a restart; one from after it does."""
    realm, _ = realm_of(3)
    realm.service("identity", loss_accepted_at=START - 10)
    realm.plan()
    realm.vanish("identity")
    realm.plan()
    realm.restart()
    assert realm.plan().guards["identity"].lost == 3
    realm.restart()
    realm.pass_time(60)
    realm.service("identity", loss_accepted_at=realm.today)
    assert not realm.plan().guards


def test_a_word_from_the_future_is_not_taken_twice() -> None:
    """Nor does one whose clock is ahead, after a restart."""
    realm, _ = realm_of(3)
    realm.service("identity", loss_accepted_at=START + 1e6)
    realm.plan()
    realm.vanish("identity")
    realm.plan()
    realm.restart()
    assert realm.plan().guards["identity"].lost == 3
