"""Polls that share one run, and checks that run together: 50 polls of a 1 s check, eight checks of 1 s."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from benchmarks.measure import Claim
from healthcheck import Engine, HealthCheck

_POLLS = 50
_CHECKS = 8


def _polls(poll: Callable[[], object]) -> None:
    threads = [threading.Thread(target=poll) for _ in range(_POLLS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _shared(what: str, add: Callable[[Callable[[], tuple[bool, str]]], None], poll: Callable[[], object]) -> Claim:
    runs: list[float] = []

    def slow() -> tuple[bool, str]:
        runs.append(time.monotonic())
        time.sleep(1)
        return True, "fine"

    add(slow)
    _polls(poll)
    return Claim(
        f"{_POLLS} concurrent polls of a 1 s check, {what}", "1 run", f"{len(runs)} run", "one each", len(runs) == 1
    )


def _together(
    what: str, add: Callable[[str, Callable[[], tuple[bool, str]]], None], poll: Callable[[], object]
) -> Claim:
    def slow() -> tuple[bool, str]:
        time.sleep(1)
        return True, "fine"

    for number in range(_CHECKS):
        add(f"check-{number}", slow if number == 0 else lambda: slow())
    begun = time.monotonic()
    poll()
    taken = time.monotonic() - begun
    return Claim(
        f"{_CHECKS} checks of 1 s, {what}", "at most 1.3 s", f"{taken:.2f} s", f"{_CHECKS} s one by one", taken <= 1.3
    )


def run() -> list[Claim]:
    """Both claims for the engine and for the class of the published libraries."""
    shared, together = Engine(), Engine()
    old_shared, old_together = HealthCheck(), HealthCheck()
    return [
        _shared("engine", lambda check: shared.add("slow", check), shared.report),
        _shared("HealthCheck", old_shared.add_check, old_shared.run),
        _together("engine", together.add, together.report),
        _together("HealthCheck", lambda name, check: old_together.add_check(check), old_together.run),
    ]
