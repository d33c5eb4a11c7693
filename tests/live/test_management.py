"""The listener that answers probes: what it says, and what it bears."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from smartservice.lifecycle import Board, Lifecycle, Worker
from smartservice.management import Answers, Limits, Listener, Reply, bind
from tests.processes import wait_until


class Desk:
    """A listener on a free port with answers that a test can hold back."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.go = threading.Event()
        self.go.set()
        self.ticks = 0
        self.socket = bind("127.0.0.1", 0)
        self.port: int = self.socket.getsockname()[1]
        self.listener = Listener(
            self.socket,
            self.answer,
            is_quick=lambda path: path == "/quick",
            tick=self.tick,
            tick_seconds=0.02,
            limits=limits or Limits(seconds=0.5),
        )

    def answer(self, path: str, accept: str) -> Reply:
        if path == "/crash":
            raise ValueError("no")
        if path != "/quick":
            self.go.wait(5)
        return 200, [("Content-Type", "text/plain")], f"{path} {accept}".encode()

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks == 2:
            raise ValueError("the second tick fails")

    def ask(self, request: bytes, *, wait: float = 2.0) -> bytes:
        """Everything that comes back for these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as client:
            client.sendall(request)
            return read_to_end(client)

    def get(self, path: str) -> bytes:
        return self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n".encode())


def read_to_end(client: socket.socket) -> bytes:
    received = b""
    try:
        while part := client.recv(65536):
            received += part
    except (TimeoutError, ConnectionResetError):
        pass
    return received


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    desk.listener.start()
    yield desk
    desk.go.set()
    desk.listener.close()
    desk.socket.close()


def test_a_probe_gets_a_whole_http_answer(desk: Desk) -> None:
    """Status line, headers, length, body; the connection ends with it."""
    assert desk.get("/quick?full=1") == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 17\r\nConnection: close\r\n\r\n/quick text/plain"
    )


def test_head_gets_the_headers_alone(desk: Desk) -> None:
    """HEAD says how long the body would be and sends none."""
    answer = desk.ask(b"HEAD /quick HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"Content-Length: 7\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /quick HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /quick HTTP/2\r\n\r\n", b"400"),
        (b"GET /quick HTTP/1.1\nHost: x\n\n", b"200"),
        (b"GET /crash HTTP/1.1\r\n\r\n", b"500"),
        (b"GET /quick HTTP/1.1\r\n" + b"X: y\r\n" * 3000, b"431"),
    ],
)
def test_whatever_is_sent_gets_a_plain_status(
    desk: Desk, request_bytes: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Garbage, other methods, too much and a crash are each answered, and the listener goes on."""
    caplog.set_level(logging.CRITICAL)
    assert desk.ask(request_bytes).split(b" ", 2)[1] == status
    assert desk.get("/quick").startswith(b"HTTP/1.1 200")


def test_a_request_may_come_in_pieces(desk: Desk) -> None:
    """Bytes are collected until the head is complete."""
    with socket.create_connection(("127.0.0.1", desk.port), timeout=30) as client:
        for piece in (b"GE", b"T /quick HT", b"TP/1.1\r", b"\n\r", b"\n"):
            client.sendall(piece)
            time.sleep(0.01)
        assert read_to_end(client).startswith(b"HTTP/1.1 200")


def test_liveness_is_answered_while_another_answer_hangs(desk: Desk) -> None:
    """What takes long waits in a second thread and holds nothing else up; the longest queue is bounded."""
    desk.go.clear()
    waiting = [socket.create_connection(("127.0.0.1", desk.port), timeout=30) for _ in range(20)]
    for client in waiting:
        client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
    assert desk.get("/quick").startswith(b"HTTP/1.1 200")
    assert not desk.go.is_set()
    desk.go.set()
    statuses = sorted(read_to_end(client)[9:12] for client in waiting)
    assert statuses.count(b"200") >= 16
    assert set(statuses) <= {b"200", b"503"}
    for client in waiting:
        client.close()


