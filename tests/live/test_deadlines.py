"""The caller's deadline on a real PostgreSQL and a real Redis: held, and gone for the next one on the same connection."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Connection, exc, text

from smartrealm.errors import DeadlineExceeded
from smartrealm.headers import CallContext, enter_call, leave_call
from smartservice import create_app, db as db_module, redis as redis_module
from smartservice.db import Database, open_database
from smartservice.redis import SmartRedis, open_redis
from tests.changing import ChangingSettings
from tests.processes import wait_until
from tests.servers import PostgresServer, RedisServer, redis_server

NOISE = 0.25
"""Seconds that a busy machine may add to the promised 50 ms, which the benchmark holds."""


@contextmanager
def call(seconds: float) -> Iterator[float]:
    """A call whose caller waits so long; gives the moment at which it began."""
    began = time.monotonic()
    token = enter_call(CallContext("r-1", deadline=began + seconds))
    try:
        yield began
    finally:
        leave_call(token)


@pytest.fixture
def db(postgres_url: str) -> Iterator[Database]:
    """One connection only: the next call gets the same one. Tested once, so that it is open before time matters."""
    database = open_database(
        ChangingSettings(
            DATABASE_URL=postgres_url,
            DATABASE_STATEMENT_TIMEOUT=20,
            DATABASE_POOL_SIZE=1,
            DATABASE_POOL_OVERFLOW=0,
        )
    )
    database.ping()
    yield database
    database.close()


def ask(db: Database, statement: str) -> object:
    with db.session_scope() as session:
        return session.scalar(text(statement))


def is_as_before(db: Database, pid: object) -> bool:
    """Whether the same connection waits as long as it always did."""
    return (ask(db, "SELECT pg_backend_pid()"), ask(db, "SHOW statement_timeout")) == (pid, "20s")


def test_a_sleeping_statement_ends_with_the_deadline(db: Database) -> None:
    """pg_sleep(5) with 300 ms left ends at the deadline and means 504; the next one on the connection has 20 s again."""
    pid = ask(db, "SELECT pg_backend_pid()")
    with call(0.3) as began:
        with pytest.raises(exc.OperationalError, match="statement timeout") as caught:
            ask(db, "SELECT pg_sleep(5)")
        assert 0.3 <= time.monotonic() - began < 0.35 + NOISE
        assert isinstance(db_module.translate(caught.value), DeadlineExceeded)
    assert db_module.translate(caught.value) is None  # without a late caller it is a fault of the service, as before
    assert is_as_before(db, pid)


def test_a_later_statement_of_the_transaction_has_what_is_left(db: Database) -> None:
    """The limit shrinks while the transaction goes on: five short statements, then a long one, end together in time."""
    with call(0.5) as began:
        with pytest.raises(exc.OperationalError):
            sleep_often(db)
        assert 0.5 <= time.monotonic() - began < 0.55 + NOISE


def sleep_often(db: Database) -> None:
    with db.session_scope() as session:
        for seconds in (0.07, 0.07, 0.07, 0.07, 0.07, 5):
            session.execute(text(f"SELECT pg_sleep({seconds})"))


def test_autocommit_leaves_no_limit_on_the_connection(db: Database) -> None:
    """Without a transaction the limit is the connection's: held, and taken back when it returns to the pool."""
    pid = ask(db, "SELECT pg_backend_pid()")
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection, call(0.3) as began:
        connection.execute(text("SELECT 1"))
        with pytest.raises(exc.OperationalError):
            connection.execute(text("SELECT pg_sleep(5)"))
        assert time.monotonic() - began < 0.35 + NOISE
    assert is_as_before(db, pid)


def test_a_connection_that_outlives_the_call_is_free_again(db: Database) -> None:
    """A transaction and an AUTOCOMMIT connection that go on after the call: no limit is left on what follows."""
    for options in ({}, {"isolation_level": "AUTOCOMMIT"}):
        with db.engine.connect().execution_options(**options) as connection:
            with call(0.5):
                connection.execute(text("SELECT 1"))
            assert connection.scalar(text("SHOW statement_timeout")) == "20s"
            with call(0.5), call(5):
                assert connection.scalar(text("SELECT 1 FROM pg_sleep(0.6)")) == 1


def test_a_savepoint_that_is_rolled_back_does_not_take_the_limit_along(db: Database) -> None:
    """What was told inside of a savepoint is forgotten with it; the statement after it is held all the same."""
    with db.engine.connect() as connection, call(0.4) as began:
        connection.execute(text("SELECT pg_sleep(0.05)"))
        with pytest.raises(exc.ProgrammingError):
            fail_nested(connection)
        with pytest.raises(exc.OperationalError, match="statement timeout"):
            connection.execute(text("SELECT pg_sleep(5)"))
        assert time.monotonic() - began < 0.45 + NOISE


