"""`HealthCheck`, as both published libraries promise it."""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from typing import Any

import pytest
from flask import Blueprint, Flask, current_app, request

from healthcheck import HealthCheck
from healthcheck.healthcheck import json_success_handler
from smartrealm.errors import ConfigurationError
from tests.unit.healthcheck.tools import Clock, Hanging, Scripted, hanging, health_threads, in_threads


def good() -> tuple[bool, str]:
    return True, "fine"


def bad() -> tuple[bool, str]:
    return False, "gone"


def reply(health: HealthCheck, check: str | None = None) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(health.run(check)[0])
    return whole


def named(name: str, answer: Any) -> Scripted:
    check = Scripted(answer)
    check.__name__ = name  # type: ignore[attr-defined]
    return check


# -- the reply ---------------------------------------------------------------------------------------------------------


def test_without_checks_all_is_well() -> None:
    """An empty health check answers 200, success and no results."""
    body, status, headers = HealthCheck().run()
    assert (status, headers) == (200, {"Content-Type": "application/json"})
    whole = json.loads(body)
    assert (whole["status"], whole["results"], set(whole)) == (
        "success",
        [],
        {"hostname", "status", "timestamp", "results"},
    )


def test_a_row_has_the_published_members() -> None:
    """checker, output, passed, timestamp, expires and response_time."""
    health = HealthCheck(checkers=[good])
    (row,) = reply(health)["results"]
    assert set(row) == {"checker", "output", "passed", "timestamp", "expires", "response_time"}
    assert (row["checker"], row["output"], row["passed"]) == ("good", "fine", True)
    assert row["expires"] == pytest.approx(row["timestamp"] + 27)


def test_one_failure_fails_the_whole() -> None:
    """All checks run, all failures are told, the status is 500."""
    health = HealthCheck(checkers=[bad, good])
    body, status, _ = health.run()
    whole = json.loads(body)
    assert (status, whole["status"]) == (500, "failure")
    assert [row["checker"] for row in whole["results"]] == ["bad", "good"]
    assert whole["results"][0]["expires"] == pytest.approx(whole["results"][0]["timestamp"] + 9)


def test_one_check_can_be_run_by_name() -> None:
    """run(check=...) runs the checks of that name; of an unknown name there are none, and none failed."""
    health = HealthCheck(checkers=[good, bad])
    assert [row["checker"] for row in reply(health, "good")["results"]] == ["good"]
    assert health.run(check="bad")[1] == 500
    assert health.run(check="unknown")[1] == 200


def test_status_headers_and_handlers_can_be_chosen() -> None:
    """What is handed in is what is answered."""
    health = HealthCheck(
        success_status=299,
        success_headers={"X-Well": "yes"},
        success_handler=lambda results: f"well {len(results)}",
        failed_status=599,
        failed_headers={"X-Well": "no"},
        failed_handler=lambda results: f"unwell {len(results)}",
    )
    assert health.run() == ("well 0", 299, {"X-Well": "yes"})
    health.add_check(bad)
    assert health.run() == ("unwell 1", 599, {"X-Well": "no"})


def test_without_handlers_the_reply_is_a_word() -> None:
    """OK or NOT OK."""
    health = HealthCheck(success_handler=None, failed_handler=None)
    assert health.run()[0] == "OK"
    health.add_check(bad)
    assert health.run()[0] == "NOT OK"


def test_sections_are_members_of_the_reply() -> None:
    """A value or a function's value; one that raises is left out; handlers get them as keywords."""
    health = HealthCheck(version="1.2", broken=lambda: 1 / 0)
    health.add_section("owner", lambda: {"name": "teams", "password": "hunter22"})
    whole = reply(health)
    assert (whole["version"], whole["owner"]) == ("1.2", {"name": "teams", "password": "********"})
    assert "broken" not in whole
    health.success_handler = lambda results, **sections: ",".join(sections)
    assert health.run()[0] == "version,owner"


def test_a_section_has_one_owner() -> None:
    """A name that is taken is refused."""
    health = HealthCheck(version="1.2")
    with pytest.raises(ConfigurationError, match=r'^The name "version" is already taken\.$'):
        health.add_section("version", "1.3")


