"""Following the map."""

from __future__ import annotations

import gc
import logging
import os
import time
from typing import Any, cast

import pytest

from atlas.directory import Directory
from atlas.model import Edit, Instance
from atlas.reader import FIRST_WAIT_SECONDS, LONGEST_PAUSE, Reader, pause
from atlas.world import Delta, Position, World
from smartrealm.errors import Unavailable
from tests.processes import wait_until
from tests.unit.atlas.scripted import ScriptedDirectory

FIRST, SECOND = Position("e", 1, 1), Position("e", 1, 2)
HERE = Instance("identity", "10.0.0.1", 8000)


def reader_of(directory: ScriptedDirectory, **options: Any) -> Reader:
    return Reader(cast(Directory, directory), spread=lambda: 0.0, **options)


def world_with_one() -> World:
    return World.from_items(FIRST, [("instance", HERE.key, HERE.to_json())])


def test_it_takes_the_world_and_then_what_changes() -> None:
    """The first answer is the whole map, each further one is applied to it."""
    directory = ScriptedDirectory()
    there = Instance("identity", "10.0.0.2", 8000)
    reader = reader_of(directory).start()
    directory.say(world_with_one(), Delta(FIRST, SECOND, (Edit("instance", there.key, None, there.to_json()),)))
    assert reader.wait_for(lambda world: world.position == SECOND, 5)
    assert set(reader.world.instances["identity"]) == {"10.0.0.1:8000", "10.0.0.2:8000"}
    wait_until(lambda: directory.asked == [None, FIRST, SECOND])
    reader.close()
    directory.say(None)


def test_absence_of_news_is_no_removal(caplog: pytest.LogCaptureFixture) -> None:
    """While nobody answers the last world stays, the failure is told once, and following goes on afterwards."""
    directory = ScriptedDirectory()
    reader = reader_of(directory).start()
    with caplog.at_level(logging.INFO, "atlas"):
        directory.say(world_with_one(), Unavailable("away"), Unavailable("away"))
        assert reader.wait_ready(30)
        wait_until(lambda: len(directory.asked) == 4)
        assert reader.failure == "away"
        assert reader.world.places("identity")
        with pytest.raises(Unavailable, match="away"):
            reader.raise_failure()
        directory.say(None)
        wait_until(lambda: reader.failure is None)
    assert [record.message for record in caplog.records] == [
        "the map cannot be followed, going on with what is known: away",
        "the map is followed again",
    ]
    reader.close()
    directory.say(None)


def test_the_end_of_an_outage_is_known_soon() -> None:
    """The question after a failure waits for news only shortly, so that an answer without news is heard soon too."""
    directory = ScriptedDirectory()
    reader = reader_of(directory, wait_seconds=25.0).start()
    directory.say(world_with_one(), None, Unavailable("away"), None)
    wait_until(lambda: len(directory.waits) == 4)
    assert directory.waits == [25.0, 25.0, FIRST_WAIT_SECONDS, 25.0]
    reader.close()
    directory.say(None)


def test_a_complete_answer_replaces_the_world() -> None:
    """A reader that cannot continue is given the whole map anew, and what is not in it is gone."""
    directory = ScriptedDirectory()
    reader = reader_of(directory).start()
    directory.say(world_with_one(), World.from_items(Position("other", 1, 0), []))
    assert reader.wait_for(lambda world: world.position.epoch == "other", 5)
    assert reader.world.places("identity") == ()
    reader.close()
    directory.say(None)


def test_a_callback_that_fails_does_not_end_the_following(caplog: pytest.LogCaptureFixture) -> None:
    """Every callback sees every update; one that raises is logged."""
    directory, seen = ScriptedDirectory(), []
    reader = reader_of(directory)
    reader.on_update(lambda old, new: 1 / 0)
    reader.on_update(lambda old, new: seen.append((old.position, new.position)))
    reader.start()
    directory.say(world_with_one(), Delta(FIRST, SECOND, ()))
    wait_until(lambda: len(seen) == 2)
    assert seen == [(Position(), FIRST), (FIRST, SECOND)]
    assert "could not take an update" in caplog.text
    reader.close()
    directory.say(None)


def test_nobody_waits_longer_for_the_first_world_than_they_said() -> None:
    """A caller with a deadline gets its answer, that there is none, in time."""
    directory = ScriptedDirectory()
    reader = reader_of(directory).start()
    begun = time.monotonic()
    assert not reader.wait_ready(0.1)
    assert time.monotonic() - begun < 5
    reader.close()
    directory.say(None)


def test_a_reader_that_nobody_holds_ends_its_thread() -> None:
    """An app that is dropped without close() leaves no thread behind."""
    directory = ScriptedDirectory()
    reader = reader_of(directory).start()
    directory.say(world_with_one())
    assert reader.wait_ready(30)
    thread = reader._thread
    assert thread is not None
    del reader
    gc.collect()
    directory.say(None)
    thread.join(30)
    assert not thread.is_alive()


def test_a_child_keeps_the_world_and_follows_for_itself() -> None:
    """After a fork the world is there at once, and start() follows in the child."""
    directory = ScriptedDirectory()
    directory.say(world_with_one())
    reader = reader_of(directory)
    reader.read()
    child = os.fork()
    if child == 0:
        ok = False
        try:
            directory.say(Delta(FIRST, SECOND, ()))
            reader.start()
            ok = bool(reader.world.places("identity")) and reader.wait_for(lambda world: world.position == SECOND, 5)
        finally:
            os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_pauses_grow_and_are_bounded() -> None:
    """Questions to somebody who does not answer become rarer, and never rarer than every two seconds."""
    assert [pause(failures, lambda: 1.0) for failures in (1, 2, 3, 100)] == [0.1, 0.2, 0.4, LONGEST_PAUSE]
    assert pause(100, lambda: 0.0) == LONGEST_PAUSE / 2
