"""Holding a lease."""

from __future__ import annotations

import logging
from typing import cast

import pytest

from atlas.directory import Directory
from atlas.keeper import Keeper
from atlas.model import Instance, Lease
from smartrealm.errors import Unavailable
from tests.processes import wait_until
from tests.unit.atlas.scripted import ScriptedDirectory

LEASE = Lease("identity@h:1", "one", ttl_seconds=0.15, instances=(Instance("identity", "h", 1),))


def keep(directory: ScriptedDirectory, *leases: Lease | None) -> Keeper:
    given = list(leases)
    return Keeper(
        cast(Directory, directory), lambda: given.pop(0) if len(given) > 1 else given[0], spread=lambda: 0.0
    ).start()


def test_it_renews_every_third_of_the_time_and_lets_go_at_the_end() -> None:
    """A lease is written again and again, and given back by close()."""
    directory = ScriptedDirectory()
    keeper = keep(directory, LEASE)
    assert [directory.held.get(timeout=5) for _ in range(3)] == [LEASE] * 3
    keeper.close()
    assert directory.released.get(timeout=5) == ("identity@h:1", "one")


def test_a_worker_that_hands_over_releases_nothing() -> None:
    """close(release=False) leaves the lease to whoever renews it next."""
    directory = ScriptedDirectory()
    keeper = keep(directory, LEASE)
    directory.held.get(timeout=5)
    keeper.close(release=False)
    assert directory.released.empty()


def test_what_was_never_held_is_not_released() -> None:
    """A process that does not speak for the instance takes nothing out of the map."""
    directory = ScriptedDirectory()
    keeper = keep(directory, None)
    wait_until(lambda: keeper.held is None)
    keeper.close()
    assert directory.released.empty()
    assert directory.held.empty()


def test_a_change_is_told_at_once() -> None:
    """refresh() does not wait for the next renewal."""
    slow = Lease("identity@h:1", "one", ttl_seconds=3000)
    directory = ScriptedDirectory()
    keeper = keep(directory, slow)
    directory.held.get(timeout=5)
    keeper.refresh()
    assert directory.held.get(timeout=5) == slow
    keeper.close()


def test_an_outage_is_told_once_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    """While the map cannot be written it is tried on, within a second each; afterwards the lease is held again."""
    directory = ScriptedDirectory()
    directory.refuse = Unavailable("away")
    with caplog.at_level(logging.INFO, "atlas"):
        keeper = keep(directory, LEASE)
        wait_until(lambda: keeper.failure == "away")
        directory.refuse = None
        assert directory.held.get(timeout=2) == LEASE
        wait_until(lambda: keeper.failure is None)
        keeper.close()
    assert [record.message for record in caplog.records] == [
        "the lease identity@h:1 could not be renewed, trying again: away",
        "the lease identity@h:1 is held again",
    ]


def test_a_map_that_is_away_does_not_stop_a_service_from_stopping(caplog: pytest.LogCaptureFixture) -> None:
    """close() raises nothing when the lease cannot be given back; the log says that it ends by itself."""
    directory = ScriptedDirectory()
    keeper = keep(directory, LEASE)
    directory.held.get(timeout=5)
    directory.refuse = Unavailable("away")
    keeper.close()
    assert "the lease identity@h:1 could not be given back, and ends by itself" in caplog.text
