"""Promises of the error reports against real sockets: a receiver that records, one that hangs, one that refuses."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from flask import Flask

from smartrealm.redaction import Redactor
from smartservice import errors
from smartservice.reporting import BugsnagSink, Reports
from tests.processes import free_port, wait_until

KEY = "0123456789abcdef0123456789abcdef"


class Receiver:
    """Accepts what Bugsnag would and remembers it."""

    def __init__(self) -> None:
        received: list[tuple[dict[str, str], str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                received.append((dict(self.headers), body))
                self.send_response(202)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.received = received
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body)["events"][0] for _, body in self.received]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    thread.join()


@contextmanager
def hanging() -> Iterator[str]:
    """An endpoint that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def refusing() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


def make(url: str, known: tuple[str, ...] = ()) -> tuple[Flask, Reports]:
    redactor = Redactor(lambda: known)
    sink = BugsnagSink(lambda: KEY, endpoint=url, realm="testing", release="7", redactor=redactor)
    reports = Reports(sink, redactor=redactor, describe=lambda: {"service": "teams", "config_version": "3"})
    app = Flask("live_reports")
    errors.install(app, report=reports.crashed, redactor=redactor)

    @app.get("/crash/<int:number>")
    def crash(number: int) -> str:
        if number == 1:
            reports.note(user={"id": "u1"}, order={"id": number})
            reports.breadcrumb("loaded", rows=3)
        raise ValueError(f"number {number}")

    return app, reports


def test_a_report_arrives_with_its_request(receiver: Receiver) -> None:
    """A crash arrives once, in Bugsnag's form, with route, release, realm, user, tabs and breadcrumbs."""
    app, reports = make(receiver.url)
    app.test_client().get("/crash/1")
    assert reports.flush(5)
    reports.close()
    ((headers, body),) = receiver.received
    assert headers["Bugsnag-Api-Key"] == KEY
    assert json.loads(body)["apiKey"] == KEY
    (event,) = receiver.events
    assert (event["context"], event["unhandled"], event["severity"]) == ("GET /crash/<int:number>", True, "error")
    assert (event["releaseStage"], event["app"]["version"], event["user"]) == ("testing", "7", {"id": "u1"})
    assert event["metaData"]["app"] == {"service": "teams", "config_version": "3"}
    assert event["metaData"]["order"] == {"id": 1}
    assert event["exceptions"][0]["errorClass"] == "ValueError"
    assert event["exceptions"][0]["stacktrace"][0]["method"] == "crash"
    assert [crumb["name"] for crumb in event["breadcrumbs"]] == ["loaded"]


def test_nothing_leaks_into_the_next_event(receiver: Receiver) -> None:
    """The next event on the same thread has no user, tab, breadcrumb or global state of anybody else."""
    import bugsnag

    app, reports = make(receiver.url)
    reports.prepare()
    bugsnag.configure_request(user={"id": "global"}, context="global")  # type: ignore[no-untyped-call]
    bugsnag.add_metadata_tab("global", {"a": 1})
    bugsnag.leave_breadcrumb("global")
    app.test_client().get("/crash/1")
    app.test_client().get("/crash/2")
    assert reports.flush(5)
    reports.close()
    bugsnag.clear_request_config()  # type: ignore[no-untyped-call]
    first, second = receiver.events
    assert "global" not in json.dumps([first, second])
    assert (second["user"], second["breadcrumbs"]) == ({}, [])
    assert {name for name, tab in second["metaData"].items() if tab} == {"app", "request"}


