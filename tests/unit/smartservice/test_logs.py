"""What a log line promises."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from smartservice import logs
from tests.unit.smartservice.making import Make, make

__all__ = ["make"]

Lines = Callable[[], list[dict[str, Any]]]


@contextmanager
def alone() -> Iterator[io.StringIO]:
    """The process as it is in production: no handlers but ours, standard error to read."""
    kept, logging.root.handlers = logging.root.handlers, []
    stderr, sys.stderr = sys.stderr, io.StringIO()
    try:
        yield sys.stderr
    finally:
        logging.root.handlers, sys.stderr = kept, stderr


def parsed(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_a_request_is_one_access_line(make: Make) -> None:
    """It has route, status, duration, request id, caller and config version."""
    with alone() as written:
        app = make()
        app.add_url_rule("/teams/<int:number>", "team", lambda number: "x")
        app.test_client().get("/teams/7?secret=planted", headers={"X-Request-ID": "r1", "Smart-Caller": "web"})
    (line,) = parsed(written)
    assert line.pop("duration_ms") >= 0
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "smartservice.access",
        "message": "GET /teams/7 200",
        "service": "tests",
        "realm": "testing",
        "config_version": "defaults",
        "request_id": "r1",
        "caller": "web",
        "method": "GET",
        "path": "/teams/7",
        "route": "/teams/<int:number>",
        "status": 200,
        "remote": "127.0.0.1",
    }


def test_the_short_way_and_the_long_way_say_the_same(make: Make) -> None:
    """Another handler beside ours changes nothing in our lines."""
    with alone() as short:
        make().test_client().get("/nope", headers={"X-Request-ID": "r1"})
    with alone() as long:
        logging.root.addHandler(logging.NullHandler())
        make().test_client().get("/nope", headers={"X-Request-ID": "r1"})
    one, other = parsed(short)[0], parsed(long)[0]
    for line in (one, other):
        del line["time"], line["duration_ms"]
    assert one == other


@pytest.mark.parametrize("path", ["/healthcheck", "/healthcheck/live", "/healthcheck/ready", "/metrics"])
def test_a_probe_that_succeeds_is_counted_and_not_logged(make: Make, path: str) -> None:
    """A probe each second does not fill the log."""
    with alone() as written:
        app = make()
        assert app.test_client().get(path).status_code == 200
        assert app.metrics is not None
        assert len(app.metrics.requests()) == 1
    assert parsed(written) == []


def test_a_probe_that_fails_is_logged(make: Make) -> None:
    """The first red answer is in the log."""
    with alone() as written:
        app = make()
        app.lifecycle.begin_draining()
        app.test_client().get("/healthcheck/ready")
    assert [line["status"] for line in parsed(written) if line["logger"] == "smartservice.access"] == [503]


@pytest.mark.parametrize("path", ["/healthcheckups", "/metrics-of-mine/7"])
def test_a_route_that_only_begins_like_a_probe_is_logged(make: Make, path: str) -> None:
    """A service may name its own routes as it likes."""
    with alone() as written:
        app = make()
        app.add_url_rule(path.replace("7", "<number>"), "mine", lambda **_: "x")
        app.test_client().get(path)
    assert [line["path"] for line in parsed(written)] == [path]


def test_each_of_two_apps_writes_its_own_name(make: Make) -> None:
    """In its access line, when somebody else listens too, and in what its background work says."""
    with alone() as written:
        first, second = make(SERVICE_NAME="first"), make(SERVICE_NAME="second")
        logging.root.addHandler(logging.NullHandler())
        for app in (first, second):
            app.test_client().get("/nowhere")
            app.in_background(int, "no number").exception()
    said = [(line["message"], line["service"]) for line in parsed(written)]
    failed = "background work failed: int"
    assert said == [
        ("GET /nowhere 404", "first"),
        (failed, "first"),
        ("GET /nowhere 404", "second"),
        (failed, "second"),
    ]


def test_a_line_that_cannot_be_put_together_says_where_it_is(make: Make) -> None:
    """It stays one JSON line, and shows none of its arguments: they passed no redaction."""
    with alone() as written:
        make().logger.info("%s and %s", "planted")
    (line,) = parsed(written)
    assert line["level"] == "error"
    assert "test_logs.py:" in line["message"]
    assert "planted" not in str(line)


def test_a_log_line_carries_its_context_and_fields(make: Make) -> None:
    """Fields given by extra= become members; the request's id is there without being named."""
    with alone() as written:
        app = make(RELEASE="v7")

        @app.get("/work")
        def work() -> str:
            app.logger.info("sent %d mails", 3, extra={"batch": {"id": 9, "password": "planted"}})
            return ""

        app.test_client().get("/work", headers={"X-Request-ID": "r1"})
    line = parsed(written)[0]
    assert line["message"] == "sent 3 mails"
    assert line["batch"] == {"id": 9, "password": "********"}
    assert (line["request_id"], line["release"], line["logger"]) == ("r1", "v7", app.logger.name)