# -- checks that misbehave ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ValueError("wrong"), "wrong"),
        (SystemExit("ended"), "ended"),
        ("text", "too many values to unpack"),
        (None, "cannot unpack"),
        ((True, object()), "cannot be written as JSON"),
        ((False, {1, 2}), "cannot be written as JSON"),
        ((True, float("inf")), "cannot be written as JSON"),
    ],
)
def test_a_check_that_misbehaves_is_a_failed_row(answer: Any, said: str) -> None:
    """What a check raises or returns never breaks the reply."""
    body, status, _ = HealthCheck(checkers=[named("it", answer)]).run()
    (row,) = json.loads(body)["results"]
    assert (status, row["passed"], said in row["output"]) == (500, False, True)


def test_an_own_handler_gets_what_the_check_gave() -> None:
    """Output that JSON cannot hold is the own handler's to write."""
    seen: list[Any] = []
    thing = object()
    health = HealthCheck(
        success_handler=lambda results: (seen.append(results[0]["output"]), "ok")[1],  # type: ignore[func-returns-value]
        checkers=[named("it", (True, thing))],
    )
    assert health.run()[:2] == ("ok", 200)
    assert seen == [thing]


def test_an_exception_handler_decides() -> None:
    """It is given the check and the error, and its answer is the row; its own failure is a failed row."""
    error = ValueError("wrong")
    seen: list[Any] = []

    def handler(checker: Any, problem: Any) -> tuple[bool, str]:
        seen.append((checker, problem))
        return True, "forgiven"

    check = named("it", error)
    assert reply(HealthCheck(exception_handler=handler, checkers=[check]))["results"][0]["output"] == "forgiven"
    assert seen == [(check, error)]
    broken = HealthCheck(exception_handler=lambda checker, problem: 1 / 0, checkers=[check])
    assert "ZeroDivisionError" in reply(broken)["results"][0]["output"]


def test_a_check_of_any_kind_has_a_name() -> None:
    """Partials, callable objects and unhashable ones are checks too."""

    class Odd:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> tuple[bool, str]:
            return True, "odd"

    health = HealthCheck(checkers=[functools.partial(good), Odd(), Scripted((True, "x"))])
    assert [row["checker"] for row in reply(health)["results"]] == ["good", "Odd", "Scripted"]


def test_secrets_in_outputs_are_masked(caplog: pytest.LogCaptureFixture) -> None:
    """An output never shows a password; nor does the log line, though an own handler gets the output as it is."""
    secret = "postgresql://app:hunter22@db/x refused"
    assert "hunter22" not in HealthCheck(checkers=[named("it", (False, secret))]).run()[0]
    HealthCheck(checkers=[named("it", (False, OSError(secret)))], failed_handler=None).run()
    assert len(caplog.records) == 2
    assert "hunter22" not in caplog.text


# -- the log -----------------------------------------------------------------------------------------------------------


def test_failures_are_logged_by_the_published_logger(caplog: pytest.LogCaptureFixture) -> None:
    """A failure is an error of `healthcheck.healthcheck`; an exception has its traceback there too."""
    HealthCheck(checkers=[bad]).run()
    assert caplog.record_tuples == [
        ("healthcheck.healthcheck", logging.ERROR, 'Health check "bad" failed with output "gone"')
    ]
    caplog.clear()
    HealthCheck(checkers=[named("it", ValueError("wrong"))]).run()
    assert [record.getMessage() for record in caplog.records] == [
        "wrong",
        'Health check "it" failed with output "wrong"',
    ]
    assert caplog.records[0].exc_info is not None


def test_failures_on_an_app_are_logged_by_the_app(caplog: pytest.LogCaptureFixture) -> None:
    """On a Flask app it is the app's logger; log_on_failure=False is silent."""
    app = Flask("orders")
    HealthCheck(app, "/loud", checkers=[bad])
    HealthCheck(app, "/quiet", checkers=[bad], log_on_failure=False, endpoint="quiet")
    app.test_client().get("/quiet")
    assert caplog.record_tuples == []
    app.test_client().get("/loud")
    assert caplog.record_tuples == [("orders", logging.ERROR, 'Health check "bad" failed with output "gone"')]


# -- caching -----------------------------------------------------------------------------------------------------------


def clocked(**settings: Any) -> tuple[HealthCheck, Clock, Scripted]:
    clock = Clock()
    check = named("it", (True, "fine"))
    health = HealthCheck(checkers=[check], **settings)
    health.wall_clock = health.clock = clock
    return health, clock, check


@pytest.mark.parametrize(("answer", "ttl"), [((True, "fine"), 27), ((False, "gone"), 9)])
def test_a_result_is_kept_for_its_ttl(answer: Any, ttl: int) -> None:
    """27 seconds for a success, 9 for a failure; the kept row is the same row."""
    health, clock, check = clocked()
    check.answer = answer
    first = reply(health)["results"]
    clock.pass_(ttl)
    assert reply(health)["results"] == first
    clock.pass_(0.1)
    assert reply(health)["results"] != first
    assert check.runs == 2


