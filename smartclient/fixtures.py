"""Pytest fixtures for services that call other services. Installed with smartclient; nothing needs to be imported.

def test_the_teams_are_shown(client, service_calls):
    service_calls.get("service://identity/teams", json=[{"id": 1, "name": "blue"}])
    assert client.get("/").status_code == 200
    assert len(service_calls.made) == 1

| fixture | what it is |
|---|---|
| `service_calls` | answers that the test registers; a call that nothing is registered for fails the test |
| `service_cassette` | real answers, recorded once in `cassettes/` beside the test; `--record-calls=rewrite`: anew |
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from smartclient.recorder import Cassette
    from smartclient.testing import Calls

_FAILED = pytest.StashKey[bool]()


class _Failed(Exception):
    """Ends a recording without a file: what a test got before it failed is no answer to go on with."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-calls",
        choices=["once", "replay", "rewrite"],
        default="once",
        help="What service_cassette does: once (record where there is no cassette), replay (never call), rewrite.",
    )


def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Remember that a test failed, before its fixtures end."""
    node.stash[_FAILED] = True


@pytest.fixture
def service_calls() -> Iterator[Calls]:
    """Answers for the calls to other services; a call that nothing is registered for fails the test."""
    from smartclient.testing import mock

    with mock() as calls:
        yield calls


@pytest.fixture
def service_cassette(request: pytest.FixtureRequest) -> Iterator[Cassette]:
    """The calls of this test from its cassette: `cassettes/<module>/<test>.json` beside the test."""
    from smartclient.recorder import cassette

    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    file = request.path.parent / "cassettes" / request.path.stem / f"{name}.json"
    with suppress(_Failed), cassette(file, mode=request.config.getoption("--record-calls")) as kept:
        yield kept
        if kept.recording and request.node.stash.get(_FAILED, False):
            raise _Failed
