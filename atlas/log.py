"""A log of changes inside a store: append-only, totally ordered, each entry there exactly once.

One document, `log/<name>/head`, decides everything. It holds the newest entries and points to the rest:

    head ── entries 97..104 (inline)
      ├──── segment ── entries 73..96 ── previous ── entries 49..72 ── ... ── entries 1..24
      └──── snapshot: the state that revisions 1..60 folded to

Appending is compare-and-set on the head: what was decided on an older head is decided again on the newer one. So every
change is atomic and ordered on every store, and whoever waits for the head misses nothing. Segments and snapshots are
written before the head points to them and never changed after; one that no head came to point to is left-over bytes.
"""

from __future__ import annotations

import json
import random
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from atlas.model import Change, Edit, Kind
from atlas.stores.store import ANY, LARGEST_BODY, Changed, Document, Refused, Store
from smartrealm.errors import Conflict, Unavailable

FORMAT = 1
INLINE_ENTRIES = 32
INLINE_BYTES = 24 * 1024
KEPT_ENTRIES = 8
"""How many entries stay inline when the older ones go to a segment."""

SNAPSHOT_BYTES = 64 * 1024
FILLED_ENTRIES = 256
"""Entries of one segment when a whole history is written at once."""

APPEND_SECONDS = 15.0
NEAR_SEGMENTS = 8
"""So many segments are read to bring a reader up to date; one that is farther behind reads the snapshot."""

Item = tuple[Kind, str, Mapping[str, Any]]
Name = Literal["catalogue", "presence"]


class Gone(Exception):
    """A segment or a snapshot is not there any more: a newer head points to others."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Something big, compressed and cut to the documents `<key>.0`, `<key>.1`, ...; it holds revisions `first` to `last`."""

    key: str
    parts: int
    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Head:
    """What the head document says."""

    epoch: str = ""
    """Made with the first entry and by every import: revisions of different epochs are not comparable."""
    revision: int = 0
    entries: tuple[Change, ...] = ()
    segment: Blob | None = None
    """The newest segment."""
    snapshot: Blob | None = None
    loose: int = 0
    """Bytes of the segments that the snapshot does not cover."""
    version: str | None = None
    """The version of the document; None while there is none."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A change that has been decided and is not written yet."""

    author: str
    why: str
    edits: tuple[Edit, ...]


