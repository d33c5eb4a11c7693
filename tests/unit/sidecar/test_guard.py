"""The guard: what vanishes without a word, and what ends the hold."""

from __future__ import annotations

import pytest

from atlas.model import Instance
from sidecar.guard import WINDOW_SECONDS, Held, Loss, Watch, too_many
from tests.unit.sidecar.planning import START, Realm, addresses, callable_names, realm_of, standings


@pytest.mark.parametrize(
    ("count", "lost", "held"), [(10, 5, 0), (10, 6, 6), (3, 1, 0), (3, 2, 2), (2, 1, 0), (1, 1, 1)]
)
def test_a_minority_is_let_go_and_a_majority_is_held(count: int, lost: int, held: int) -> None:
    """What is lost at once is let go up to half of the service, and held beyond."""
    realm, at = realm_of(count)
    realm.vanish("identity", *at[:lost])
    plan = realm.plan()
    assert len(plan.guards["identity"].addresses if held else ()) == held
    assert callable_names(plan.routes["identity"].servers) == set(at if held else at[lost:])
    assert set(plan.decisions["identity"]) == set(at if held else at[lost:])


def test_losses_within_half_a_minute_count_together() -> None:
    """Losses one by one are held, all of them, as soon as they are more than half of what was there before the first."""
    realm, at = realm_of(10)
    for address in at[:5]:
        realm.vanish("identity", address)
        assert not realm.plan().guards
        realm.pass_time(4)
    realm.vanish("identity", at[5])
    plan = realm.plan()
    assert plan.guards["identity"].addresses == tuple(sorted(at[:6]))
    assert (plan.guards["identity"].lost, plan.guards["identity"].of) == (6, 10)


def test_half_is_a_minority_whatever_else_leaves() -> None:
    """Half of a service that is lost is let go, also when another one drains meanwhile; when nobody is left, it is held."""
    realm, at = realm_of(6)
    realm.vanish("identity", *at[:3])
    realm.start("identity", at[3], draining=True)
    assert not realm.plan().guards
    realm, at = realm_of(6)
    realm.vanish("identity", *at[:3])
    realm.start("identity", *at[3:], draining=True)
    assert realm.plan().guards["identity"].addresses == tuple(at[:3])


def test_losses_that_lie_apart_are_let_go() -> None:
    """A service that shrinks by one crash at a time is left to shrink, down to its last instance, which is held."""
    realm, at = realm_of(4)
    for address in at[:3]:
        realm.vanish("identity", address)
        assert not realm.plan().guards
        realm.pass_time(WINDOW_SECONDS)
    realm.vanish("identity", at[3])
    assert realm.plan().guards["identity"].addresses == (at[3],)


def test_a_wiped_map_changes_no_route() -> None:
    """A map that is another one, and empty, changes no route at all, and every service says at once that it is held."""
    realm = Realm(zone="a")
    for number in range(20):
        name = f"service-{number}"
        realm.service(name, timeout_seconds=3.0, callers="orders", split="2.*=10%", retry_class="none")
        for place in range(6):
            zone, version = "ab"[place % 2], "2.1" if place == 5 else "1.0"
            realm.start(name, f"10.0.{place}.1:{8000 + number}", zone=zone, version=version)
        realm.rule(name, f"10.0.0.1:{8000 + number}", weight=10)
        realm.rule(name, f"10.0.1.1:{8000 + number}", state="draining")
        realm.rule(name, f"10.0.2.1:{8000 + number}", state="disabled")
    realm.rule("service-0", "10.0.1.1:8000", state="enabled")
    before = realm.plan()
    realm.wipe()
    after = realm.plan()
    assert after.guards.keys() == before.routes.keys()
    assert after.routes["service-0"] is before.routes["service-0"]
    for name, route in before.routes.items():
        assert callable_names(after.routes[name].servers) == callable_names(route.servers)
        assert [side.servers for side in after.routes[name].sides] == [side.servers for side in route.sides]
        assert (after.routes[name].callers, after.routes[name].timeout_ms) == (("orders",), 3000)


def test_who_drained_is_no_loss() -> None:
    """An instance that drained, or that the operator drained or disabled, leaves with its word; so does a whole service."""
    realm, at = realm_of(4)
    realm.start("identity", at[0], draining=True)
    realm.rule("identity", at[1], state="draining")
    realm.rule("identity", at[2], state="disabled")
    realm.plan()
    realm.vanish("identity", *at[:3])
    assert not realm.plan().guards
    realm.start("identity", at[3], draining=True)
    realm.plan()
    realm.vanish("identity")
    plan = realm.plan()
    assert not plan.guards
    assert plan.routes["identity"].servers == ()


def test_a_word_that_comes_with_the_loss_counts() -> None:
    """An instance that is disabled and gone in one update is no loss."""
    realm, at = realm_of(1)
    realm.rule("identity", at[0], state="disabled")
    realm.vanish("identity")
    assert not realm.plan().guards


def test_the_last_one_that_takes_calls_is_held() -> None:
    """The size that counts is that of who took calls: a disabled and a draining instance are no company."""
    realm, at = realm_of(3)
    realm.rule("identity", at[1], state="disabled")
    realm.start("identity", at[2], draining=True)
    realm.plan()
    realm.vanish("identity", at[0])
    plan = realm.plan()
    assert plan.guards["identity"].addresses == (at[0],)
    assert at[0] in callable_names(plan.routes["identity"].servers)


def test_a_rolling_deploy_is_never_guarded_nor_damped() -> None:
    """Drain, gone, back at the same address, again and again: never held, never kept out."""
    realm, at = realm_of(3)
    for turn in range(20):
        for address in at:
            realm.start("identity", address, draining=True)
            assert standings(realm.plan(), "identity")[address] == ("draining", "drain")
            realm.pass_time(0.5)
            realm.vanish("identity", address)
            assert not realm.plan().guards
            realm.pass_time(0.5)
            realm.start("identity", address, draining=False, incarnation=f"{address}-{turn}")
            plan = realm.plan()
            assert standings(plan, "identity") == dict.fromkeys(at, ("in", "map"))
            assert callable_names(plan.routes["identity"].servers) == set(at)


def test_held_instances_come_back() -> None:
    """The guard ends when they are in the map again, as whatever incarnation."""
    realm, at = realm_of(3)
    before = realm.plan().routes["identity"]
    realm.wipe()
    realm.plan()
    realm.start("identity", at[0], incarnation="another")
    plan = realm.plan()
    assert plan.guards["identity"].addresses == tuple(at[1:])
    assert standings(plan, "identity")[at[0]] == ("in", "map")
    realm.start("identity", *at[1:], incarnation="others")
    plan = realm.plan()
    assert not plan.guards
    assert plan.routes["identity"] is before


def test_a_wiped_map_does_not_open_a_service_to_everybody() -> None:
    """Callers and timeout of a service stay in force while the new map has said nothing about it, even when all of its
    instances are back."""
    realm = Realm()
    realm.service("identity", callers="orders")
    realm.start("identity", *addresses(2))
    realm.plan()
    realm.wipe()
    realm.plan()
    realm.start("identity", *addresses(2))
    plan = realm.plan()
    assert plan.routes["identity"].callers == ("orders",)
    realm.service("identity")
    assert realm.plan().routes["identity"].callers is None


def test_what_the_same_map_takes_back_is_taken_back() -> None:
    """An entry that the catalogue loses while the service runs on is the operator's doing."""
    realm = Realm()
    realm.service("identity", callers="orders")
    realm.start("identity", *addresses(2))
    realm.plan()
    realm.unregister("identity")
    assert realm.plan().routes["identity"].callers is None


def test_a_service_that_vanishes_with_its_instances_is_held() -> None:
    """Gone from the catalogue, with all its instances: held as it was. Gone with none left: unknown."""
    realm = Realm()
    realm.service("identity", timeout_seconds=2.0)
    realm.start("identity", *addresses(2))
    realm.service("empty")
    before = realm.plan()
    realm.unregister("identity")
    realm.vanish("identity")
    realm.unregister("empty")
    plan = realm.plan()
    assert plan.routes == {"identity": before.routes["identity"]}
    assert realm.planner.accept("identity") == tuple(addresses(2))
    plan = realm.plan()
    assert (plan.routes, plan.decisions, plan.guards) == ({}, {}, {})


def test_the_operator_accepts_the_loss_for_the_realm() -> None:
    """A loss that the catalogue says is accepted is let go, whatever the clocks say; a later one is held again."""
    realm, at = realm_of(4)
    realm.vanish("identity", *at[:3])
    realm.plan()
    realm.service("identity", loss_accepted_at=START - 3600)  # the clock of whoever accepted is an hour late
    plan = realm.plan()
    assert not plan.guards
    assert callable_names(plan.routes["identity"].servers) == {at[3]}
    realm.start("identity", *addresses(3, port=9000))
    realm.plan()
    realm.vanish("identity", "10.0.0.1:9000")
    assert not realm.plan().guards, "what was accepted does not count with what is lost next"
    realm.vanish("identity")
    assert len(realm.plan().guards["identity"].addresses) == 4
    realm.planner.accept("identity")
    realm.start("identity", at[3])
    realm.plan()
    realm.vanish("identity", at[3])
    assert realm.plan().guards["identity"].addresses == (at[3],)


def test_an_accepted_minority_does_not_count_with_the_next_loss() -> None:
    """Half of a service that was let go, and accepted, does not make the next single loss a majority."""
    for accepts in (True, False):
        realm, at = realm_of(10)
        realm.vanish("identity", *at[:5])
        realm.plan()
        if accepts:
            realm.service("identity", loss_accepted_at=START)
            realm.plan()
        realm.vanish("identity", at[5])
        assert bool(realm.plan().guards) != accepts


