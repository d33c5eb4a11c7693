"""The World in memory only ever goes forward, and threads that follow come and go as they are needed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from atlas.log import Draft, Log
from atlas.mirror import IDLE_SECONDS, Mirror
from atlas.model import Edit
from atlas.stores.store import ANY
from atlas.world import Delta, Position, World
from smartrealm.errors import Unavailable
from tests.processes import wait_until
from tests.unit.atlas.faulty import FaultyStore, Time


def logs(store: FaultyStore) -> tuple[Log, Log]:
    return Log(store, "catalogue", keeps_history=True), Log(store, "presence", keeps_history=False)


def add(log: Log, name: str) -> None:
    log.append(lambda head: Draft("anna", "", (Edit("service", name, None, {"name": name}),)))


def following() -> int:
    return sum(1 for one in threading.enumerate() if one.name in ("atlas-catalogue", "atlas-presence"))


def test_an_older_head_changes_nothing(store: FaultyStore) -> None:
    """A read that was overtaken on its way does not take the World back."""
    catalogue, presence = logs(store)
    mirror = Mirror(catalogue, presence)
    add(catalogue, "a")
    old = catalogue.read()
    add(catalogue, "b")
    assert set(mirror.refresh().services) == {"a", "b"}
    assert set(mirror.take(catalogue, old).services) == {"a", "b"}
    assert mirror.world.position.revision == 2


def test_a_head_whose_snapshot_was_replaced_is_read_again(store: FaultyStore) -> None:
    """Who holds a head that leads to parts that are gone takes the present one."""
    catalogue, presence = logs(store)
    add(catalogue, "a")
    catalogue.keep_snapshot(catalogue.read(), [("service", "a", {"name": "a"})])
    old = catalogue.read()
    add(catalogue, "b")
    catalogue.keep_snapshot(catalogue.read(), [("service", name, {"name": name}) for name in "ab"])
    assert set(Mirror(catalogue, presence).take(catalogue, old).services) == {"a", "b"}


def test_parts_that_are_missing_for_good_are_unavailable(store: FaultyStore) -> None:
    """Damage is never taken for an empty map."""
    catalogue, presence = logs(store)
    add(catalogue, "a")
    catalogue.keep_snapshot(catalogue.read(), [("service", "a", {"name": "a"})])
    for key in store.keys("snapshot/"):
        store.delete(key)
    with pytest.raises(Unavailable, match="missing"):
        Mirror(catalogue, presence).refresh()


def test_a_map_that_began_anew_is_taken_whole(store: FaultyStore) -> None:
    """A head of another epoch replaces what was known of its log, and nothing of the other one."""
    catalogue, presence = logs(store)
    mirror = Mirror(catalogue, presence)
    add(catalogue, "a")
    presence.append(lambda head: Draft("a", "", (Edit("lease", "l", None, {"id": "l", "incarnation": "i"}),)))
    before = mirror.refresh().position
    store.put(catalogue.key, b"", ANY)
    store.delete(catalogue.key)
    add(catalogue, "c")
    update = mirror.update(before) or mirror.wait(before, 5)
    mirror.close()
    assert isinstance(update, World)
    assert (set(update.services), set(update.leases)) == ({"c"}, {"l"})


def test_a_head_that_vanished_is_no_news(store: FaultyStore) -> None:
    """Who reads keeps what it knows when the map is gone from its store; what is written next begins a new one."""
    catalogue, presence = logs(store)
    mirror = Mirror(catalogue, presence)
    add(catalogue, "a")
    before = mirror.refresh().position
    store.delete(catalogue.key)
    assert set(mirror.refresh().services) == {"a"}
    assert mirror.wait(before, 0.1) is None
    add(catalogue, "b")
    assert set(mirror.refresh().services) == {"b"}
    assert isinstance(mirror.update(before), World)
    mirror.close()


def test_what_is_missing_is_given_as_a_delta(store: FaultyStore) -> None:
    """From memory, with the edits of both logs and without what was before."""
    catalogue, presence = logs(store)
    mirror = Mirror(catalogue, presence)
    add(catalogue, "a")
    position = mirror.refresh().position
    add(catalogue, "b")
    mirror.refresh()
    update = mirror.update(position)
    assert isinstance(update, Delta)
    assert [(edit.key, edit.before) for edit in update.edits] == [("b", None)]
    assert mirror.update(update.position) is None
    assert mirror.update(Position(position.epoch, 3, 0)) is None


def test_nobody_follows_until_somebody_waits(store: FaultyStore) -> None:
    """Reading starts no thread; waiting starts one for each log; closing ends them."""
    mirror = Mirror(*logs(store))
    mirror.refresh()
    assert following() == 0
    mirror.wait(Position(), 0)
    assert following() == 2
    mirror.close()
    assert following() == 0


def test_followers_rest_when_nobody_waits_any_more(store: FaultyStore, time: Time) -> None:
    """A minute after the last question the threads end; the next question starts them again."""
    mirror = Mirror(*logs(store), clock=time)
    mirror.wait(Position(), 0)
    time.value += IDLE_SECONDS + 1
    wait_until(lambda: following() == 0, 5)
    mirror.wait(Position(), 0)
    assert following() == 2
    mirror.close()


def test_two_stores_are_followed_both(tmp_path: Path) -> None:
    """News of either is told."""
    for name in ("c", "p"):
        (tmp_path / name).mkdir()
    catalogue = Log(FaultyStore(tmp_path / "c"), "catalogue", keeps_history=True)
    presence = Log(FaultyStore(tmp_path / "p"), "presence", keeps_history=False)
    mirror = Mirror(catalogue, presence)
    add(catalogue, "a")
    position = mirror.refresh().position
    lease = {"id": "l", "incarnation": "i"}
    timer = threading.Timer(
        0.1, lambda: presence.append(lambda head: Draft("a", "", (Edit("lease", "l", None, lease),)))
    )
    timer.start()
    update = mirror.wait(position, 10)
    timer.join()
    assert isinstance(update, World)  # the first entry began the epoch of presence
    position = update.position
    timer = threading.Timer(0.1, lambda: add(catalogue, "b"))
    timer.start()
    assert isinstance(mirror.wait(position, 10), Delta)
    timer.join()
    mirror.close()
