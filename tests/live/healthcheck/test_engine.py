"""The engine: registering, running, judging."""

from __future__ import annotations

import functools
import sys
import threading
import time
from typing import Any

import pytest

from healthcheck import Engine, Result, checks
from smartrealm.errors import ConfigurationError, NotFound
from smartrealm.redaction import redact_text
from tests.processes import wait_until
from tests.unit.healthcheck.tools import Clock, Scripted, hanging, health_threads, in_threads, on_clock


def test_fifty_concurrent_polls_share_one_run() -> None:
    """Fifty polls at once of a stale check are one execution, and all see its result."""
    runs: list[int] = []

    def slow() -> tuple[bool, str]:
        runs.append(1)
        time.sleep(0.2)
        return True, "fine"

    engine = Engine()
    engine.add("slow", slow)
    reports = in_threads(50, engine.report)
    assert len(runs) == 1
    assert [report.rows[0].output for report in reports] == ["fine"] * 50


def test_checks_run_in_parallel() -> None:
    """Eight checks take as long as the longest, not as all together."""
    engine = Engine()
    together = threading.Barrier(8)
    for number in range(8):
        engine.add(f"check-{number}", lambda: together.wait(5) >= 0)
    assert engine.report().status == "pass"


def test_a_result_is_kept_for_its_interval() -> None:
    """A poll within the interval asks nothing again; one after it does."""
    clock, check = Clock(), Scripted()
    engine = on_clock(clock, interval=5)
    engine.add("database", check)
    engine.report()
    clock.pass_(4.9)
    engine.report()
    assert check.runs == 1
    clock.pass_(0.1)
    engine.report()
    assert check.runs == 2


@pytest.mark.parametrize(
    ("returned", "status", "output"),
    [
        (True, "pass", None),
        (False, "fail", None),
        (None, "pass", None),
        ((True, "fine"), "pass", "fine"),
        ((0, {"lag": 3}), "fail", {"lag": 3}),
        (("warn", "slow"), "warn", "slow"),
        (Result("warn", "full", 0.9, "ratio"), "warn", "full"),
    ],
)
def test_what_a_check_may_return(returned: Any, status: str, output: Any) -> None:
    """(ok, output), a bool, None and a Result are understood."""
    engine = Engine()
    engine.add("it", lambda: returned)
    row = engine.report().rows[0]
    assert (row.status, row.output) == (status, output)


@pytest.mark.parametrize(
    "returned",
    [
        "fine",
        42,
        (True,),
        (True, "a", "b"),
        ("splendid", "x"),
        Result("great"),  # type: ignore[arg-type]
        (True, object()),
        (True, float("nan")),
        (True, {1: {2, 3}}),
        object(),
    ],
)
def test_nonsense_is_a_failed_row(returned: Any) -> None:
    """What a check must not return is a failure that says so, in a reply that can be read."""
    engine = Engine()
    engine.add("it", lambda: returned)
    answer = engine.answer(detailed=True)
    assert answer.status == 500
    assert b"returned" in answer.body or b"instead of" in answer.body or b"written as JSON" in answer.body


def test_a_coroutine_is_a_failed_row() -> None:
    """An async function given as a check fails with a sentence, and leaves no warning behind."""

    async def check() -> bool:
        return True

    engine = Engine()
    engine.add("it", check)
    assert "coroutine" in engine.report().rows[0].output