class Log:
    """One log in a store. Safe from any thread; holds nothing but a cache."""

    def __init__(
        self,
        store: Store,
        name: Name,
        *,
        keeps_history: bool,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.store = store
        self.name = name
        self.key = f"log/{name}/head"
        self._keeps_history = keeps_history
        self._now, self._clock, self._sleep, self._spread = now, clock, sleep, spread
        self._cached = Head()
        self._segments: dict[str, tuple[Blob | None, tuple[Change, ...]]] = {}

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self) -> Head:
        """The head now; an empty one when nothing was ever written."""
        return self.head_of(self.store.get(self.key))

    def head_of(self, document: Document | None) -> Head:
        """The head that a document holds."""
        if document is None:
            return Head()
        cached = self._cached
        if cached.version != document.version:
            self._cached = cached = _decode_head(document)
        return cached

    def since(self, head: Head, revision: int, segments: float = NEAR_SEGMENTS) -> tuple[Change, ...] | None:
        """The changes after `revision`, oldest first; None when they are too far back or no longer kept."""
        if revision > head.revision:
            return None
        found = list(head.entries)
        first = head.revision - len(found) + 1
        blob = head.segment
        try:
            while first > revision + 1:
                if blob is None or segments <= 0:
                    return None
                first, segments = blob.first, segments - 1
                blob, entries = self._read_segment(blob)
                found[:0] = entries
        except Gone:
            return None
        return tuple(change for change in found if change.revision > revision)

    def load(self, head: Head) -> tuple[list[Item], tuple[Change, ...]]:
        """The snapshot and the changes since: together the whole state. Raises Gone when the head is too old."""
        items: list[Item] = []
        covered = 0
        if head.snapshot is not None:
            covered = head.snapshot.last
            items = [(kind, key, data) for kind, key, data in self._get_blob(head.snapshot)]
        changes = self.since(head, covered, segments=float("inf"))
        if changes is None:
            raise Gone(self.key)
        return items, changes

    def backwards(self, head: Head, before: int | None = None) -> Iterator[Change]:
        """The changes, the newest first; `before`: only revisions below it."""
        limit = head.revision + 1 if before is None else before
        yield from (change for change in reversed(head.entries) if change.revision < limit)
        blob = head.segment
        while blob is not None:
            blob, entries = self._read_kept(blob)
            yield from (change for change in reversed(entries) if change.revision < limit)

    def forwards(self, head: Head) -> Iterator[Change]:
        """All changes, the oldest first, in memory one segment at a time."""
        blobs: list[Blob] = []
        blob = head.segment
        while blob is not None:
            blobs.append(blob)
            blob, _ = self._read_kept(blob)
        while blobs:
            yield from self._read_kept(blobs.pop())[1]
        yield from head.entries

    # -- writing -------------------------------------------------------------------------------------------------------

    def append(self, decide: Callable[[Head], Draft | None]) -> tuple[Head, Change | None]:
        """Append what `decide` makes of the head, None for nothing; gives the head after it, and the change.

        `decide` is asked again whenever another writer was faster, so it must depend on nothing but the head it is given.
        What it raises goes to the caller. Raises Unavailable when the store fails; then nothing is known of the change.
        """
        end = self._clock() + APPEND_SECONDS
        mark = secrets.token_hex(8)
        doubtful: int | None = None  # the revision after which our entry may be: a write ended without an answer
        for attempt in range(10_000):
            try:
                head = self.read()
                if doubtful is not None and (found := self._find(head, doubtful, mark)):
                    return head, found
                draft = decide(head)
                if draft is None:
                    return head, None
                change = Change(head.revision + 1, self._now(), draft.author, draft.why, draft.edits, mark)
                try:
                    return self._write(head, change), change
                except Refused:
                    raise
                except Unavailable:
                    doubtful = head.revision if doubtful is None else doubtful
                    raise
            except Changed:
                pass
            except Unavailable as error:
                if doubtful is None or isinstance(error, Refused) or self._clock() >= end:
                    raise
            if self._clock() >= end:
                break
            self._sleep(self._spread() * min(0.25, 0.002 * 2 ** min(attempt, 10)))
        raise Unavailable(f"Too many write to the {self.name} of the map at once: try again.", retry_after_seconds=1)

    def wants_snapshot(self, head: Head) -> bool:
        """Whether the segments since the last snapshot have grown heavier than it."""
        return head.loose > max(SNAPSHOT_BYTES, 0 if head.snapshot is None else head.snapshot.size)

    def keep_snapshot(self, head: Head, items: Iterable[Item]) -> None:
        """Keep `items`, the state at `head`, as the snapshot from which readers begin; what it replaces is removed."""
        at = head.revision
        blob = self._put_blob(f"snapshot/{self.name}/{at:012d}-{secrets.token_hex(4)}", list(items), at, at)
        for _ in range(20):
            present = self.read()
            if present.epoch != head.epoch or (present.snapshot is not None and present.snapshot.last >= at):
                break
            segment = present.segment
            loose = segment.size if segment is not None and segment.last > at else 0
            try:
                written = self._put_head(replace(present, snapshot=blob, loose=loose))
            except Changed:
                self._sleep(self._spread() * 0.02)
                continue
            if present.snapshot is not None:
                self._remove(present.snapshot)
            if not self._keeps_history:
                self._forget(written)
            return
        self._remove(blob)

    def fill(self, changes: Iterable[Change], state: Callable[[], Iterable[Item]]) -> Head:
        """Write a whole history into an empty log: same revisions, a new epoch. `state` is what it folds to.

        Raises Conflict when the log is not empty.
        """
        head = self.read()
        if head.revision:
            raise self._not_empty()
        new = replace(head, epoch=_new_epoch())
        for entries in _chunks(changes):
            new = self._spill(replace(new, revision=entries[-1].revision, entries=entries), keep=0)
        items = list(state())
        if items:
            at = new.revision
            blob = self._put_blob(f"snapshot/{self.name}/{at:012d}-{secrets.token_hex(4)}", items, at, at)
            new = replace(new, snapshot=blob, loose=0)
        try:
            return self._put_head(new)
        except Changed:
            raise self._not_empty() from None

    def _not_empty(self) -> Conflict:
        return Conflict(f"The {self.name} of this map is not empty: import into a new one.")

    def _write(self, head: Head, change: Change) -> Head:
        new = replace(head, epoch=head.epoch or _new_epoch(), revision=change.revision, entries=(*head.entries, change))
        if len(new.entries) > INLINE_ENTRIES or len(_encode_head(new)) > INLINE_BYTES:
            new = self._spill(new, keep=KEPT_ENTRIES)
        try:
            return self._put_head(new)
        except Changed:
            if new.segment is not None and new.segment is not head.segment:
                self._remove(new.segment)
            raise

    def _put_head(self, head: Head) -> Head:
        version = self.store.put(self.key, _encode_head(head), head.version)
        self._cached = written = replace(head, version=version)
        return written

    def _spill(self, head: Head, *, keep: int) -> Head:
        """Move all but the newest inline entries to a new segment: at most `keep` stay, and half of what fits."""
        kept = size = 0
        for change in reversed(head.entries):
            size += len(_dump(change_json(change)))
            if kept >= keep or size > INLINE_BYTES // 2:
                break
            kept += 1
        going = head.entries[: len(head.entries) - kept]
        body = {"previous": _blob_json(head.segment), "entries": [change_json(change) for change in going]}
        # A name of its own: another writer may be moving the same entries at this moment.
        key = f"segment/{self.name}/{going[0].revision:012d}-{secrets.token_hex(4)}"
        blob = self._put_blob(key, body, going[0].revision, going[-1].revision)
        entries = head.entries[len(going) :]
        return replace(head, entries=entries, segment=blob, loose=head.loose + blob.size)

    def _find(self, head: Head, after: int, mark: str) -> Change | None:
        """Our entry, if the write that ended without an answer did land."""
        changes = self.since(head, after, segments=float("inf"))
        if changes is None:
            raise Unavailable(
                f"It cannot be told whether the change to the {self.name} was written: look before repeating."
            )
        return next((change for change in changes if change.id == mark), None)

    def _forget(self, head: Head) -> None:
        """Remove the segments that the snapshot covers, except the two newest, for readers that are a little behind."""
        covered: list[Blob] = []
        blob = head.segment
        try:
            while blob is not None and head.snapshot is not None:
                if blob.last <= head.snapshot.last:
                    covered.append(blob)
                blob, _ = self._read_segment(blob)
        except Gone:
            pass
        for old in reversed(covered[2:]):
            self._remove(old)

    # -- blobs ---------------------------------------------------------------------------------------------------------

    def _read_segment(self, blob: Blob) -> tuple[Blob | None, tuple[Change, ...]]:
        found = self._segments.get(blob.key)
        if found is None:
            body = self._get_blob(blob)
            previous = None if body["previous"] is None else Blob(**body["previous"])
            found = previous, tuple(read_change(entry) for entry in body["entries"])
            if len(self._segments) > 2 * NEAR_SEGMENTS:
                self._segments = {}
            self._segments[blob.key] = found
        return found

    def _read_kept(self, blob: Blob) -> tuple[Blob | None, tuple[Change, ...]]:
        """A segment of a log that keeps its history: one that is missing was lost."""
        try:
            return self._read_segment(blob)
        except Gone:
            raise Unavailable(f"Parts of the history are missing: {blob.key} is not in the store.") from None

    def _put_blob(self, key: str, value: Any, first: int, last: int) -> Blob:
        packed = zlib.compress(_dump(value), 6)
        parts = range(0, len(packed), LARGEST_BODY)
        for number, start in enumerate(parts):
            self.store.put(f"{key}.{number}", packed[start : start + LARGEST_BODY], ANY)
        return Blob(key, len(parts), len(packed), first, last)

    def _get_blob(self, blob: Blob) -> Any:
        packed = b""
        for number in range(blob.parts):
            document = self.store.get(f"{blob.key}.{number}")
            if document is None:
                raise Gone(blob.key)
            packed += document.body
        try:
            return json.loads(zlib.decompress(packed))
        except (zlib.error, ValueError):
            raise Unavailable(f"The map is damaged: {blob.key} in its store cannot be read.") from None

    def _remove(self, blob: Blob) -> None:
        for number in reversed(range(blob.parts)):
            self.store.delete(f"{blob.key}.{number}")

    def __repr__(self) -> str:
        return f"Log({self.name!r} in {self.store!r})"


