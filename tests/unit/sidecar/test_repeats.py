"""Servers that take requests and answer none are found by what HAProxy repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sidecar.ejection import FORGIVEN_SECONDS
from sidecar.repeats import Repeated
from sidecar.runtime import Repeats, parse_repeats


@dataclass
class Scene:
    """The counters of a HAProxy, and who looks at them."""

    now: float = 0.0
    counters: dict[tuple[str, str], Repeats] = field(default_factory=dict)
    asked: list[tuple[str, ...] | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.repeated = Repeated(self.read, clock=lambda: self.now)

    def read(self, backends: Sequence[str] | None) -> dict[tuple[str, str], Repeats]:
        self.asked.append(None if backends is None else tuple(backends))
        if backends is None:
            return {key: one for key, one in self.counters.items() if key[1] == "BACKEND"}
        return {key: one for key, one in self.counters.items() if key[0] in backends and key[1] != "BACKEND"}

    def pass_by(self, server: str, requests: int, repeated: int) -> None:
        for name in (server, "BACKEND"):
            before = self.counters.get(("orders", name), Repeats(0, 0))
            self.counters["orders", name] = Repeats(before.requests + requests, before.repeated + repeated)

    def found(self, seconds: float = 1.0) -> list[str]:
        self.now += seconds
        return [one.server for one in self.repeated.follow()] if self.now >= self.repeated.due_at else []

    def suspect(self) -> Scene:
        """A comparison has found that something is repeated much."""
        self.pass_by("good", 100, 0)
        self.repeated.look()
        self.pass_by("bad", 10, 10)
        self.repeated.look()
        assert self.found(0.0) == []
        return self


def test_a_server_that_answers_nothing_is_found() -> None:
    """Where much is repeated the servers are looked at each second; the one of which it is so is named, and only that one."""
    scene = Scene().suspect()
    scene.pass_by("good", 30, 0)
    scene.pass_by("bad", 6, 6)
    assert scene.found() == ["bad"]
    assert scene.found() == []
    scene.pass_by("bad", 5, 5)
    assert scene.found() == ["bad"]


def test_nothing_is_asked_of_servers_while_little_is_repeated() -> None:
    """A request that is repeated now and then, as when an idle connection ends, is no reason to look: one command a comparison."""
    scene = Scene()
    for _ in range(5):
        scene.pass_by("good", 1000, 9)
        scene.repeated.look()
        assert scene.found(30) == []
    assert scene.asked == [None] * 5


def test_what_was_repeated_once_is_no_reason_to_eject() -> None:
    """An instance was killed and is back: what was under way there was repeated, and it answers since."""
    scene = Scene().suspect()
    scene.pass_by("bad", 100, 20)
    assert scene.found() == []
    scene.pass_by("bad", 20, 12)
    scene.repeated.forget("orders", "bad")
    assert scene.found() == []


def test_looking_ends_when_nothing_was_found_for_a_while() -> None:
    """Nobody is looked at each second for ever."""
    scene = Scene().suspect()
    assert scene.found(FORGIVEN_SECONDS - 1) == []
    assert scene.repeated.due_at < float("inf")
    scene.found(2)
    assert scene.repeated.due_at == float("inf")


def test_counters_that_began_anew_say_nothing() -> None:
    """After a reload they are those of another worker."""
    scene = Scene().suspect()
    scene.counters.clear()
    scene.pass_by("bad", 3, 3)
    assert scene.found() == []
    scene.repeated.look()
    assert scene.found() == []


def test_an_answer_without_these_columns_is_empty() -> None:
    """HAProxy does not know the backend any more."""
    assert parse_repeats("No such proxy.\n") == {}