def test_an_acceptance_that_comes_with_the_loss_counts() -> None:
    """Loss and acceptance in one update: nothing is held."""
    realm, at = realm_of(3)
    realm.vanish("identity", *at)
    realm.service("identity", loss_accepted_at=START)
    plan = realm.plan()
    assert not plan.guards
    assert plan.routes["identity"].servers == ()


def test_an_acceptance_from_the_future_does_not_end_the_guard_for_good() -> None:
    """A time of acceptance that lies ahead counts for what is lost by now, not for what is lost later."""
    realm, _ = realm_of(3)
    realm.service("identity", loss_accepted_at=START + 1e6)
    realm.plan()
    realm.pass_time(60)
    realm.vanish("identity")
    assert len(realm.plan().guards["identity"].addresses) == 3


def test_the_operator_accepts_the_loss_here() -> None:
    """`accept` names what it lets go; what was accepted does not count for the next loss."""
    realm, at = realm_of(10)
    realm.vanish("identity", *at[:6])
    realm.plan()
    assert realm.planner.accept("identity") == tuple(sorted(at[:6]))
    assert realm.planner.accept("identity") == ()
    assert realm.planner.accept("nobody") == ()
    assert not realm.plan().guards
    realm.vanish("identity", at[6])
    plan = realm.plan()
    assert not plan.guards
    assert callable_names(plan.routes["identity"].servers) == set(at[7:])


def test_a_held_instance_that_does_not_answer_is_let_go_when_another_takes_calls() -> None:
    """Silence ends the hold of one address while another instance is in the map; unknown addresses are nobody's."""
    realm, at = realm_of(4)
    realm.vanish("identity", *at[:3])
    realm.plan()
    realm.planner.silent("identity", at[0])
    realm.planner.silent("identity", "10.9.9.9:1")
    realm.planner.silent("nobody", at[1])
    plan = realm.plan()
    assert plan.guards["identity"].addresses == tuple(at[1:3])
    assert at[0] not in plan.decisions["identity"]


def test_they_stay_when_all_are_silent() -> None:
    """Nobody in the map and no answer from any: all stay, in whatever order the checks say so, and however often."""
    realm, at = realm_of(4)
    realm.wipe()
    before = realm.plan().routes["identity"]
    for address in (*at, *at):
        realm.planner.silent("identity", address)
        assert realm.plan().routes["identity"] is before


def test_silence_counts_once_another_held_one_answers() -> None:
    """Of those that are held, who answers makes the silence of the others believable."""
    realm, at = realm_of(3)
    realm.wipe()
    realm.plan()
    realm.planner.silent("identity", at[0])
    realm.planner.answered("identity", at[1])
    assert realm.plan().guards["identity"].addresses == tuple(at[1:])
    realm.planner.silent("identity", at[1])
    assert realm.plan().guards["identity"].addresses == tuple(at[1:])


def test_an_old_silence_counts_no_more() -> None:
    """What was silent long ago is not let go when another one comes back now."""
    realm, at = realm_of(3)
    realm.wipe()
    realm.plan()
    realm.planner.silent("identity", at[0])
    realm.plan()
    realm.pass_time(600)
    realm.start("identity", at[1])
    assert realm.plan().guards["identity"].addresses == (at[0], at[2])


def test_a_second_wave_is_held_with_the_first() -> None:
    """What is lost while others are held counts with them, against the size before the first loss."""
    realm, at = realm_of(10)
    realm.vanish("identity", *at[:6])
    realm.plan()
    realm.pass_time(10)
    realm.vanish("identity", *at[6:8])
    plan = realm.plan()
    assert (plan.guards["identity"].lost, plan.guards["identity"].of) == (8, 10)
    assert callable_names(plan.routes["identity"].servers) == set(at)
    realm.pass_time(60)
    realm.vanish("identity", at[8])
    assert realm.plan().guards["identity"].lost == 8, "one of the two that are left is a minority"
    realm.pass_time(60)
    realm.vanish("identity", at[9])
    assert realm.plan().guards["identity"].addresses == tuple(sorted({*at} - {at[8]}))


def test_an_instance_that_moves_is_no_loss() -> None:
    """A service that is as large as before, at other addresses, has lost nothing that it needs."""
    realm, at = realm_of(1)
    realm.vanish("identity", at[0])
    realm.start("identity", "10.0.9.9:8000")
    plan = realm.plan()
    assert not plan.guards
    assert set(plan.decisions["identity"]) == {"10.0.9.9:8000"}


