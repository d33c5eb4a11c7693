"""Promises of the error reports, short of the network."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest
from flask import Flask, abort
from werkzeug.exceptions import NotFound, ServiceUnavailable

from smartrealm.errors import Conflict, Unavailable
from smartrealm.headers import CallContext, enter_call, leave_call
from smartrealm.redaction import Redactor
from smartservice import errors
from smartservice.reporting import BugsnagSink, MemorySink, PrintedSink, Report, Reports

PLANTED = "hunter2-planted"


def make_app() -> tuple[Flask, Reports, list[Report]]:
    sink = MemorySink()
    reports = Reports(sink, redactor=Redactor(lambda: [PLANTED]), describe=lambda: {"service": "teams", "release": "7"})
    app = Flask("reporting_under_test")
    errors.install(app, report=reports.crashed)

    @app.get("/crash/<int:number>")
    def crash(number: int) -> str:
        reports.note(user={"id": number}, order={"number": number})
        reports.breadcrumb("loaded", number=number, password=PLANTED)
        raise ValueError(f"number {number}, {PLANTED}")

    @app.get("/plain")
    def plain() -> str:
        raise ValueError("plain")

    @app.get("/abort/<int:status>")
    def abort_with(status: int) -> str:
        abort(status)

    @app.get("/conflict")
    def conflict() -> str:
        raise Conflict("taken")

    @app.get("/twice")
    def twice() -> str:
        error = ValueError("twice")
        reports.notify(error)
        raise error

    return app, reports, sink.reports


def test_a_crash_is_reported_once_with_its_request() -> None:
    """A crash gives one report with method, route template, request id, caller and what is running."""
    app, _, reported = make_app()
    token = enter_call(CallContext(request_id="id-1", caller="billing"))
    try:
        app.test_client().get("/crash/3?page=2", headers={"Authorization": "Bearer abc123def456"})
    finally:
        leave_call(token)
    (report,) = reported
    assert (report.context, report.unhandled, report.severity) == ("GET /crash/<int:number>", True, "error")
    assert report.tabs["app"] == {"service": "teams", "release": "7"}
    request = report.tabs["request"]
    assert (request["request_id"], request["caller"], request["url"]) == (
        "id-1",
        "billing",
        "http://localhost/crash/3?page=2",
    )
    assert request["headers"]["Authorization"] == "********"
    assert (report.user, report.tabs["order"], report.trail[0].message) == ({"id": 3}, {"number": 3}, "loaded")


def test_nothing_is_left_for_the_next_request() -> None:
    """User, tabs and breadcrumbs of one request are in no report of a later one on the same thread."""
    app, _, reported = make_app()
    client = app.test_client()
    client.get("/crash/3")
    client.get("/plain")
    later = reported[1]
    assert (later.user, set(later.tabs), later.trail) == ({}, {"app", "request"}, ())


def test_callers_mistakes_are_never_reported() -> None:
    """Nothing below 500 is reported, neither by the pipeline nor by notify."""
    app, reports, reported = make_app()
    for path in ("/abort/400", "/abort/404", "/conflict", "/nowhere"):
        app.test_client().get(path)
    reports.notify(NotFound())
    reports.notify(Conflict("taken"))
    assert reported == []
    reports.notify(ServiceUnavailable())
    reports.notify(Unavailable("away"))
    assert len(reported) == 2


def test_an_error_that_was_notified_and_raised_is_reported_once() -> None:
    """notify followed by a crash with the same exception is one report; in the next request it is news."""
    app, reports, reported = make_app()
    app.test_client().get("/twice")
    assert len(reported) == 1
    same = ValueError("a constant")
    for request_id in ("one", "two"):
        token = enter_call(CallContext(request_id=request_id))
        reports.notify(same)
        leave_call(token)
    assert len(reported) == 3


def test_everything_is_redacted() -> None:
    """Secrets in message, user, lists, URLs, pairs and breadcrumbs are masked before any sink sees them."""
    app, reports, reported = make_app()
    app.test_client().get(f"/crash/1?api_key={PLANTED}", headers={"X-Api-Key": "key-of-caller", "Cookie": "a=b"})
    reports.notify(
        ValueError("postgresql://root:s3cr3t@db"),
        user={"token": "t0ken-of-user"},
        nested={"list": [{"password": "in-a-list"}, ("X-Api-Key", "in-a-pair"), "https://u:in-url@h/"]},
        password="bare-value",
    )
    text = repr(reported) + "".join(report.text() for report in reported)
    text = text.replace(str(reported[0].error), "")  # the exception object itself is not what is sent
    for secret in (
        PLANTED,
        "key-of-caller",
        "a=b",
        "s3cr3t",
        "t0ken-of-user",
        "in-a-list",
        "in-a-pair",
        "in-url",
        "bare-value",
    ):
        assert secret not in text


def test_notify_sorts_its_details() -> None:
    """Mappings become tabs, single values go into `context`."""
    _, reports, reported = make_app()
    reports.notify(ValueError("x"), severity="info", order={"id": 7}, attempt=2)
    (report,) = reported
    assert (report.tabs["order"], report.tabs["context"], report.severity) == ({"id": 7}, {"attempt": 2}, "info")
    assert (report.context, report.unhandled) == (None, False)


def test_printed_reports_are_one_block() -> None:
    """In the local realm a report is one readable block."""
    stream = io.StringIO()
    reports = Reports(PrintedSink(stream), describe=lambda: {"service": "teams"})
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        reports.notify(error, order={"id": 7})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "error report (handled)"
    assert lines[1:3] == ["  ValueError: two", "    lines"]
    assert "in test_printed_reports_are_one_block" in lines[3]
    assert lines[4:] == ["  app: service=teams", "  order: id=7"]


def test_a_report_that_cannot_be_made_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error whose text cannot be had harms nobody."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    _, reports, reported = make_app()
    reports.notify(Mute())
    assert reported == []
    assert "could not be made" in caplog.text


def test_capture_collects_instead_of_sending() -> None:
    """Tests may collect reports; afterwards they go their old way."""
    _, reports, reported = make_app()
    with reports.capture() as captured:
        reports.notify(ValueError("x"))
    reports.notify(ValueError("y"))
    assert (len(captured), len(reported)) == (1, 1)


def test_slotted_exceptions_are_reported() -> None:
    """An exception that takes no mark is reported all the same."""

    class Closed(Exception):
        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(name)

    _, reports, reported = make_app()
    reports.notify(Closed())
    assert len(reported) == 1


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def test_bugsnag_is_not_imported_without_a_key() -> None:
    """Without a key a report is dropped and bugsnag stays unimported."""
    code = (
        "import sys; from smartservice.reporting import BugsnagSink, Reports\n"
        "reports = Reports(BugsnagSink(lambda: '')); reports.prepare(); reports.notify(ValueError('x'))\n"
        "print('bugsnag' in sys.modules)"
    )
    assert run(code) == "False"


def test_no_hook_of_bugsnag_stays() -> None:
    """With a key, sys.excepthook and threading.excepthook stay Python's own, and the global client knows no key."""
    code = (
        "import sys, threading; from smartservice.reporting import BugsnagSink, Reports\n"
        "before = sys.excepthook, threading.excepthook\n"
        "reports = Reports(BugsnagSink(lambda: 'k' * 32, endpoint='http://127.0.0.1:9')); reports.prepare()\n"
        "import bugsnag\n"
        "print((sys.excepthook, threading.excepthook) == before, bugsnag.configuration.api_key)"
    )
    assert run(code) == "True None"


def test_close_is_idempotent() -> None:
    """Closing reports twice, used or not, is fine."""
    reports = Reports(BugsnagSink(lambda: ""))
    assert reports.flush(0)
    reports.close()
    reports.close()
