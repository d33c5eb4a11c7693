"""The breaker, with a clock that is handed in."""

from __future__ import annotations

import threading

import pytest

from smartclient.breaker import Breaker, Settings


def breaker(**settings: float) -> Breaker:
    return Breaker(Settings(**settings), spread=lambda: 0.5)  # type: ignore[arg-type]


def opened(at: float = 0.0, **settings: float) -> Breaker:
    made = breaker(**settings)
    for _ in range(10):
        made.leave("pass", True, at)
    assert made.state == "open"
    return made


def test_opens_within_20_calls_at_a_steady_half_of_failures() -> None:
    """Every second call fails: after at most 20 of them no further one goes out."""
    tried = breaker()
    for number in range(20):
        if tried.enter(number * 0.1) is None:
            break
        tried.leave("pass", number % 2 == 1, number * 0.1)
    else:
        pytest.fail("still closed after 20 calls")
    assert number <= 20


@pytest.mark.parametrize("good", [1, 10, 20, 30, 100, 10_000])
def test_opens_within_20_calls_at_half_of_failures_after_any_history(good: int) -> None:
    """Good calls before, few or many, do not hide that every second call fails now."""
    tried = breaker()
    for number in range(good):
        tried.leave("pass", False, number * 0.0001)
    states = [tried.leave("pass", number % 2 == 1, 1.0 + number * 0.01) for number in range(20)]
    assert "open" in states


def test_a_service_that_always_fails_a_little_is_not_cut_off_by_chance() -> None:
    """A fifth of the calls fails all the time: ten failures among the newest twenty are bad luck then, and no change."""
    tried = breaker()
    for number in range(100):
        tried.leave("pass", number % 5 == 0, number * 0.01)
    for number in range(20):
        tried.leave("pass", number % 2 == 0, 1.0 + number * 0.01)
    assert tried.state == "closed"


def test_stays_closed_below_the_rate_and_below_the_least_number() -> None:
    """Four of ten failures do not open it, nor do nine failures of nine."""
    tried = breaker()
    for number in range(1000):
        tried.leave("pass", number % 5 in (1, 3), number * 0.01)
    assert tried.state == "closed"
    few = breaker()
    for _ in range(9):
        few.leave("pass", True, 0.0)
    assert few.state == "closed"


def test_a_sudden_outage_is_noticed_within_20_calls_after_any_history() -> None:
    """Ten thousand good calls before do not keep it closed."""
    tried = breaker()
    for number in range(10_000):
        tried.leave("pass", False, number * 0.001)
    states = [tried.leave("pass", True, 10.0) for _ in range(20)]
    assert states.index("open") == 9


def test_failures_are_forgotten_after_the_window() -> None:
    """Five failures of long ago and five of now do not add up."""
    tried = breaker(window_seconds=10)
    for _ in range(9):
        tried.leave("pass", True, 0.0)
    for number in range(9):
        tried.leave("pass", True, 11.0 + number)
    assert tried.state == "closed"


def test_exactly_one_of_twenty_probes_is_admitted() -> None:
    """Twenty threads ask at once a breaker whose time has come: one goes."""
    tried = opened()
    barrier = threading.Barrier(20)
    permits: list[str | None] = []

    def ask() -> None:
        barrier.wait()
        permits.append(tried.enter(100.0))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(permits, key=str) == [None] * 19 + ["probe"]


def test_a_good_probe_closes_it_and_a_bad_one_opens_it_for_longer() -> None:
    """The time it stays open doubles with each bad probe, up to its longest."""
    tried = opened()
    assert tried.seconds_left(0.0) == 0.5
    for at, seconds in ((1.0, 1.0), (3.0, 2.0), (6.0, 2.0)):
        assert tried.enter(at) == "probe"
        assert tried.leave("probe", True, at) == "open"
        assert tried.seconds_left(at) == seconds
    assert tried.enter(9.0) == "probe"
    assert tried.leave("probe", False, 9.0) == "closed"
    assert tried.enter(9.0) == "pass"


def test_a_probe_that_says_nothing_makes_room_for_the_next() -> None:
    """A cancelled probe, and one that never came back, do not keep it shut for ever."""
    tried = opened(probe_seconds=30)
    permit = tried.enter(1.0)
    assert permit == "probe"
    tried.cancel(permit)
    assert tried.enter(1.0) == "probe"
    assert tried.enter(2.0) is None
    assert tried.enter(32.0) == "probe"


def test_late_answers_of_before_do_not_judge_a_probe() -> None:
    """Calls that were under way when it opened change nothing when they end."""
    tried = opened()
    assert tried.leave("pass", False, 0.1) is None
    assert tried.state == "open"


def test_a_forked_child_does_not_wait_for_the_probe_of_its_parent() -> None:
    """The child may try the service out itself."""
    tried = opened()
    assert tried.enter(1.0) == "probe"
    tried.begin_anew()
    assert tried.enter(1.0) == "probe"
