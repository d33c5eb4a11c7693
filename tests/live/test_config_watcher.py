"""The thread that follows a source."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path

import pytest

from smartconfig import FileSource, Overrides, Settings, Snapshot
from smartconfig.watcher import backoff
from smartrealm.fork import registered
from tests.processes import wait_until
from tests.unit.smartconfig.configs import Clock, Teller, said, settings

TEXT = "PAGE_SIZE: int = 20"


def watchers() -> int:
    return sum(thread.name == "smartconfig-watcher" and thread.is_alive() for thread in threading.enumerate())


def test_a_change_arrives_without_asking() -> None:
    """A source that can wait tells its change to a started process at once, and every callback runs once."""
    source = Teller(said("v1"))
    found = settings(TEXT, source=source, keep=False)
    changed = threading.Event()
    told: list[str] = []

    def tell(old: Snapshot, new: Snapshot) -> None:
        told.append(new.version)
        changed.set()

    found.on_change("PAGE_SIZE", tell)
    found.start()
    found.start()
    assert watchers() == 1
    source.tell(said("v2", {"PAGE_SIZE": 30}))
    assert changed.wait(30)
    assert (found.snapshot["PAGE_SIZE"], told) == (30, ["v2"])
    wait_until(lambda: source.asked == 3, what="the next question")
    found.close()
    source.tell(said("v3"))
    wait_until(lambda: watchers() == 0)
    assert found.snapshot.version == "v2"


def test_a_polled_source_is_asked_at_its_own_pace(tmp_path: Path) -> None:
    """A file is followed through changes, garbage, absence and return; closing ends the thread at once."""
    path = tmp_path / "overrides.json"
    path.write_text('{"PAGE_SIZE": 30}')
    found = settings(TEXT, source=FileSource(path, poll_seconds=0.02), keep=False)
    found.start()
    path.write_text('{"PAGE_SIZE": 40}')
    wait_until(lambda: found.snapshot["PAGE_SIZE"] == 40)
    path.write_text('{"PAGE_SIZE": "x"}')
    wait_until(lambda: found.status.state == "refused")
    path.write_text("{garbage")
    wait_until(lambda: found.status.state == "stale")
    path.unlink()
    wait_until(lambda: "No such file" in found.status.mistakes[-1])
    assert found.snapshot["PAGE_SIZE"] == 40
    path.write_text('{"PAGE_SIZE": 50}')
    wait_until(lambda: found.status.state == "fresh")
    assert found.snapshot["PAGE_SIZE"] == 50
    found.close()
    assert watchers() == 0


def test_a_closed_process_can_start_again(tmp_path: Path) -> None:
    """Closing ends the thread and keeps the settings; starting follows the source anew."""
    path = tmp_path / "overrides.json"
    path.write_text("{}")
    found = settings(TEXT, source=FileSource(path, poll_seconds=0.02), keep=False)
    found.start()
    found.close()
    path.write_text('{"PAGE_SIZE": 40}')
    assert found.snapshot["PAGE_SIZE"] == 20
    found.start()
    wait_until(lambda: found.snapshot["PAGE_SIZE"] == 40)
    found.close()


def test_a_callback_may_close_the_settings(caplog: pytest.LogCaptureFixture) -> None:
    """Closing from inside the watcher does not wait for itself."""
    source = Teller(said("v1"))
    found = settings(TEXT, source=source, keep=False)
    found.on_change("PAGE_SIZE", lambda old, new: found.close())
    found.start()
    source.tell(said("v2", {"PAGE_SIZE": 30}))
    wait_until(lambda: watchers() == 0)
    assert caplog.text == ""


def test_a_dropped_app_ends_its_thread(tmp_path: Path) -> None:
    """Settings that nobody holds any more are collected although they were started and never closed."""
    path = tmp_path / "overrides.json"
    path.write_text("{}")
    gc.collect()
    before = registered()
    found = settings(TEXT, source=FileSource(path, poll_seconds=0.01), keep=False)
    found.start()
    reference = weakref.ref(found)
    del found
    gc.collect()
    wait_until(lambda: reference() is None and watchers() == 0)
    assert registered() == before


def test_a_thread_that_waits_keeps_nothing_alive() -> None:
    """Settings are collected while their thread still waits for the source; it ends with the answer."""
    source = Teller(said("v1"))
    found = settings(TEXT, source=source, keep=False)
    asked = source.asked
    found.start()
    wait_until(lambda: source.asked > asked)
    reference = weakref.ref(found)
    del found
    gc.collect()
    assert reference() is None
    source.tell(said("v2"))
    wait_until(lambda: watchers() == 0)


def test_starting_and_closing_leaks_nothing(tmp_path: Path) -> None:
    """A hundred started and closed settings leave no thread and no entry in the fork registry."""
    path = tmp_path / "overrides.json"
    path.write_text("{}")
    gc.collect()
    before = registered()
    for _ in range(100):
        found = settings(TEXT, source=FileSource(path), keep=False)
        found.start()
        found.close()
    del found
    gc.collect()
    wait_until(lambda: watchers() == 0)
    assert registered() == before


def test_a_source_that_returns_nonsense_does_not_spin() -> None:
    """An immediate None, again and again, is asked for at most twenty times a second."""

    class Restless(Teller):
        def wait(self, version: str, seconds: float) -> Overrides | None:
            self.asked += 1
            return None

    source = Restless(said("v1"))
    found = settings(TEXT, source=source, keep=False)
    found.start()
    time.sleep(0.2)
    found.close()
    assert source.asked < 10


def test_a_source_that_gives_up_ends_nothing() -> None:
    """A source may raise anything, SystemExit too: the start goes on, and the thread takes the next answer."""

    class Quitter(Teller):
        def current(self) -> Overrides:
            raise SystemExit(3)

        def wait(self, version: str, seconds: float) -> Overrides | None:
            self.asked += 1
            if self.asked == 1:
                raise SystemExit(3)
            return super().wait(version, seconds)

    found = settings(TEXT, source=Quitter(said("v2", {"PAGE_SIZE": 30})), keep=False)
    assert found.status.state == "missing"
    found.start()
    wait_until(lambda: found.snapshot["PAGE_SIZE"] == 30)
    found.close()


def test_an_answer_that_nobody_foresaw_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    """A value that cannot even be looked at is logged; the next right answer is taken over."""

    class Odd:
        __class__ = property(lambda self: 1 / 0)

    source = Teller(said("v1"))
    found = settings(TEXT, source=source, keep=False)
    found.start()
    source.tell(said("v2", {"PAGE_SIZE": Odd()}))
    wait_until(lambda: "taking over what atlas says failed" in caplog.text)
    source.tell(said("v3", {"PAGE_SIZE": 30}))
    wait_until(lambda: found.snapshot["PAGE_SIZE"] == 30)
    found.close()


def test_a_failing_source_is_spared() -> None:
    """A source that fails at once is asked again only after pauses of 0.25 s and more."""
    source = Teller(said("v1"))
    found = settings(TEXT, source=source, keep=False)
    found.start()
    source.tell(ConnectionError("down"))
    wait_until(lambda: found.status.state == "stale")
    asked = source.asked
    time.sleep(0.2)
    assert source.asked - asked <= 2
    found.close()


@pytest.mark.parametrize(
    ("failures", "least", "most"), [(1, 0.25, 0.5), (2, 0.5, 1.0), (5, 4.0, 8.0), (7, 15.0, 30.0), (5000, 15.0, 30.0)]
)
def test_pauses_grow_and_are_spread(failures: int, least: float, most: float) -> None:
    """Pauses double up to 30 s; chance takes up to half away, so that workers do not ask in step."""
    assert backoff(failures, lambda: 0.0) == least
    assert backoff(failures, lambda: 1.0) == most


def test_a_silent_source_counts_as_stale() -> None:
    """A started process whose source answers nothing at all says stale after a minute, not fresh for ever."""
    clock, release = Clock(), threading.Event()

    class Silent(Teller):
        def wait(self, version: str, seconds: float) -> Overrides | None:
            release.wait(20)
            return None

    found: Settings = settings(TEXT, source=Silent(said("v1")), keep=False, clock=clock)
    found.start()
    assert found.status.state == "fresh"
    clock.now += 61
    assert found.status.state == "stale"
    release.set()
    found.close()
