"""What is started, started again and ended, and when: with processes and a clock that are no real ones."""

from __future__ import annotations

import itertools
import signal
from dataclasses import replace

from sidecar.supervisor import Program, Supervisor

PROXY = Program("haproxy", ("haproxy",), signal.SIGUSR1, 10.0, hurry_signal=signal.SIGTERM, needed=True)
AGENT = Program("agent", ("agent",), signal.SIGTERM, 5.0)


class Processes:
    """Notes what is done to processes; they end when the test says so."""

    def __init__(self) -> None:
        self.done: list[tuple[str, object]] = []
        self.pids: dict[str, int] = {}
        self.now = 1000.0
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.fails = False
        self._numbers = itertools.count(10)

    def start(self, program: Program) -> int:
        if self.fails:
            raise BlockingIOError("Resource temporarily unavailable")
        self.pids[program.name] = next(self._numbers)
        self.done.append((program.name, "start"))
        return self.pids[program.name]

    def signal(self, pid: int, number: int) -> None:
        name = next(name for name, known in self.pids.items() if known == pid)
        self.done.append((name, signal.Signals(number).name))

    def said(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    def news(self) -> list[tuple[str, object]]:
        done, self.done = self.done, []
        return done


def _supervisor(*programs: Program) -> tuple[Supervisor, Processes]:
    processes = Processes()
    made = Supervisor(programs, system=processes, clock=lambda: processes.now, say=processes.said)
    return made, processes


def test_both_are_started_in_their_order() -> None:
    """The first tick starts everything, and then only an event can change anything."""
    supervisor, processes = _supervisor(PROXY, AGENT)
    assert supervisor.tick() is None
    assert processes.news() == [("haproxy", "start"), ("agent", "start")]


def test_one_that_ends_is_started_again_and_the_other_is_untouched() -> None:
    """The agent is killed: it is back after 0.1 s, and HAProxy gets no signal."""
    supervisor, processes = _supervisor(PROXY, AGENT)
    supervisor.tick()
    processes.news()
    supervisor.ended(processes.pids["agent"], -9)
    wait = supervisor.tick()
    assert wait is not None
    assert 0 < wait < 0.11
    processes.now += wait
    supervisor.tick()
    assert processes.news() == [("agent", "start")]


def test_the_pause_doubles_up_to_five_seconds_and_is_forgotten_by_a_steady_run() -> None:
    """0.1, 0.2, 0.4 ... 5 s; after ten seconds of running 0.1 s again."""
    supervisor, processes = _supervisor(AGENT)
    pauses = []
    for _ in range(8):
        supervisor.tick()
        supervisor.ended(processes.pids["agent"], 1)
        wait = supervisor.tick() or 0.0
        pauses.append(round(wait, 3))
        processes.now += wait
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    supervisor.tick()
    processes.now += 10
    supervisor.ended(processes.pids["agent"], 1)
    assert round(supervisor.tick() or 0.0, 3) == 0.1


def test_the_second_waits_until_the_first_is_ready() -> None:
    """The agent finds HAProxy running and its files written: nothing is decided twice."""
    ready: list[bool] = []
    supervisor, processes = _supervisor(replace(PROXY, is_ready=lambda: bool(ready)), AGENT)
    assert supervisor.tick() is not None
    assert processes.news() == [("haproxy", "start")]
    ready.append(True)
    supervisor.tick()
    assert processes.news() == [("agent", "start")]


def test_a_first_one_that_never_gets_ready_holds_nobody_up() -> None:
    """After two seconds the agent is started all the same, also when HAProxy ends again and again."""
    supervisor, processes = _supervisor(replace(PROXY, is_ready=lambda: False), AGENT)
    supervisor.tick()
    for _ in range(5):
        processes.now += 0.39
        supervisor.ended(processes.pids["haproxy"], 1)
        supervisor.tick()
    assert ("agent", "start") not in processes.news()
    processes.now += 0.1
    supervisor.tick()
    assert ("agent", "start") in processes.news()


def test_told_to_stop_it_ends_the_last_one_first() -> None:
    """The agent leaves the map while HAProxy still serves; then HAProxy ends softly; the code is 0."""
    supervisor, processes = _supervisor(PROXY, AGENT)
    supervisor.tick()
    processes.news()
    supervisor.asked_to_stop(signal.SIGTERM)
    assert supervisor.tick() == 5.0
    assert processes.news() == [("agent", "SIGTERM")]
    supervisor.ended(processes.pids["agent"], 0)
    assert supervisor.tick() == 10.0
    assert processes.news() == [("haproxy", "SIGUSR1")]
    supervisor.ended(processes.pids["haproxy"], 0)
    assert supervisor.tick() is None
    assert supervisor.is_over
    assert supervisor.exit_code == 0


def test_what_does_not_end_is_killed_once_and_said() -> None:
    """Each has its own bound; whoever had to be killed is in the log, and the code is 1."""
    supervisor, processes = _supervisor(PROXY, AGENT)
    supervisor.tick()
    supervisor.asked_to_stop(signal.SIGINT)
    supervisor.tick()
    processes.news()
    processes.now += 5
    assert supervisor.tick() is None
    assert supervisor.tick() is None
    assert processes.news() == [("agent", "SIGKILL")]
    assert processes.lines[-1][0] == "agent did not end"
    supervisor.ended(processes.pids["agent"], -9)
    supervisor.tick()
    assert processes.news() == [("haproxy", "SIGUSR1")]
    supervisor.ended(processes.pids["haproxy"], 0)
    assert (supervisor.is_over, supervisor.exit_code) == (True, 1)


def test_whoever_asks_twice_waits_for_nobody() -> None:
    """A second Ctrl-C kills the agent and ends HAProxy at once."""
    supervisor, processes = _supervisor(PROXY, AGENT)
    supervisor.tick()
    supervisor.asked_to_stop(signal.SIGINT)
    supervisor.tick()
    processes.news()
    supervisor.asked_to_stop(signal.SIGINT)
    assert processes.news() == [("haproxy", "SIGTERM"), ("agent", "SIGKILL")]
    for name in ("agent", "haproxy"):
        supervisor.ended(processes.pids[name], -9)
    assert (supervisor.is_over, supervisor.exit_code) == (True, 1)


def test_nothing_is_started_again_while_it_stops() -> None:
    """What ends by itself on the way down stays down."""
    supervisor, processes = _supervisor(PROXY, AGENT)
    supervisor.tick()
    supervisor.asked_to_stop(signal.SIGTERM)
    supervisor.tick()
    supervisor.ended(processes.pids["haproxy"], 1)
    supervisor.ended(processes.pids["agent"], 0)
    processes.news()
    processes.now += 60
    supervisor.tick()
    assert processes.news() == []
    assert supervisor.is_over


def test_a_mistake_that_no_restart_cures_ends_everything() -> None:
    """HAProxy's part says 2 at its very first start (no such program), however long that took: the supervisor ends with 2 instead
    of trying on."""
    for seconds in (0.3, 4.0):
        supervisor, processes = _supervisor(replace(PROXY, is_ready=lambda: False), AGENT)
        supervisor.tick()
        processes.now += seconds
        supervisor.tick()
        supervisor.ended(processes.pids["haproxy"], 2)
        supervisor.tick()
        if agent := processes.pids.get("agent"):
            supervisor.ended(agent, 0)
        assert supervisor.tick() is None
        assert (supervisor.is_over, supervisor.exit_code) == (True, 2)


def test_a_mistake_of_the_agent_never_ends_haproxy() -> None:
    """An agent that ends with 2 is tried again: what serves goes on serving."""
    supervisor, processes = _supervisor(PROXY, replace(AGENT, is_ready=lambda: False))
    supervisor.tick()
    processes.news()
    supervisor.ended(processes.pids["agent"], 2)
    supervisor.tick()
    processes.now += 1
    supervisor.tick()
    assert processes.news() == [("agent", "start")]


def test_a_start_that_the_system_refuses_is_tried_again() -> None:
    """Out of processes: said, and tried again after the pause."""
    supervisor, processes = _supervisor(AGENT)
    processes.fails = True
    assert supervisor.tick() is not None
    assert processes.lines[-1][0] == "agent could not be started"
    processes.fails = False
    processes.now += 0.2
    supervisor.tick()
    assert processes.news() == [("agent", "start")]


def test_processes_of_others_are_none_of_its_business() -> None:
    """An orphan that ended in the same container is taken in and changes nothing."""
    supervisor, processes = _supervisor(AGENT)
    supervisor.tick()
    said = len(processes.lines)
    supervisor.ended(4711, 0)
    assert supervisor.tick() is None
    assert len(processes.lines) == said
