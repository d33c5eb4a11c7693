"""Promises towards `responses` and `vcrpy`: both work on plain URLs and on calls to services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import responses
import vcr

import smartclient
from smartclient import runtime
from tests.live.smartclient.test_recorder import direct
from tests.unit.smartclient.echo import Echo, echo

__all__ = ["direct", "echo"]

TEAMS = "service://identity/teams"


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[runtime.Mesh]:
    """The mesh of this context, which knows no map."""
    mesh = runtime.Mesh(runtime.Options(state_dir=str(tmp_path)), sleep=lambda seconds: None)
    token = runtime.enter(mesh)
    yield mesh
    runtime.leave(token)
    mesh.close()


def test_responses_answers_services_and_plain_urls(lost: runtime.Mesh) -> None:
    """A service is registered under its service:// URL, needs no map, and is retried as ever."""
    with responses.RequestsMock() as mocked:
        mocked.get("http://partner.example/a", json=1)
        mocked.get(TEAMS, status=503)
        mocked.get(TEAMS, json=[2], match=[responses.matchers.query_param_matcher({"page": "2"})])
        assert smartclient.get("http://partner.example/a").json() == 1
        answer = smartclient.get(TEAMS, params={"page": 2}, retries=2)
        assert answer.json() == [2]
        assert len(answer.attempts) == 2  # type: ignore[attr-defined]
        assert [call.request.url for call in mocked.calls][1:] == [f"{TEAMS}?page=2"] * 2


def test_responses_refuses_what_is_not_registered(lost: runtime.Mesh) -> None:
    """A call to a service that was not registered is a ConnectionError, as with plain URLs."""
    with responses.RequestsMock(), pytest.raises(smartclient.ConnectionError):
        smartclient.get(TEAMS, retries=0)


def test_one_block_of_responses_is_not_the_next(lost: runtime.Mesh) -> None:
    """A breaker that opened in one block is closed in the next, and the network is back afterwards."""
    for _ in range(2):
        with responses.RequestsMock(assert_all_requests_are_fired=False) as mocked:
            mocked.get(TEAMS, status=503)
            assert smartclient.get(TEAMS, retries=0).status_code == 503
            with pytest.raises(smartclient.BreakerOpen):  # noqa: PT012
                for _ in range(200):
                    smartclient.get(TEAMS, retries=0)
    with pytest.raises(smartclient.NoInstances):
        smartclient.get(TEAMS)


def test_vcrpy_records_and_replays(echo: Echo, direct: runtime.Mesh, tmp_path: Path) -> None:
    """The second time nothing is asked of the network, by plain URL and by service."""
    file, plain = str(tmp_path / "c.yaml"), f"http://127.0.0.1:{echo.port}/plain"
    found = []
    for _ in range(2):
        with vcr.use_cassette(file):
            found.append([smartclient.get(plain).json()["path"], smartclient.get(TEAMS).json()["path"]])
    assert found == [["/plain", "/teams"]] * 2
    assert [path for path, _ in echo.seen] == ["/plain", "/teams"]
