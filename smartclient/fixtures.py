"""Pytest fixtures for services that call other services. Installed with smartclient; nothing needs to be imported.

def test_the_teams_are_shown(client, service_calls):
    service_calls.get("service://identity/teams", json=[{"id": 1, "name": "blue"}])
    assert client.get("/").status_code == 200
    assert len(service_calls.made) == 1
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from smartclient.testing import Calls


@pytest.fixture
def service_calls() -> Iterator[Calls]:
    """Answers for the calls to other services; a call that nothing is registered for fails the test."""
    from smartclient.testing import mock

    with mock() as calls:
        yield calls
