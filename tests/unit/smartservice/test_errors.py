"""Promises of the one error pipeline."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask_restful
import pytest
from flask import Blueprint, Flask, Response, abort, got_request_exception, redirect, request
from flask.testing import FlaskClient
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import HTTPException, NotFound, Unauthorized
from werkzeug.test import TestResponse

from smartrealm import SmartError
from smartrealm.errors import (
    ConfigurationError,
    Conflict,
    DeadlineExceeded,
    NotConfigured,
    Overloaded,
    Unavailable,
    ValidationFailed,
)
from smartrealm.headers import CallContext, enter_call, leave_call
from smartservice import errors
from smartservice.jsons import SmartJSON

MODES = [(False, False), (True, False), (False, True), (True, True)]
SECRET = "hunter2-very-secret"


class Vendor(Exception):
    """An error of a library that nobody translates."""


class Unspeakable:
    """An object that no JSON can hold."""

    def __repr__(self) -> str:
        return "unspeakable"


def crash() -> str:
    raise Vendor(f"cannot reach postgresql://root:{SECRET}@db/orders")


RAISED: dict[str, Exception] = {
    "configuration": NotConfigured(f"set DATABASE_URL, it is {SECRET}"),
    "overloaded": Overloaded(f"pool of {SECRET} is in use", retry_after_seconds=3),
    "deadline": DeadlineExceeded("too late"),
    "conflict": Conflict("There is a team with this name.", name="blue", type="forged"),
    "unreadable": Conflict("odd", thing=Unspeakable()),
    "leaky": Conflict(f"postgresql://root:{SECRET}@db is taken", password=SECRET),
    "validation": ValidationFailed(errors=[{"pointer": "#/email", "detail": "Field required"}]),
    "unauthorized": Unauthorized(www_authenticate=WWWAuthenticate("bearer", {"realm": "teams"})),
}


def make_app(*, debug: bool = False, testing: bool = False, report: Any = None) -> Flask:
    app = Flask("errors_under_test")
    app.debug, app.testing = debug, testing
    app.config["MAX_CONTENT_LENGTH"] = 100
    app.json = SmartJSON(app)
    errors.install(app, report=report)
    app.add_url_rule("/crash", view_func=crash)

    @app.post("/json")
    def take_json() -> dict[str, Any]:
        return {"got": request.json}

    @app.post("/form")
    def take_form() -> str:
        return request.form["name"] + str(request.files["upload"])

    @app.get("/abort/<int:status>")
    def abort_with(status: int) -> str:
        abort(status, description=f"about {SECRET} and postgresql://a:{SECRET}@b" if status >= 500 else None)

    @app.get("/restful/<int:status>")
    def abort_restful(status: int) -> Any:
        flask_restful.abort(status, message="Taken.", key="value", status="forged")

    @app.get("/raise/<name>")
    def raise_named(name: str) -> str:
        raise RAISED[name]

    @app.get("/moved")
    def moved() -> Any:
        abort(redirect("/elsewhere"))

    @app.get("/own")
    def own() -> Any:
        raise NotFound(response=Response("mine", 404))

    @app.get("/slash/")
    def slash() -> str:
        return "slash"

    return app


@pytest.fixture
def client() -> FlaskClient:
    return make_app().test_client()


def problem(answer: TestResponse) -> dict[str, Any]:
    assert answer.content_type == "application/problem+json"
    body: dict[str, Any] = json.loads(answer.data)
    assert body["status"] == answer.status_code
    return body


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/nowhere", {}),
    ("DELETE", "/json", {}),
    ("GET", "/crash", {}),
    ("POST", "/json", {"data": "{", "content_type": "application/json"}),
    ("POST", "/json", {"data": b"\xff\xfe", "content_type": "application/json"}),
    ("POST", "/json", {"data": "plain"}),
    ("POST", "/json", {"data": "x" * 101, "content_type": "application/json"}),
    ("POST", "/form", {"data": {}}),
    ("POST", "/form", {"data": {"name": "n", "upload": "text"}}),
    ("GET", "/abort/403", {}),
    ("GET", "/abort/418", {}),
    ("GET", "/abort/500", {}),
    ("GET", "/abort/503", {}),
    ("GET", "/restful/409", {}),
    *(("GET", f"/raise/{name}", {}) for name in RAISED),
]


def test_same_bytes_in_every_mode() -> None:
    """A failed request is answered with the same bytes in production, debug, testing and both."""
    clients = [make_app(debug=debug, testing=testing).test_client() for debug, testing in MODES]
    for method, path, options in REQUESTS:
        answers = [client.open(path, method=method, **options) for client in clients]
        assert len({(answer.status, answer.data) for answer in answers}) == 1, path
        problem(answers[0])


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/nowhere", {}, 404, "not-found"),
        ("DELETE", "/json", {}, 405, "method-not-allowed"),
        ("POST", "/json", {"data": "{", "content_type": "application/json"}, 400, "bad-request"),
        ("POST", "/json", {"data": "plain"}, 415, "unsupported-media-type"),
        ("POST", "/json", {"data": "x" * 101, "content_type": "application/json"}, 413, "content-too-large"),
        ("POST", "/form", {"data": {}}, 400, "bad-request"),
        ("GET", "/abort/403", {}, 403, "forbidden"),
        ("GET", "/abort/503", {}, 503, "unavailable"),
        ("GET", "/crash", {}, 500, "internal"),
        ("GET", "/raise/configuration", {}, 500, "not-configured"),
        ("GET", "/raise/deadline", {}, 504, "deadline-exceeded"),
        ("GET", "/raise/overloaded", {}, 503, "overloaded"),
        ("GET", "/raise/validation", {}, 422, "validation-failed"),
    ],
)
def test_codes(client: FlaskClient, method: str, path: str, options: dict[str, Any], status: int, code: str) -> None:
    """Each kind of failure has its status and its stable code."""
    answer = client.open(path, method=method, **options)
    assert (answer.status_code, problem(answer)["code"]) == (status, code)


def test_every_code_is_documented() -> None:
    """The reference names every code that a reply can carry."""
    reference = (Path(__file__).parents[3] / "docs/reference/errors.md").read_text()
    tree = [SmartError]
    for kind in tree:
        tree += kind.__subclasses__()
    known = {*errors.CODES.values(), *(kind.code for kind in tree if kind.__module__ == "smartrealm.errors")}
    assert sorted(code for code in known if f"`{code}`" not in reference) == []


def test_members_of_a_problem(client: FlaskClient) -> None:
    """A problem says type, title, status, detail and code, and carries the request id as its instance."""
    token = enter_call(CallContext(request_id="id-1"))
    try:
        body = problem(client.get("/raise/conflict"))
    finally:
        leave_call(token)
    expected = {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "There is a team with this name.",
        "instance": "id-1",
        "code": "conflict",
        "name": "blue",
    }
    assert body == expected
    assert list(body) == list(expected)


@pytest.mark.parametrize("path", ["/crash", "/abort/500", "/abort/503", "/raise/configuration", "/raise/overloaded"])
def test_nothing_internal_in_a_5xx(client: FlaskClient, path: str) -> None:
    """A 5xx says its title and its code, and not a word of what happened."""
    body = problem(client.get(path))
    assert set(body) == {"type", "title", "status", "code"}
    assert SECRET not in json.dumps(body)


def test_secrets_in_a_4xx_are_masked(client: FlaskClient) -> None:
    """Details of a 4xx pass the redaction."""
    body = problem(client.get("/raise/leaky"))
    assert SECRET not in json.dumps(body)
    assert body["password"] == "********"


def test_details_that_no_json_can_hold(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    """A reply whose details cannot be written is still a problem, and the log says why."""
    body = problem(client.get("/raise/unreadable"))
    assert body == {"type": "about:blank", "title": "Conflict", "status": 409, "code": "conflict"}
    assert "could not be written" in caplog.text


def test_restful_abort_keeps_its_data(client: FlaskClient) -> None:
    """What flask_restful.abort is given becomes members; a message is the detail; it cannot forge our members."""
    body = problem(client.get("/restful/409"))
    assert (body["detail"], body["message"], body["key"], body["status"]) == ("Taken.", "Taken.", "value", 409)


@pytest.mark.parametrize(
    ("description", "shown"),
    [
        ({"detail": "taken", "name": "blue"}, {"detail": "taken", "name": "blue"}),
        (ValueError("taken"), {"detail": "taken"}),
    ],
)
def test_a_description_need_not_be_text(description: Any, shown: dict[str, str]) -> None:
    """`abort(409, {...})` gives members as flask-restful's abort does, and `abort(409, error)` its text."""
    app = make_app()
    app.add_url_rule("/taken", view_func=lambda: abort(409, description))
    body = app.test_client().get("/taken").get_json()
    assert {name: body[name] for name in body if name in ("detail", "name")} == shown
    assert body["status"] == 409


