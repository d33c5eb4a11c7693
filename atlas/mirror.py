"""The two logs of a map folded in memory: one World, brought up to date entry by entry, and told to whoever waits for news."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from atlas.log import Gone, Head, Item, Log, Name
from atlas.model import Change, Edit, Kind
from atlas.world import Delta, Position, World
from smartrealm import on_fork
from smartrealm.errors import SmartError, Unavailable

KINDS: dict[Name, tuple[Kind, ...]] = {
    "catalogue": ("service", "override", "ruling", "token"),
    "presence": ("lease", "instance"),
}
"""Which log holds what."""

IDLE_SECONDS = 60.0
"""The logs are followed until nobody has waited for so long."""

SLICE_SECONDS = {"polled": 0.5, "pushed": 10.0}
"""How long one wait on a store takes at most."""

CLOSE_SECONDS = 0.7
"""How long `close` waits for followers; one whose store does not let go ends by itself after its slice."""


@dataclass(frozen=True, slots=True)
class State:
    """A World and the heads that it was folded from, swapped in one reference."""

    world: World = field(default_factory=World)
    catalogue: Head = field(default_factory=Head)
    presence: Head = field(default_factory=Head)
    marks: tuple[str, str] = ("", "")
    """The ids of the newest entries folded: tell a log that was put back to an older state."""


class Mirror:
    """Keeps the World of a catalogue and a presence log. Safe from any thread; begins anew after a fork, knowing what it knew."""

    def __init__(self, catalogue: Log, presence: Log, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.catalogue = catalogue
        self.presence = presence
        self._clock = clock
        self._state = State()
        self._followers = tuple(_Follower(self, log) for log in (catalogue, presence))
        self._asked_at = 0.0
        self._closing = False
        self._folding, self.news = threading.Lock(), threading.Condition()
        on_fork(self, Mirror._begin_anew)

    @property
    def world(self) -> World:
        """What is known without asking the store."""
        return self._state.world

    @property
    def state(self) -> State:
        return self._state

    def refresh(self) -> World:
        """The World now: reads both heads."""
        self.take(self.catalogue, self.catalogue.read())
        return self.take(self.presence, self.presence.read())

    def take(self, log: Log, head: Head, *, writing: bool = False) -> World:
        """Fold what a head brings; one that is older than what is known changes nothing.

        A head that is missing where there was one is absence of news, not an empty map: who reads keeps what is known until
        something is written again. Who is `writing` decides on what is there.
        """
        for _ in range(5):
            try:
                with self._folding:
                    changed = self._fold(log, head, writing)
                break
            except Gone:
                head = log.read()
        else:
            raise Unavailable(f"The {log.name} of the map cannot be read: parts of it are missing in its store.")
        if changed:
            with self.news:
                self.news.notify_all()
        return self._state.world

    def update(self, position: Position) -> World | Delta | None:
        """What is known beyond a position; None when it is nothing, or when the position is ahead of us."""
        state = self._state
        present = state.world.position
        if position.epoch != present.epoch:
            return state.world
        if position == present or _is_ahead(position, present):
            return None
        catalogue = self.catalogue.since(state.catalogue, position.revision)
        presence = self.presence.since(state.presence, position.presence)
        if catalogue is None or presence is None:
            return state.world
        edits = tuple(Edit(edit.kind, edit.key, None, edit.after) for edit in _edits((*catalogue, *presence)))
        return Delta(position, present, edits)

    def wait(self, position: Position, seconds: float) -> World | Delta | None:
        """What changed since a position, as soon as something did. Raises Unavailable while the store cannot be asked."""
        end = self._clock() + seconds
        self._follow()
        if not all(follower.current for follower in self._followers):
            try:
                self.refresh()
            except Unavailable:
                # One of two stores is away: what the other one tells is told. Never to whoever would take it for everything.
                update = self.update(position) if position.epoch == self.world.position.epoch else None
                if not isinstance(update, Delta):
                    raise
                return update
            for follower in self._followers:
                follower.failure = None
        with self.news:
            while True:
                update = self.update(position)
                if update is not None:
                    return update
                if self._closing:
                    raise Unavailable("This map was closed.")
                for follower in self._followers:
                    if follower.failure is not None:
                        raise follower.failure
                left = end - self._clock()
                if left <= 0:
                    # Ahead of us for all this time: of a map that was put back, or of a replica that we lag behind.
                    world = self._state.world
                    return world if _is_ahead(position, world.position) else None
                self.news.wait(left)

    def close(self) -> None:
        """Stop following and close the stores; whoever waits is told that it is over."""
        self._closing = True
        stores = {id(log.store): log.store for log in (self.catalogue, self.presence)}.values()
        for follower in self._followers:
            follower.stop()
        with self.news:
            self.news.notify_all()
        for store in stores:
            store.close()
        end = time.monotonic() + CLOSE_SECONDS
        for follower in self._followers:
            follower.join(max(0.0, end - time.monotonic()))
        for store in stores:  # a follower that was about to ask has connected once more
            store.close()

    def _fold(self, log: Log, head: Head, writing: bool) -> bool:
        state, place = self._state, 0 if log.name == "catalogue" else 1
        known = state.catalogue if place == 0 else state.presence
        if head.version is None and not writing:
            return False
        if head.epoch == known.epoch and head.revision < known.revision:
            return False
        heads = (head, state.presence) if place == 0 else (state.catalogue, head)
        if head.epoch == known.epoch and head.revision == known.revision:
            self._state = replace(state, catalogue=heads[0], presence=heads[1])  # it may have a new snapshot
            return False
        changes = log.since(head, known.revision) if known.revision and head.epoch == known.epoch else None
        if changes is not None and self._was_put_back(head, known, state.marks[place]):
            changes = None
        if changes is None:
            items, changes = log.load(head)
            base = _joined(World.from_items(Position(), items), log.name, state.world)
        else:
            base = state.world
        position = Position(f"{heads[0].epoch}-{heads[1].epoch}", heads[0].revision, heads[1].revision)
        world = base.apply(Delta(base.position, position, tuple(_edits(changes))))
        mark = changes[-1].id if changes else ""
        marks = (mark, state.marks[1]) if place == 0 else (state.marks[0], mark)
        self._state = State(world, *heads, marks)
        return True

    @staticmethod
    def _was_put_back(head: Head, known: Head, mark: str) -> bool:
        """Whether the entry that we folded last is another one in this log: its store was restored from a copy."""
        return any(change.revision == known.revision and change.id != mark for change in head.entries if mark)

    def _follow(self) -> None:
        self._asked_at = self._clock()
        if self._closing:
            return
        for follower in self._followers:
            follower.start()

    def _idle(self) -> bool:
        return self._closing or self._clock() - self._asked_at > IDLE_SECONDS

    def _begin_anew(self) -> None:
        self._folding, self.news = threading.Lock(), threading.Condition()
        self._followers = tuple(_Follower(self, follower.log) for follower in self._followers)


class _Follower:
    """One thread that waits for the head of one log, as long as somebody wants to know."""

    def __init__(self, mirror: Mirror, log: Log) -> None:
        self.log = log
        self.current = False
        """Whether the store is being asked and answers."""
        self.failure: SmartError | None = None
        self._mirror = mirror
        self._lock = threading.Lock()
        self._seen: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"atlas-{self.log.name}", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self, seconds: float) -> None:
        with self._lock:  # it may be made and not started yet
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._stop.is_set() or self._mirror._idle():
                    self._thread, self.current = None, False
                    return
            self._look()

    def _look(self) -> None:
        log = self.log
        try:
            document = log.store.wait(log.key, self._seen, SLICE_SECONDS[log.store.guarantees.wait])
            if document is not None:
                self._mirror.take(log, log.head_of(document))
                self._seen = document.version
            self.failure, self.current = None, True
        except Exception as error:
            self.current = False
            self.failure = (
                error if isinstance(error, SmartError) else Unavailable(f"The map cannot be followed: {error!r}.")
            )
            with self._mirror.news:
                self._mirror.news.notify_all()
            self._stop.wait(0.5)


def _edits(changes: Iterable[Change]) -> Iterator[Edit]:
    for change in changes:
        yield from change.edits


def items_of(world: World, name: Name) -> list[Item]:
    """What a World holds of one log, for its snapshot."""
    return list(world.items(KINDS[name]))


def _joined(world: World, name: Name, beside: World) -> World:
    """A World read from one log, with what the other one gave."""
    others: Any = {table: getattr(beside, table) for log, tables in _TABLES.items() if log != name for table in tables}
    return replace(world, **others)


def _is_ahead(position: Position, present: Position) -> bool:
    return position.revision > present.revision or position.presence > present.presence


_TABLES: dict[Name, tuple[str, ...]] = {
    "catalogue": ("services", "overrides", "rulings", "tokens"),
    "presence": ("leases", "instances"),
}
