"""gunicorn's settings for a server with very many connections."""

from __future__ import annotations

import resource

import pytest

from atlas.server.serving import _room_for_connections, settings
from smartrealm import ConfigurationError


def test_the_limit_of_open_files_is_raised_as_far_as_is_needed() -> None:
    """A reader that waits is an open file; beyond the hard limit nobody gets."""
    written: list[tuple[int, int]] = []
    unlimited = resource.RLIM_INFINITY
    assert _room_for_connections(1000, read=lambda: (1024, unlimited), write=written.append) == 4000
    assert _room_for_connections(1000, read=lambda: (1024, 3000), write=written.append) == 2750
    assert _room_for_connections(1000, read=lambda: (9999, 9999), write=written.append) == 4000
    assert written == [(4250, unlimited), (3000, 3000)]


def test_more_threads_than_connections_are_refused() -> None:
    """A worker that accepts nobody any more would answer no probe and no renewal either."""
    with pytest.raises(ConfigurationError, match="LimitNOFILE"):
        _room_for_connections(2000, read=lambda: (1024, 1024), write=lambda limits: None)


def test_the_settings_are_those_of_every_service_with_room_for_readers() -> None:
    """Our hooks, many threads, more connections than threads, one app for all workers."""
    found = settings({"THREADS": "300", "PORT": "7171"})
    assert (found["threads"], found["preload_app"], found["bind"]) == (300, True, ["127.0.0.1:7171"])
    assert found["worker_connections"] > 300
    assert callable(found["on_starting"])


def test_mistakes_are_told_together() -> None:
    """Of the server's own settings and of everyone's."""
    with pytest.raises(ConfigurationError) as caught:
        settings({"THREADS": "50", "ATLAS_SWEEP_SECONDS": "0", "PORT": "70000", "ATLAS_LONGEST_WAIT": "-1"})
    for name in ("ATLAS_SPARE_THREADS", "ATLAS_SWEEP_SECONDS", "PORT", "ATLAS_LONGEST_WAIT"):
        assert name in str(caught.value)
