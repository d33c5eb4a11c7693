"""Held instances are asked slowly, one after the other, and only a silent one is told of."""

from __future__ import annotations

from sidecar.checks import Answer
from sidecar.held_checks import EACH_SECONDS, HeldChecks
from sidecar.model import Guard

GONE = Answer(False, "refused the connection", refused=True)
ALIVE = Answer(False, "answered 503", status=503)


class Scene:
    """Guards, what their instances answer, and what is told of them."""

    def __init__(self, **addresses: tuple[str, ...]) -> None:
        self.now = 0.0
        self.guards = {name: Guard(name, 0.0, len(held), 9, held, "") for name, held in addresses.items()}
        self.answers: dict[int, Answer] = {}
        self.asked: list[str] = []
        self.silent: list[tuple[str, str]] = []
        self.answered: list[tuple[str, str]] = []
        self.checks = HeldChecks(
            lambda: self.guards,
            lambda *key: self.silent.append(key),
            lambda *key: self.answered.append(key),
            ask=self._ask,
            clock=lambda: self.now,
        )

    def _ask(self, host: str, port: int) -> Answer:
        self.asked.append(f"{host}:{port}")
        return self.answers.get(port, GONE)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += max(0.001, self.checks.turn())


def test_an_instance_is_silent_after_two_questions_without_an_answer() -> None:
    """One missed answer is none; the second, five seconds later, is told."""
    scene = Scene(identity=("10.0.0.1:8000",))
    scene.run(EACH_SECONDS - 1)
    assert scene.silent == []
    scene.run(2)
    assert scene.silent == [("identity", "10.0.0.1:8000")]


def test_any_answer_is_a_sign_of_life() -> None:
    """An instance that answers with an error lives: HAProxy sees for itself whether it is good."""
    scene = Scene(identity=("[::1]:8000",))
    scene.answers[8000] = ALIVE
    scene.run(30)
    assert scene.silent == []
    assert set(scene.answered) == {("identity", "[::1]:8000")}
    assert set(scene.asked) == {"::1:8000"}


def test_a_wiped_map_is_asked_for_slowly() -> None:
    """A thousand held instances are asked one after the other: at most twenty questions in a second, none twice within five."""
    scene = Scene(**{f"s{number}": (f"10.0.0.1:{1000 + number}",) for number in range(1000)})
    scene.run(10)
    assert len(scene.asked) <= 201
    assert len(set(scene.asked)) == len(scene.asked)


def test_nothing_is_asked_while_nothing_is_held() -> None:
    """Without a guard there is no question, and what was missed before is forgotten."""
    scene = Scene(identity=("10.0.0.1:8000",))
    scene.run(1)
    held, scene.guards = scene.guards, {}
    scene.run(10)
    assert len(scene.asked) == 1
    scene.guards = held
    scene.run(1)
    assert scene.silent == []
