"""Where everybody was last, for processes that start while the map is away."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

import pytest

from atlas.directory import Directory
from atlas.model import Instance, Override, Service, Token
from atlas.reader import Reader
from atlas.remembered import LEAST_SECONDS, RELUCTANT_SECONDS, RememberedWorld
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


def test_what_was_known_under_another_url_is_there(tmp_path: Path) -> None:
    """The URL is another one since a minute: what was known before is found, for a while, and nothing of another realm."""
    now = [1000.0]
    kept_in(tmp_path, now).save(WORLD)
    now[0] += 60
    moved = RememberedWorld(tmp_path, url="http://elsewhere", realm="testing", wall_clock=lambda: now[0])
    assert moved.load() is None
    found = moved.load_elsewhere(3600)
    assert found is not None
    assert (found.instances, moved.age_seconds) == (WORLD.instances, 60)
    assert kept_in(tmp_path, now).load_elsewhere(3600) is None
    assert RememberedWorld(tmp_path, url="u", realm="test", wall_clock=lambda: now[0]).load_elsewhere(3600) is None
    moved.save(World(position=Position("f", 1, 1)), force=True)
    assert moved.load() is not None
    assert moved.load_elsewhere(3600) is None
    now[0] += 3600
    assert RememberedWorld(tmp_path, url="v", realm="testing", wall_clock=lambda: now[0]).load_elsewhere(3600) is None


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


def world_of(count: int, *, epoch: str = "e", revision: int = 1) -> World:
    instances = [Instance("identity", "10.0.0.1", 8000 + number) for number in range(count)]
    return World.from_items(Position(epoch, revision, 0), [("instance", one.key, one.to_json()) for one in instances])


@pytest.mark.parametrize("damage", ["torn", "turned", "emptied", "gone", "foreign"])
def test_a_damaged_copy_falls_back_to_the_one_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever happened to the newer one, the older one is used, and that is said with its age."""
    now = [1000.0]
    kept = kept_in(tmp_path, now)
    assert kept.save(WORLD, force=True)
    now[0] += 5
    assert kept.save(world_of(3), force=True)
    content = kept.path.read_bytes()
    if damage == "torn":
        kept.path.write_bytes(content[: len(content) // 2])
    elif damage == "turned":  # still JSON, and another address
        kept.path.write_bytes(content.replace(b"10.0.0.1", b"10.0.0.2"))
    elif damage == "emptied":
        kept.path.write_bytes(b"")
    elif damage == "gone":  # the power went between the two renames
        kept.path.unlink()
    else:
        kept.path.chmod(0o666)
    now[0] += 60
    again = kept_in(tmp_path, now)
    found = again.load()
    assert found is not None
    assert found.instances == WORLD.instances
    assert (again.saved_at, again.age_seconds) == (1000.0, 65.0)
    assert "an older copy of the map is used, from 65 s ago" in caplog.text


def test_a_damaged_copy_never_takes_the_place_of_a_good_one(tmp_path: Path) -> None:
    """Saving over a damaged copy leaves the one before it where it is."""
    kept = kept_in(tmp_path)
    kept.save(WORLD, force=True)
    kept.save(world_of(3), force=True)
    kept.path.write_bytes(b"torn")
    kept.save(world_of(4), force=True)
    kept.path.write_bytes(b"torn again")
    found = kept.load()
    assert found is not None
    assert found.instances == WORLD.instances


def test_a_position_is_part_of_what_is_checked(tmp_path: Path) -> None:
    """A reader that goes on from a position that is not that of the items would miss changes."""
    kept = kept_in(tmp_path)
    kept.save(WORLD)
    kept.path.write_bytes(kept.path.read_bytes().replace(b"e.3.4", b"e.9.4"))
    assert kept.load() is None


def test_how_old_it_is_can_be_told(tmp_path: Path) -> None:
    """Nothing before it was loaded, or when there was nothing to load."""
    now = [1000.0]
    kept = kept_in(tmp_path, now)
    assert kept.load() is None
    assert (kept.saved_at, kept.age_seconds) == (None, None)
    kept.save(WORLD)
    kept.load()
    now[0] = 1030.0
    assert (kept.saved_at, kept.age_seconds) == (1000.0, 30.0)


def test_who_must_be_sure_saves_at_once(tmp_path: Path) -> None:
    """An agent that ends keeps what it knows, however short ago the last copy was."""
    kept = kept_in(tmp_path)
    assert kept.save(world_of(1))
    assert not kept.save(world_of(2))
    assert kept.save(world_of(2), force=True)
    assert kept.load() == world_of(2)


@pytest.mark.parametrize(("left", "passed"), [(0, 60), (1, 60), (4, 60), (0, -60)])
def test_a_wiped_map_does_not_take_the_place_of_a_full_one(
    tmp_path: Path, left: int, passed: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A new epoch with less than half of the instances: absence of news is never a removal, whatever became of the clock. It is
    said once."""
    now = [os.times().elapsed + 1e9]
    kept = kept_in(tmp_path, now)
    kept.save(world_of(10), force=True)
    now[0] += passed
    assert not kept.save(world_of(left, epoch="f"))
    assert not kept.save(world_of(left, epoch="f", revision=2), force=True)
    assert kept.load() == world_of(10)
    assert caplog.text.count("the map begins anew") == 1


@pytest.mark.parametrize(
    ("world", "accept", "later"),
    [
        (world_of(5, epoch="f"), False, 60.0),  # most have come back
        (world_of(0, epoch="e", revision=2), False, 60.0),  # the same map, changed
        (world_of(0, epoch="f"), True, 60.0),  # the operator accepts it
        (world_of(0, epoch="f"), False, RELUCTANT_SECONDS + 1),  # nobody came back for an hour
    ],
)
def test_what_is_kept_follows_the_map_in_the_end(tmp_path: Path, world: World, accept: bool, later: float) -> None:
    """Reluctance is for a moment in doubt, not for ever."""
    now = [os.times().elapsed + 1e9]
    kept = kept_in(tmp_path, now)
    kept.save(world_of(10), force=True)
    now[0] += later
    assert kept.save(world, accept=accept)
    assert kept.load() == world


def test_a_copy_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    """An upgrade while the map is away loses nothing; the next save writes the present format."""
    kept = kept_in(tmp_path)
    kept.path.parent.mkdir(parents=True)
    items = [["instance", HERE.key, HERE.to_json()]]
    kept.path.write_text(
        json.dumps({"format": 1, "position": "e.3.4", "items": items}, separators=(",", ":")), encoding="utf-8"
    )
    kept.path.chmod(0o600)
    found = kept.load()
    assert found is not None
    assert found.instances == WORLD.instances
    assert kept.saved_at == kept.path.stat().st_mtime
    kept.save(WORLD, force=True)
    assert b'"format": 2' in kept.path.read_bytes()


def test_a_disk_that_refuses_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It costs the copy and nothing else."""
    (tmp_path / "atlas").write_text("in the way")
    kept = kept_in(tmp_path)
    assert not kept.save(WORLD)
    assert not kept.save(WORLD, force=True)
    assert caplog.text.count("cannot be kept") == 1


def test_a_map_that_says_nothing_at_all_is_not_waited_for(tmp_path: Path) -> None:
    """A frozen map neither answers nor refuses: what is remembered stands in after half a second."""
    kept_in(tmp_path).save(WORLD)
    directory = ScriptedDirectory()
    reader = Reader(cast(Directory, directory), remembered=kept_in(tmp_path)).start()
    assert reader.wait_ready(30)
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
    assert reader.wait_ready(30)
    assert not reader.heard
    assert [place.instance for place in reader.world.places("identity")] == [HERE]
    directory.say(World(position=Position("e", 9, 9)))
    wait_until(lambda: reader.heard)
    assert reader.world.places("identity") == ()
    reader.close()
    directory.say(None)
