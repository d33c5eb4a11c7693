"""HAProxy is brought to each plan and kept there: over refusals, reloads, deaths and drift."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from sidecar.diff import Command
from sidecar.events import Event
from sidecar.files import Problem
from sidecar.layout import MAPS, NEWER
from sidecar.model import Condition, Plan, Route, Server, State
from sidecar.render import Files
from sidecar.runtime import Reading, Refusal, Repeats
from sidecar.settings import Settings
from sidecar.steering import Steering
from smartrealm.errors import ConfigurationError, Unavailable
from tests.unit.sidecar.test_diff import Double


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """An HAProxy in memory, its process and its runtime socket: what `Steering` is given in place of the real ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inside: Double | None = None
        self.written: list[Files] = []
        self.sent: list[str] = []
        self.refuse: set[str] = set()
        self.problems: list[Problem] = []
        self.under_way: dict[tuple[str, str], int] = {}
        self.repeated: dict[tuple[str, str], Repeats] = {}
        self.reload_in = 0.0
        self.reload_error: Exception | None = None
        self.disk_full = False
        self.pid = 1
        self.description = ""
        self.external = False
        self.dynamic_backends = False

    # The process.

    def worker(self) -> int | None:
        return None if self.inside is None else self.pid

    def start(self) -> bool:
        if self.inside is not None:
            return False
        self.load()
        return True

    def load(self) -> None:
        inside = Double()
        config, maps = self.written[-1].config, self.written[-1].maps
        inside.servers = {}
        for line in config.splitlines():
            words = line.split()
            if words[:1] == ["backend"] and words[1] != NEWER:
                name = words[1]
                inside.servers[name] = {}
            elif words[:1] == ["description"]:
                self.description = words[1]
            elif words[:1] == ["server"] and "weight" in words:  # not the way to the next worker
                host, _, port = words[2].rpartition(":")
                weight = int(words[words.index("weight") + 1])
                inside.servers[name][words[1]] = Server(words[1], host, int(port), weight, "backup" in words)
        inside.maint = {name: {} for name in inside.servers}
        inside.maps = {name: dict(line.split() for line in maps[name].splitlines()) for name in MAPS}
        self.inside, self.pid = inside, self.pid + 1

    def version(self) -> str:
        return "2.6.12"

    def write(self, files: Files) -> tuple[str, ...]:
        if self.disk_full:
            raise Unavailable("no room")
        self.written.append(files)
        (self.folder / "haproxy.cfg").write_text(files.config)
        return ("haproxy.cfg",)

    def check(self, files: Files) -> Sequence[Problem]:
        return [one for one in self.problems if f"backend {one.backend} " in files.config + " "]

    def reload_due_in(self) -> float:
        return self.reload_in

    def reload(self) -> None:
        if self.reload_error is not None:
            raise self.reload_error
        self.load()

    def sessions(self, servers: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        return {server: self.under_way.get(server, 0) for server in servers}

    # The runtime socket.

    def run(self, commands: Iterable[Command]) -> list[Refusal]:
        inside = self._alive()
        refused = []
        for command in commands:
            self.sent.append(command.text)
            if any(word in command.text for word in self.refuse):
                refused.append(Refusal(command.about, command.text, "I will not."))
            elif "health up" not in command.text:
                inside.run(command)
        return refused

    def read(self, maps: Path) -> Reading:
        inside = self._alive()
        conditions: dict[str, dict[str, Condition]] = {
            name: dict.fromkeys(servers, "up") for name, servers in inside.servers.items()
        }
        leaving = {name: tuple(out) for name, out in inside.maint.items() if out}
        return Reading(self.pid, inside.state, conditions, self.description, leaving)

    def repeats(self, backends: Sequence[str] | None = None) -> dict[tuple[str, str], Repeats]:
        self._alive()
        return {key: one for key, one in self.repeated.items() if (key[1] == "BACKEND") == (backends is None)}

    def delete(self, leaving: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
        inside = self._alive()
        left: dict[str, tuple[str, ...]] = {}
        for backend, servers in leaving.items():
            for server in servers:
                if self.under_way.get((backend, server)):
                    left[backend] = (*left.get(backend, ()), server)
                else:
                    inside.maint[backend].pop(server, None)
        return left

    def _alive(self) -> Double:
        if self.inside is None:
            raise Unavailable("HAProxy is not there")
        return self.inside


def at_once(work: Callable[[], float]) -> Future[float]:
    """In place of another thread."""
    future: Future[float] = Future()
    future.set_result(work())
    return future


@dataclass
class Bench:
    """A steering over a HAProxy in memory."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    tokens: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.world = World(self.folder)
        settings = Settings(self.folder, self.folder, spare_backends=2)
        self.steering = self.another(settings)

    def another(self, settings: Settings) -> Steering:
        """A steering for the same HAProxy, as the next agent has it."""
        world = cast(Any, self.world)
        clocks = {"clock": self.clock, "wall_clock": self.clock}
        return Steering(settings, world, world, tokens=lambda: self.tokens, begin=at_once, **clocks)

    def turn(self, plan: Plan, seconds: float = 0.0) -> float:
        self.clock.now += seconds
        return self.steering.turn(plan)

    @property
    def state(self) -> State:
        assert self.world.inside is not None
        return self.world.inside.state

    def servers(self, backend: str) -> set[str]:
        return set(self.state.backends[backend])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def server(port: int, **more: object) -> Server:
    return Server(f"10.0.0.1:{port}", "10.0.0.1", port, **more)  # type: ignore[arg-type]


def plan(**services: Sequence[Server]) -> Plan:
    return Plan(routes={name: Route(name, tuple(servers)) for name, servers in services.items()})


ONE, TWO = server(8001), server(8002)


def test_the_first_plan_starts_haproxy_with_a_file_that_holds_it(bench: Bench) -> None:
    """Nothing runs: the file is written, HAProxy is started with it, and needs no command."""
    bench.turn(plan(identity=[ONE, TWO]))
    assert bench.servers("identity") == {ONE.name, TWO.name}
    assert bench.world.sent == []
    assert bench.steering.counts.starts == 1


def test_a_change_goes_through_the_socket_and_into_the_file(bench: Bench) -> None:
    """An instance more is a few commands at once, and one write of the file half a second later, however many changes there were."""
    bench.turn(plan(identity=[ONE]))
    changed = plan(identity=[ONE, TWO])
    bench.turn(changed)
    assert bench.servers("identity") == {ONE.name, TWO.name}
    assert bench.steering.applied is changed
    bench.turn(plan(identity=[TWO]), 0.1)
    assert len(bench.world.written) == 1
    bench.turn(bench.steering.applied, 0.6)
    assert len(bench.world.written) == 2
    assert ONE.name not in bench.world.written[-1].config
    bench.turn(bench.steering.applied, 5)
    assert len(bench.world.written) == 2


def test_what_haproxy_refuses_is_told_and_the_rest_goes_on(bench: Bench) -> None:
    """One refused server is kept with HAProxy's words; the other one serves; the next comparison tries it again."""
    bench.turn(plan(identity=[ONE]))
    bench.world.refuse = {":8002"}
    both = plan(identity=[ONE, TWO, server(8003)])
    bench.turn(both)
    assert bench.servers("identity") == {ONE.name, "10.0.0.1:8003"}
    assert [refusal.says for refusal in bench.steering.refusals][:1] == ["I will not."]
    bench.world.refuse = set()
    bench.turn(both, 31)
    assert TWO.name in bench.servers("identity")


def test_a_dead_haproxy_is_started_again_with_the_newest_plan(bench: Bench) -> None:
    """HAProxy is gone: it is noticed within a quarter of a second, and what runs then knows what is wanted now."""
    bench.turn(plan(identity=[ONE]))
    bench.world.inside = None
    bench.turn(plan(identity=[ONE, TWO]), 0.26)
    bench.turn(plan(identity=[ONE, TWO]), 0.26)
    assert bench.servers("identity") == {ONE.name, TWO.name}
    assert bench.steering.counts.starts == 2
    assert bench.steering.counts.drift == 0


def test_a_haproxy_that_was_started_again_between_two_looks_is_brought_up_to_date(bench: Bench) -> None:
    """Its supervisor was quicker than the next look, and its file older than the last change: that is no matter of half a minute."""
    bench.turn(plan(identity=[ONE]))
    both = plan(identity=[ONE, TWO])
    bench.turn(both)
    bench.world.load()
    assert bench.servers("identity") == {ONE.name}
    bench.turn(both, 0.26)
    assert bench.servers("identity") == {ONE.name, TWO.name}
    assert bench.steering.counts.drift == 0


def test_a_running_haproxy_is_adopted_with_what_it_knows(bench: Bench) -> None:
    """A new agent reads what HAProxy knows and changes only what differs; it starts and reloads nothing."""
    bench.turn(plan(identity=[ONE], orders=[TWO]))
    second = bench.another(bench.steering.settings)
    second.turn(plan(identity=[ONE, TWO], orders=[TWO]))
    assert all(TWO.name in text for text in bench.world.sent)
    assert second.counts.starts == 0
    assert second.reloads.wish is None


def test_a_file_of_another_version_asks_for_a_reload(bench: Bench) -> None:
    """The running HAProxy was started with another port: it is adopted, serves on, and is loaded anew when that may be."""
    bench.turn(plan(identity=[ONE]))
    moved = replace(bench.steering.settings, port=4444)
    bench.world.reload_in = 60.0
    second = bench.another(moved)
    second.turn(plan(identity=[ONE]))
    assert second.counts.reloads == 0
    assert "settings" in second.pending
    bench.world.reload_in = 0.0
    second.turn(plan(identity=[ONE]))
    assert second.counts.reloads == 1
    assert "127.0.0.1:4444" in bench.world.written[-1].config


def test_a_file_that_was_written_and_not_loaded_yet_asks_for_a_reload(bench: Bench) -> None:
    """The agent wrote the file for other settings and ended before the reload: the next one goes by what HAProxy was loaded with."""
    bench.turn(plan(identity=[ONE]))
    guarded = replace(bench.steering.settings, tokens_file=bench.folder / "tokens")
    bench.world.reload_in = 60.0
    second = bench.another(guarded)
    second.turn(plan(identity=[ONE, TWO]))
    bench.clock.now += 1.0
    second.turn(plan(identity=[ONE, TWO]))
    assert "tokens.map" in bench.world.written[-1].config
    third = bench.another(guarded)
    third.turn(plan(identity=[ONE, TWO]))
    assert "settings" in third.pending


def test_a_token_counts_at_once(bench: Bench) -> None:
    """The file of tokens changes and the map does not: who is let in is let in, and who is no more is not, with the next turn."""
    still = plan(identity=[ONE])
    bench.turn(still)
    bench.tokens = {"ab" * 32: "orders"}
    bench.turn(still, 0.25)
    assert bench.state.maps["tokens"] == {"ab" * 32: "orders"}
    bench.tokens = {}
    bench.turn(still, 0.25)
    assert bench.state.maps["tokens"] == {}


def test_a_reload_whose_files_cannot_be_made_waits(bench: Bench) -> None:
    """The disk is full: HAProxy runs and is told all the rest, the reload stays wished for, and is done once there is room."""
    bench.turn(plan(identity=[ONE]))
    bench.world.disk_full = True
    bench.steering.ask_reload("a try")
    bench.turn(plan(identity=[ONE]))
    assert bench.steering.process.running
    assert bench.steering.failure is None
    assert "no room" in bench.steering.reloads.failure
    bench.turn(plan(identity=[ONE, TWO]), 0.3)
    assert bench.servers("identity") == {ONE.name, TWO.name}
    assert bench.steering.pending == "a try"
    bench.world.disk_full = False
    bench.turn(plan(identity=[ONE, TWO]), 5.0)
    assert bench.steering.counts.reloads == 1
    assert bench.steering.reloads.failure == ""


def test_services_beyond_the_spare_backends_wait_for_one_reload(bench: Bench) -> None:
    """Two spare backends take two new services at once; the third waits until a reload may be, and then all have their own name."""
    bench.turn(plan(identity=[ONE]))
    bench.world.reload_in = 30.0
    more = plan(identity=[ONE], a=[TWO], b=[TWO], c=[TWO])
    bench.turn(more)
    assert sorted(bench.state.maps["routes"]) == ["a", "b", "identity"]
    assert bench.steering.counts.reloads == 0
    bench.world.reload_in = 0.0
    bench.turn(more)
    assert bench.steering.counts.reloads == 1
    assert bench.state.maps["routes"] == {name: name for name in ("a", "b", "c", "identity")}
    bench.turn(more, 40)
    assert bench.steering.counts.drift == 0


def test_a_reload_that_fails_leaves_everything_as_it_was(bench: Bench) -> None:
    """HAProxy refuses the new file: the old worker goes on, the file on disk is again one that works, and it is counted."""
    bench.turn(plan(identity=[ONE]))
    bench.world.reload_error = ConfigurationError("bad file")
    bench.steering.ask_reload("by hand")
    bench.turn(plan(identity=[ONE, TWO]))
    assert bench.servers("identity") == {ONE.name, TWO.name}
    assert bench.steering.counts.failed_reloads == 1
    assert TWO.name in bench.world.written[-1].config


def test_a_service_that_spoils_the_file_is_set_aside(bench: Bench) -> None:
    """HAProxy finds one backend wrong: that service is barred with HAProxy's words, the thousand others are loaded."""
    bench.world.problems = [Problem("orders", "I do not like it")]
    bench.turn(plan(identity=[ONE], orders=[TWO]))
    assert set(bench.state.maps["routes"]) == {"identity"}
    assert bench.steering.barred == {"orders": "I do not like it"}


def test_a_route_that_may_not_be_written_harms_no_other(bench: Bench) -> None:
    """A server with a host that is no address is kept away from HAProxy, with the reason; the other service is routed."""
    bench.turn(plan(identity=[ONE]))
    bench.turn(plan(identity=[ONE, TWO], orders=[Server("x", "evil\nhost", 80)]))
    assert bench.servers("identity") == {ONE.name, TWO.name}
    assert "orders" in bench.steering.barred


def test_drift_is_found_set_right_and_counted(bench: Bench) -> None:
    """Somebody took a server away behind our back: within 30 s it is there again, and the drift is told."""
    standing = plan(identity=[ONE, TWO])
    bench.turn(standing)
    assert bench.world.inside is not None
    del bench.world.inside.servers["identity"][TWO.name]
    bench.turn(standing, 31)
    assert bench.servers("identity") == {ONE.name, TWO.name}
    assert bench.steering.counts.drift > 0
    found = bench.steering.counts.drift
    bench.turn(standing, 31)
    assert bench.steering.counts.drift == found


def test_a_server_that_leaves_is_deleted_when_its_calls_are_over(bench: Bench) -> None:
    """Its calls are counted for those who wait for them, it is deleted with the last one, and nothing of it is drift."""
    bench.turn(plan(identity=[ONE, TWO]))
    bench.world.under_way = {("identity", TWO.name): 3}
    alone = plan(identity=[ONE])
    bench.turn(alone)
    assert bench.steering.busy(alone) == {"identity/10.0.0.1:8002": 3}
    bench.turn(alone, 31)
    assert bench.steering.counts.drift == 0
    bench.world.under_way = {}
    bench.turn(alone, 0.2)
    assert bench.steering.busy(alone) == {}
    assert bench.world.inside is not None
    assert bench.world.inside.maint["identity"] == {}


def test_a_draining_server_is_counted_until_it_has_no_call(bench: Bench) -> None:
    """The calls under way to an instance that drains are known as soon as the drain is in force, not a moment later."""
    bench.turn(plan(identity=[ONE, TWO]))
    bench.world.under_way = {("identity", TWO.name): 1}
    draining = plan(identity=[ONE, replace(TWO, draining=True)])
    bench.turn(draining)
    assert bench.steering.applied is draining
    assert bench.steering.busy(draining) == {"identity/10.0.0.1:8002": 1}


def test_a_server_whose_requests_are_all_repeated_elsewhere_is_ejected(bench: Bench) -> None:
    """HAProxy counts no bad answer where it repeats the request: its counters are looked at, and it is told that the server is down."""
    wanted = plan(identity=[ONE, TWO])
    bench.turn(wanted)
    for count in (0, 20, 20, 26):
        bench.world.repeated = {
            ("identity", "BACKEND"): Repeats(100, count),
            ("identity", ONE.name): Repeats(100, 0),
            ("identity", TWO.name): Repeats(count, count),
        }
        bench.turn(wanted, 31 if count < 26 else 1)
    assert f"set server identity/{TWO.name} health down" in bench.world.sent
    assert f"set server identity/{ONE.name} health down" not in bench.world.sent
    (ejection,) = bench.steering.ejections.all()
    assert (ejection.server, ejection.cause) == (TWO.name, "answers")
    assert bench.steering.counts.ejections == 1


def test_an_ejected_server_is_set_up_again_when_its_time_has_come(bench: Bench) -> None:
    """HAProxy takes one of three out: it is told every second that it is down, and five seconds later to try it again."""
    standing = plan(identity=[ONE, TWO, server(8003)])
    bench.turn(standing)
    bench.steering.events.put(Event("identity", TWO.name, False, "answers", "500"))
    down = f"set server identity/{TWO.name} health down"
    assert bench.turn(standing) <= 1.0
    assert bench.steering.counts.ejections == 1
    assert bench.turn(standing, 1.0) <= 1.0
    bench.turn(standing, 0.5)
    bench.turn(standing, 0.5)
    bench.turn(standing, 2.4)
    assert bench.world.sent == [down, down, down]
    bench.turn(standing, 1.1)
    assert bench.world.sent[3:] == [f"set server identity/{TWO.name} health up"]


def test_a_full_disk_stops_no_change(bench: Bench) -> None:
    """The file cannot be written: HAProxy is changed all the same, and the file follows when there is room."""
    bench.turn(plan(identity=[ONE]))
    bench.world.disk_full = True
    both = plan(identity=[ONE, TWO])
    bench.turn(both)
    bench.turn(both, 1)
    assert bench.servers("identity") == {ONE.name, TWO.name}
    assert len(bench.world.written) == 1
    bench.world.disk_full = False
    bench.turn(both, 6)
    assert TWO.name in bench.world.written[-1].config


def test_a_haproxy_that_somebody_else_starts_is_not_waited_for(bench: Bench) -> None:
    """It is away: the loop goes on at once and looks again a moment later, with a file to start from; then it is adopted."""
    bench.world.external = True
    bench.world.start = lambda: pytest.fail("it is not ours to start")  # type: ignore[method-assign]
    assert bench.turn(plan(identity=[ONE])) <= 0.5
    assert "somebody else" in str(bench.steering.failure)
    bench.world.load()
    bench.turn(plan(identity=[ONE, TWO]), 0.5)
    assert bench.servers("identity") == {ONE.name, TWO.name}
    assert bench.steering.failure is None


def test_after_an_error_that_nobody_foresaw_haproxy_is_read_anew(bench: Bench) -> None:
    """The same error is news once; the next turn asks HAProxy what it knows and goes on."""
    bench.turn(plan(identity=[ONE]))
    assert bench.steering.forget(ValueError("odd"))
    assert not bench.steering.forget(ValueError("odd"))
    bench.turn(plan(identity=[ONE, TWO]), 0.1)
    assert bench.servers("identity") == {ONE.name, TWO.name}
    assert bench.steering.failure is None


def test_what_fails_again_and_again_is_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """HAProxy takes no file at all: the loop goes on, says why in its state, and does not fill the log."""
    bench.world.problems = [Problem("", "no such thing")]
    bench.world.check = lambda files: bench.world.problems  # type: ignore[method-assign]
    for _ in range(5):
        assert bench.turn(plan(identity=[ONE]), 2.0) > 0
    assert "no such thing" in str(bench.steering.failure)
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 1


def test_a_change_while_haproxy_is_away_is_not_lost(bench: Bench) -> None:
    """HAProxy dies in the middle of a change: the plan counts as not applied, and the one that is started next has it."""
    bench.turn(plan(identity=[ONE]))
    first = bench.steering.applied
    bench.world.inside = None
    wanted = plan(identity=[TWO])
    bench.turn(wanted, 0.1)
    assert bench.steering.applied is first
    assert bench.steering.pending
    bench.turn(wanted, 0.3)
    assert bench.servers("identity") == {TWO.name}
    assert bench.steering.applied is wanted
