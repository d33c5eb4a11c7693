"""A directory that answers what a test tells it to, for what only follows and holds."""

from __future__ import annotations

import queue
from typing import Any

from atlas.model import Lease
from atlas.world import Delta, Position, World


class ScriptedDirectory:
    """`say(...)` is the next answer to `world()` or `wait()`; errors are raised. Written leases are kept in `held`."""

    def __init__(self) -> None:
        self.answers: queue.Queue[World | Delta | Exception | None] = queue.Queue()
        self.asked: list[Position | None] = []
        self.waits: list[float] = []
        self.held: queue.Queue[Lease] = queue.Queue()
        self.released: queue.Queue[tuple[str, str]] = queue.Queue()
        self.refuse: Exception | None = None

    def say(self, *answers: World | Delta | Exception | None) -> None:
        for answer in answers:
            self.answers.put(answer)

    def world(self) -> Any:
        self.asked.append(None)
        return self._next()

    def wait(self, position: Position, seconds: float) -> Any:
        self.asked.append(position)
        self.waits.append(seconds)
        return self._next()

    def hold(self, lease: Lease) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.held.put(lease)

    def release(self, lease_id: str, incarnation: str) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.released.put((lease_id, incarnation))

    def sweep(self) -> list[str]:
        return []

    def _next(self) -> Any:
        answer = self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer
