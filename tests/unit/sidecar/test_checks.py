"""Asking one instance: every way in which it may answer, or not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from sidecar.checks import Check, ask_once


@contextmanager
def answering(*parts: bytes, closes: bool = True, host: str = "127.0.0.1") -> Iterator[tuple[int, list[bytes]]]:
    """A listener that takes one connection, reads the question and sends these parts; gives its port and what it was asked."""
    asked: list[bytes] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        kept: list[socket.socket] = []

        def answer() -> None:
            connection, _ = listener.accept()
            kept.append(connection)
            asked.append(connection.recv(4096))
            for part in parts:
                connection.sendall(part)
            if closes:
                connection.close()

        thread = Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1], asked
        thread.join(30)
        for connection in kept:
            connection.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    ("parts", "ok", "says"),
    [
        ([OK], True, "answered 200"),
        ([b"HTTP/1.0 204 No Content\r\n\r\n"], True, "answered 204"),
        ([b"HTTP/1.1 299\r\n\r\n"], True, "answered 299"),
        ([b"HTTP/1.1 200 OK\n\n"], True, "answered 200"),
        ([b"HT", b"TP/1.1 2", b"00 OK\r\n", b"\r\nx"], True, "answered 200"),
        ([b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"], False, "answered 302"),
        ([b"HTTP/1.1 503 Service Unavailable\r\n\r\n{}"], False, "answered 503"),
        ([b"HTTP/1.1 200"], False, "answered something that is not HTTP"),
        ([b"SSH-2.0-x\r\n"], False, "answered something that is not HTTP"),
        ([b"HTTP/1.1 999 Odd\r\n\r\n"], False, "answered something that is not HTTP"),
        ([b"HTTP/1.1 " + b"2" * 2000], False, "answered something that is not HTTP"),
        ([], False, "closed the connection without an answer"),
    ],
)
def test_every_answer_is_understood(parts: list[bytes], ok: bool, says: str) -> None:
    """200 to 299 is ready, everything else is not, and the operator is told what came."""
    with answering(*parts) as (port, asked):
        answer = ask_once("127.0.0.1", port, "/ready", 5)
    assert (answer.ok, answer.says, answer.refused) == (ok, says, False)
    assert asked[0].startswith(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port)


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 70_000,
    ],
)
def test_a_server_that_keeps_the_connection_is_not_waited_for(answer: bytes) -> None:
    """The end of the answer counts, not that of the connection; nor is a very long one read."""
    with answering(answer, closes=False) as (port, _):
        found = ask_once("127.0.0.1", port, "/ready", 5)
    assert found.ok
    assert found.seconds < 4


def test_a_status_counts_even_when_the_rest_takes_for_ever() -> None:
    """What was told is told."""
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx", closes=False) as (port, _):
        assert ask_once("127.0.0.1", port, "/ready", 0.03).says == "answered 200"


def test_silence_ends_with_the_time() -> None:
    """An instance that accepts and says nothing is not ready."""
    with answering(closes=False) as (port, _):
        answer = ask_once("127.0.0.1", port, "/ready", 0.03)
    assert (answer.ok, answer.says, answer.refused) == (False, "did not answer within 0.03 s", False)


def test_a_port_where_nobody_listens_refuses() -> None:
    """That is told apart from every other failure: a process that has ended refuses."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for path in ("/ready", ""):
            answer = ask_once("127.0.0.1", closed.getsockname()[1], path, 1)
            assert (answer.ok, answer.says, answer.refused) == (False, "refused the connection", True)


def test_without_a_path_a_connection_is_enough() -> None:
    """A program that speaks no HTTP is ready while it accepts."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        answer = ask_once("127.0.0.1", listener.getsockname()[1], "", 1)
    assert (answer.ok, answer.says) == (True, "accepted a connection")


def test_addresses_of_version_6_are_asked() -> None:
    """In the question they stand in brackets."""
    if not socket.has_ipv6:
        pytest.skip("needs IPv6")
    try:
        with answering(OK, host="::1") as (port, asked):
            assert ask_once("::1", port, "/", 5).ok
    except OSError:
        pytest.skip("needs IPv6")
    assert b"Host: [::1]:%d\r\n" % port in asked[0]


def test_an_address_that_is_none_raises_nothing() -> None:
    """A check always ends with an answer."""
    assert "cannot be" in ask_once("999.1.1.1", 80, "/", 0.05).says


def test_a_check_leaves_no_connection_behind() -> None:
    """Whether it ends by an answer, by its time or by being given up."""
    with answering(closes=False) as (port, _):
        check = Check("127.0.0.1", port, "/", 1)
        assert check.start() is None
        assert check.fileno() >= 0
        check.expire()
        assert check.fileno() == -1
        check.close()
        assert check.advance() is None
