"""The limit on calls under way."""

from __future__ import annotations

from smartclient.limit import FIRST, LEAST, Limit


def test_a_fixed_limit_lets_so_many_in_and_stays() -> None:
    """Two places: the third call is refused until one leaves, however the calls end."""
    limit = Limit(2)
    assert [limit.enter() for _ in range(3)] == [True, True, False]
    limit.leave()
    limit.learn(True, 0.0)
    assert limit.enter()
    assert limit.value == 2


def test_the_limit_shrinks_while_the_service_is_overloaded_and_grows_back() -> None:
    """It is cut at most ten times a second, never below four, and grows only while it is used."""
    limit = Limit()
    for number in range(1000):
        limit.learn(True, number * 0.01)
    assert limit.value == LEAST
    for _ in range(4):
        limit.enter()
    for _ in range(100):
        limit.learn(False, 100.0)
    assert LEAST < limit.value < 20
    idle = Limit()
    for _ in range(1000):
        idle.learn(False, 0.0)
    assert idle.value == FIRST


def test_one_moment_of_overload_cuts_once() -> None:
    """A hundred calls that fail together count as one sign."""
    limit = Limit()
    for _ in range(FIRST):
        limit.enter()
    for _ in range(100):
        limit.learn(True, 5.0)
    assert limit.value == FIRST * 0.9