def test_headers_of_an_error_are_kept(client: FlaskClient) -> None:
    """Allow, Retry-After and WWW-Authenticate survive."""
    assert {part.strip() for part in client.delete("/json").headers["Allow"].split(",")} == {"OPTIONS", "POST"}
    assert client.get("/raise/overloaded").headers["Retry-After"] == "3"
    assert client.get("/raise/unauthorized").headers["WWW-Authenticate"] == "Bearer realm=teams"


def test_replies_of_the_service_are_left_alone(client: FlaskClient) -> None:
    """Redirects, abort(response) and exceptions that bring their response are no problems."""
    assert client.get("/slash").status_code == 308
    assert client.get("/moved").headers["Location"] == "/elsewhere"
    assert client.get("/own").data == b"mine"


def test_head_has_no_body(client: FlaskClient) -> None:
    """HEAD is answered with the headers of the problem alone."""
    answer = client.head("/nowhere")
    assert (answer.status_code, answer.data, answer.content_type) == (404, b"", "application/problem+json")


def test_handlers_of_the_service_win() -> None:
    """A handler for a status, an exception or a blueprint comes before the pipeline."""
    app = make_app()
    app.register_error_handler(404, lambda error: ("own 404", 404))
    app.register_error_handler(Vendor, lambda error: ("own vendor", 502))
    area = Blueprint("area", __name__)
    area.register_error_handler(Conflict, lambda error: ("own conflict", 409))
    area.add_url_rule("/area", view_func=lambda: _raise(Conflict("x")))
    app.register_blueprint(area)
    client = app.test_client()
    assert client.get("/nowhere").data == b"own 404"
    assert client.get("/crash").data == b"own vendor"
    assert client.get("/area").data == b"own conflict"
    assert problem(client.get("/raise/conflict"))["code"] == "conflict"


