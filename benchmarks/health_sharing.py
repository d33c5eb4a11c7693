"""Polls that share one run, and checks that run together, against a check called by each poll and checks called in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from benchmarks.measure import Claim
from healthcheck import Engine, HealthCheck

_POLLS = 50
_CHECKS = 8
_Check = Callable[[], tuple[bool, str]]


def _slow() -> tuple[bool, str]:
    time.sleep(1)
    return True, "fine"


def _runs(make_poll: Callable[[_Check], Callable[[], object]]) -> int:
    """How often a check of a second runs when fifty threads poll at once."""
    runs: list[float] = []

    def counted() -> tuple[bool, str]:
        runs.append(time.monotonic())
        return _slow()

    poll = make_poll(counted)
    threads = [threading.Thread(target=poll) for _ in range(_POLLS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(runs)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _poll_engine(check: _Check) -> Callable[[], object]:
    engine = Engine()
    engine.add("slow", check)
    return engine.report


def _poll_health_check(check: _Check) -> Callable[[], object]:
    health = HealthCheck()
    health.add_check(check)
    return health.run


def run() -> list[Claim]:
    """Both claims for the engine and for the class of the published libraries; about fifteen seconds."""
    engine, health = Engine(), HealthCheck()
    for number in range(_CHECKS):
        engine.add(f"check-{number}", _slow)
        health.add_check(lambda: _slow())
    each = _runs(lambda check: check)
    in_turn = _seconds(lambda: [_slow() for _ in range(_CHECKS)])
    claims = []
    for what, runs in (("engine", _runs(_poll_engine)), ("HealthCheck", _runs(_poll_health_check))):
        claim = f"{_POLLS} concurrent polls of a 1 s check, {what}"
        claims.append(Claim(claim, "1 run", f"{runs} run", f"called by each poll: {each} runs", runs == 1))
    for what, taken in (("engine", _seconds(engine.report)), ("HealthCheck", _seconds(health.run))):
        claim = f"{_CHECKS} checks of 1 s, {what}"
        claims.append(Claim(claim, "at most 1.3 s", f"{taken:.2f} s", f"called in turn: {in_turn:.2f} s", taken <= 1.3))
    return claims