@pytest.mark.parametrize("none", [None, 0])
def test_without_ttl_nothing_is_kept(none: Any) -> None:
    """success_ttl=None and failed_ttl=None ask each time."""
    health, clock, check = clocked(success_ttl=none, failed_ttl=none)
    for _ in range(3):
        health.run()
        clock.pass_(0.001)
    assert check.runs == 3


def test_setting_the_wall_clock_back_keeps_nothing_alive() -> None:
    """A result is no older than its ttl by the monotonic clock, whatever the wall clock says."""
    health, clock, check = clocked()
    health.wall_clock = wall = Clock(5000.0)
    health.run()
    wall.pass_(-3600)
    clock.pass_(28)
    health.run()
    assert check.runs == 2


def test_the_cache_is_open() -> None:
    """`cache` is a dict by check, which can be read, changed and emptied."""
    health, _, check = clocked()
    health.run()
    assert health.cache[check]["output"] == "fine"
    health.cache[check]["expires"] = 0
    health.run()
    health.cache.clear()
    health.run()
    assert check.runs == 3


def test_checks_are_kept_one_by_one() -> None:
    """An expired failure is asked again while a success beside it is still kept."""
    health, clock, check = clocked()
    other = named("other", (False, "gone"))
    health.add_check(other)
    health.run()
    clock.pass_(10)
    health.run()
    assert (check.runs, other.runs) == (1, 2)


# -- running together --------------------------------------------------------------------------------------------------


def test_concurrent_calls_share_one_run() -> None:
    """Fifty calls at once of a stale check are one execution."""
    runs: list[int] = []

    def slow() -> tuple[bool, str]:
        runs.append(1)
        time.sleep(0.1)
        return True, "fine"

    health = HealthCheck(checkers=[slow])
    results = in_threads(50, health.run)
    assert len(runs) == 1
    assert {status for _, status, _ in results} == {200}


def test_checks_that_are_due_run_together() -> None:
    """Eight checks take as long as the longest; the order of the results is that of the checks."""
    together = threading.Barrier(8)

    def check(number: int) -> tuple[bool, int]:
        together.wait(5)
        return True, number

    health = HealthCheck(checkers=[functools.partial(check, number) for number in range(8)])
    assert [row["output"] for row in reply(health)["results"]] == list(range(8))


def test_one_check_runs_in_the_callers_thread() -> None:
    """A single check, and every check with in_parallel off, stays in the thread of the caller."""

    def where() -> tuple[bool, str]:
        return True, threading.current_thread().name

    def again() -> tuple[bool, str]:
        return where()

    here = threading.current_thread().name
    assert reply(HealthCheck(checkers=[where]))["results"][0]["output"] == here
    health = HealthCheck(checkers=[where, again])
    assert [row["output"] == here for row in reply(health)["results"]] == [True, False]
    health.cache.clear()
    health.in_parallel = False
    assert [row["output"] for row in reply(health)["results"]] == [here, here]


def test_parallel_checks_have_the_request_and_an_app_context_of_their_own() -> None:
    """In a helper thread current_app and request work, and what is opened per app context is closed there."""
    app = Flask("orders")
    torn_down: list[str] = []

    @app.teardown_appcontext
    def close(error: BaseException | None) -> None:
        torn_down.append(threading.current_thread().name)

    def one() -> tuple[bool, str]:
        return True, f"{current_app.name} {request.path}"

    def two() -> tuple[bool, str]:
        return one()

    HealthCheck(app, "/healthcheck", checkers=[one, two])
    answer = app.test_client().get("/healthcheck").json
    assert [row["output"] for row in answer["results"]] == ["orders /healthcheck"] * 2  # type: ignore[index]
    assert len(set(torn_down)) == 2


# -- timeouts ----------------------------------------------------------------------------------------------------------


def test_error_timeout_needs_no_signals() -> None:
    """In any thread a check that takes longer is a failed row with the published words."""
    with hanging() as check:
        health = HealthCheck(error_timeout=0.05, checkers=[check])
        (answer,) = in_threads(1, health.run)
        assert answer[1] == 500
        assert json.loads(answer[0])["results"][0]["output"] == "Timeout error!"


