"""What the tests of this folder share: a clock to turn by hand, and checks that hang until they are let go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from healthcheck import Engine, Result


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


class Scripted:
    """A check whose next answer is set from outside; counts its runs."""

    def __init__(self, answer: Any = True) -> None:
        self.answer = answer
        self.runs = 0

    def __call__(self) -> Any:
        self.runs += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Hanging:
    """A check that hangs while `hangs` is set; counts its runs."""

    def __init__(self) -> None:
        self.hangs = True
        self.runs = 0
        self.let_go = threading.Event()
        self.begun = threading.Event()

    def __call__(self) -> Result:
        self.runs += 1
        self.begun.set()
        if self.hangs:
            self.let_go.wait(30)
        return Result("pass")


@contextmanager
def hanging() -> Iterator[Hanging]:
    """A hanging check that is let go at the end, so that no thread outlives its test."""
    check = Hanging()
    try:
        yield check
    finally:
        check.let_go.set()


def on_clock(clock: Clock, **settings: Any) -> Engine:
    """An engine on a clock turned by hand, which counts each result at once unless told otherwise."""
    return Engine(**{"clock": clock, "wall": clock, "fall": 1, "rise": 1, **settings})


def in_threads(number: int, work: Callable[[], Any]) -> list[Any]:
    """What `work` gave in each of `number` threads that began together."""
    barrier = threading.Barrier(number)
    results: list[Any] = []

    def run() -> None:
        barrier.wait(10)
        results.append(work())

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def health_threads() -> list[str]:
    """The names of the living threads that health checks began."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("healthcheck")]
