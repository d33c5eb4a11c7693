"""The answers: their form by Accept, their status, their headers, and how long their bytes are kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from healthcheck import Engine, Result
from healthcheck.answer import Kind, negotiate
from tests.unit.healthcheck.tools import Clock, Scripted, hanging, on_clock


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("application/json", "json"),
        ("application/health+json", "health"),
        ("text/plain", "text"),
        ("text/*", "text"),
        ("TEXT/PLAIN; charset=utf-8", "text"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "json"),
        ("application/json;q=0.5, application/health+json", "health"),
        ("application/health+json;q=0.1, text/plain;q=0.2", "text"),
        ("application/health+json;q=nonsense, */*;q=0.1", "json"),
        ("application/json;q=0, */*", "health"),
        ("application/json;q=0.2, text/plain;q=0.9, */*;q=0.1", "text"),
        ("application/*;q=0.5, application/health+json;q=0, text/plain;q=0.1", "json"),
        ("text/plain, application/json", "text"),
        ("application/json, text/plain, */*", "json"),
        ("text/plain, */*", "text"),
        ("*/*;q=0.1, text/plain;q=0.5", "text"),
        ("text/plain;q=nan, application/health+json;q=0.5", "health"),
        ("application/json;q=0", "json"),
        ("image/png", "json"),
        (",,;;=", "json"),
    ],
)
def test_accept_chooses_the_form(accept: str, kind: Kind) -> None:
    """The most wanted form that is offered; JSON where none is: a probe is never turned away."""
    assert negotiate(accept) == kind


def test_the_json_has_the_published_shape() -> None:
    """hostname, status, timestamp and results; each result with what both libraries have in theirs."""
    clock = Clock()
    engine = on_clock(clock, interval=5, describe=lambda: {"service": "orders", "api_key": "hunter22"})
    engine.add("database", lambda: (True, "fine"))
    answer = engine.answer(detailed=True)
    whole = json.loads(answer.body)
    assert (answer.status, whole["status"], whole["timestamp"], whole["service"]) == (200, "success", 1000.0, "orders")
    assert whole["hostname"]
    assert whole["api_key"] == "********"
    (row,) = whole["results"]
    expected = {
        "checker": "database",
        "output": "fine",
        "passed": True,
        "timestamp": 1000.0,
        "expires": 1005.0,
        "response_time": 0,
    }
    assert expected.items() <= row.items()


@pytest.mark.parametrize(
    ("group", "accept", "status"),
    [
        (None, "", 500),
        (None, "application/health+json", 503),
        (None, "text/plain", 503),
        ("ready", "", 503),
        ("ready", "text/plain", 503),
    ],
)
def test_a_failure_has_a_status(group: str | None, accept: str, status: int) -> None:
    """500 for the whole in the published form, 503 for groups and for the other forms."""
    engine = Engine()
    engine.add("database", lambda: (False, "gone"))
    assert engine.answer(group, accept).status == status


def test_a_warning_is_a_200() -> None:
    """What is only unwell goes on taking traffic."""
    engine = Engine()
    engine.add("disk", lambda: ("warn", "nearly full"))
    answer = engine.answer("ready", "application/health+json")
    assert (answer.status, answer.body) == (200, b'{"status": "warn"}')


def test_health_json_follows_the_draft() -> None:
    """checks is an object of arrays by component:measurement; output only where something is wrong."""
    clock = Clock(0.5)
    engine = on_clock(clock, describe=lambda: {"service": "orders", "version": "1"})
    engine.add("database", lambda: (True, "fine"))
    engine.add("disk", lambda: Result("warn", {"left": 3}, 0.04, "ratio"))
    engine.add("queue:length", lambda: (False, "too long"), critical=False)
    engine.add_gate("ready", lambda: "draining")
    answer = engine.answer("ready", "application/health+json", detailed=True)
    assert (answer.status, dict(answer.headers)["Content-Type"]) == (503, "application/health+json")
    time = "1970-01-01T00:00:00.500Z"
    assert json.loads(answer.body) == {
        "serviceId": "orders",
        "version": "1",
        "status": "fail",
        "output": "draining",
        "checks": {
            "database:responseTime": [
                {"componentId": "database", "status": "pass", "observedValue": 0, "observedUnit": "ms", "time": time}
            ],
            "disk:value": [
                {
                    "componentId": "disk",
                    "status": "warn",
                    "observedValue": 0.04,
                    "observedUnit": "ratio",
                    "time": time,
                    "output": '{"left": 3}',
                }
            ],
            "queue:length": [
                {
                    "componentId": "queue",
                    "status": "fail",
                    "observedValue": 0,
                    "observedUnit": "ms",
                    "time": time,
                    "output": "too long",
                }
            ],
        },
    }


def test_health_json_tells_every_check_whose_key_is_the_same() -> None:
    """A check called like another one's key is a second element under it, not lost."""
    engine = on_clock(Clock())
    engine.add("db", lambda: (False, "gone"))
    engine.add("db:responseTime", lambda: True)
    checks = json.loads(engine.answer(None, "application/health+json", detailed=True).body)["checks"]
    assert [part["status"] for part in checks["db:responseTime"]] == ["fail", "pass"]


