"""The map that a sidecar starts with when Atlas is away is the last one that it knew."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from atlas.model import Service
from atlas.remembered import RememberedWorld
from atlas.world import Position, World
from sidecar.follower import Keeping
from tests.processes import wait_until

FIRST, SECOND = (World.from_items(Position("e", 1), [("service", name, Service(name).to_json())]) for name in "ab")


def names(remembered: RememberedWorld) -> set[str]:
    """What a new process would find."""
    found = remembered.load()
    return set() if found is None else set(found.services)


def test_the_last_change_is_kept_as_well(tmp_path: Path) -> None:
    """A change that comes a moment after another one is kept, too, although nothing changes any more."""
    remembered = RememberedWorld(tmp_path, url="", realm="test")
    worlds = [FIRST]
    keeping = Keeping(remembered, lambda: worlds[-1], soon_seconds=0, least_seconds=0.001)
    keeping.start()
    keeping.changed()
    wait_until(lambda: names(remembered) == {"a"})
    worlds.append(SECOND)
    keeping.changed()
    wait_until(lambda: names(remembered) == {"b"})
    keeping.close()


class FullDisk:
    """Takes nothing at first."""

    def __init__(self) -> None:
        self.tried: list[World] = []

    def save(self, world: World, *, force: bool = False, accept: bool = False) -> bool:
        self.tried.append(world)
        return len(self.tried) > 2


def test_what_a_full_disk_refuses_is_kept_later() -> None:
    """Nothing changes any more, and the map is on disk as soon as there is room."""
    disk = FullDisk()
    keeping = Keeping(cast(Any, disk), lambda: FIRST, soon_seconds=0, least_seconds=0.001, again_seconds=0.001)
    keeping.start()
    keeping.changed()
    wait_until(lambda: len(disk.tried) == 3)
    keeping.close()
    assert disk.tried == [FIRST] * 3
