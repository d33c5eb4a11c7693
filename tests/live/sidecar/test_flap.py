"""Instances that come and go, each second: the routes change a handful of times, and nothing is loaded anew."""

from __future__ import annotations

import pytest

from tests.flaps import flapping

pytestmark = pytest.mark.needs("haproxy")


def test_flapping_changes_the_routes_a_handful_of_times() -> None:
    """An instance whose readiness comes and goes each second, and one that comes into the map and leaves it twice a second."""
    found = flapping(5)
    assert found.readiness <= 6, found  # none at all, where no two checks in a row fell on a bad second
    assert 0 < found.map <= 6, found
    assert found.flaps >= 8, found
    assert (found.reloads, found.lost) == (0, []), found