def test_two_services_at_one_address_are_held_apart() -> None:
    """One process that is two services: each is held, and let go, for itself."""
    realm, at = realm_of(2)
    realm.start("teams", *at)
    realm.plan()
    realm.vanish("identity")
    plan = realm.plan()
    assert set(plan.guards) == {"identity"}
    assert callable_names(plan.routes["teams"].servers) == set(at)
    realm.wipe()
    assert set(realm.plan().guards) == {"identity", "teams"}
    realm.planner.accept("identity")
    assert set(realm.plan().guards) == {"teams"}


@pytest.mark.parametrize("at_once", [True, False])
def test_an_address_that_another_service_gets_is_let_go(at_once: bool) -> None:
    """Calls of one service never go to the port on which another one was started since."""
    realm, at = realm_of(2)
    realm.vanish("identity")
    if not at_once:
        assert realm.plan().guards["identity"].lost == 2
    realm.start("billing", at[0])
    plan = realm.plan()
    assert plan.guards["identity"].addresses == (at[1],)
    assert callable_names(plan.routes["billing"].servers) == {at[0]}


def test_the_operators_word_on_a_held_instance_counts() -> None:
    """Disabled is disabled, held or not. In the same map a word that is taken back is gone; a wiped map takes none back."""
    realm, at = realm_of(3)
    realm.rule("identity", at[0], weight=7)
    realm.plan()
    realm.vanish("identity")
    assert realm.plan().decisions["identity"][at[0]].weight == 7
    realm.rule("identity", at[1], state="disabled")
    assert standings(realm.plan(), "identity")[at[1]] == ("out", "ruling")
    realm.rule("identity", at[1])
    assert standings(realm.plan(), "identity")[at[1]] == ("held", "guard")
    realm.rule("identity", at[1], state="disabled")
    realm.plan()
    realm.wipe()
    plan = realm.plan()
    assert standings(plan, "identity")[at[1]] == ("out", "ruling")
    assert plan.decisions["identity"][at[0]].weight == 7
    realm.rule("identity", at[1], state="enabled")
    assert standings(realm.plan(), "identity")[at[1]] == ("held", "guard")
    realm.rule("identity", at[1])
    assert standings(realm.plan(), "identity")[at[1]] == ("held", "guard")


def test_a_word_that_was_there_first_counts_for_what_was_lost_before_it() -> None:
    """What a sidecar has not heard itself is compared by the clocks."""
    for accepted_at, left in ((START - 1, ["10.0.0.1:1"]), (START, [])):
        watch = Watch(held={"10.0.0.1:1": Held(Instance("identity", "10.0.0.1", 1), None, START)})
        watch.follow_acceptance(accepted_at, first=True)
        assert list(watch.held) == left


def test_each_service_says_what_it_holds() -> None:
    """The guard and the decisions say since when, how many of how many, and what ends it."""
    realm, at = realm_of(3)
    realm.pass_time(5)
    realm.vanish("identity", *at[:2])
    guard = realm.plan().guards["identity"]
    assert (guard.since, guard.lost, guard.of) == (START + 5, 2, 3)
    assert "sidecar accept identity" in guard.says
    realm.pass_time(50)
    assert realm.plan().decisions["identity"][at[0]].since == START + 5
    realm.restart()
    assert realm.plan().guards["identity"] == guard
    assert realm.plan().decisions["identity"][at[0]].since == START + 5


@pytest.mark.parametrize(
    ("losses", "left", "expected"),
    [
        ([], 3, frozenset()),
        ([Loss(0, 3, frozenset("a"))], 2, frozenset()),
        ([Loss(0, 3, frozenset("ab"))], 1, frozenset("ab")),
        ([Loss(0, 3, frozenset("ab"))], 2, frozenset()),
        ([Loss(0, 10, frozenset("a")), Loss(1, 3, frozenset("bc"))], 1, frozenset("bc")),
        ([Loss(0, 10, frozenset("abc")), Loss(1, 5, frozenset())], 0, frozenset("abc")),
    ],
)
def test_too_many_is_measured_from_each_loss_on(losses: list[Loss], left: int, expected: frozenset[str]) -> None:
    """The losses since any one of them are compared with the size before that one."""
    assert too_many(losses, left)[0] == expected


@pytest.mark.parametrize("at_once", [True, False])
def test_what_has_moved_to_another_service_is_not_called_when_more_are_lost(at_once: bool) -> None:
    """An address that another service has got since is no loss: it counts with none that follows, and is never called again."""
    realm, at = realm_of(3)
    realm.vanish("identity", at[0])
    if not at_once:
        realm.plan()
    realm.start("orders", at[0])
    realm.plan()
    realm.start("orders", at[0], draining=True)
    realm.plan()
    realm.vanish("orders", at[0])
    realm.plan()
    realm.vanish("identity", at[1])
    plan = realm.plan()
    assert plan.guards == {}
    assert callable_names(plan.routes["identity"].servers) == {at[2]}
