"""The limit on calls under way."""

from __future__ import annotations

from smartclient.limit import LEAST, MOST, Limit


def test_a_fixed_limit_lets_so_many_in_and_stays() -> None:
    """Two places: the third call is refused until one leaves, however the calls end."""
    limit = Limit(2)
    assert [limit.enter() for _ in range(3)] == [True, True, False]
    limit.leave()
    limit.learn(True, 0.0)
    assert limit.enter()
    assert limit.value == 2


def overload(limit: Limit, begin: float, seconds: float, every: int = 1) -> None:
    """A hundred attempts a second, of which every so manieth shows overload."""
    for number in range(int(seconds * 100)):
        limit.learn(number % every == 0, begin + number * 0.01)


def test_the_limit_shrinks_while_the_service_is_overloaded_and_grows_back() -> None:
    """It is cut every half second, never below eight, and grows by one for each round of calls while it is used."""
    limit = Limit()
    for _ in range(100):
        limit.enter()
    overload(limit, 0.0, 0.6)
    assert limit.value == 70
    overload(limit, 1.0, 20)
    assert limit.value == LEAST
    for _ in range(4 * LEAST):
        limit.learn(False, 100.0)
    assert LEAST + 2 <= limit.value <= LEAST + 4
    idle = Limit()
    overload(idle, 0.0, 10, every=1_000_000)
    assert idle.value == MOST


def test_failures_of_one_instance_in_five_cut_nothing() -> None:
    """A service is not throttled for what one instance or one request does, nor for a burst among many good calls."""
    limit = Limit()
    overload(limit, 0.0, 10, every=6)
    for _ in range(8):
        limit.learn(True, 10.0)
    overload(limit, 10.01, 1, every=25)
    assert limit.value == MOST


def test_a_few_calls_are_no_sign() -> None:
    """Nine failures in half a second cut nothing: the breaker is there for them."""
    limit = Limit()
    for _ in range(9):
        limit.learn(True, 0.0)
    limit.learn(True, 1.0)
    assert limit.value == MOST


def test_the_end_of_a_call_of_the_parent_gives_a_forked_child_no_place() -> None:
    """What was under way before the fork is not counted in the child, neither when it ends."""
    limit = Limit(1)
    assert limit.enter()
    limit.begin_anew()
    limit.leave()
    assert [limit.enter(), limit.enter()] == [True, False]
