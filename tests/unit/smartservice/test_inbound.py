"""What happens around each request."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
from flask import Response, request, stream_with_context

from smartrealm import current_call
from smartservice import inbound
from tests.unit.smartservice.making import Make, make

__all__ = ["make"]


def test_the_request_id_is_taken_over_and_returned(make: Make) -> None:
    """A caller's id comes back; without one the service makes one up, and both are in the context."""
    app = make()

    @app.get("/id")
    def show() -> dict[str, str]:
        call = current_call()
        assert call is not None
        return {"id": call.request_id}

    client = app.test_client()
    reply = client.get("/id", headers={"X-Request-ID": "from-outside.1"})
    assert reply.headers["X-Request-ID"] == "from-outside.1"
    assert reply.get_json() == {"id": "from-outside.1"}
    made = client.get("/id")
    assert made.get_json() == {"id": made.headers["X-Request-ID"]}
    forged = client.get("/id", headers={"X-Request-ID": "a b"})
    assert forged.headers["X-Request-ID"] != "a b"


@pytest.mark.parametrize("path", ["/nope", "/crash", "/id"])
def test_every_answer_has_exactly_one_request_id(make: Make, path: str) -> None:
    """Errors too: the id on the screen is the one in the log."""
    app = make()

    @app.get("/crash")
    def crash() -> str:
        raise RuntimeError

    assert len(app.test_client().get(path).headers.getlist("X-Request-ID")) == 1


def test_an_answer_that_was_passed_on_has_one_request_id(make: Make) -> None:
    """An app mounted inside of another one, or a service that was asked, brings an id of its own along."""
    app = make()

    @app.get("/relayed")
    def relayed() -> Response:
        return Response("x", headers={"x-request-id": "theirs"})

    reply = app.test_client().get("/relayed", headers={"X-Request-ID": "ours"})
    assert reply.headers.getlist("X-Request-ID") == ["ours"]


def test_nothing_of_a_request_reaches_the_next_one(make: Make) -> None:
    """Each request has its own copied context, on the same thread too."""
    app = make()
    variable: ContextVar[str] = ContextVar("variable", default="clean")

    @app.get("/set")
    def set_it() -> str:
        before = variable.get()
        variable.set("dirty")
        return before

    client = app.test_client()
    assert [client.get("/set").text, client.get("/set").text] == ["clean", "clean"]
    assert current_call() is None


def test_a_deadline_that_has_passed_is_answered_without_work(make: Make) -> None:
    """The view is not called for a caller that has stopped waiting: 504."""
    app = make()
    called = []

    @app.get("/work")
    def work() -> str:
        called.append(1)
        return "done"

    client = app.test_client()
    late = client.get("/work", headers={"Smart-Deadline": "0"})
    assert late.status_code == 504
    assert late.get_json()["code"] == "deadline-exceeded"
    assert called == []
    assert client.get("/work", headers={"Smart-Deadline": "5000"}).text == "done"


def access_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "smartservice.access"]


def test_a_stream_keeps_its_context_to_the_last_byte(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The parts are made with the request's id and config; the access line is written after the last."""
    app = make()
    caplog.set_level(logging.INFO)

    @app.get("/stream")
    def stream() -> Response:
        def parts() -> Iterator[str]:
            for _ in range(2):
                call = current_call()
                assert call is not None
                yield f"{call.request_id} {request.path} {app.config['PAGE_SIZE']}\n"

        return Response(stream_with_context(parts()))

    reply = app.test_client().get("/stream", headers={"X-Request-ID": "s1"}, buffered=False)
    assert access_lines(caplog) == []
    assert reply.text == "s1 /stream 20\ns1 /stream 20\n"
    reply.close()
    assert len(access_lines(caplog)) == 1
    assert app.lifecycle.busy() == 0


def test_a_route_is_counted_by_its_template(make: Make) -> None:
    """Metrics have one label value for a route, whatever the ids in it, and one for what matches none."""
    app = make()
    app.add_url_rule("/teams/<int:number>", "team", lambda number: str(number))
    client = app.test_client()
    for path in ("/teams/1", "/teams/2", "/other"):
        client.get(path)
    client.post("/teams/1")
    assert app.metrics is not None
    counted = {key: sum(values[:-1]) for key, values in app.metrics.requests().items()}
    assert counted == {
        ("/teams/<int:number>", "GET", "200"): 2.0,
        ("unmatched", "GET", "404"): 1.0,
        ("unmatched", "POST", "405"): 1.0,
    }


def test_a_signed_header_raises_one_request_to_debug(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """With the right signature this request's debug lines are written; every other request's are not."""
    app = make(DEBUG_HEADER_KEY="shared-by-all")

    @app.get("/work")
    def work() -> str:
        app.logger.debug("detail of %s", request.args["n"])
        return ""

    client = app.test_client()
    now = time.time()
    good = inbound.debug_header("shared-by-all", seconds=60, now=now)
    client.get("/work?n=1", headers={"Smart-Debug": good})
    client.get("/work?n=2")
    client.get("/work?n=3", headers={"Smart-Debug": inbound.debug_header("another", seconds=60, now=now)})
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG] == ["detail of 1"]
    assert not app.logger.isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(
    "header", ["", ".", "abc.def", "9999999999.", "9999999999." + "0" * 64, "9" * 40 + ".x", "é.ü", "1.x"]
)
def test_a_debug_header_that_was_not_signed_is_refused(header: str) -> None:
    """Nobody raises the log level by guessing."""
    assert not inbound.is_debug_header(header, "key", now=1000.0)


def test_a_debug_header_expires() -> None:
    """A header that leaks is worth nothing after a while."""
    header = inbound.debug_header("key", seconds=60, now=1000.0)
    assert inbound.is_debug_header(header, "key", now=1059.0)
    assert not inbound.is_debug_header(header, "key", now=1060.0)
    assert not inbound.is_debug_header(header.replace("1060", "9060"), "key", now=1059.0)


def test_draining_turns_readiness_red_and_keeps_serving(make: Make) -> None:
    """From the first moment of a stop the load balancer is told to look elsewhere."""
    app = make()
    app.add_url_rule("/work", "work", lambda: "done")
    client = app.test_client()
    assert client.get("/healthcheck/ready").status_code == 200
    app.lifecycle.begin_draining()
    assert client.get("/healthcheck/ready").status_code == 503
    assert client.get("/healthcheck/live").status_code == 200
    assert client.get("/work").text == "done"


def test_an_answer_says_no_to_retries_when_a_call_further_down_has_failed_for_good(make: Make) -> None:
    """One layer retries: a 503 that stems from a failed call carries `Smart-Retry: no`, one of this service does not."""
    app = make()

    @app.route("/below")
    def below() -> tuple[str, int]:
        call = current_call()
        assert call is not None
        call.failed_calls.append("orders")
        return "away", 503

    @app.route("/own")
    def own() -> tuple[str, int]:
        return "busy", 503

    client = app.test_client()
    assert client.get("/below").headers["Smart-Retry"] == "no"
    assert "Smart-Retry" not in client.get("/own").headers