def test_error_timeout_leaves_one_thread_for_each_hung_check() -> None:
    """While a check hangs it is not started again, and the row says so."""
    with hanging() as check:
        health = HealthCheck(error_timeout=0.05, failed_ttl=None, checkers=[check])
        for _ in range(4):
            row = reply(health)["results"][0]
        assert check.runs == 1
        assert "not started again" in row["output"]
        assert len(health_threads()) == 1


def test_a_check_in_time_is_not_hurt_by_the_limit() -> None:
    """With error_timeout a quick check answers as without, its exceptions too."""
    health = HealthCheck(error_timeout=5, checkers=[good, named("it", ValueError("wrong"))])
    assert [row["output"] for row in reply(health)["results"]] == ["fine", "wrong"]


def test_the_timeout_reaches_the_exception_handler() -> None:
    """A missed limit is a healthcheck.timeout.TimeoutError like any other exception."""
    from healthcheck.timeout import TimeoutError

    seen: list[BaseException] = []

    def handler(checker: Any, error: BaseException) -> tuple[bool, str]:
        seen.append(error)
        return False, "slow"

    with hanging() as check:
        health = HealthCheck(error_timeout=0.02, exception_handler=handler, checkers=[check])
        assert reply(health)["results"][0]["output"] == "slow"
    assert [type(error) for error in seen] == [TimeoutError]
    assert isinstance(check, Hanging)


# -- on a Flask app ----------------------------------------------------------------------------------------------------


def test_it_puts_itself_on_an_app() -> None:
    """HealthCheck(app, path) and init_app(app, path) answer GET and HEAD at the path, under the endpoint `check`."""
    for lazily in (False, True):
        app = Flask("orders")
        health = HealthCheck() if lazily else HealthCheck(app, "/h")
        if lazily:
            health.init_app(app, "/h")
        health.add_check(good)
        client = app.test_client()
        assert client.get("/h").json["results"][0]["output"] == "fine"  # type: ignore[index]
        assert client.head("/h").status_code == 200
        assert client.get("/h").mimetype == "application/json"
        health.add_check(bad)
        assert client.get("/h").status_code == 500
        assert app.view_functions["check"] == health.check


def test_it_puts_itself_on_a_blueprint() -> None:
    """A blueprint takes it as well."""
    blueprint = Blueprint("internal", "internal")
    HealthCheck(blueprint, "/h", checkers=[good])
    app = Flask("orders")
    app.register_blueprint(blueprint, url_prefix="/internal")
    assert app.test_client().get("/internal/h").status_code == 200


def test_it_can_be_a_view_of_ones_own() -> None:
    """`add_url_rule(..., view_func=lambda: health.run())`, as py-healthcheck shows it."""
    app = Flask("orders")
    health = HealthCheck(checkers=[good])
    app.add_url_rule("/healthcheck", "healthcheck", view_func=lambda: health.run())
    app.add_url_rule("/healthcheck/<check>", "one", view_func=lambda check: health.run(check))
    assert app.test_client().get("/healthcheck").status_code == 200
    assert len(app.test_client().get("/healthcheck/good").json["results"]) == 1  # type: ignore[index]


def test_a_handler_on_an_app_gets_the_errors_type() -> None:
    """Handlers of the form with an app were always given the type; the default one tells the message."""
    app = Flask("orders")
    seen: list[Any] = []

    def handler(checker: Any, error: Any) -> tuple[bool, str]:
        seen.append(error)
        return False, "handled"

    check = named("it", ValueError("wrong"))
    HealthCheck(app, "/own", exception_handler=handler, checkers=[check], endpoint="own")
    HealthCheck(app, "/default", checkers=[check])
    app.test_client().get("/own")
    assert seen == [ValueError]
    assert app.test_client().get("/default").json["results"][0]["output"] == "wrong"  # type: ignore[index]


def test_a_subclass_may_run_checks_its_own_way() -> None:
    """run_check is the place to override; its rows are cached by what they say."""

    class Counted(HealthCheck):
        runs = 0

        def run_check(self, checker: Any) -> dict[str, Any]:
            self.runs += 1
            return super().run_check(checker)

    health = Counted(checkers=[good])
    health.run()
    health.run()
    assert health.runs == 1


def test_the_default_handler_writes_anything() -> None:
    """Called with what JSON cannot hold, the default handler writes its redacted text."""
    thing = {"circular": None}
    thing["circular"] = thing  # type: ignore[assignment]
    assert json.loads(json_success_handler([], thing=thing, when={1: object(), "nan": float("nan"), (1,): 2}))
