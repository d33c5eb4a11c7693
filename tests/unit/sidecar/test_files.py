"""HAProxy's file is written beside the changes: none of them waits for the disk, and no two writes meet."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

from sidecar.files import AGAIN_SECONDS, FILE_SECONDS, Filing
from smartrealm.errors import Unavailable


class Later:
    """In place of another thread: what was begun ends when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.begun: list[tuple[Callable[[], float], Future[float]]] = []

    def __call__(self, work: Callable[[], float]) -> Future[float]:
        future: Future[float] = Future()
        self.begun.append((work, future))
        return future

    def end(self) -> None:
        work, future = self.begun.pop()
        future.set_result(work())


def test_many_changes_are_one_write_and_nobody_waits_for_it() -> None:
    """What changes while a file is written is written afterwards, and what changes before is one write."""
    later, written = Later(), []
    filing = Filing(clock=lambda: later.now, begin=later)

    def writing(text: str) -> Callable[[], Callable[[], object]]:
        return lambda: lambda: written.append(text)

    filing.changed()
    filing.changed()
    filing.begin_when_due(writing("too early"))
    assert later.begun == []
    later.now += FILE_SECONDS
    filing.begin_when_due(writing("first"))
    filing.changed()
    later.now += FILE_SECONDS
    filing.begin_when_due(writing("while the first is being written"))
    assert len(later.begun) == 1
    assert filing.next_at is not None
    assert filing.next_at > later.now
    later.end()
    filing.begin_when_due(writing("second"))
    later.end()
    filing.begin_when_due(writing("nothing has changed"))
    assert written == ["first", "second"]
    assert filing.next_at is None


def test_a_write_that_fails_is_tried_again() -> None:
    """A full disk is told, and the file follows when there is room."""
    later, written = Later(), []
    filing = Filing(clock=lambda: later.now, begin=later)

    def refuse() -> object:
        raise Unavailable("no room")

    filing.changed()
    later.now += FILE_SECONDS
    filing.begin_when_due(lambda: refuse)
    later.end()
    assert filing.failure == "no room"
    filing.begin_when_due(lambda: lambda: written.append("too early"))
    later.now += AGAIN_SECONDS
    filing.begin_when_due(lambda: lambda: written.append("again"))
    later.end()
    assert written == ["again"]
    assert filing.failure == ""


def test_who_writes_himself_waits_for_the_one_that_writes() -> None:
    """A write for a reload comes after the one that has begun, and in place of the one that was to come."""
    holds = Event()
    order: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        filing = Filing(clock=lambda: 100.0 + len(order), begin=pool.submit)
        filing.changed()
        order.append("changed")

        def write() -> object:
            holds.wait(5)
            order.append("written")
            return None

        filing.begin_when_due(lambda: write)
        filing.changed()
        pool_ends = ThreadPoolExecutor(1)
        settled = pool_ends.submit(filing.settle)
        assert not settled.done()
        holds.set()
        settled.result(5)
        pool_ends.shutdown()
        assert order == ["changed", "written"]
        assert filing.next_at is None
