"""The mock mode around a smart service: what a request brings along is seen in the calls that it makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import smartclient
from smartclient.testing import Calls, UnexpectedCall, mock
from smartservice import SmartService, create_app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[SmartService]:
    environ = {"REALM": "testing", "STATE_DIR": str(tmp_path)}
    app = create_app("tests.unit.smartservice.sample", environ=environ, SERVICE_NAME="shop", CALL_TAGS=["tenant"])

    @app.get("/teams")
    def teams() -> Any:
        return smartclient.get("service://identity/teams").json()

    @app.get("/both")
    def both() -> Any:
        in_background = app.in_background(lambda: smartclient.get("service://identity/teams").json())
        futures = [smartclient.get("service://identity/teams", background=True)]
        found = smartclient.gather([("GET", "service://identity/teams"), *futures])
        return [in_background.result(5), *(answer.json() for answer in found)]

    yield app
    app.close()


@pytest.mark.parametrize(("path", "made"), [("/teams", 1), ("/both", 3)])
def test_the_request_flows_on(app: SmartService, service_calls: Calls, path: str, made: int) -> None:
    """Request id, trace, deadline, caller and allowed tags go along, in threads of every kind too."""
    service_calls.get("service://identity/teams", json=[1])
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {
        "X-Request-ID": "abc-123",
        "Smart-Deadline": "5000",
        "traceparent": f"00-{trace}-b7ad6b7169203331-01",
        "baggage": "tenant=blue,secret=planted",
    }
    assert app.test_client().get(path, headers=headers).status_code == 200
    assert len(service_calls.made) == made
    for one in service_calls.made:
        assert one.headers["X-Request-ID"] == "abc-123"
        assert one.headers["Smart-Caller"] == "shop"
        assert one.headers["baggage"] == "tenant=blue"
        assert one.headers["traceparent"].startswith(f"00-{trace}-")
        assert 0 < int(one.headers["Smart-Deadline"]) <= 5000
    assert len({one.headers["traceparent"] for one in service_calls.made}) == made


@pytest.mark.parametrize(("found", "answered"), [(503, 503), (429, 503), (500, 500), (404, 500)])
def test_what_is_raised_for_the_status_of_another_service(
    app: SmartService, service_calls: Calls, found: int, answered: int
) -> None:
    """`raise_for_status()` on an answer that may be well in a moment is a 503 that is not to be repeated; else a crash."""

    @app.get("/strict")
    def strict() -> Any:
        response = smartclient.get("service://identity/teams", retries=0)
        response.raise_for_status()
        return response.json()

    service_calls.get("service://identity/teams", status=found)
    answer = app.test_client().get("/strict")
    assert answer.status_code == answered
    assert answer.headers.get("Smart-Retry") == ("no" if answered == 503 else None)


def test_a_service_cannot_hide_an_unregistered_call(app: SmartService) -> None:
    """The service answers 500, and the test fails with the call that was not registered."""
    with pytest.raises(UnexpectedCall, match="GET service://identity/teams"), mock():
        assert app.test_client().get("/teams").status_code == 500


def test_the_budget_lies_in_the_state_directory_that_somebody_named(tmp_path: Path) -> None:
    """STATE_DIR of the service's environment, where it is set; else what all services of the user share."""
    for environ, folder in (({"STATE_DIR": str(tmp_path)}, str(tmp_path / "smartclient")), ({}, None)):
        app = create_app(
            "tests.unit.smartservice.sample", environ={"REALM": "testing", "HOME": str(tmp_path), **environ}
        )
        assert app.mesh.options.state_dir == folder
        app.close()
