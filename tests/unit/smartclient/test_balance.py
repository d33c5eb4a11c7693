"""Balancing over instances, with clock and chance handed in."""

from __future__ import annotations

import random
from collections import Counter

from atlas.model import Instance
from atlas.world import Place
from smartclient.balance import Balancer, Settings, ejection_seconds


def place(number: int, *, weight: int = 100, zone: str = "", incarnation: str = "") -> Place:
    instance = Instance("identity", "10.0.0.1", 8000 + number, zone=zone, incarnation=incarnation)
    return Place(instance, "enabled", weight)


def balancer(count: int = 5, **options: object) -> Balancer:
    made = Balancer(spread=random.Random(7).random, **options)  # type: ignore[arg-type]
    made.update([place(number) for number in range(count)], 0.0)
    return made


def spread_of(tried: Balancer, calls: int, now: float = 0.0) -> Counter[str]:
    """Who takes so many calls, each done before the next."""
    taken: Counter[str] = Counter()
    for _ in range(calls):
        member = tried.pick(now)
        assert member is not None
        taken[member.address] += 1
        tried.leave(member)
        tried.learn(member, False, 0.01, now)
    return taken


def test_calls_spread_evenly_over_equal_instances() -> None:
    """None of five equal instances gets less than half or more than twice its share."""
    taken = spread_of(balancer(), 2000)
    assert len(taken) == 5
    assert all(200 < count < 800 for count in taken.values())


def test_calls_follow_weight() -> None:
    """An instance of a tenth of the weight gets clearly less; of weight that stays, the order of draws decides."""
    tried = Balancer(spread=random.Random(7).random)
    tried.update([place(0, weight=10), place(1), place(2)], 0.0)
    taken = spread_of(tried, 3000)
    assert taken["10.0.0.1:8000"] < 600 < taken["10.0.0.1:8001"]


def test_the_instance_with_fewer_calls_under_way_is_taken() -> None:
    """Of two equal ones the idle one takes the call."""
    tried = balancer(2)
    first = tried.pick(0.0)
    second = tried.pick(0.0)
    assert first is not second


def test_an_instance_that_fails_fast_attracts_nothing() -> None:
    """Failures count as slow: after its first one it gets hardly any call, even if it is never ejected."""
    tried = balancer(settings=Settings(failures_in_row=10**6, least_calls=10**6))
    bad = tried.members[0]
    hits = 0
    for number in range(1000):
        member = tried.pick(number * 0.001)
        assert member is not None
        tried.leave(member)
        hits += member is bad
        tried.learn(member, member is bad, 0.001, number * 0.001)
    assert hits <= 5


def test_another_instance_is_taken_first() -> None:
    """What was tried is not tried again while there is another one; then it is."""
    tried = balancer(3)
    seen: set[str] = set()
    for _ in range(3):
        member = tried.pick(0.0, seen)
        assert member is not None
        assert member.address not in seen
        seen.add(member.address)
    assert tried.pick(0.0, seen) is not None


def test_five_failures_in_a_row_put_an_instance_out() -> None:
    """It comes back after two seconds; if it fails again, it is out for twice as long."""
    tried = balancer()
    bad = tried.members[0]
    assert [tried.learn(bad, True, 0.1, 0.0) for _ in range(5)] == [None, None, None, None, 2.0]
    assert bad.address not in spread_of(tried, 200, now=1.0)
    assert tried.learn(bad, True, 0.1, 2.5) == 4.0
    assert [ejection_seconds(times, Settings()) for times in (1, 2, 3, 20)] == [2.0, 4.0, 8.0, 60.0]


def test_half_of_the_calls_failing_puts_an_instance_out() -> None:
    """Ten calls in the window, every second one a failure, never five in a row."""
    tried = balancer()
    bad = tried.members[0]
    assert [tried.learn(bad, number % 2 == 1, 0.1, 0.0) for number in range(10)][-1] == 2.0


def test_never_more_than_half_is_out() -> None:
    """However many fail, of five at least three stay; the only one stays."""
    for count, most in ((5, 2), (4, 2), (2, 1), (1, 0)):
        tried = balancer(count)
        out = 0
        for member in tried.members:
            ejected = [tried.learn(member, True, 0.1, 0.0) for _ in range(20)]
            out += any(ejected)
        assert out == most


def test_an_instance_that_comes_back_is_tried_by_one_call_at_a_time() -> None:
    """Until one succeeds, a second call goes elsewhere."""
    tried = balancer(2)
    bad, good = tried.members
    for _ in range(5):
        tried.learn(bad, True, 0.1, 0.0)
    bad.latency = 0.0  # it is forgiven
    bad.under_way = 1
    assert all(tried.pick(3.0) is good for _ in range(20))


def test_a_new_instance_warms_up() -> None:
    """One that joins gets little at first and its full share after 20 seconds; those of the beginning are warm."""
    tried = balancer(4)
    tried.update([place(number) for number in range(5)], 100.0)
    early = spread_of(tried, 2000, now=101.0)["10.0.0.1:8004"]
    late = spread_of(tried, 2000, now=121.0)["10.0.0.1:8004"]
    assert early < 200 < late


def test_a_restarted_instance_is_a_new_one() -> None:
    """Another incarnation at the same address inherits no blame."""
    tried = balancer(2)
    for _ in range(5):
        tried.learn(tried.members[0], True, 0.1, 0.0)
    tried.update([place(0, incarnation="new"), place(1)], 1.0)
    assert tried.members[0].ejected_until < 0
    assert tried.members[0].latency == 0.0


def test_what_leaves_the_map_gets_no_new_calls() -> None:
    """An instance that drains is gone from the choice with the next map."""
    tried = balancer(3)
    tried.update([place(1)], 1.0)
    assert set(spread_of(tried, 20)) == {"10.0.0.1:8001"}
    tried.update([], 1.0)
    assert tried.pick(1.0) is None


def test_the_own_zone_is_preferred_while_it_is_well() -> None:
    """Calls stay in the zone until more than half of it is out."""
    tried = Balancer(zone="a", spread=random.Random(7).random)
    tried.update(
        [place(0, zone="a"), place(1, zone="a"), place(2, zone="b"), place(3, zone="b"), place(4, zone="b")], 0.0
    )
    assert set(spread_of(tried, 100)) == {"10.0.0.1:8000", "10.0.0.1:8001"}
    for number in (0, 1):
        for _ in range(5):
            tried.learn(tried.members[number], True, 0.1, 0.0)
    assert set(spread_of(tried, 100, now=1.0)) == {"10.0.0.1:8002", "10.0.0.1:8003", "10.0.0.1:8004"}


def test_a_forked_child_has_no_calls_under_way() -> None:
    """The calls of the parent are not the child's."""
    tried = balancer(1)
    tried.pick(0.0)
    tried.begin_anew()
    assert tried.members[0].under_way == 0
