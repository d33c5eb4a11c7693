"""app.redis against servers that refuse, hang and hang up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis

from smartrealm import ConfigurationError, NotConfigured
from smartrealm.errors import Overloaded, Unavailable
from smartservice.redis import REPEATED, SmartRedis, open_redis, translate
from tests.changing import ChangingSettings
from tests.processes import free_port, wait_until


@contextmanager
def server(answer: Callable[[bytes], bytes | None]) -> Iterator[tuple[str, list[bytes]]]:
    """A Redis of one reply: gives its URL and all that was asked. `answer` None hangs up; b"" says nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []
    open_sockets: list[socket.socket] = []

    def talk(peer: socket.socket) -> None:
        with peer:
            while data := peer.recv(4096):
                if b"SETNAME" in data or b"SETINFO" in data:
                    peer.sendall(b"+OK\r\n" * data.count(b"CLIENT"))
                    continue
                asked.append(data)
                reply = answer(data)
                if reply is None:
                    return
                peer.sendall(reply)

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            open_sockets.append(peer)
            threading.Thread(target=talk, args=(peer,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0", asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)


@contextmanager
def client(url: str, **values: object) -> Iterator[SmartRedis]:
    made = open_redis(ChangingSettings(REDIS_URL=url, **values))
    yield made
    made.close()


def test_without_a_url_the_message_says_what_to_set() -> None:
    """Asking for a Redis that is not configured names the setting."""
    with pytest.raises(NotConfigured, match="set REDIS_URL"):
        open_redis(ChangingSettings())


@pytest.mark.parametrize("url", ["nonsense", "http://h", "redis://:hidden-pw@h:port/0", "redis://h?db=x"])
def test_a_url_that_cannot_be_used_is_refused_by_name(url: str) -> None:
    """A wrong REDIS_URL is a configuration error that names the setting and shows no password."""
    with pytest.raises(ConfigurationError, match="REDIS_URL") as caught:
        open_redis(ChangingSettings(REDIS_URL=url))
    assert "hidden-pw" not in str(caught.value)


def test_nothing_shows_the_password() -> None:
    """The client's repr has no password in it."""
    with client("redis://:hidden-pw@127.0.0.1:1/0") as r:
        assert "hidden-pw" not in repr(r)
        assert "127.0.0.1" in repr(r)


def test_a_refused_port_fails_at_once() -> None:
    """No server: reads and writes fail within a quarter of a second, as Unavailable."""
    with client(f"redis://127.0.0.1:{free_port()}/0") as r:
        begun = time.monotonic()
        with pytest.raises(redis.ConnectionError) as caught:
            r.get("x")
        with pytest.raises(redis.ConnectionError):
            r.incr("x")
        assert time.monotonic() - begun < 5
    assert isinstance(translate(caught.value), Unavailable)


def test_a_hung_server_is_given_up_within_a_second() -> None:
    """A server that accepts and says nothing costs at most REDIS_TIMEOUT, for reads too."""
    with server(lambda asked: b"") as (url, asked), client(url, REDIS_TIMEOUT=0.1) as r:
        begun = time.monotonic()
        with pytest.raises(redis.TimeoutError) as caught:
            r.get("x")
        assert time.monotonic() - begun < 5
        assert len(asked) == 1
    assert isinstance(translate(caught.value), Unavailable)


@pytest.mark.parametrize(("command", "times"), [("INCR", 1), ("SET", 1), ("LPOP", 1), ("GET", 2), ("HGETALL", 2)])
def test_only_plain_reads_are_sent_again(command: str, times: int) -> None:
    """A connection that breaks under a command: a read is repeated once, anything else was sent once."""
    with server(lambda asked: None) as (url, asked), client(url) as r:
        with pytest.raises(redis.ConnectionError):
            r.execute_command(command, "key")
        assert len(asked) == times


def test_a_pipeline_is_never_sent_again() -> None:
    """A pipeline whose connection breaks was sent once, reads in it or not."""
    with server(lambda asked: None) as (url, asked), client(url) as r:
        with r.pipeline(transaction=False) as pipeline:
            pipeline.get("a")
            pipeline.get("b")
            with pytest.raises(redis.ConnectionError):
                pipeline.execute()
        assert len(asked) == 1


def test_nothing_that_changes_data_is_in_the_list() -> None:
    """The commands that are repeated are reads; no write, no cursor, no pop."""
    writes = {
        "SET",
        "INCR",
        "DEL",
        "LPOP",
        "RPOP",
        "SPOP",
        "GETDEL",
        "GETSET",
        "GETEX",
        "EVAL",
        "EVALSHA",
        "SCAN",
        "XREAD",
    }
    assert not REPEATED & writes


def test_every_connection_in_use_is_overloaded() -> None:
    """The limit of connections answers 503 with Retry-After, at once."""
    with server(lambda asked: b"+PONG\r\n") as (url, _), client(url, REDIS_MAX_CONNECTIONS=1) as r:
        held = r.connection_pool.get_connection()
        assert r.pool_status() == (1, 0, 1)
        with pytest.raises(redis.MaxConnectionsError) as caught:
            r.ping()
        r.connection_pool.release(held)
        assert r.ping()
    translated = translate(caught.value)
    assert isinstance(translated, Overloaded)
    assert translated.retry_after_seconds == 1


def test_other_errors_stay_what_they_are() -> None:
    """A wrong command is a fault of the program, not an outage."""
    assert translate(redis.ResponseError("WRONGTYPE")) is None
    assert translate(ValueError("x")) is None


def test_a_blocking_client_waits_longer() -> None:
    """blocking(seconds) has another timeout; the same one is the same client."""

    def slow(asked: bytes) -> bytes:
        time.sleep(0.15)
        return b"+PONG\r\n"

    with server(slow) as (url, _), client(url, REDIS_TIMEOUT=0.05) as r:
        with pytest.raises(redis.TimeoutError):
            r.ping()
        assert r.blocking(5).ping()
        assert r.blocking(5) is r.blocking(5)


def test_a_new_url_moves_and_old_connections_close() -> None:
    """A change of REDIS_URL: later commands go to the new server, a connection in use is closed when given back."""
    with server(lambda asked: b"$3\r\nold\r\n") as (old, _), server(lambda asked: b"$3\r\nnew\r\n") as (new, _):
        settings = ChangingSettings(REDIS_URL=old)
        r = open_redis(settings)
        pool = r.connection_pool
        held = pool.get_connection()
        assert r.get("x") == b"old"
        settings.change(REDIS_URL=new)
        wait_until(lambda: r.get("x") == b"new")
        wait_until(lambda: pool.retired)
        held.send_command("GET", "x")
        assert held.read_response() == b"old"
        pool.release(held)
        assert not held.is_connected
        assert r.problem is None
        r.close()


def test_a_new_url_that_does_not_answer_changes_nothing() -> None:
    """The old server stays in force while the new one is away, and the reason is told without the password."""
    with server(lambda asked: b"$3\r\nold\r\n") as (old, _), server(lambda asked: b"$3\r\nnew\r\n") as (new, _):
        settings = ChangingSettings(REDIS_URL=old)
        r = SmartRedis(settings, move_retry_seconds=0.01)
        assert r.get("x") == b"old"
        settings.change(REDIS_URL=f"redis://:hidden-pw@127.0.0.1:{free_port()}/0")
        wait_until(lambda: r.problem)
        assert "stays in force" in str(r.problem)
        assert "hidden-pw" not in str(r.problem)
        assert r.get("x") == b"old"
        settings.change(REDIS_URL=new)
        wait_until(lambda: r.get("x") == b"new")
        wait_until(lambda: r.problem is None)
        r.close()