def fail_nested(connection: Connection) -> None:
    with connection.begin_nested():
        connection.execute(text("SELECT pg_sleep(0.25)"))
        connection.execute(text("SELECT * FROM nothing"))


def test_a_shorter_limit_of_its_own_is_kept(postgres_url: str) -> None:
    """What the URL says about statement_timeout is never raised, however much time the caller has."""
    settings = ChangingSettings(DATABASE_URL=f"{postgres_url}?options=-c%20statement_timeout%3D200")
    db = open_database(settings)
    with call(5) as began:
        with pytest.raises(exc.OperationalError) as caught:
            ask(db, "SELECT pg_sleep(3)")
        assert time.monotonic() - began < 2
        assert db_module.translate(caught.value) is None
    db.close()


def test_a_late_statement_reaches_no_server(db: Database, postgres: PostgresServer) -> None:
    """After the deadline nothing is sent: the server still shows the statement before."""
    pid = ask(db, "SELECT pg_backend_pid()")
    with db.engine.connect() as connection:
        connection.execute(text("SELECT 'the last one'"))
        with call(-1), pytest.raises(DeadlineExceeded):
            connection.execute(text("SELECT 'too late'"))
        shown = postgres.execute(f"SELECT query FROM pg_stat_activity WHERE pid = {pid}")
        assert "the last one" in str(shown)


