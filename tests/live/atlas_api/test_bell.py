"""Waking very many threads: all of them, each once, a few at a time."""

from __future__ import annotations

import threading
import time

from atlas.server.bell import Bell, _Sleeper
from tests.live.atlas_api.double import wait_until


def sleepers(bell: Bell, count: int, seconds: float = 10.0) -> tuple[list[threading.Thread], list[float]]:
    """Threads that sleep until the bell rings, and when they woke."""
    heard, woke = bell.rings, list[float]()

    def sleep() -> None:
        bell.sleep(heard, seconds)
        woke.append(time.monotonic())

    threads = [threading.Thread(target=sleep, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(bell._sleeping) == count or woke)
    return threads, woke


def test_everybody_who_sleeps_hears_the_bell() -> None:
    """However many, also when fewer are woken at once."""
    for at_once in (1, 8):
        bell = Bell(at_once=at_once)
        threads, woke = sleepers(bell, 100)
        bell.ring()
        for thread in threads:
            thread.join(30)
        assert len(woke) == 100


def test_a_ring_between_looking_and_sleeping_is_not_missed() -> None:
    """Who has heard fewer rings than there were does not sleep at all."""
    bell = Bell()
    heard = bell.rings
    bell.ring()
    begun = time.monotonic()
    bell.sleep(heard, 30)
    assert time.monotonic() - begun < 10


def test_who_has_gone_by_itself_does_not_break_the_chain() -> None:
    """Sleepers whose time was over in the very moment of the ring leave nobody asleep behind them."""
    for _ in range(5):
        bell = Bell(at_once=1)
        _, short = sleepers(bell, 10, seconds=0.02)
        threads, woke = sleepers(bell, 10) if not short else ([], [])
        time.sleep(0.018)
        bell.ring()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert len(woke) == len(threads)


def test_one_that_went_while_it_was_called_is_passed_over() -> None:
    """It would not wake the next one any more."""
    bell = Bell(at_once=1)
    threads, woke = sleepers(bell, 3)
    gone = _Sleeper()
    gone.gone = True
    bell._sleeping = {0: gone, **bell._sleeping}
    bell.ring()
    for thread in threads:
        thread.join(30)
    assert len(woke) == 3


def test_a_second_ring_reaches_those_who_sleep_again() -> None:
    """While the first one still goes round."""
    bell = Bell(at_once=1)
    counts = [0] * 20
    stop = threading.Event()

    def follow(number: int) -> None:
        heard = bell.rings
        while not stop.is_set():
            bell.sleep(heard, 5)
            heard = bell.rings
            counts[number] = heard

    threads = [threading.Thread(target=follow, args=(number,), daemon=True) for number in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(bell._sleeping) == 20)
    for _ in range(50):
        bell.ring()
    wait_until(lambda: counts == [bell.rings] * 20)
    stop.set()
    bell.ring()
    for thread in threads:
        thread.join(30)


def test_a_sleep_ends_after_its_time() -> None:
    """Without a ring, and nobody is left in the list."""
    bell = Bell()
    begun = time.monotonic()
    bell.sleep(bell.rings, 0.05)
    assert 0.05 <= time.monotonic() - begun < 10
    assert bell._sleeping == {}