def test_plain_text_is_one_line_for_each_check() -> None:
    """The status first; line breaks in an output cannot forge a line."""
    engine = Engine()
    engine.add("database", lambda: (False, "gone\npass everything"))
    engine.add_gate("ready", lambda: "draining")
    assert engine.answer("ready", "text/plain", detailed=True).body == (
        b"fail\nclosed: draining\nfail database: gone pass everything\n"
    )


@pytest.mark.parametrize(
    ("accept", "body"),
    [("", b'{"status": "failure"}'), ("application/health+json", b'{"status": "fail"}'), ("text/plain", b"fail\n")],
)
def test_strangers_see_the_status_word_only(accept: str, body: bytes) -> None:
    """Without details an answer is its status word, in every form."""
    engine = Engine(describe=lambda: {"version": "1"})
    engine.add("database", lambda: (False, "gone"))
    assert engine.answer("ready", accept).body == body


def test_no_answer_may_be_stored() -> None:
    """Every answer says no-store and that it varies by Accept; the 404 too."""
    engine = Engine()
    for answer in (engine.answer(), engine.answer("ready", "text/plain"), engine.answer("nightly")):
        headers = dict(answer.headers)
        assert (headers["Cache-Control"], headers["Vary"]) == ("no-store", "Accept")


def test_the_unknown_is_a_404() -> None:
    """An unknown group or check is a problem; only who may see details is told what there is."""
    engine = Engine()
    engine.add("database", lambda: True)
    assert engine.answer("nightly").status == 404
    assert b"database" not in engine.answer("ready", check="databse").body
    assert b"there are: database" in engine.answer("ready", check="databse", detailed=True).body


def test_one_check_can_be_asked_for() -> None:
    """An answer about one check is that check's status."""
    engine = Engine()
    engine.add("database", lambda: False)
    engine.add("redis", lambda: True)
    assert engine.answer("ready", check="redis").status == 200
    assert engine.answer(check="database").status == 500


def test_the_bytes_are_kept_while_nothing_changes() -> None:
    """An answer is written once for each form and each level of trust, until a result changes it or its time is over."""
    clock, check = Clock(), Scripted()
    engine = on_clock(clock, interval=5)
    engine.add("it", check)
    first = engine.answer("ready", detailed=True)
    clock.pass_(4)
    assert engine.answer("ready", detailed=True) is first
    assert engine.answer("ready") is not first
    clock.pass_(1)
    second = engine.answer("ready", detailed=True)
    assert json.loads(second.body)["timestamp"] == 1005.0
    engine.add("other", lambda: False)
    assert engine.answer("ready", detailed=True).status == 503


def test_an_answer_without_checks_is_renewed_too() -> None:
    """What describe() says is at most one interval old, also in a group without checks."""
    clock = Clock()
    version = ["1"]
    engine = on_clock(clock, interval=5, describe=lambda: {"version": version[0]})
    engine.answer("live", detailed=True)
    version[0] = "2"
    clock.pass_(5)
    assert json.loads(engine.answer("live", detailed=True).body)["version"] == "2"


def test_a_describe_that_fails_leaves_the_answer_whole() -> None:
    """The service's own words are left out when they cannot be had."""

    def describe() -> dict[str, Any]:
        raise OSError

    assert json.loads(Engine(describe=describe).answer(detailed=True).body)["status"] == "success"


def test_a_hung_check_says_since_when() -> None:
    """Both JSON forms carry the time at which the hung run began."""
    with hanging() as check:
        engine = on_clock(Clock(0), timeout=0.05)
        engine.add("it", check)
        (row,) = json.loads(engine.answer(detailed=True).body)["results"]
        assert row["hanging_since"] == 0
        part = json.loads(engine.answer("ready", "application/health+json", detailed=True).body)["checks"]
        assert part["it:responseTime"][0]["hangingSince"] == "1970-01-01T00:00:00.000Z"


def test_transitions_are_in_the_whole() -> None:
    """The answer about everything ends with the latest changes."""
    engine = Engine()
    engine.add("it", lambda: False)
    engine.report()
    (change,) = json.loads(engine.answer(detailed=True).body)["transitions"]
    assert (change["checker"], change["before"], change["after"]) == ("it", None, "fail")