def test_a_lock_whose_unlock_came_too_late_is_not_left_to_the_next(db: Database) -> None:
    """A session's advisory lock that could not be given back in time is gone when the connection is back in the pool."""
    with pytest.raises(DeadlineExceeded), db.engine.connect() as connection, call(0.3):
        lock_for_long(connection)
    assert ask(db, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


def lock_for_long(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_lock(7)"))
    time.sleep(0.32)
    connection.execute(text("SELECT pg_advisory_unlock(7)"))


def test_a_late_commit_is_rolled_back(db: Database) -> None:
    """A transaction that would be committed after the deadline leaves nothing, and the connection is of use at once."""
    with db.session_scope() as session:
        session.execute(text("CREATE TABLE thing (id int)"))
    pid = ask(db, "SELECT pg_backend_pid()")
    with pytest.raises(DeadlineExceeded, match="rolled back"), call(0.3):
        insert_slowly(db)
    assert ask(db, "SELECT count(*) FROM thing") == 0
    assert is_as_before(db, pid)


def insert_slowly(db: Database) -> None:
    with db.session_scope() as session:
        session.execute(text("INSERT INTO thing VALUES (1)"))
        time.sleep(0.32)


@pytest.fixture
def client(redis_url: str) -> Iterator[SmartRedis]:
    made = open_redis(ChangingSettings(REDIS_URL=redis_url))
    made.ping()
    yield made
    made.close()


@contextmanager
def paused(server: RedisServer, milliseconds: int) -> Iterator[None]:
    """A server that answers nobody for so long, not even who would end the pause."""
    with redis.Redis(port=server.port) as admin:
        admin.client_pause(milliseconds)
        yield
        admin.ping()


def client_id(client: SmartRedis) -> object:
    return client.execute_command("CLIENT", "ID")


def test_a_command_waits_no_longer_than_the_deadline(redis_server: RedisServer, client: SmartRedis) -> None:
    """A server that pauses: the command ends at the deadline, means 504, and its connection is not used again."""
    before = client_id(client)
    with paused(redis_server, 600), call(0.2) as began:
        with pytest.raises(redis.TimeoutError) as caught:
            client.set("x", 1)
        assert 0.2 <= time.monotonic() - began < 0.25 + NOISE
        assert isinstance(redis_module.translate(caught.value), DeadlineExceeded)
    assert client_id(client) != before
    assert client.echo("mine") == b"mine"


def test_a_command_in_time_leaves_the_usual_timeout(redis_server: RedisServer, client: SmartRedis) -> None:
    """After a call with little time the same connection waits its usual REDIS_TIMEOUT again, pipelines included."""
    before = client_id(client)
    with call(0.3):
        client.set("x", 1)
        assert read_twice(client) == [b"1", b"1"]
    time.sleep(0.3)
    with paused(redis_server, 250):
        assert client.get("x") == b"1"
    assert client_id(client) == before


def read_twice(client: SmartRedis) -> object:
    with client.pipeline() as pipeline:
        pipeline.get("x")
        pipeline.get("x")
        return pipeline.execute()


def test_the_socket_of_a_call_has_its_usual_timeout(client: SmartRedis) -> None:
    """Connecting and sending in a call leave no short timeout on the socket, whether or not a reply is read."""
    connection: Any = client.connection_pool.get_connection()
    with call(0.5):
        connection.send_command("PING")
        assert connection._sock.gettimeout() == 0.5
        assert connection.read_response() == b"PONG"
        with connection._connect() as fresh:
            assert fresh.gettimeout() == 0.5
    client.connection_pool.release(connection)


def test_a_blocking_client_keeps_to_the_deadline(client: SmartRedis) -> None:
    """blocking(30).blpop ends with what is left; the one after it waits for its message as told."""
    with call(0.2) as began:
        with pytest.raises(redis.TimeoutError):
            client.blocking(30).blpop(["jobs"], timeout=25)
        assert time.monotonic() - began < 0.25 + NOISE
    push = threading.Timer(0.4, lambda: client.rpush("jobs", "work"))
    push.start()
    assert client.blocking(30).blpop(["jobs"], timeout=5) == (b"jobs", b"work")
    push.join()


def test_a_pipeline_that_watched_gives_its_connection_back(client: SmartRedis) -> None:
    """A WATCH whose EXEC came too late leaks no connection, and the next one on it is not in a transaction."""
    with call(0.3), client.pipeline() as pipeline:
        with pytest.raises(redis.WatchError) as caught:
            watch_for_long(pipeline)
        assert isinstance(redis_module.translate(caught.value), DeadlineExceeded)
    assert client.pool_status()[0] == 0
    assert client.set("watched", 2)


def watch_for_long(pipeline: Any) -> None:
    pipeline.watch("watched")
    time.sleep(0.32)
    pipeline.multi()
    pipeline.set("watched", 1)
    pipeline.execute()


def test_a_lock_is_given_back_after_the_deadline(client: SmartRedis) -> None:
    """`with app.redis.lock(...)` around work that took too long: the next one gets the lock at once."""
    with call(0.3):
        with client.lock("only-one", timeout=60):
            time.sleep(0.32)
        with pytest.raises(DeadlineExceeded):
            client.get("x")
    assert client.exists("only-one") == 0


def test_a_subscriber_wakes_up_for_the_deadline(client: SmartRedis) -> None:
    """get_message(timeout=10) in a call with little time left returns then, and is refused after it."""
    subscriber: Any
    with client.pubsub() as subscriber:  # type: ignore[no-untyped-call]
        subscriber.subscribe("news")
        wait_until(lambda: subscriber.get_message(timeout=1))
        with call(0.2) as began:
            assert subscriber.get_message(timeout=10) is None
            assert time.monotonic() - began < 0.25 + NOISE
            with pytest.raises(DeadlineExceeded):
                subscriber.get_message(timeout=10)


@pytest.mark.needs("redis-server")
def test_connecting_to_a_frozen_server_ends_with_the_deadline() -> None:
    """A server that accepts and never greets costs a new connection what is left, handshake included."""
    with redis_server() as server:
        server.child.signal(signal.SIGSTOP)
        cold = open_redis(ChangingSettings(REDIS_URL=server.url(), REDIS_TIMEOUT=5))
        try:
            with call(0.2) as began:
                with pytest.raises((redis.TimeoutError, redis.ConnectionError)):
                    cold.get("x")
                assert time.monotonic() - began < 0.25 + NOISE
        finally:
            server.child.signal(signal.SIGCONT)
        assert cold.get("x") is None
        cold.close()


def test_a_request_with_a_deadline_is_answered_in_time(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    """Smart-Deadline reaches SQL and Redis: 504 in time, and the next request, without it, is served."""
    environ = {"REALM": "testing", "ATLAS_URL": "", "STATE_DIR": str(tmp_path)}
    app = create_app(
        "tests.unit.smartservice.sample", environ={**environ, "DATABASE_URL": postgres_url, "REDIS_URL": redis_url}
    )

    @app.get("/sql/<seconds>")
    def sql(seconds: str) -> str:
        app.db.session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": float(seconds)})
        return "slept"

    @app.get("/redis")
    def blocked() -> str:
        app.redis.blocking(30).blpop(["nothing"], timeout=20)
        return "popped"

    client = app.test_client()
    try:
        assert client.get("/sql/0").text == "slept"
        for path in ("/sql/5", "/redis"):
            began = time.monotonic()
            answer = client.get(path, headers={"Smart-Deadline": "300"})
            assert time.monotonic() - began < 0.35 + NOISE, path
            assert (answer.status_code, answer.get_json()["code"]) == (504, "deadline-exceeded"), path
        assert client.get("/sql/0.4").text == "slept"
    finally:
        app.close()