def test_no_planted_secret_leaves(receiver: Receiver) -> None:
    """The whole payload is redacted: chained messages, headers, URLs, lists, breadcrumbs."""
    app, reports = make(receiver.url, known=("known-setting-value",))

    @app.post("/leak")
    def leak() -> str:
        reports.breadcrumb("token=in-crumb-text", password="in-crumb", url="https://u:in-crumb-url@h/")
        reports.note(user={"secret": "in-user"}, tab={"rows": [{"api_key": "in-list"}, ["X-Api-Key", "in-pair"]]})
        password = "in-source-line"  # noqa: F841
        try:
            raise KeyError("postgresql://root:in-cause@db")
        except KeyError as error:
            raise RuntimeError("known-setting-value and Bearer in.header.Token123") from error

    app.test_client().post(
        "/leak?api_key=in-query",
        headers={"Authorization": "Bearer in-auth-1", "Cookie": "session=in-cookie", "X-Api-Key": "in-header"},
        data={"password": "in-form"},
    )
    assert reports.flush(5)
    reports.close()
    ((_, body),) = receiver.received
    planted = (
        "known-setting-value in-crumb in-crumb-text in-crumb-url in-user in-list in-pair in-source-line in-cause "
        "in.header.Token123 in-query in-auth-1 in-cookie in-header in-form"
    )
    assert [secret for secret in planted.split() if f"{secret}" in body.replace("in-crumb-", "")] == []
    assert "RuntimeError" in body


@pytest.mark.parametrize("endpoint", [hanging, refusing])
def test_a_broken_endpoint_costs_no_request_anything(endpoint: Any) -> None:
    """With an endpoint that hangs or refuses, 150 crashes are answered, few threads run, and close takes at most 2 s."""
    with endpoint() as url:
        app, reports = make(url)
        reports.prepare()
        before = threading.active_count()
        client = app.test_client()
        began = time.monotonic()
        for _ in range(150):
            assert client.get("/crash/2").status_code == 500
        assert time.monotonic() - began < 60  # waiting for the endpoint would take 300 s
        assert threading.active_count() <= before + 1
        began = time.monotonic()
        reports.close()
        assert time.monotonic() - began < 10
        assert reports.sink.lost > 0  # type: ignore[attr-defined]


def test_an_endpoint_that_hangs_is_given_two_seconds() -> None:
    """The sender gives up on an endpoint that says nothing, and goes on with the next report."""
    with hanging() as url:
        _, reports = make(url)
        reports.notify(ValueError("x"))
        reports.notify(ValueError("y"))
        wait_until(lambda: reports.sink.lost == 2, what="the sender's second timeout")  # type: ignore[attr-defined]
        reports.close()


CHILD = """
import os, sys, time
from smartservice.reporting import BugsnagSink, Reports
reports = Reports(BugsnagSink(lambda: "k" * 32, endpoint=sys.argv[1]))
def crash(name):
    try:
        raise ValueError(name)
    except ValueError as error:
        reports.crashed(error)
crash("parent")
if sys.argv[2:] == ["fork"]:
    reports.flush(5)
    if os.fork() == 0:
        crash("child")
    else:
        os.wait()
        crash("parent again")
"""


def run_child(*arguments: str) -> float:
    """Seconds that a program took that reports a crash and ends at once, without closing anything."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-W", "ignore", "-c", CHILD, *arguments], timeout=30, check=True)
    return time.monotonic() - began


def test_a_process_that_ends_sends_what_is_queued(receiver: Receiver) -> None:
    """A process that crashes and ends right after has sent its report."""
    run_child(receiver.url)
    assert [event["exceptions"][0]["message"] for event in receiver.events] == ["parent"]


def test_a_process_ends_although_the_endpoint_hangs(receiver: Receiver) -> None:
    """With an endpoint that hangs, a process ends at most 2 s later than with one that answers."""
    usual = run_child(receiver.url)
    with hanging() as url:
        assert run_child(url) < usual + 2


def test_a_fork_has_its_own_sender(receiver: Receiver) -> None:
    """After a fork, parent and child each send their own reports, once."""
    run_child(receiver.url, "fork")
    wait_until(lambda: len(receiver.received) >= 3, what="three reports")
    messages = sorted(event["exceptions"][0]["message"] for event in receiver.events)
    assert messages == ["child", "parent", "parent again"]


def test_two_services_in_one_process(receiver: Receiver) -> None:
    """Each app's reports carry its own release and go through its own sender."""
    sinks = [BugsnagSink(lambda: KEY, endpoint=receiver.url, release=release) for release in ("1", "2")]
    for sink in sinks:
        reports = Reports(sink)
        reports.notify(ValueError("x"))
        assert reports.flush(5)
        reports.close()
    assert [event["app"]["version"] for event in receiver.events] == ["1", "2"]