def test_clients_that_send_nothing_are_closed_in_time(desk: Desk) -> None:
    """A slow client has its few seconds and no more, however it drips."""
    with socket.create_connection(("127.0.0.1", desk.port), timeout=30) as client:
        began = time.monotonic()
        client.sendall(b"GET /quick")
        assert read_to_end(client) == b""
        assert 0.3 < time.monotonic() - began < 10


def test_idle_connections_cannot_keep_a_probe_out() -> None:
    """When all connections are taken, the one that has been open longest makes room."""
    desk = Desk(Limits(connections=4, seconds=30))
    desk.listener.start()
    idle = [socket.create_connection(("127.0.0.1", desk.port), timeout=30) for _ in range(12)]
    try:
        began = time.monotonic()
        for _ in range(5):
            assert desk.get("/quick").startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 15  # half of what an idle connection has
        assert len(desk.listener._clients) <= 4
    finally:
        for client in idle:
            client.close()
        desk.listener.close()
        desk.socket.close()


def test_the_tick_goes_on_and_survives_its_own_errors(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """What is to be done now and then is done now and then, with traffic or without."""
    wait_until(lambda: desk.ticks > 3)
    assert "the second tick fails" in caplog.text


def test_close_ends_the_thread_and_leaves_the_socket_to_its_owner(desk: Desk) -> None:
    """After close nothing answers here, and a sibling with the same socket still can."""
    desk.listener.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "smartservice-management"]
    sibling = Listener(desk.socket, desk.answer, is_quick=lambda path: True).start()
    assert desk.get("/quick").startswith(b"HTTP/1.1 200")
    sibling.close()


class Health:
    """A health engine that is fine."""

    def answer(self, group: str | None = None, accept: str = "", detailed: bool = False) -> Reply:
        return 200, (), f"engine {group} {detailed}".encode()


def test_without_an_engine_the_lifecycle_answers() -> None:
    """Live, ready and startup are known to every app; other groups are not."""
    answers = Answers(Lifecycle(board=Board()))
    assert [answers(f"/healthcheck{path}", "")[0] for path in ("", "/live", "/ready", "/startup", "/own")] == [
        200,
        200,
        200,
        200,
        404,
    ]
    assert json.loads(answers("/healthcheck/live", "")[2]) == {"status": "pass"}
    assert answers("/elsewhere", "")[0] == 404
    assert answers("/metrics", "")[0] == 404


def test_readiness_is_red_while_draining_whatever_the_checks_say() -> None:
    """The engine's own answer is used until the instance drains; liveness stays the engine's."""
    lifecycle = Lifecycle(board=Board())
    answers = Answers(lifecycle, health=Health())
    assert answers("/healthcheck/ready", "")[2] == b"engine ready False"
    lifecycle.begin_draining()
    assert answers("/healthcheck/ready", "")[0] == 503
    assert answers("/healthcheck", "")[0] == 503
    assert answers("/healthcheck/live", "")[0] == 200


def test_liveness_is_red_when_any_worker_is_wedged() -> None:
    """A probe learns of it from whichever worker it reaches."""
    board = Board()
    lifecycle = Lifecycle(board=board, clock=lambda: 100.0)
    answers = Answers(lifecycle, health=Health(), wedged_seconds=60)
    row = board.claim()
    assert row is not None
    board.write(row, Worker(7, 100.0, 2, 2, 10.0, 20.0))
    assert answers("/healthcheck/live", "")[0] == 503
    assert answers("/healthcheck/ready", "")[0] == 200
    board.release(row)
    assert answers("/healthcheck/live", "")[0] == 200


def test_metrics_are_shown_where_the_service_shows_them() -> None:
    """The path and the Accept header are passed on."""
    answers = Answers(Lifecycle(), metrics=lambda accept: (f"text/{accept}", b"x"), metrics_path="/numbers")
    status, headers, body = answers("/numbers", "plain")
    assert (status, dict(headers)["Content-Type"], body) == (200, "text/plain", b"x")
