"""What HAProxy's log messages tell, and the socket that they arrive at."""

from __future__ import annotations

import os
import queue
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.events import Event, Events, parse_event
from smartrealm.errors import ConfigurationError
from tests.processes import wait_until

BEFORE = "<129>1 2026-11-22T15:15:45.423747+00:00 - haproxy 19182 - - "
AFTER = ". 0 active and 0 backup servers left. 1 sessions active, 0 requeued, 0 remaining in queue.\n"


@pytest.mark.parametrize(
    ("said", "event"),
    [
        (
            'Server orders/10.0.0.7:8000 is DOWN, reason: Health analyze, info: "Detected 5 consecutive errors, last one was: '
            'Wrong http response"' + AFTER,
            Event(
                "orders",
                "10.0.0.7:8000",
                False,
                "answers",
                "Detected 5 consecutive errors, last one was: Wrong http response",
            ),
        ),
        (
            'Backup Server orders/a.b is DOWN, reason: Layer4 connection problem, info: "Connection refused", check duration: '
            "0ms" + AFTER,
            Event("orders", "a.b", False, "check", "Layer4 connection problem: Connection refused"),
        ),
        (
            'Server orders/a is DOWN, reason: Layer4 connection problem, info: "ECONNREFUSED returned by OS (Connection '
            'refused)", check duration: 0ms' + AFTER,
            Event(
                "orders",
                "a",
                False,
                "check",
                "Layer4 connection problem: ECONNREFUSED returned by OS (Connection refused)",
            ),
        ),
        (
            "Server orders/a is DOWN, reason: Layer4 timeout, check duration: 2001ms" + AFTER,
            Event("orders", "a", False, "check", "Layer4 timeout"),
        ),
        (
            'Server orders/a is DOWN, reason: Layer7 wrong status, code: 500, info: "Server Error", check duration: 1ms'
            + AFTER,
            Event("orders", "a", False, "check", "Layer7 wrong status: 500: Server Error"),
        ),
        ("Server orders/a is DOWN" + AFTER, Event("orders", "a", False, "check")),
        ("Server orders:1/a is UP, changed from CLI" + AFTER, Event("orders:1", "a", True, "command")),
        (
            "Server orders/a is UP, reason: Layer4 check passed, check duration: 0ms" + AFTER,
            Event("orders", "a", True, "check", "Layer4 check passed"),
        ),
        ("Server orders/a is UP/READY (leaving forced maintenance).\n", Event("orders", "a", True, "command")),
        ("Server orders/a is UP/DRAIN (leaving forced maintenance).\n", Event("orders", "a", False, "command")),
        ("Server orders/a is DOWN/READY (leaving forced maintenance).\n", Event("orders", "a", False, "command")),
        ("Server orders/a is UP (leaving forced drain).\n", Event("orders", "a", True, "command")),
        ("Server _spare_001/a is going DOWN for maintenance" + AFTER, Event("_spare_001", "a", False, "command")),
        ("Server orders/a was DOWN and now enters maintenance" + AFTER, Event("orders", "a", False, "command")),
        ("Server orders/a enters drain state" + AFTER, Event("orders", "a", False, "command")),
        ("backend orders has no server available!\n", None),
        ("Proxy orders stopped (cumulated conns: FE: 0, BE: 5).\n", None),
        ("\x00\xff", None),
    ],
)
def test_each_message_about_a_server_becomes_an_event(said: str, event: Event | None) -> None:
    """The texts of 2.6 to 3.4: which server, up or not, by whose decision and why."""
    assert event == parse_event(BEFORE + said)


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory) / "events.sock"


def send(path: Path, text: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text.encode(), str(path))


def test_events_arrive_and_an_error_of_the_listener_ends_nothing(path: Path) -> None:
    """Each event is told once, in its order; one that the listener chokes on does not stop the next."""
    got: queue.Queue[Event] = queue.Queue()

    def tell(event: Event) -> None:
        got.put(event)
        if event.server == "a":
            raise ValueError("choked")

    events = Events(path, tell)
    events.start()
    try:
        for server in "ab":
            send(path, f"{BEFORE}Server orders/{server} is DOWN{AFTER}")
        assert [got.get(timeout=5).server for _ in range(2)] == ["a", "b"]
    finally:
        events.stop()
    assert not path.exists()


def test_what_another_agent_left_is_replaced_and_only_its_owner_may_write(path: Path) -> None:
    """A stale socket is no reason to hear nothing; the new one has mode 0600."""
    path.touch()
    events = Events(path, lambda event: None)
    events.start()
    try:
        assert path.stat().st_mode & 0o777 == 0o600
        send(path, "anything")
    finally:
        events.stop()


def test_a_directory_that_is_not_there_is_named(path: Path) -> None:
    """It says which path, and raises no error of the system."""
    with pytest.raises(ConfigurationError, match="nosuch"):
        Events(path.parent / "nosuch" / "events.sock", lambda event: None).start()


def test_a_removed_socket_is_made_anew(path: Path) -> None:
    """Somebody who cleans the directory up does not make the agent deaf."""
    got: queue.Queue[Event] = queue.Queue()
    events = Events(path, got.put, look_seconds=0.005)
    events.start()
    try:
        os.unlink(path)
        wait_until(path.exists, 5, what="the socket made anew")
        send(path, f"{BEFORE}Server orders/a is DOWN{AFTER}")
        assert got.get(timeout=5).server == "a"
    finally:
        events.stop()
