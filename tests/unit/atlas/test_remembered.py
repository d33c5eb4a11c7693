"""Where everybody was last, for processes that start while the map is away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest

from atlas.directory import Directory
from atlas.model import Instance, Override, Service, Token
from atlas.reader import Reader
from atlas.remembered import LEAST_SECONDS, RememberedWorld
from atlas.world import Position, World
from smartrealm.errors import Unavailable
from tests.processes import wait_until
from tests.unit.atlas.scripted import ScriptedDirectory

HERE = Instance("identity", "10.0.0.1", 8000)
WORLD = World.from_items(
    Position("e", 3, 4),
    [
        ("service", "identity", Service("identity", owner="accounts").to_json()),
        ("instance", HERE.key, HERE.to_json()),
        ("override", "identity/API_KEY", Override("identity", "API_KEY", "planted-secret", secret=True).to_json()),
        ("token", "t", Token("t", "operator", "anna", "planted-digest").to_json()),
    ],
)


def kept_in(folder: Path, now: list[float] | None = None) -> RememberedWorld:
    clock = None if now is None else (lambda: now[0])
    return RememberedWorld(folder, url="http://atlas", realm="testing", **({"wall_clock": clock} if clock else {}))


def test_services_and_instances_are_kept_and_nothing_secret(tmp_path: Path) -> None:
    """What is needed for a call comes back; overrides and tokens are not in the file, which is its owner's alone."""
    kept = kept_in(tmp_path)
    kept.save(WORLD)
    found = kept_in(tmp_path).load()
    assert found is not None
    assert (found.position, found.services, found.instances) == (WORLD.position, WORLD.services, WORLD.instances)
    assert (found.overrides, found.tokens) == ({}, {})
    assert b"planted" not in kept.path.read_bytes()
    assert kept.path.stat().st_mode & 0o777 == 0o600


def test_all_processes_of_a_host_write_one_copy_now_and_then(tmp_path: Path) -> None:
    """A copy that is seconds old is good enough: a busy map does not keep the disk busy."""
    now = [os.times().elapsed]
    kept = kept_in(tmp_path, now)
    kept.save(WORLD)
    now[0] = kept.path.stat().st_mtime + LEAST_SECONDS / 2
    later = World(position=Position("e", 4, 4))
    kept.save(later)
    assert kept.load() == kept_in(tmp_path).load() != later
    now[0] += LEAST_SECONDS
    kept.save(later)
    assert kept.load() == later


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "position": "x", "items": []}']
)
def test_a_damaged_copy_is_no_copy(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is in the file, reading it raises nothing and gives nothing."""
    kept = kept_in(tmp_path)
    kept.path.parent.mkdir(parents=True)
    kept.path.write_bytes(content)
    kept.path.chmod(0o600)
    assert kept.load() is None
    assert "cannot be used" in caplog.text


def test_a_copy_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    """Whoever could write it could say where calls go."""
    kept = kept_in(tmp_path)
    kept.save(WORLD)
    kept.path.chmod(0o666)
    assert kept.load() is None


def test_a_map_that_says_nothing_at_all_is_not_waited_for(tmp_path: Path) -> None:
    """A frozen map neither answers nor refuses: what is remembered stands in after half a second."""
    kept_in(tmp_path).save(WORLD)
    directory = ScriptedDirectory()
    reader = Reader(cast(Directory, directory), remembered=kept_in(tmp_path)).start()
    assert reader.wait_ready(5)
    assert not reader.heard
    assert reader.world.places("identity")
    reader.close()
    directory.say(None)


def test_a_reader_that_begins_while_the_map_is_away_goes_by_what_is_remembered(tmp_path: Path) -> None:
    """It is ready, though it has heard nothing yet; the first answer takes the place of what was remembered."""
    kept_in(tmp_path).save(WORLD)
    directory = ScriptedDirectory()
    reader = Reader(cast(Directory, directory), remembered=kept_in(tmp_path), spread=lambda: 0.0).start()
    directory.say(Unavailable("away"))
    assert reader.wait_ready(5)
    assert not reader.heard
    assert [place.instance for place in reader.world.places("identity")] == [HERE]
    directory.say(World(position=Position("e", 9, 9)))
    wait_until(lambda: reader.heard)
    assert reader.world.places("identity") == ()
    reader.close()
    directory.say(None)
