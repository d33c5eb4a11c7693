"""Overrides from the map of the realm."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from atlas.directory import Directory
from atlas.model import Override
from atlas.reader import Reader
from atlas.world import Position, World
from smartconfig.atlas import AtlasSource
from smartrealm.errors import ConfigurationError, Unavailable
from tests.unit.atlas.scripted import ScriptedDirectory


def world(revision: int, *overrides: Override) -> World:
    return World.from_items(Position("e", revision, 0), [("override", one.name, one.to_json()) for one in overrides])


def override(scope: str, key: str, value: Any, revision: int = 1, **more: Any) -> Override:
    return Override(scope, key, value, author="anna", at=float(revision), revision=revision, **more)


def source_of(*answers: World | Exception | None) -> AtlasSource:
    directory = ScriptedDirectory()
    directory.say(*answers)
    return AtlasSource(Reader(cast(Directory, directory), spread=lambda: 0.0), "identity")


def test_a_service_gets_what_is_meant_for_all_and_for_itself() -> None:
    """Overrides of `*` and of the service come along with their authors, in that order; those of others do not."""
    source = source_of(world(3, override("identity", "A", 2), override("*", "A", 1), override("orders", "A", 3)))
    entries = source.current().entries
    assert [(one.scope, one.key, one.value, one.author) for one in entries] == [
        ("*", "A", 1, "anna"),
        ("identity", "A", 2, "anna"),
    ]


def test_the_version_changes_with_what_concerns_the_service_and_with_nothing_else() -> None:
    """Changes of other services leave the version; it begins with the revision that set the newest override."""
    mine = override("identity", "A", 2, revision=3)
    version = source_of(world(3, mine)).current().version
    assert version.startswith("3-")
    assert source_of(world(9, mine, override("orders", "B", 1, revision=9))).current().version == version
    assert source_of(world(9, override("identity", "A", 3, revision=9))).current().version.startswith("9-")
    assert source_of(world(9)).current().version == "0"


def test_the_version_tells_nothing_of_a_secret() -> None:
    """Two secrets set at the same moment have the same version: nobody can try values against it."""
    versions = {
        source_of(world(3, override("identity", "A", value, secret=True))).current().version for value in ("x", "y")
    }
    assert len(versions) == 1


def test_a_secret_that_is_not_shown_is_refused_by_name() -> None:
    """A hidden secret is never taken for its default: the error names it and says what its service needs."""
    source = source_of(world(3, override("identity", "API_KEY", None, secret=True, hidden=True)))
    with pytest.raises(ConfigurationError, match=r"API_KEY is a secret that was not shown to identity.*token"):
        source.current()


def test_waiting_ends_with_the_first_change_that_concerns_the_service() -> None:
    """wait() sleeps over changes of others and gives its own at once."""
    mine = override("identity", "A", 2, revision=3)
    source = source_of(world(3, mine), world(4, mine), world(5, override("identity", "A", 5, revision=5)))
    version = source.current().version
    answer = source.wait(version, 5)
    assert answer is not None
    assert [entry.value for entry in answer.entries] == [5]


def test_waiting_without_news_gives_nothing() -> None:
    """After `seconds` with no change there is no answer."""
    source = source_of(world(3))
    assert source.wait(source.current().version, 0.05) is None


def test_an_outage_is_raised_once_and_the_end_of_it_is_noticed() -> None:
    """While the map is away wait() says so at once, and only once; then it waits for the map to be back."""
    source = source_of(world(3), Unavailable("away"), world(4, override("identity", "A", 2, revision=4)))
    version = source.current().version
    with pytest.raises(Unavailable, match="away"):
        source.wait(version, 5)
    answer = source.wait(version, 5)
    assert answer is None or answer.version != version
    if answer is None:  # the end of the outage was told first
        answer = source.wait(version, 5)
    assert answer is not None
    assert answer.version.startswith("4-")


def test_a_map_that_was_never_read_is_not_an_empty_one() -> None:
    """A service that starts on the overrides it kept loses none of them while the map is away or refuses its token."""
    source = source_of(Unavailable("away"), Unavailable("away"), world(3, override("identity", "A", 2, revision=3)))
    with pytest.raises(Unavailable, match="away"):
        source.current()
    with pytest.raises(Unavailable, match="away"):
        source.wait("3-kept", 5)
    answer = source.wait("3-kept", 5)
    assert answer is not None
    assert [entry.value for entry in answer.entries] == [2]


def test_several_parts_of_a_process_share_one_reader() -> None:
    """Two sources on one reader cost one thread."""
    directory = ScriptedDirectory()
    directory.say(world(3))
    reader = Reader(cast(Directory, directory))
    before = threading.active_count()
    for name in ("identity", "orders"):
        AtlasSource(reader, name).wait("0", 0.01)
    assert threading.active_count() == before + 1
    reader.close()
    directory.say(None)