def _new_epoch() -> str:
    return secrets.token_hex(4)


def _chunks(changes: Iterable[Change]) -> Iterator[tuple[Change, ...]]:
    """Changes in groups for one segment each: so many, or so big."""
    group: list[Change] = []
    size = 0
    for change in changes:
        group.append(change)
        size += sum(len(str(edit.after)) + len(str(edit.before)) for edit in change.edits)
        if len(group) == FILLED_ENTRIES or size > 4 * LARGEST_BODY:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _blob_json(blob: Blob | None) -> dict[str, Any] | None:
    return None if blob is None else asdict(blob)


def change_json(change: Change) -> dict[str, Any]:
    """An entry as it is kept: its edits are `[kind, key, before, after]`."""
    edits = [[edit.kind, edit.key, edit.before, edit.after] for edit in change.edits]
    told = {"revision": change.revision, "at": change.at, "author": change.author, "why": change.why}
    return {**told, "id": change.id, "edits": edits}


def read_change(data: Mapping[str, Any]) -> Change:
    """The entry that `change_json` gave."""
    edits: Sequence[Any] = data["edits"]
    return Change(
        data["revision"], data["at"], data["author"], data["why"], tuple(Edit(*edit) for edit in edits), data["id"]
    )


def _encode_head(head: Head) -> bytes:
    return _dump(
        {
            "format": FORMAT,
            "epoch": head.epoch,
            "revision": head.revision,
            "first": head.revision - len(head.entries) + 1,
            "segment": _blob_json(head.segment),
            "snapshot": _blob_json(head.snapshot),
            "loose": head.loose,
            "entries": [change_json(change) for change in head.entries],
        }
    )


def _decode_head(document: Document) -> Head:
    try:
        data = json.loads(document.body)
        if data["format"] != FORMAT:
            raise Unavailable(
                f"{document.key} has the format {data['format']}, which this version cannot read: use a newer one."
            )
        return Head(
            data["epoch"],
            data["revision"],
            tuple(read_change(entry) for entry in data["entries"]),
            None if data["segment"] is None else Blob(**data["segment"]),
            None if data["snapshot"] is None else Blob(**data["snapshot"]),
            data["loose"],
            document.version,
        )
    except (ValueError, KeyError, TypeError):
        raise Unavailable(f"The map is damaged: {document.key} in its store cannot be read.") from None
