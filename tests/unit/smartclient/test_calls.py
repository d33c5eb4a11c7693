"""One logical call over a stand-in for the network: pauses, budget, what the observer is told. No time passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

import smartclient
from atlas.model import Instance, Ruling
from atlas.world import World
from smartclient.errors import Attempt, BreakerOpen, ConnectionFailed
from smartclient.runtime import Mesh, Observer, Options
from smartclient.transport import Failed
from tests.faults import world_of


class Heard(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def attempt(self, service: str, attempt: Attempt) -> None:
        self.told.append(("attempt", attempt.outcome))

    def call(self, service: str, method: str, outcome: str, seconds: float, attempts: int) -> None:
        self.told.append(("call", outcome, attempts))

    def breaker(self, service: str, state: str) -> None:
        self.told.append(("breaker", state))

    def refused(self, service: str, why: str) -> None:
        self.told.append(("refused", why))


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def response(status: int = 200, **headers: str) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made._content, made._content_consumed = b"{}", True  # type: ignore[attr-defined]
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


def session_over(
    answers: list[object], clock: Clock, heard: Heard | None = None, **options: Any
) -> smartclient.Session:
    """A session whose calls get these answers: a response, or an exception that is raised."""

    def network(request: requests.PreparedRequest, *, service: str, seconds: float) -> requests.Response:
        answer = answers.pop(0) if answers else response()
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, requests.Response)
        return answer

    mesh = Mesh(
        Options(**options), transport=network, observer=heard, clock=clock, sleep=clock.sleep, spread=lambda: 1.0
    )
    return smartclient.Session(mesh=mesh)


def broken() -> Failed:
    return Failed("reset", ConnectionResetError("reset"), sent=True)


def test_pauses_grow_and_retry_after_is_obeyed() -> None:
    """25 ms, then 50 ms at most; what the service asks for when that is more."""
    clock = Clock()
    assert session_over([broken(), broken()], clock).get("service://identity/").ok
    assert clock.slept == [0.025, 0.05]
    clock = Clock()
    assert session_over([response(429, Retry_After="3")], clock).get("service://identity/").ok
    assert clock.slept == [3.0]


def test_an_empty_budget_ends_the_call_with_its_last_failure() -> None:
    """A fresh bucket pays for three retries; from then on each call is one attempt."""
    clock, heard = Clock(), Heard()
    session = session_over([broken() for _ in range(9)], clock, heard)
    attempts = []
    for _ in range(4):
        with pytest.raises(ConnectionFailed) as caught:
            session.get("service://identity/")
        attempts.append(len(caught.value.attempts))
    assert attempts == [3, 2, 1, 1]
    assert heard.told.count(("refused", "budget")) == 3


def test_calls_and_attempts_are_told_apart() -> None:
    """Two attempts of one call that ends well."""
    heard = Heard()
    session_over([broken()], Clock(), heard).get("service://identity/")
    assert heard.told == [("attempt", "reset"), ("attempt", "ok"), ("call", "ok", 2)]


def test_a_call_that_fails_for_good_is_told_with_its_code() -> None:
    """The code of the error, `failed` for an answer, `fallback` when something stood in."""
    heard = Heard()
    session = session_over([broken(), response(503), broken(), response(500)], Clock(), heard)
    with pytest.raises(ConnectionFailed):
        session.get("service://identity/", retries=0)
    session.get("service://identity/", retries=0)
    session.get("service://identity/", retries=0, fallback=1)
    session.get("service://identity/")
    assert [told[1] for told in heard.told if told[0] == "call"] == ["unavailable", "failed", "fallback", "failed"]


def test_the_breaker_tells_when_it_opens_and_closes() -> None:
    """Open after ten failures, half-open for the probe, closed when that is answered."""
    clock, heard = Clock(), Heard()
    session = session_over([broken() for _ in range(10)], clock, heard)
    for _ in range(10):
        with pytest.raises(ConnectionFailed):
            session.get("service://identity/", retries=0)
    with pytest.raises(BreakerOpen):
        session.get("service://identity/", retries=0)
    clock.now += 1
    assert session.get("service://identity/").ok
    assert [told for told in heard.told if told[0] in ("breaker", "refused")] == [
        ("breaker", "open"),
        ("refused", "breaker"),
        ("breaker", "half-open"),
        ("breaker", "closed"),
    ]


@pytest.mark.parametrize("outcome", ["name", "tls"])
def test_names_and_tls_are_never_tried_again(outcome: str) -> None:
    """Neither passes by itself."""
    clock = Clock()
    session = session_over([Failed(outcome, OSError("no"), sent=False)], clock)
    with pytest.raises(ConnectionFailed, match="1 attempt:"):
        session.get("service://identity/")


def test_a_mistake_in_the_call_is_raised_as_it_is() -> None:
    """It is not repeated, and says nothing against the service."""
    clock, heard = Clock(), Heard()
    session = session_over([ValueError("mine")], clock, heard)
    with pytest.raises(ValueError, match="mine"):
        session.get("service://identity/")
    assert heard.told == [("attempt", "error")]


@pytest.mark.parametrize("state", ["draining", "disabled"])
def test_what_drains_gets_no_new_calls(state: Any, tmp_path: Path) -> None:
    """Whether it says so itself or an operator does."""
    chosen = _chosen_by(
        tmp_path,
        lambda world: World(
            **{**vars(world), "rulings": {"identity/10.0.0.1:8001": Ruling("identity", "10.0.0.1", 8001, state)}}
        ),
    )
    assert chosen == {"10.0.0.1:8002"}


def test_what_says_that_it_drains_gets_no_new_calls(tmp_path: Path) -> None:
    """Its own word is enough."""
    leaving = Instance("identity", "10.0.0.1", 8001, draining=True)
    assert _chosen_by(tmp_path, lambda world: world_of([leaving, "10.0.0.1:8002"])) == {"10.0.0.1:8002"}


def _chosen_by(folder: Path, change: Callable[[World], World]) -> set[str]:
    """The instances that a mesh chooses among after the change of a map of two."""
    worlds = [world_of(["10.0.0.1:8001", "10.0.0.1:8002"])]
    mesh = Mesh(Options(state_dir=str(folder / "state")), world=lambda: worlds[-1])
    assert {_pick(mesh) for _ in range(50)} == {"10.0.0.1:8001", "10.0.0.1:8002"}
    worlds.append(change(worlds[0]))
    return {_pick(mesh) for _ in range(50)}


def _pick(mesh: Mesh) -> str:
    balancer = mesh.peer("identity").balancer
    member = balancer.pick(0.0)
    assert member is not None
    balancer.leave(member)
    return member.address
