"""Promises of errors, resources and reports together, in an app made by `create_app`."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from flask_restful import Resource
from pydantic import BaseModel
from sqlalchemy.exc import TimeoutError as PoolTimeout

from smartservice import SmartService, create_app
from smartservice.api import validated
from smartservice.reporting import BugsnagSink, PrintedSink
from tests.processes import wait_until
from tests.unit.smartservice.making import Make, make

__all__ = ["make"]

SECRET = "hunter2-in-settings"


class TeamIn(BaseModel):
    name: str


class Teams(Resource):  # type: ignore[misc]
    def get(self) -> Any:
        raise ValueError(f"crashed with {SECRET}")

    @validated(body=TeamIn)
    def post(self, body: TeamIn) -> Any:
        return body, 201


def serve(app: SmartService) -> SmartService:
    app.api.add_resource(Teams, "/teams")

    @app.get("/pool")
    def pool() -> str:
        raise PoolTimeout("QueuePool limit of size 5 overflow 5 reached")

    @app.get("/stream")
    def stream() -> Iterator[bytes]:
        yield b"first"
        raise ValueError("broken off")

    return app


@pytest.mark.parametrize("mode", [{}, {"TESTING": True}, {"DEBUG": True}])
def test_same_problem_in_every_mode(make: Make, mode: dict[str, bool]) -> None:
    """A crash in a resource is the same problem in production, testing and debug; its instance is the request id."""
    client = serve(make(**mode)).test_client()
    answer = client.get("/teams", headers={"X-Request-ID": "id-1"})
    assert answer.headers["X-Request-ID"] == "id-1"
    assert answer.data == (
        b'{"type":"about:blank","title":"Internal Server Error","status":500,"instance":"id-1","code":"internal"}\n'
    )


def test_validation_and_models(make: Make) -> None:
    """A resource takes a model and returns it; what does not fit is 422 with pointers."""
    client = serve(make()).test_client()
    assert client.post("/teams", json={"name": "blue"}).json == {"name": "blue"}
    body = client.post("/teams", json={}).json
    assert body is not None
    assert body["errors"] == [{"pointer": "#/name", "detail": "Field required"}]


def test_vendor_errors_are_translated_without_an_import(make: Make) -> None:
    """A pool that is used up is 503 once smartservice.db is in use."""
    app = serve(make(DATABASE_URL="sqlite://"))
    assert app.db is not None
    answer = app.test_client().get("/pool")
    assert (answer.status_code, json.loads(answer.data)["code"]) == (503, "overloaded")


def test_a_crash_is_reported_with_what_is_running(make: Make) -> None:
    """The report of a crash names service, realm, release, config version, route and request, and no secret setting."""
    app = serve(make(RELEASE="7", SECRET_KEY=SECRET))
    with app.reports.capture() as captured:
        app.test_client().get("/teams", headers={"X-Request-ID": "id-2", "Smart-Caller": "billing"})
    (report,) = captured
    about = report.tabs["app"]
    assert (about["service"], about["realm"], about["release"]) == (str(app.service), "testing", "7")
    assert about["config_version"] == app.settings.snapshot.version
    assert (report.context, report.unhandled) == ("GET /teams", True)
    assert (report.tabs["request"]["request_id"], report.tabs["request"]["caller"]) == ("id-2", "billing")
    assert report.message == "crashed with ********"


def test_a_stream_that_breaks_off_is_reported_in_its_request(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """An error in a streamed reply is logged and reported once, with the request id."""
    app = serve(make())
    with app.reports.capture() as captured:
        answer = app.test_client().get("/stream", headers={"X-Request-ID": "id-3"}, buffered=False)
        parts = iter(answer.response)
        assert next(parts) == b"first"
        with pytest.raises(ValueError, match="broken off"):
            next(parts)
        answer.close()
    (report,) = captured
    assert report.tabs["request"]["request_id"] == "id-3"
    assert caplog.text.count("was interrupted") == 1


def test_where_reports_go(make: Make) -> None:
    """Reports are printed in the local realm and go to Bugsnag in every other."""
    assert isinstance(make(environ={"REALM": "local"}).reports.sink, PrintedSink)
    assert isinstance(make().reports.sink, BugsnagSink)


def test_an_app_with_everything_in_use_goes_away() -> None:
    """An app that has answered resources and errors is collected once it is closed and dropped."""
    app = serve(create_app(ModuleType("goes.config"), environ={"REALM": "testing"}))
    app.test_client().post("/teams", json={})
    app.reports.notify(KeyError("handled"))
    app.close()
    gone = weakref.ref(app)
    del app

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    wait_until(is_gone, 5, what="the end of the app")
