"""Draining, the register of requests, the board that workers share, and what happens at close."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable

import pytest

from smartrealm.fork import registered
from smartservice.lifecycle import Board, Lifecycle, Worker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def in_child(work: Callable[[], int | None]) -> int:
    """The exit code of a forked child that runs `work()`."""
    with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns when another test left a thread
        pid = os.fork()
    if pid == 0:
        os._exit(work() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_an_app_is_not_draining_until_told() -> None:
    """A new app is ready; `begin_draining` turns that for good."""
    lifecycle = Lifecycle()
    assert (lifecycle.draining, lifecycle.not_ready()) == (False, None)
    lifecycle.begin_draining()
    assert lifecycle.draining
    assert "draining" in str(lifecycle.not_ready())


def test_all_apps_on_one_board_drain_together_across_processes() -> None:
    """A flag set in one process is seen at once in every other one that shares the board."""
    board = Board()
    parent, sibling = Lifecycle(board=board), Lifecycle(board=board)
    assert in_child(parent.begin_draining) == 0
    assert parent.draining
    assert sibling.draining


def test_two_apps_without_a_board_do_not_touch_each_other() -> None:
    """Outside of gunicorn draining one app says nothing about another."""
    one, other = Lifecycle(), Lifecycle()
    one.begin_draining()
    assert not other.draining


def test_requests_are_counted_while_they_run() -> None:
    """`busy` is the number of threads between enter and leave; the row names when the first of them began."""
    clock = Clock()
    lifecycle = Lifecycle(clock=clock)
    inside, go = threading.Barrier(2), threading.Event()

    def request() -> None:
        lifecycle.enter()
        inside.wait(5)
        go.wait(5)
        lifecycle.leave()

    thread = threading.Thread(target=request)
    thread.start()
    inside.wait(5)
    clock.now = 103.0
    lifecycle.enter()
    clock.now = 105.0
    row = lifecycle.row(8)
    assert (lifecycle.busy(), row.busy, row.beat - row.oldest) == (2, 2, 5.0)
    go.set()
    thread.join(30)
    lifecycle.leave()
    assert (lifecycle.busy(), lifecycle.row(8).oldest) == (0, 0.0)


def test_a_request_inside_of_another_counts_as_one() -> None:
    """A test client used within a request neither adds one nor ends the outer one."""
    lifecycle = Lifecycle()
    lifecycle.enter()
    lifecycle.enter()
    lifecycle.enter()
    assert lifecycle.busy() == 1
    lifecycle.leave()
    lifecycle.leave()
    assert lifecycle.busy() == 1
    lifecycle.leave()
    assert lifecycle.busy() == 0


def test_a_child_begins_with_no_requests() -> None:
    """Requests of the parent are not the child's."""
    lifecycle = Lifecycle()
    lifecycle.enter()
    assert in_child(lifecycle.busy) == 0
    assert lifecycle.busy() == 1


@pytest.mark.parametrize(
    ("worker", "expected"),
    [
        pytest.param(Worker(5, 100, 8, 8, 30, 39), "wedged", id="all busy, none begun for 61 s"),
        pytest.param(Worker(5, 100, 8, 8, 30, 41), None, id="one was begun 59 s ago"),
        pytest.param(Worker(5, 100, 1, 8, 10, 10), None, id="a single long request"),
        pytest.param(Worker(5, 100, 7, 8, 10, 20), None, id="one thread is free"),
        pytest.param(Worker(5, 39, 0, 8, 0, 0), "no sign of life", id="silent"),
        pytest.param(Worker(5, 0, 0, 8, 0, 0), None, id="still starting"),
    ],
)
def test_a_worker_is_in_trouble_when_nothing_moves(worker: Worker, expected: str | None) -> None:
    """Wedged is: every thread busy, and none finished for the whole time. Anything less is work."""
    found = worker.trouble(now=100.0, seconds=60.0)
    assert (found is None) if expected is None else (expected in str(found))
    assert worker.trouble(now=100.0, seconds=0) is None


def test_every_worker_answers_for_the_wedged_one() -> None:
    """Liveness on any worker names each wedged worker of the instance."""
    board, clock = Board(), Clock()
    healthy = Lifecycle(board=board, clock=clock)
    for pid in (11, 12):
        row = board.claim()
        assert row is not None
        board.write(row, Worker(pid, 100.0, 8 if pid == 12 else 0, 8, 30.0, 30.0))
    assert healthy.not_live(60.0) == "worker 12 is wedged: all 8 threads busy, none finished for 70 s"
    assert healthy.not_live(80.0) is None


def test_own_process_can_be_asked_whether_it_is_wedged() -> None:
    """`wedged` speaks of this process, given how many requests it can serve at once."""
    clock = Clock()
    lifecycle = Lifecycle(clock=clock)
    lifecycle.enter()
    clock.now += 61
    full, half = lifecycle.row(1), lifecycle.row(2)
    assert full.trouble(full.beat, 60.0) is not None
    assert half.trouble(half.beat, 60.0) is None
    assert lifecycle.not_live(60.0) is None
    lifecycle.leave()


def test_rows_of_the_board_are_given_out_once_and_come_back() -> None:
    """Each worker has a row of its own; when none is left a worker goes without."""
    board = Board()
    rows = [board.claim() for _ in range(128)]
    assert sorted(row for row in rows if row is not None) == list(range(128))
    assert board.claim() is None
    board.release(77)
    assert board.claim() == 77
    assert len(board.workers()) == 128


def test_close_calls_the_last_registered_first_and_each_once(caplog: pytest.LogCaptureFixture) -> None:
    """One callback that fails is logged and keeps no other from being called."""
    lifecycle, called = Lifecycle(), list[str]()
    lifecycle.on_close(lambda: called.append("first"))
    lifecycle.on_close(lambda: 1 // 0)
    lifecycle.on_close(lambda: called.append("last"))
    with caplog.at_level(logging.ERROR):
        lifecycle.close()
        lifecycle.close()
    assert called == ["last", "first"]
    assert [record.message.startswith("could not close") for record in caplog.records] == [True]


def test_a_thousand_apps_leave_nothing_behind() -> None:
    """A Lifecycle that is dropped leaves no entry in the fork registry."""
    before = registered()
    for _ in range(1000):
        Lifecycle()
    assert registered() == before


def test_noting_a_request_costs_next_to_nothing() -> None:
    """Enter and leave take a few microseconds at most, even on a slow and noisy machine."""
    lifecycle = Lifecycle()
    best = min(_seconds(lifecycle) for _ in range(5))
    assert best / 2000 < 10e-6


def _seconds(lifecycle: Lifecycle) -> float:
    began = time.process_time()
    for _ in range(2000):
        lifecycle.enter()
        lifecycle.leave()
    return time.process_time() - began


def test_a_stop_is_seen_by_workers_that_are_not_there_yet() -> None:
    """The note of a stop is shared; a quick one is not taken back by a graceful one."""
    board = Board()
    assert board.stopping == "no"
    board.begin_stopping(quick=True)
    board.begin_stopping(quick=False)
    assert in_child(lambda: 0 if board.stopping == "quickly" else 1) == 0
    assert not board.draining