def test_nobody_can_forge_a_line(make: Make) -> None:
    """Line breaks and terminal escapes in a message, a path or a field stay inside their line, in both formats."""
    evil = 'x\n{"level":"info","message":"forged"}\r\x1b[2J\u2028'
    for format_name in ("json", "text"):
        with alone() as written:
            app = make(LOG_FORMAT=format_name)
            app.logger.warning("got %s", evil, extra={"field": evil})
            app.test_client().get("/%0A%0Dforged%1b[2J")
        lines = written.getvalue().split("\n")
        assert len(lines) == 3
        assert "\x1b" not in written.getvalue()
        assert "\r" not in written.getvalue()


def test_an_exception_is_told_inside_its_line(make: Make) -> None:
    """A crash is one JSON object with the traceback in it, without the secrets in its message."""
    with alone() as written:
        app = make()

        @app.get("/crash")
        def crash() -> str:
            raise RuntimeError("cannot reach postgresql://u:planted@h/d\nsecond line")

        assert app.test_client().get("/crash").status_code == 500
    lines = parsed(written)
    crashed = [line for line in lines if "exception" in line]
    assert len(crashed) == 1
    assert "RuntimeError" in crashed[0]["exception"]
    assert "planted" not in written.getvalue()
    assert [line["status"] for line in lines if line["logger"] == "smartservice.access"] == [500]


def test_a_secret_setting_is_masked_wherever_it_is_logged(make: Make) -> None:
    """A declared secret does not come through even in a sentence that does not name it."""
    with alone() as written:
        app = make(PARTNER_TOKEN="planted-value")
        app.logger.error("the partner said planted-value is wrong", extra={"said": ["planted-value"]})
    assert "planted" not in written.getvalue()


def test_a_secret_in_a_route_is_not_written(make: Make) -> None:
    """`/reset/<token>` is logged as its template."""
    with alone() as written:
        app = make()
        app.add_url_rule("/reset/<token>", "reset", lambda token: "")
        app.test_client().get("/reset/planted")
    assert "planted" not in written.getvalue()
    assert parsed(written)[0]["path"] == "/reset/<token>"


def test_setting_up_again_adds_nothing(make: Make) -> None:
    """However many apps there are, each line is written once."""
    with alone() as written:
        make()
        app = make()
        app.logger.warning("once")
        assert len(logging.root.handlers) == 1
    assert [line["message"] for line in parsed(written)] == ["once"]


def test_everybodys_lines_come_out_the_same_way(make: Make) -> None:
    """gunicorn's, werkzeug's and warnings' lines are JSON too; the development server's access line is left to ours."""
    with alone() as written, warnings.catch_warnings():
        logging.captureWarnings(False)
        make()
        warnings.simplefilter("always")
        logging.getLogger("gunicorn.error").info("Booting worker")
        logging.getLogger("werkzeug").warning("a warning")
        logging.getLogger("werkzeug").info('127.0.0.1 - - [01/Jan/2026 00:00:00] "GET / HTTP/1.1" 200 -')
        warnings.warn("old thing", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert [line["logger"] for line in parsed(written)] == ["gunicorn.error", "werkzeug", "py.warnings"]


def test_a_log_that_cannot_be_written_costs_no_answer(make: Make) -> None:
    """With standard error on a full disk requests are answered all the same, and lines come again when there is room."""

    class FullDisk(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    with alone():
        sys.stderr = disk = FullDisk()
        app = make()

        @app.route("/teams")
        def teams() -> str:
            logging.getLogger("teams").warning("asked")
            return "x"

        assert app.test_client().get("/teams").status_code == 200
        disk.full = False
        assert app.test_client().get("/teams").status_code == 200
    assert [line["logger"] for line in parsed(disk)] == ["teams", "smartservice.access"]


def test_the_level_follows_its_setting(make: Make) -> None:
    """LOG_LEVEL changes at run time, without a restart."""
    with alone() as written:
        app = make(LOG_LEVEL="WARNING")
        app.logger.info("one")
        app.config["LOG_LEVEL"] = "INFO"
        app.logger.info("two")
        app.config["LOG_LEVEL"] = "ERROR"
        app.logger.warning("three")
    assert [line["message"] for line in parsed(written)] == ["two"]


def test_text_for_people(make: Make) -> None:
    """In a terminal a line begins with the time, the level and the message; fields follow."""
    with alone() as written:
        app = make(LOG_FORMAT="text")
        app.logger.warning("disk is nearly full", extra={"free": "2%"})
    assert " WARNING " in written.getvalue()
    assert "disk is nearly full" in written.getvalue()
    assert "free=2%" in written.getvalue()


def test_an_access_line_for_people_says_nothing_twice(make: Make) -> None:
    """Method, path and status stand in the message; the fields hold the rest."""
    with alone() as written:
        make(LOG_FORMAT="text").test_client().get("/nothing?x=1")
    (line,) = [line for line in written.getvalue().splitlines() if "smartservice.access" in line]
    assert "GET /nothing 404  route=None  duration_ms=" in line
    assert "status=" not in line


@pytest.mark.parametrize(
    ("moment", "text"), [(0.0, "1970-01-01T00:00:00.000Z"), (1700000000.9996, "2023-11-14T22:13:20.999Z")]
)
def test_times_are_rfc_3339(moment: float, text: str) -> None:
    """UTC with milliseconds, never rounded into the next second."""
    assert logs.rfc3339(moment) == text