@pytest.mark.parametrize("error", [ValueError("wrong\nand long"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_a_check_raises_is_a_failed_row(error: BaseException) -> None:
    """An exception of any kind is contained: type and first line are the row's output."""
    engine = Engine()
    engine.add("it", Scripted(error))
    row = engine.report().rows[0]
    assert (row.status, row.output.split("\n")) == ("fail", [row.output])
    assert row.output.startswith(type(error).__name__)


def test_secrets_in_an_output_are_masked() -> None:
    """What a check says is redacted before anything sees it."""
    engine = Engine()
    engine.add("a", lambda: (False, "cannot reach postgresql://app:hunter22@db/x"))
    engine.add("b", Scripted(RuntimeError("password=hunter22 refused")))
    engine.add("c", lambda: (True, {"api_key": "hunter22"}))
    assert b"hunter22" not in engine.answer(detailed=True).body


def test_an_own_redactor_is_used() -> None:
    """An engine masks with the redactor it was given."""
    engine = Engine(redact=lambda value: "gone")
    engine.add("a", lambda: (True, "shown"))
    assert engine.report().rows[0].output == "gone"


def test_a_long_output_is_cut() -> None:
    """A check cannot make the reply grow without bound."""
    engine = Engine()
    engine.add("a", lambda: (True, "x" * 100_000))
    assert len(engine.answer(detailed=True).body) < 10_000


# -- timeouts ----------------------------------------------------------------------------------------------------------


def test_a_timeout_needs_no_signals() -> None:
    """In any thread a poll gets its answer when the check's timeout is over."""
    with hanging() as check:
        engine = Engine(timeout=0.05)
        engine.add("it", check)
        (report,) = in_threads(1, engine.report)
        assert (report.status, report.rows[0].output) == ("fail", "no answer within 0.05 s")


def test_a_hung_check_is_not_started_again() -> None:
    """One thread per hung check: later polls see since when it hangs, and do not wait for it."""
    clock = Clock()
    with hanging() as check:
        engine = on_clock(clock, timeout=0.05, interval=5)
        engine.add("it", check)
        engine.report()
        taken = []
        for _ in range(5):
            clock.pass_(6)
            begun = time.monotonic()
            row = engine.report().rows[0]
            taken.append(time.monotonic() - begun)
        assert min(taken) < 0.05
        assert check.runs == 1
        assert row.hanging_since == 1000.0
        assert "not started again" in row.output
        assert health_threads() == ["healthcheck-it"]


def test_a_hung_check_that_comes_back_is_run_again() -> None:
    """Its late answer is not believed; the next run is."""
    clock = Clock()
    with hanging() as check:
        engine = on_clock(clock, timeout=0.05, interval=5)
        engine.add("it", check)
        assert engine.report().status == "fail"
        check.hangs = False
        check.let_go.set()
        wait_until(lambda: not health_threads(), what="the end of the thread")
        row = engine.report().rows[0]
        assert (row.status, row.hanging_since) == ("fail", None)
        clock.pass_(6)
        assert engine.report().status == "pass"
        assert check.runs == 2


def test_each_check_has_its_own_timeout() -> None:
    """A hung check costs the others nothing but the wait, and fails alone."""
    with hanging() as check:
        engine = Engine(timeout=5)
        engine.add("hung", check, timeout=0.05)
        engine.add("quick", lambda: True)
        assert [row.status for row in engine.report().rows] == ["fail", "pass"]


def test_no_thread_to_be_had_is_a_failed_row(thread_famine: None) -> None:
    """When the system gives no thread, the reply says so instead of breaking."""
    engine = Engine()
    engine.add("it", lambda: True)
    assert "can't start new thread" in engine.report().rows[0].output


@pytest.fixture
def thread_famine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's own way of saying that there are no more threads."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


# -- judging -----------------------------------------------------------------------------------------------------------


def test_three_failures_down_two_passes_up() -> None:
    """By default a check falls with its third failure in a row and rises with its second pass."""
    clock, check = Clock(), Scripted()
    engine = Engine(clock=clock, wall=clock, interval=5)
    engine.add("it", check)
    seen = []
    for answer in (True, False, True, False, False, False, True, False, True, True):
        check.answer = answer
        seen.append(engine.report().rows[0].status)
        clock.pass_(5)
    assert seen == ["pass", "pass", "pass", "pass", "pass", "fail", "fail", "fail", "fail", "pass"]


def test_a_row_shows_what_the_latest_run_found() -> None:
    """While hysteresis holds the status, `observed` and `output` tell the latest result."""
    clock, check = Clock(), Scripted()
    engine = Engine(clock=clock, wall=clock)
    engine.add("it", check)
    engine.report()
    clock.pass_(5)
    check.answer = (False, "gone")
    row = engine.report().rows[0]
    assert (row.status, row.observed, row.output) == ("pass", "fail", "gone")


def test_the_first_result_counts_at_once() -> None:
    """A service that begins unwell says so with its first answer."""
    engine = Engine()
    engine.add("it", lambda: False)
    assert engine.report().status == "fail"


def test_old_news_does_not_hold_a_status() -> None:
    """After a silence longer than it takes to fall, one result counts."""
    clock, check = Clock(), Scripted()
    engine = Engine(clock=clock, wall=clock, interval=5, timeout=2)
    engine.add("it", check)
    engine.report()
    clock.pass_(3600)
    check.answer = False
    assert engine.report().status == "fail"


def test_pass_and_warn_change_at_once() -> None:
    """Between pass and warn there is no hysteresis: both take traffic."""
    clock, check = Clock(), Scripted(("warn", "slow"))
    engine = Engine(clock=clock, wall=clock)
    engine.add("it", check)
    seen = [engine.report().status]
    for answer in (True, ("warn", "slow")):
        clock.pass_(5)
        check.answer = answer
        seen.append(engine.report().status)
    assert seen == ["warn", "pass", "warn"]


def test_a_check_that_is_not_critical_only_warns() -> None:
    """The row fails, the group warns."""
    engine = Engine()
    engine.add("it", lambda: False, critical=False)
    report = engine.report("ready")
    assert (report.status, report.rows[0].status) == ("warn", "fail")


def test_a_group_holds_its_own_checks() -> None:
    """A report of a group is made of that group's checks; without a group, of all."""
    engine = Engine()
    engine.add("database", lambda: False)
    engine.add("reports", lambda: True, groups=("nightly", "ready"))
    assert engine.report("live").rows == ()
    assert [row.name for row in engine.report("nightly").rows] == ["reports"]
    assert [row.name for row in engine.report().rows] == ["database", "reports"]
    assert engine.report("ready", check="reports").status == "pass"
    assert engine.groups == ("live", "ready", "startup", "nightly")


def test_the_unknown_is_not_found() -> None:
    """An unknown group or check names those there are."""
    engine = Engine()
    engine.add("database", lambda: True)
    with pytest.raises(NotFound, match='"nightly"; there are: live, ready, startup'):
        engine.report("nightly")
    with pytest.raises(NotFound, match='"databse" here; there are: database'):
        engine.report("ready", check="databse")
    with pytest.raises(NotFound):
        engine.report("live", check="database")


# -- registering -------------------------------------------------------------------------------------------------------


def test_the_live_group_refuses_a_dependency() -> None:
    """Liveness never contains a dependency; the refusal names the check."""
    engine = Engine()
    with pytest.raises(ConfigurationError, match='"database" asks a dependency'):
        engine.add("database", lambda: True, groups=("live",))
    with pytest.raises(ConfigurationError, match='"disk" asks a dependency'):
        engine.add("disk", checks.disk("/"), groups=("ready", "live"), dependency=False)
    with pytest.raises(ConfigurationError, match='"partial" asks a dependency'):
        engine.add("partial", functools.partial(checks.disk("/")), groups=("live",), dependency=False)
    engine.add("own", lambda: True, groups=("live",), dependency=False)
    assert [row.name for row in engine.report("live").rows] == ["own"]


@pytest.mark.parametrize(
    ("name", "check", "settings", "sentence"),
    [
        ("a/b", lambda: True, {}, "needs a name"),
        ("", lambda: True, {}, "needs a name"),
        (None, lambda: True, {}, "needs a name"),
        ("it", lambda: True, {"groups": ("a b",)}, "needs a name"),
        ("it", lambda: True, {"groups": ()}, "in no group"),
        ("it", "SELECT 1", {}, "is a str; give a function"),
        ("taken", lambda: True, {}, "registered already"),
        ("it", lambda: True, {"timeout": 0}, "timeout above 0"),
        ("it", lambda: True, {"interval": -1}, "at least 0"),
    ],
)
def test_a_mistake_in_registering_is_named(name: str, check: Any, settings: dict[str, Any], sentence: str) -> None:
    """What cannot work is refused when it is registered."""
    engine = Engine()
    engine.add("taken", lambda: True)
    with pytest.raises(ConfigurationError, match=sentence):
        engine.add(name, check, **settings)


# -- gates and startup -------------------------------------------------------------------------------------------------


def test_a_gate_is_asked_at_every_poll() -> None:
    """A closed gate turns its group red with the next poll and green again with the next, cached or not."""
    engine = Engine()
    closed: list[str] = []
    engine.add_gate("ready", lambda: closed[0] if closed else None)
    assert engine.answer("ready").status == 200
    closed.append("draining")
    assert engine.answer("ready").status == 503
    assert engine.answer().status == 500
    assert engine.report("ready").reasons == ("draining",)
    assert engine.answer("live").status == 200
    closed.clear()
    assert engine.answer("ready").status == 200


def test_a_gate_that_raises_is_closed() -> None:
    """A broken gate does not let traffic in, nor break the reply."""
    engine = Engine()

    def gate() -> str | None:
        raise OSError("no map")

    engine.add_gate("ready", gate)
    assert engine.report("ready").reasons == ("a gate failed: OSError",)


def test_startup_passes_once() -> None:
    """Once passed, startup stays passed; its own checks are not run any more and count no more."""
    clock, warm, both = Clock(), Scripted(False), Scripted()
    engine = on_clock(clock)
    engine.add("warm", warm, groups=("startup",))
    engine.add("both", both, groups=("startup", "ready"))
    assert engine.report("startup").status == "fail"
    assert engine.report().status == "fail"
    warm.answer = True
    clock.pass_(5)
    assert engine.report("startup").status == "pass"
    warm.answer = both.answer = False
    clock.pass_(5)
    assert (engine.report("startup").status, engine.report("ready").status) == ("pass", "fail")
    assert warm.runs == 2


def test_startup_waits_for_its_gate() -> None:
    """A gate of startup holds it back until it opens, and is not asked after that."""
    engine = Engine()
    reasons = ["loading"]
    engine.add_gate("startup", lambda: reasons[0] if reasons else None)
    assert engine.answer("startup").status == 503
    reasons.clear()
    assert engine.answer("startup").status == 200
    reasons.append("loading")
    assert engine.answer("startup").status == 200


# -- transitions -------------------------------------------------------------------------------------------------------


def test_each_transition_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line for each change of status, none for a repeated result nor for a first pass."""
    caplog.set_level("INFO", logger="healthcheck")
    clock, check = Clock(), Scripted()
    engine = on_clock(clock)
    engine.add("it", check)
    for answer in (True, True, (False, "gone"), (False, "gone"), True):
        check.answer = answer
        engine.report()
        clock.pass_(5)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "health check it is now fail, was pass (gone)"),
        ("INFO", "health check it is now pass, was fail"),
    ]


@pytest.mark.parametrize("name", ["database", "auth", "token", "session-key"])
def test_the_redaction_of_logs_leaves_a_transition_readable(caplog: pytest.LogCaptureFixture, name: str) -> None:
    """A check's name and status before its output do not make the output look like a password."""
    caplog.set_level("INFO", logger="healthcheck")
    clock, check = Clock(), Scripted()
    engine = on_clock(clock)
    engine.add(name, check)
    for answer in ((False, "gone"), ("warn", "slow"), (True, "back")):
        check.answer = answer
        engine.report()
        clock.pass_(5)
    messages = [record.getMessage() for record in caplog.records]
    assert [message.rpartition(" ")[2] for message in messages] == ["(gone)", "(slow)", "(back)"]
    assert [redact_text(message) for message in messages] == messages


def test_the_last_twenty_transitions_are_kept() -> None:
    """Older ones make way."""
    clock, check = Clock(), Scripted()
    engine = on_clock(clock)
    engine.add("it", check)
    for number in range(30):
        check.answer = number % 2 == 0
        engine.report()
        clock.pass_(5)
    assert len(engine.transitions) == 20
    assert engine.transitions[-1].after == "fail"


def test_listeners_hear_of_transitions() -> None:
    """A listener gets each change, the first result too; one that raises harms nothing."""
    clock, check = Clock(), Scripted()
    engine = on_clock(clock)
    heard: list[tuple[str | None, str]] = []
    engine.on_transition(lambda change: 1 / 0)
    engine.on_transition(lambda change: heard.append((change.before, change.after)))
    engine.add("it", check)
    assert engine.statuses() == {"it": None}
    engine.report()
    check.answer = False
    clock.pass_(5)
    engine.report()
    assert heard == [(None, "pass"), ("pass", "fail")]
    assert engine.statuses() == {"it": "fail"}


def test_a_poll_that_comes_late_does_not_run_again() -> None:
    """A thread that found a check stale just before another thread's run of it landed uses that result."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(30):
            check = Scripted()
            engine = Engine(interval=60)
            engine.add("it", check)
            in_threads(16, engine.report)
            assert check.runs == 1
    finally:
        sys.setswitchinterval(usual)
