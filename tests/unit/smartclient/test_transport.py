"""What is written on a wire, what is read from it, and which connections are kept."""

from __future__ import annotations

import io
import socket

import pytest
import requests

from smartclient.attempts import split_timeout
from smartclient.heads import read_pairs
from smartclient.transport import IDLE_SECONDS, Lease, Pools, Wire, _TimedSocket, head_of

HERE = ("127.0.0.1", 1)


def test_a_request_is_written_in_one_piece() -> None:
    """The line, the host unless it is given, and the headers in their order."""
    head = head_of("GET", "/teams?x=1", "identity.smart-service", {"Accept": "*/*", "X-Raw": b"r\xe9"})
    assert head == b"GET /teams?x=1 HTTP/1.1\r\nHost: identity.smart-service\r\nAccept: */*\r\nX-Raw: r\xe9\r\n\r\n"
    assert b"identity" not in head_of("GET", "/", "identity.smart-service", {"Host": "other"})


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {"X": "a\r\nSmart-Caller: root"}),
        ("/", {"X": "a\nb"}),
        ("/", {"X\r\nY": "a"}),
        ("/\r\nX: y", {}),
        ("/a b HTTP/1.1", {}),
        ("/", {"X": "\u20ac"}),
    ],
)
def test_nothing_breaks_out_of_its_line(path: str, headers: dict[str, str]) -> None:
    """A line break or a space in the wrong place is an error of requests, whoever put it there."""
    with pytest.raises(requests.RequestException):
        head_of("GET", path, "identity.smart-service", headers)


def test_headers_are_read_as_they_come() -> None:
    """Repeated ones stay apart, folded ones are joined, the order is kept."""
    stream = io.BytesIO(b"A: 1\r\nSet-Cookie: x=1\r\nSet-Cookie: y=2\r\nFolded: one\r\n two\r\nEmpty:\n\r\nbody")
    assert read_pairs(stream) == [
        ("A", "1"),
        ("Set-Cookie", "x=1"),
        ("Set-Cookie", "y=2"),
        ("Folded", "one two"),
        ("Empty", ""),
    ]
    assert stream.read() == b"body"


@pytest.mark.parametrize(
    "text", [b"no colon\r\n\r\n", b"Space : x\r\n\r\n", b": x\r\n\r\n", b"A: 1\r\n", b"A: " + b"x" * 70_000]
)
def test_what_is_no_header_is_refused(text: bytes) -> None:
    """As is an answer that ends among its headers, and a line without end."""
    with pytest.raises(Exception, match=r"header|IncompleteRead"):
        read_pairs(io.BytesIO(text))
    with pytest.raises(Exception, match="more than 200"):
        read_pairs(io.BytesIO(b"A: 1\r\n" * 300))


def wire() -> tuple[Wire, socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))
    ours = _TimedSocket(socket.AF_INET, socket.SOCK_STREAM)
    ours.connect(listener.getsockname())
    theirs, _ = listener.accept()
    listener.close()
    made = Wire(HERE, ours)
    made.keep = True
    return made, theirs


def test_the_newest_connection_is_used_first_and_old_ones_do_not_stay() -> None:
    """Each that is given back after a minute closes one that nobody needed since."""
    now = [0.0]
    pools = Pools(clock=lambda: now[0])
    (old, old_end), (new, new_end) = wire(), wire()
    pools.give(old)
    now[0] = IDLE_SECONDS + 1
    pools.give(new)
    assert old.sock is None
    assert pools.take(HERE, idle_seconds=1) is new
    assert pools.take(HERE, idle_seconds=1) is None
    new.close()
    for end in (old_end, new_end):
        end.close()


def test_a_connection_that_was_closed_or_speaks_unasked_is_not_used() -> None:
    """An answer that nobody waited for would be taken for the next one."""
    pools = Pools(clock=lambda: 0.0)
    for disturb in (lambda end: end.close(), lambda end: end.sendall(b"HTTP/1.1 408 Timeout\r\n\r\n")):
        ours, end = wire()
        pools.give(ours)
        disturb(end)  # type: ignore[no-untyped-call]
        assert pools.take(HERE, idle_seconds=60) is None
        assert ours.sock is None
        end.close()


def test_a_connection_that_nobody_holds_is_closed_silently() -> None:
    """A mesh that is forgotten instead of closed leaves no socket, and no ResourceWarning, behind."""
    theirs = wire()[1]
    assert theirs.recv(1) == b""
    theirs.close()


def test_a_call_has_no_hand_on_a_connection_that_it_gave_back() -> None:
    """Whoever gives up an attempt that has just ended, as the loser of a race, must not cut off the next call on it."""
    pools = Pools(clock=lambda: 0.0)
    ours, theirs = wire()
    lease = Lease(pools, lambda: None)
    lease.wire = ours
    lease._put_conn(ours)
    lease.drop()
    assert pools.take(HERE, idle_seconds=1) is ours
    ours.close()
    theirs.close()


def test_an_instance_that_closes_early_is_asked_over_younger_connections() -> None:
    """A connection that broke after two seconds: for a minute none is used again that was idle for more than one."""
    now = [0.0]
    pools = Pools(clock=lambda: now[0])
    (broken, one), (young, other) = wire(), wire()
    pools.give(broken)
    now[0] = 2.0
    assert pools.take(HERE, idle_seconds=60) is broken
    pools.broke(broken)
    pools.give(young)
    now[0] = 2.9
    assert pools.take(HERE, idle_seconds=60) is young
    pools.give(young)
    now[0] = 4.0
    assert pools.take(HERE, idle_seconds=60) is None
    (later, third) = wire()
    now[0] = 100.0
    pools.give(later)
    now[0] = 150.0
    assert pools.take(HERE, idle_seconds=60) is later
    for end in (broken, later, one, other, third):
        end.close()


def test_closed_pools_keep_nothing() -> None:
    """What waits is closed, and what comes back later too."""
    pools = Pools(clock=lambda: 0.0)
    (waiting, one), (busy, other) = wire(), wire()
    pools.give(waiting)
    pools.close()
    pools.give(busy)
    assert waiting.sock is busy.sock is None
    one.close()
    other.close()


def test_nothing_is_kept_for_an_instance_that_is_gone() -> None:
    """Neither what waits nor what comes back later, until somebody calls it again."""
    pools = Pools(clock=lambda: 0.0)
    (waiting, one), (busy, other), (again, third) = wire(), wire(), wire()
    pools.give(waiting)
    pools.forget([HERE])
    pools.give(busy)
    assert waiting.sock is busy.sock is None
    assert pools.take(HERE, idle_seconds=60) is None
    pools.give(again)
    assert pools.take(HERE, idle_seconds=60) is again
    again.close()
    for end in (one, other, third):
        end.close()


@pytest.mark.parametrize(
    ("timeout", "split"),
    [(None, (None, None)), (3, (3.0, 3.0)), ((1, 2), (1, 2)), ((None, 2), (None, 2))],
)
def test_timeouts_are_those_of_requests(timeout: object, split: tuple[float | None, float | None]) -> None:
    """A number for both, or a pair for the connection and the answer."""
    assert split_timeout(timeout) == split
