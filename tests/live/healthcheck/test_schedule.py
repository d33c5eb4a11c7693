"""The background schedule, its end, and what is left of an engine that is dropped or forked."""

from __future__ import annotations

import gc
import math
import os
import statistics
import threading
import time

import pytest

from healthcheck import Engine, Result
from healthcheck.probe import Probe, Terms
from smartrealm import fork
from tests.processes import wait_until
from tests.unit.healthcheck.tools import Clock, Scripted, hanging, health_threads, on_clock


def test_a_poll_under_the_schedule_runs_nothing() -> None:
    """Once the schedule runs, polls read what it found."""
    check = Scripted()
    engine = Engine(interval=60)
    engine.add("it", check)
    engine.start()
    try:
        for _ in range(20):
            assert engine.report().status == "pass"
        assert check.runs == 1
    finally:
        engine.close()


def test_a_poll_steps_in_for_a_schedule_that_does_nothing() -> None:
    """A result is good for its interval; under the schedule for three and twice its timeout, before a poll asks itself."""
    probe = Probe("it", bool, Terms(("ready",), critical=True, timeout=2, interval=5, fall=3, rise=2))
    assert probe.stale_at(scheduled=True) == probe.stale_at(scheduled=False) == -math.inf
    probe.observe(Result("pass"), now=1000, wall=0, seconds=0)
    assert (probe.stale_at(scheduled=False), probe.stale_at(scheduled=True)) == (1005, 1019)


def test_the_schedule_runs_checks_by_itself() -> None:
    """Without any poll, checks run at their interval."""
    check = Scripted()
    engine = Engine(interval=0.05)
    engine.add("it", check)
    engine.start()
    try:
        wait_until(lambda: check.runs >= 3, what="three runs")
        assert engine.scheduled
    finally:
        engine.close()


def test_a_check_added_later_is_run_at_once() -> None:
    """Adding a check wakes the schedule."""
    check = Scripted()
    engine = Engine(interval=60)
    engine.start()
    try:
        engine.add("it", check)
        wait_until(lambda: check.runs == 1, what="the first run")
    finally:
        engine.close()


def test_a_poll_never_waits_for_a_hung_check() -> None:
    """Under the schedule the status turns after three missed answers, and every poll is answered at once."""
    with hanging() as check:
        check.hangs = False
        engine = Engine(interval=0.05, timeout=0.05)
        engine.add("it", check)
        engine.start()
        try:
            assert engine.report().status == "pass"
            check.hangs = True
            taken = []
            while engine.report().status == "pass":
                begun = time.monotonic()
                engine.report()
                taken.append(time.monotonic() - begun)
                time.sleep(0.005)
            assert statistics.median(taken) < 0.05  # nobody waited for the check
            runs = check.runs
            time.sleep(0.2)
            assert check.runs == runs
            assert sum(name == "healthcheck-it" for name in health_threads()) == 1
        finally:
            engine.close()


def test_missed_deadlines_count_each_interval() -> None:
    """A check that passed and then hangs falls with the third interval, as with three failures."""
    clock = Clock()
    with hanging() as check:
        check.hangs = False
        engine = on_clock(clock, fall=3, rise=2, interval=5, timeout=2)
        engine.add("it", check)
        engine.turn()
        wait_until(lambda: engine.statuses()["it"] == "pass", what="the first result")
        check.hangs = True
        clock.pass_(5)
        engine.turn()
        seen = []
        for seconds in (2, 5, 5):
            clock.pass_(seconds)
            engine.turn()
            seen.append(engine.statuses()["it"])
        assert seen == ["pass", "pass", "fail"]
        assert check.runs == 2


def test_a_turn_says_when_the_next_is_due() -> None:
    """The schedule sleeps until the next deadline or the next run, whichever comes first."""
    clock = Clock()
    with hanging() as check:
        engine = on_clock(clock, interval=5, timeout=2)
        engine.add("it", check)
        assert engine.turn() == 2
        clock.pass_(2)
        assert engine.turn() == 5


def test_close_ends_the_schedule_promptly() -> None:
    """Closing takes no longer than a moment, also while a check hangs; the last results stay readable."""
    with hanging() as check:
        engine = Engine(interval=60, timeout=0.05)
        engine.add("hung", check)
        engine.start()
        engine.start()
        wait_until(lambda: engine.statuses()["hung"] == "fail", what="the missed deadline")
        begun = time.monotonic()
        engine.close()
        assert time.monotonic() - begun < 20
        assert "healthcheck-schedule" not in health_threads()
        assert engine.report().rows[0].output == "no answer within 0.05 s"
        engine.close()


def test_a_closed_engine_runs_nothing() -> None:
    """After close a poll begins no run."""
    check = Scripted()
    engine = Engine()
    engine.add("it", check)
    engine.close()
    assert (engine.report().status, engine.report().rows[0].output) == ("fail", "no result yet")
    assert check.runs == 0


def test_a_dropped_engine_ends_its_schedule() -> None:
    """The schedule holds its engine weakly: no reference, no thread."""
    engine = Engine(interval=60)
    engine.add("it", lambda: True)
    engine.start()
    assert engine.report().status == "pass"
    del engine
    gc.collect()
    wait_until(lambda: not health_threads(), what="the end of the thread")


def test_a_thousand_engines_leave_nothing_behind() -> None:
    """Neither threads nor entries in the fork registry stay."""
    gc.collect()
    before = fork.registered()
    for _ in range(1000):
        Engine().add("it", lambda: True)
    for _ in range(20):
        started = Engine()
        started.start()
        started.close()
        del started
    gc.collect()
    assert fork.registered() == before
    assert health_threads() == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_begins_anew() -> None:
    """The schedule runs in the child too, though the parent's lock was held at the fork; the parent's results do not count."""
    engine = Engine(interval=60)
    parent = os.getpid()
    engine.add("it", lambda: (True, "child" if os.getpid() != parent else "parent"))
    engine.start()
    try:
        assert engine.report().rows[0].output == "parent"
        with engine._lock:
            child = os.fork()
            if child == 0:
                told = engine.report().rows[0].output if engine.scheduled else "not scheduled"
                os._exit(0 if told == "child" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert engine.report().rows[0].output == "parent"
    finally:
        engine.close()


def test_a_turn_that_stumbles_does_not_end_the_schedule() -> None:
    """An error inside the schedule is logged and the next turn comes."""
    clock = Clock()
    turned = threading.Event()

    def broken() -> float:
        if turned.is_set():
            return clock()
        turned.set()
        raise OSError("no clock")

    engine = Engine(clock=broken)
    engine.start()
    try:
        assert turned.wait(30)
        assert engine.scheduled
    finally:
        engine.close()
