"""The map that a sidecar starts with when Atlas is away is the last one that it knew."""

from __future__ import annotations

from pathlib import Path
from threading import Event

from atlas.model import Service
from atlas.remembered import RememberedWorld
from atlas.world import Position, World
from sidecar.keeping import Keeping
from tests.processes import wait_until


def test_the_last_change_is_kept_as_well(tmp_path: Path) -> None:
    """A change that comes a moment after another one is kept a while later, although nothing changes any more."""
    first, second = (World.from_items(Position("e", 1), [("service", name, Service(name).to_json())]) for name in "ab")
    now = 1e9
    remembered = RememberedWorld(tmp_path, url="", realm="test", wall_clock=lambda: now)
    worlds = [first]
    keeping = Keeping(remembered, lambda: worlds[-1], soon_seconds=0, again_seconds=0.001)
    keeping.start()
    keeping.changed()
    wait_until(lambda: remembered.load() is not None)
    now = remembered.path.stat().st_mtime
    worlds.append(second)
    keeping.changed()
    Event().wait(0.02)
    assert set(remembered.load().services) == {"a"}  # type: ignore[union-attr]
    now += 11
    wait_until(lambda: set(remembered.load().services) == {"b"})  # type: ignore[union-attr]
    keeping.close()
