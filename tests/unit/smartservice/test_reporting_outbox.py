"""Promises of the outbox: bounded, one thread in each process, never in the way."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from smartservice.outbox import Outbox
from tests.processes import wait_until


class Blocked:
    """A receiver that takes nothing until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.taken: list[int] = []

    def send(self, item: int) -> None:
        assert self.release.wait(30)
        self.taken.append(item)


def test_items_arrive_in_order_from_one_thread() -> None:
    """Items are sent in order, all by one daemon thread."""
    seen: list[tuple[int, str, bool]] = []

    def send(item: int) -> None:
        thread = threading.current_thread()
        seen.append((item, thread.name, thread.daemon))

    outbox = Outbox(send, name="one sender")
    assert all(outbox.put(number) for number in range(50))
    assert outbox.flush(2)
    assert seen == [(number, "one sender", True) for number in range(50)]
    outbox.close()


def test_no_thread_before_the_first_item() -> None:
    """An outbox that is made and closed has started nothing."""
    before = threading.active_count()
    Outbox(print).close()
    assert threading.active_count() == before


def test_overflow_is_dropped_counted_and_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """What does not fit is dropped at once; the log says how many, once a minute."""
    now = [0.0]
    receiver = Blocked()
    outbox = Outbox(receiver.send, limit=3, clock=lambda: now[0])
    outbox.put(0)
    wait_until(lambda: outbox._sending, what="the sender at work")
    assert [outbox.put(number) for number in range(1, 6)] == [True, True, True, False, False]
    assert not outbox.has_room()
    assert outbox.lost == 3
    now[0] = 60.0
    outbox.put(6)
    receiver.release.set()
    assert outbox.flush(2)
    assert receiver.taken == [0, 1, 2, 3]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "outbox: 1 lost, the queue is full",
        "outbox: 3 lost, the queue is full",
    ]
    outbox.close()


def test_a_failing_send_costs_one_item(caplog: pytest.LogCaptureFixture) -> None:
    """An error while sending is logged by its type, counted, and does not end the thread."""
    sent: list[int] = []

    def send(item: int) -> None:
        if item == 0:
            raise ConnectionError("to a url with a key in it")
        sent.append(item)

    outbox = Outbox(send)
    outbox.put(0)
    outbox.put(1)
    assert outbox.flush(2)
    assert (sent, outbox.lost) == ([1], 1)
    assert "ConnectionError while sending" in caplog.text
    assert "key in it" not in caplog.text
    outbox.close()


def test_flush_and_close_give_up_in_time() -> None:
    """flush and close wait no longer than they are told, and a closed outbox takes nothing."""
    receiver = Blocked()
    outbox = Outbox(receiver.send)
    outbox.put(1)
    began = time.monotonic()
    assert not outbox.flush(0.05)
    outbox.close(0.05)
    assert time.monotonic() - began < 4
    assert not outbox.put(2)
    outbox.close(5)
    assert time.monotonic() - began < 4
    receiver.release.set()


def test_an_idle_thread_ends_and_comes_back() -> None:
    """The thread of an outbox that nobody closes ends by itself; the next item starts it again."""
    sent: list[int] = []
    outbox = Outbox(sent.append, idle_seconds=0.01)
    outbox.put(1)
    wait_until(lambda: outbox._thread is None, what="the end of the idle thread")
    outbox.put(2)
    assert outbox.flush(2)
    assert sent == [1, 2]
    outbox.close()
