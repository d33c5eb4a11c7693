"""The log: every change exactly once, in order, whatever happens on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas.log import INLINE_ENTRIES, Draft, Gone, Head, Log
from atlas.model import Edit
from atlas.stores.store import ANY, LARGEST_BODY, Changed, Refused
from smartrealm.errors import Conflict, Unavailable
from tests.unit.atlas.faulty import FaultyStore, Time, lost, once

HEAD = "log/catalogue/head"


@pytest.fixture
def log(store: FaultyStore, time: Time) -> Log:
    """A catalogue."""
    return Log(store, "catalogue", keeps_history=True, now=time, clock=time, sleep=time.sleep, spread=lambda: 0.5)


@pytest.fixture
def presence(store: FaultyStore, time: Time) -> Log:
    """A log that forgets."""
    return Log(store, "presence", keeps_history=False, now=time, clock=time, sleep=time.sleep, spread=lambda: 0.5)


def draft(value: object = 1, key: str = "*/KEY") -> Draft:
    return Draft("anna", "why", (Edit("override", key, None, {"value": value}),))


def append(log: Log, *values: object) -> Head:
    head = Head()
    for value in values:
        head, _ = log.append(lambda _, value=value: draft(value))  # type: ignore[misc]
    return head


def values(log: Log, head: Head | None = None) -> Iterator[object]:
    for change in log.forwards(head or log.read()):
        assert change.edits[0].after is not None
        yield change.edits[0].after["value"]


def test_what_is_appended_is_there_in_order(log: Log, time: Time) -> None:
    """Entries have the next revision, the author, the reason and the time at which they were written."""
    time.value = 5.0
    head, change = log.append(lambda head: draft())
    assert change is not None
    assert (change.revision, change.at, change.author, change.why) == (1, 5.0, "anna", "why")
    append(log, 2, 3)
    assert list(values(log)) == [1, 2, 3]
    assert (log.read().epoch, log.read().revision) == (head.epoch, 3)


def test_a_decision_for_nothing_writes_nothing(log: Log, store: FaultyStore) -> None:
    """A draft of None leaves no entry, and what a decision raises goes to the caller."""

    def refuse(head: Head) -> Draft:
        raise Conflict("no")

    assert log.append(lambda head: None) == (Head(), None)
    with pytest.raises(Conflict):
        log.append(refuse)
    assert store.written == []


def test_a_decision_is_taken_again_on_a_newer_head(log: Log, store: FaultyStore) -> None:
    """Who was overtaken decides anew, on what the faster one left."""
    other = Log(store.inner, "catalogue", keeps_history=True)
    store.before_put = once(lambda key: append(other, "theirs"), HEAD)
    seen: list[int] = []
    _, change = log.append(lambda head: seen.append(head.revision) or draft("ours"))  # type: ignore[func-returns-value]
    assert seen == [0, 1]
    assert change is not None
    assert change.revision == 2
    assert list(values(log)) == ["theirs", "ours"]


def test_a_write_whose_answer_is_lost_is_not_repeated(log: Log, store: FaultyStore) -> None:
    """An entry that was written without an answer is found again, and is there once."""
    append(log, 1)
    store.after_put = once(lost, HEAD)
    head, change = log.append(lambda head: draft(2))
    assert change is not None
    assert (head.revision, change.revision) == (2, 2)
    assert list(values(log)) == [1, 2]


def test_a_write_that_never_arrived_is_repeated(log: Log, store: FaultyStore) -> None:
    """An entry that was not written is written by the next attempt, once."""
    store.before_put = once(lost, HEAD)
    assert append(log, 1).revision == 1
    assert list(values(log)) == [1]


def test_a_lost_answer_is_found_below_what_others_wrote(log: Log, store: FaultyStore) -> None:
    """Others may have written a lot, and moved the entry to a segment, before we look for it."""
    other = Log(store.inner, "catalogue", keeps_history=True)

    def busy(key: str) -> None:
        append(other, *range(40))
        raise Unavailable("no answer")

    store.after_put = once(busy, HEAD)
    _, change = log.append(lambda head: draft("ours"))
    assert change is not None
    assert change.revision == 1
    assert list(values(log)).count("ours") == 1


def test_a_store_that_stays_away_ends_the_attempt(log: Log, store: FaultyStore, time: Time) -> None:
    """A first failure to read is told at once; after a doubtful write it is tried for a while, then told."""
    store.frozen = True
    with pytest.raises(Unavailable):
        append(log, 1)
    store.frozen = False

    def freeze(key: str) -> None:
        store.frozen = True
        raise Unavailable("no answer")

    store.after_put = freeze
    begun = time.value
    with pytest.raises(Unavailable):
        append(log, 1)
    assert 10 < time.value - begun < 30


def test_endless_competition_ends(log: Log, store: FaultyStore, time: Time) -> None:
    """Who is overtaken again and again hears of it after a bounded time."""

    def overtake(key: str) -> None:
        raise Changed(key)

    store.before_put = overtake
    with pytest.raises(Unavailable, match="at once"):
        append(log, 1)
    assert list(values(log)) == []


def test_old_entries_move_to_segments(log: Log, store: FaultyStore) -> None:
    """The head stays small; the whole history is read back in both directions, each entry once."""
    head = append(log, *range(200))
    assert len(head.entries) <= INLINE_ENTRIES
    assert list(values(log)) == list(range(200))
    assert [change.revision for change in log.backwards(log.read())] == list(range(200, 0, -1))
    assert [change.revision for change in log.backwards(log.read(), before=3)] == [2, 1]
    assert len(store.get(HEAD).body) < 32 * 1024  # type: ignore[union-attr]


def test_a_big_entry_goes_to_a_segment_in_parts(log: Log, store: FaultyStore) -> None:
    """An entry that no document could hold is cut; the head stays small."""
    noise = os.urandom(400_000).hex()
    append(log, 1, noise, 3)
    assert list(values(log)) == [1, noise, 3]
    assert len(store.keys("segment/")) > 1
    assert all(len(document.body) <= LARGEST_BODY for document in store.get_all("segment/").values())
    assert len(store.get(HEAD).body) < 32 * 1024  # type: ignore[union-attr]


def test_an_overtaken_segment_is_removed(log: Log, store: FaultyStore) -> None:
    """Who wrote a segment and was overtaken takes it away again: none is left that no head points to."""
    append(log, *range(INLINE_ENTRIES))
    other = Log(store.inner, "catalogue", keeps_history=True)
    store.before_put = once(lambda key: append(other, "theirs"), HEAD)
    append(log, "ours")
    assert len(store.keys("segment/")) == 1
    assert list(values(log))[-2:] == ["theirs", "ours"]


def test_changes_since_a_revision(log: Log) -> None:
    """A reader gets exactly what it missed; one that is too far behind, or ahead, gets None."""
    head = append(log, *range(100))
    for revision in (100, 99, 90, 60, 1, 0):
        found = log.since(head, revision)
        assert found is not None
        assert [change.revision for change in found] == list(range(revision + 1, 101))
    assert log.since(head, 101) is None
    head = append(log, *range(400))
    assert log.since(head, 0) is None


def test_a_snapshot_shortens_the_way(log: Log, store: FaultyStore) -> None:
    """After a snapshot the state is the snapshot and the entries since; the one before it is removed."""
    head = append(log, *range(100))
    log.keep_snapshot(head, [("override", "*/KEY", {"value": 99})])
    head = append(log, 100)
    items, changes = log.load(head)
    assert items == [("override", "*/KEY", {"value": 99})]
    assert [change.revision for change in changes] == [101]
    log.keep_snapshot(head, [("override", "*/KEY", {"value": 100})])
    assert len(store.keys("snapshot/")) == 1
    assert log.load(log.read())[0] == [("override", "*/KEY", {"value": 100})]
    assert list(values(log)) == list(range(101))


def test_a_snapshot_is_wanted_when_segments_outweigh_it(log: Log) -> None:
    """Not for a few entries, but before the way gets long."""
    head = append(log, *range(100))
    assert not log.wants_snapshot(head)
    head = append(log, *(os.urandom(10_000).hex() for _ in range(12)))
    assert log.wants_snapshot(head)
    log.keep_snapshot(head, [])
    assert not log.wants_snapshot(log.read())


def test_a_late_snapshot_gives_way(log: Log, store: FaultyStore) -> None:
    """One that is older than what is kept changes nothing and leaves nothing."""
    old = append(log, 1)
    new = append(log, 2)
    log.keep_snapshot(new, [("override", "*/KEY", {"value": 2})])
    log.keep_snapshot(old, [("override", "*/KEY", {"value": 1})])
    assert log.load(log.read())[0] == [("override", "*/KEY", {"value": 2})]
    assert len(store.keys("snapshot/")) == 1


def test_presence_forgets_what_a_snapshot_covers(presence: Log, store: FaultyStore) -> None:
    """Segments below the snapshot go, but for two; who is that far behind is told to read everything."""
    head = append(presence, *range(300))
    presence.keep_snapshot(head, [])
    assert len(store.keys("segment/")) == 2
    fresh = Log(store, "presence", keeps_history=False)
    assert fresh.since(fresh.read(), 10) is None
    assert fresh.since(fresh.read(), 280) is not None
    assert [change.revision for change in fresh.load(presence.read())[1]] == []


def test_a_reader_whose_snapshot_was_replaced_is_told(log: Log, store: FaultyStore) -> None:
    """A head that is too old leads to parts that are gone, which is not taken for an empty state."""
    head = append(log, 1)
    log.keep_snapshot(head, [("override", "*/KEY", {"value": 1})])
    old = log.read()
    log.keep_snapshot(append(log, 2), [("override", "*/KEY", {"value": 2})])
    with pytest.raises(Gone):
        log.load(old)


def test_what_is_damaged_or_newer_is_said(log: Log, store: FaultyStore) -> None:
    """A head of another format or of garbage names the document and shows nothing of it."""
    for body, told in ((b'{"format": 2}', "format 2"), (b"s3cret", "damaged"), (b"{}", "damaged"), (b"[1]", "damaged")):
        store.put(HEAD, body, ANY)
        with pytest.raises(Unavailable, match=told) as caught:
            log.read()
        assert HEAD in str(caught.value)
        assert "s3cret" not in str(caught.value)


def test_the_head_is_readable_json(log: Log, store: FaultyStore) -> None:
    """The head can be looked at with the tools of any store."""
    append(log, "ü")
    head = json.loads(store.get(HEAD).body)  # type: ignore[union-attr]
    assert (head["format"], head["revision"], head["first"]) == (1, 1, 1)
    assert head["entries"][0]["edits"] == [["override", "*/KEY", None, {"value": "ü"}]]


def test_a_whole_history_is_written_at_once(log: Log, tmp_path: Path) -> None:
    """Filling an empty log keeps revisions and entries and begins a new epoch; a log with entries refuses."""
    append(log, *range(300))
    (tmp_path / "other").mkdir()
    store = FaultyStore(tmp_path / "other")
    other = Log(store, "catalogue", keeps_history=True)
    head = other.fill(log.forwards(log.read()), lambda: [("override", "*/KEY", {"value": 299})])
    assert list(other.forwards(head)) == list(log.forwards(log.read()))
    assert (head.revision, head.epoch != log.read().epoch) == (300, True)
    assert other.load(other.read()) == ([("override", "*/KEY", {"value": 299})], ())
    assert append(other, "on").revision == 301
    with pytest.raises(Conflict):
        other.fill([], list)
    store.close()


def test_a_store_that_refuses_is_not_asked_again(log: Log, store: FaultyStore, time: Time) -> None:
    """Missing rights and a full disk are told at once: nothing was written, so there is nothing to look for."""

    def refuse(key: str) -> None:
        asked.append(key)
        raise Refused("The disk is full.")

    asked: list[str] = []
    store.before_put = refuse
    begun = time()
    with pytest.raises(Unavailable, match="full"):
        log.append(lambda _: draft())
    assert (asked, time()) == ([HEAD], begun)
