"""A host to drill, and a drill without processes: faults are told, time passes by itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sidecar.drill.judge import Course, Row, judge
from sidecar.drill.load import Call, Door
from sidecar.drill.plan import DrillPlan, Step, Wish, make_plan
from sidecar.drill.processes import Process
from sidecar.drill.run import Drill
from sidecar.drill.scene import Scene, Served, Target

IDENTITY = [f"10.0.0.7:{port}" for port in (8000, 8001)]

HOST = Scene(
    realm="staging",
    directory="/run/smartservice/staging",
    door=Door(socket="/run/smartservice/staging/calls.sock"),
    targets=(
        Target("agent", "agent", pid=10, restarted_by="sidecar up", has_children=True, takes_full_disk=True),
        Target("haproxy", "haproxy", pid=11, restarted_by="sidecar up", has_children=True),
        Target("atlas", "atlas 10.0.0.9:80", address="10.0.0.9:80", is_local=False),
        *(
            Target(
                "instance",
                f"identity {address}",
                service="identity",
                address=address,
                pid=20 + number,
                restarted_by="systemd (identity.service)",
                announced=f"/run/smartservice/staging/announce/identity@{address}.json",
                has_children=True,
                takes_full_disk=True,
            )
            for number, address in enumerate(IDENTITY)
        ),
        Target("remote", "identity 10.0.0.8:8000", service="identity", address="10.0.0.8:8000", is_local=False),
    ),
    services={"identity": Served("identity", 3, "/healthcheck/ready"), "orders": Served("orders", 2, "/")},
)


def planned(scene: Scene = HOST, **wish: Any) -> DrillPlan:
    return make_plan(scene, Wish(**wish))


def names(plan: DrillPlan) -> list[str]:
    return [step.name for step in plan.steps]


def scene_with(target: str, **changes: Any) -> Scene:
    """The host with something else about one of its targets."""
    return replace(HOST, targets=tuple(replace(one, **changes) if one.name == target else one for one in HOST.targets))


def step(fault: str, target: str, scene: Scene = HOST, **wish: Any) -> Step:
    return next(one for one in planned(scene, every=True, **wish).steps if one.name == f"{fault} {target}")


def judged(one: Step, *calls: Call, recovered: float | None = 16.0, posters: int = 0) -> Row:
    """The verdict on a fault from 10 to 15 s, as before at 16 s."""
    ended = 16.0 if recovered is None else recovered
    missing = {} if recovered is not None else {"HAProxy": "it does not run"}
    return judge(one, Course(10.0, 15.0, recovered, ended, missing), calls, posters=posters)


def steady(began: float = 9.5, ended: float = 16.5, *, without: Sequence[float] = ()) -> Iterator[Call]:
    """A good answer each tenth of a second, but for the time between two moments."""
    for tenth in range(int(began * 10), int(ended * 10)):
        moment = tenth / 10
        if not (without and without[0] < moment < without[1]):
            yield Call(moment, moment + 0.01, "identity", "GET")


class FakeRealm:
    """Stands in for load, watch, places and journal of a drill, with a clock of its own."""

    def __init__(self, plan: DrillPlan) -> None:
        self.now_at = 100.0
        self.calls: list[Call] = []
        self.said: list[str] = []
        self.held: list[object] = []
        self.posters = 0
        self.down: dict[str, str] = {}
        self.on_fault: Callable[[], object] = lambda: None
        self.lose: str = ""
        self.drill = Drill(
            plan,
            load=self,
            places=self,
            watch=self,
            journal=self,
            say=self.said.append,
            clock=lambda: self.now_at,
            sleep=self.sleep,
            special=dict.fromkeys(("freeze", "partition", "wipe"), self.fault),
        )

    def sleep(self, seconds: float) -> None:
        self.now_at += seconds
        self.calls.append(Call(self.now_at, self.now_at, "identity", "GET", self.lose))

    def oldest(self) -> float:
        return self.now_at

    def now(self) -> dict[str, str]:
        known = {"the agent": "", "HAProxy": "", "identity 10.0.0.7:8000": ""}
        return known | self.down

    def missing(self, before: Collection[str]) -> dict[str, str]:
        return {name: why for name, why in self.now().items() if why and name in before}

    def processes(self, target: Target, fault: str) -> tuple[Process, ...]:
        return ()

    @contextmanager
    def fault(self) -> Iterator[None]:
        self.held.append("begun")
        try:
            self.on_fault()
            yield
        finally:
            self.held.append("undone")

    @contextmanager
    def holding(self, undos: Sequence[object], seconds: float = 60.0) -> Iterator[None]:
        yield