def _raise(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(("debug", "testing"), MODES)
def test_a_crash_takes_flasks_course(debug: bool, testing: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A crash is signalled, reported and logged once, with its traceback, and teardown sees it, in every mode."""
    reported: list[BaseException] = []
    torn: list[BaseException | None] = []
    signalled: list[BaseException] = []
    app = make_app(debug=debug, testing=testing, report=reported.append)
    app.teardown_request(lambda error: torn.append(error))

    def heard(_sender: Flask, exception: BaseException, **_: Any) -> None:
        signalled.append(exception)

    got_request_exception.connect(heard, app)
    app.test_client().get("/crash")
    assert [type(error) for error in [*reported, *torn, *signalled]] == [Vendor] * 3
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[1] is reported[0]


def test_a_smart_500_is_a_crash_with_its_own_code(caplog: pytest.LogCaptureFixture) -> None:
    """A configuration error while serving is reported and its message is in the log only."""
    reported: list[BaseException] = []
    body = problem(make_app(report=reported.append).test_client().get("/raise/configuration"))
    assert body["code"] == "not-configured"
    assert isinstance(reported[0], ConfigurationError)
    assert "set DATABASE_URL" in caplog.text


def test_no_signal_for_what_is_no_crash() -> None:
    """Aborts, routing errors, 4xx and 503 fire no got_request_exception and are not reported."""
    reported: list[BaseException] = []
    client = make_app(report=reported.append).test_client()
    for method, path, options in REQUESTS:
        if path not in ("/crash", "/raise/configuration"):
            client.open(path, method=method, **options)
    assert reported == []


def test_a_service_may_ask_for_propagation() -> None:
    """PROPAGATE_EXCEPTIONS that the service has set is obeyed."""
    app = Flask("own")
    app.config["PROPAGATE_EXCEPTIONS"] = True
    errors.install(app)
    app.add_url_rule("/crash", view_func=crash)
    with pytest.raises(Vendor):
        app.test_client().get("/crash")


def test_a_report_that_fails_does_not_break_the_reply() -> None:
    """When the report itself crashes, the caller still gets the problem."""

    def report(error: BaseException) -> None:
        raise RuntimeError("the reporter is broken")

    assert problem(make_app(report=report).test_client().get("/crash"))["status"] == 500


def test_an_error_in_a_stream_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A streamed reply that breaks off is logged and reported once, and the server learns of it."""
    reported: list[BaseException] = []
    app = make_app(report=reported.append)

    @app.get("/stream")
    def stream() -> Iterator[bytes]:
        yield b"first"
        raise Vendor("second")

    answer = app.test_client().get("/stream", buffered=False)
    parts = iter(answer.response)
    assert next(parts) == b"first"
    with pytest.raises(Vendor):
        next(parts)
    assert [type(error) for error in reported] == [Vendor]
    assert caplog.text.count("was interrupted") == 1


def test_unknown_statuses() -> None:
    """A status that no standard knows is answered all the same."""

    class Odd(HTTPException):
        code = 499
        description = "odd"

    app = make_app()
    app.add_url_rule("/odd", view_func=lambda: _raise(Odd()))
    assert problem(app.test_client().get("/odd"))["title"] == "Unknown Error"


def test_two_apps_do_not_touch() -> None:
    """A crash of one app is reported by that app alone."""
    first: list[BaseException] = []
    second: list[BaseException] = []
    one, _two = make_app(report=first.append), make_app(report=second.append)
    one.test_client().get("/crash")
    assert (len(first), len(second)) == (1, 0)


def test_retry_after_is_optional() -> None:
    """Unavailable without a time has no Retry-After."""
    app = make_app()
    app.add_url_rule("/away", view_func=lambda: _raise(Unavailable("away")))
    assert "Retry-After" not in app.test_client().get("/away").headers
