"""Damping: who comes and goes waits, and nothing else does."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sidecar.damping import Flaps, wait_for
from tests.unit.sidecar.planning import Realm, addresses, callable_names, standings


def realm_of(count: int) -> tuple[Realm, list[str]]:
    realm = Realm()
    realm.service("identity")
    at = addresses(count)
    realm.start("identity", *at)
    realm.plan()
    return realm, at


def flap(realm: Realm, at: str, *, seconds: float = 0.5) -> None:
    """It vanishes, and comes back."""
    realm.vanish("identity", at)
    realm.plan()
    realm.pass_time(seconds)
    realm.start("identity", at)
    realm.plan()
    realm.pass_time(seconds)


@pytest.mark.parametrize(
    ("returns", "seconds"),
    [(0, 0), (2, 0), (3, 5), (4, 15), (5, 60), (6, 120), (7, 240), (8, 300), (1000, 300)],
)
def test_how_long_it_waits(returns: int, seconds: float) -> None:
    """Two returns are free; then 5, 15 and 60 seconds, doubling up to 300."""
    assert wait_for(returns) == seconds


def test_returns_are_forgotten_after_five_minutes() -> None:
    """What is older than five minutes counts no more, and is not kept."""
    flaps = Flaps()
    for time in (0.0, 200.0, 400.0, 600.0, 800.0):
        flaps = flaps.left(time).came(time + 1)
        assert flaps.returns[0] > time - 300
    assert not flaps.waits(802)
    assert flaps.is_over(1102)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_an_instance_that_flaps_changes_little(count: int) -> None:
    """At 1 Hz for five minutes: at most six changes of its standing, and of the route."""
    realm, at = realm_of(count)
    seen, routes = [], []
    for _ in range(300):
        for change in (realm.vanish, realm.start):
            change("identity", at[0])
            plan = realm.plan()
            one = plan.decisions["identity"].get(at[0])
            seen.append("out" if one is None else one.standing)
            routes.append(plan.routes["identity"])
            realm.pass_time(0.5)
            assert plan.routes["identity"].servers
    assert sum(one != other for one, other in pairwise(seen)) <= 6
    assert sum(one is not other for one, other in pairwise(routes)) <= 6


def test_it_is_taken_back_when_it_has_been_there_for_a_while() -> None:
    """After the third return it waits five seconds; the plan says when to look again, and says why."""
    realm, at = realm_of(3)
    for _ in range(3):
        flap(realm, at[0])
    plan = realm.plan()
    assert standings(plan, "identity")[at[0]] == ("out", "damping")
    assert "3 times" in plan.decisions["identity"][at[0]].says
    assert plan.again_at == pytest.approx(realm.now + 4.5)
    realm.pass_time(4.4)
    assert standings(realm.plan(), "identity")[at[0]] == ("out", "damping")
    realm.pass_time(0.2)
    plan = realm.plan()
    assert standings(plan, "identity")[at[0]] == ("in", "map")
    assert plan.again_at is None


def test_a_service_is_never_left_to_fewer_than_half() -> None:
    """Where more instances are restless than steady ones are there, they are called on, there or not."""
    realm, at = realm_of(3)
    routes = []
    for _ in range(60):
        flap(realm, at[0])
        flap(realm, at[1], seconds=0.3)
        routes.append(realm.plan().routes["identity"])
    assert callable_names(routes[-1].servers) == set(at)
    assert sum(one is not other for one, other in pairwise(routes[8:])) == 0
    assert standings(realm.plan(), "identity")[at[0]] == ("held", "damping")


def test_a_map_that_comes_and_goes_changes_nothing() -> None:
    """A registry that is wiped and filled every second damps nobody out of service."""
    realm, _ = realm_of(4)
    full, before = realm.world, realm.plan().routes["identity"]
    for turn in range(100):
        realm.wipe(f"wiped-{turn}")
        assert realm.plan().routes["identity"] is before
        realm.pass_time(0.5)
        realm.world = full
        assert realm.plan().routes["identity"] is before
        realm.pass_time(0.5)


def test_the_last_one_is_taken_back_at_once() -> None:
    """A restless instance waits only as long as a steady one takes calls."""
    realm, at = realm_of(2)
    for _ in range(3):
        flap(realm, at[0])
    assert standings(realm.plan(), "identity")[at[0]] == ("out", "damping")
    realm.start("identity", at[1], draining=True)
    plan = realm.plan()
    assert callable_names(plan.routes["identity"].servers) == {at[0]}


def test_a_restless_one_that_stays_away_is_let_go_when_it_is_silent() -> None:
    """What is called on although it is gone ends like every hold."""
    realm, at = realm_of(1)
    for _ in range(4):
        flap(realm, at[0])
    realm.vanish("identity", at[0])
    assert realm.plan().guards["identity"].addresses == (at[0],)
    realm.start("identity", "10.0.0.9:8000")
    realm.planner.silent("identity", at[0])
    assert not realm.plan().guards


def test_flaps_survive_a_restart() -> None:
    """An agent that starts anew does not begin to count anew, and does not count its own restart."""
    realm, at = realm_of(3)
    for _ in range(4):
        flap(realm, at[0])
    for _ in range(5):
        realm.restart()
        assert standings(realm.plan(), "identity")[at[0]] == ("out", "damping")
    realm.pass_time(15)
    assert standings(realm.plan(), "identity")[at[0]] == ("in", "map")
    flap(realm, at[0])
    realm.pass_time(59)
    assert standings(realm.plan(), "identity")[at[0]] == ("out", "damping")


def test_a_kept_map_from_before_counts_no_return() -> None:
    """A restart over a map in which the instance is still there is no return of it."""
    realm, at = realm_of(3)
    flap(realm, at[0])
    flap(realm, at[0])
    kept = realm.world
    for _ in range(5):
        realm.vanish("identity", at[0])
        realm.plan()
        realm.restart()
        realm.world = kept
        assert standings(realm.plan(), "identity")[at[0]] == ("in", "map")


def test_a_drain_after_returns_is_a_drain() -> None:
    """An instance that came back twice, and then is deployed again and again, does not wait."""
    realm, at = realm_of(3)
    flap(realm, at[0])
    flap(realm, at[0])
    for _ in range(5):
        realm.start("identity", at[0], draining=True)
        realm.plan()
        realm.vanish("identity", at[0])
        realm.plan()
        realm.start("identity", at[0], draining=False)
        assert standings(realm.plan(), "identity")[at[0]] == ("in", "map")


def test_nothing_is_remembered_for_ever() -> None:
    """A service that came, flapped and went leaves nothing behind."""
    realm, _ = realm_of(1)
    for number in range(50):
        realm.start("teams", f"10.0.1.{number}:8000")
        realm.plan()
        realm.vanish("teams")
        realm.plan()
        realm.planner.accept("teams")
        realm.plan()
        realm.pass_time(5)
    assert realm.planner.remember()["services"]
    realm.pass_time(400)
    realm.plan()
    assert realm.planner.remember()["services"] == {}
    assert "<Planner of 1 services" in repr(realm.planner)
