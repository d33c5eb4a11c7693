"""The caller's deadline on a SQLite file, and on Redis and pools without a server."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from flask import Flask
from sqlalchemy import Connection, exc, text

from smartrealm.errors import DeadlineExceeded, Overloaded
from smartrealm.headers import CallContext, current_call, enter_call, leave_call
from smartservice import deadlines, errors
from smartservice.db import Database, open_database, translate
from smartservice.engines import make_engine
from smartservice.redis import open_redis
from tests.changing import DEFAULTS, ChangingSettings

NOISE = 0.5
"""Seconds that a busy machine may add to the promised 50 ms, which the benchmark holds."""

SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200000000) SELECT max(i) FROM n"


@contextmanager
def call(seconds: float | None) -> Iterator[float]:
    """A call whose caller waits so long; gives the moment at which it began."""
    began = time.monotonic()
    token = enter_call(CallContext("r-1", deadline=None if seconds is None else began + seconds))
    try:
        yield began
    finally:
        leave_call(token)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = open_database(
        ChangingSettings(DATABASE_URL=f"sqlite:///{tmp_path}/x.db", DATABASE_POOL_SIZE=1, DATABASE_POOL_OVERFLOW=0)
    )
    with database.session_scope() as session:
        session.execute(text("CREATE TABLE thing (id int)"))
    yield database
    database.close()


def busy_timeout(db: Database) -> object:
    with db.session_scope() as session:
        return session.scalar(text("PRAGMA busy_timeout"))


@contextmanager
def writer(db: Database) -> Iterator[None]:
    """Somebody else holds the write lock."""
    other = sqlite3.connect(str(db.engine.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


def test_without_a_deadline_there_is_nothing_left_to_ask() -> None:
    """No call, or one without a deadline, has no seconds left and is never late."""
    assert deadlines.seconds_left() is None
    with call(None):
        assert deadlines.seconds_left() is None
        assert not deadlines.is_passed()


def test_what_must_be_put_in_order_ignores_the_deadline() -> None:
    """In `ignored()` there is no deadline; after it there is, and the rest of the call was there all along."""
    with call(-1):
        with deadlines.ignored():
            assert deadlines.seconds_left() is None
            found = current_call()
            assert found is not None
            assert found.request_id == "r-1"
        assert deadlines.is_passed()


def test_a_statement_of_a_late_call_is_not_sent(db: Database) -> None:
    """When the time is used up, opening a session and executing raises DeadlineExceeded and reaches no database."""
    with call(-1), pytest.raises(DeadlineExceeded), db.session_scope() as session:
        session.execute(text("INSERT INTO thing VALUES (1)"))
    assert db.pool_status().in_use == 0


def test_a_statement_after_the_deadline_is_not_sent(db: Database) -> None:
    """A session that was in time at first is refused its next statement, and what it did is rolled back."""
    with call(0.05), pytest.raises(DeadlineExceeded):
        insert_slowly(db, 1, 2)
    assert count(db) == 0


def test_a_commit_after_the_deadline_is_a_rollback(db: Database) -> None:
    """What is committed too late is undone, and the next user of the connection finds no transaction."""
    with call(0.05), pytest.raises(DeadlineExceeded, match="rolled back"):
        insert_slowly(db, 1)
    assert count(db) == 0


def test_a_late_commit_on_a_plain_connection_leaves_no_transaction(db: Database) -> None:
    """A connection that is kept after its refused COMMIT begins anew: nothing of before is committed by the next."""
    with db.engine.connect() as connection:
        with call(0.05):
            connection.execute(text("INSERT INTO thing VALUES (1)"))
            time.sleep(0.06)
            with pytest.raises(DeadlineExceeded):
                connection.commit()
        connection.rollback()
        connection.execute(text("INSERT INTO thing VALUES (2)"))
        connection.commit()
    assert count(db) == 1


def insert_slowly(db: Database, *numbers: int) -> None:
    """Insert one after the other, 60 ms each, and commit."""
    with db.session_scope() as session:
        for number in numbers:
            session.execute(text("INSERT INTO thing VALUES (:number)"), {"number": number})
            time.sleep(0.06)


def insert_nested(connection: Connection) -> None:
    with connection.begin_nested():
        connection.execute(text("INSERT INTO thing VALUES (2)"))
        time.sleep(0.06)
        connection.execute(text("INSERT INTO thing VALUES (3)"))


def count(db: Database) -> object:
    with db.session_scope() as session:
        return session.scalar(text("SELECT count(*) FROM thing"))


def test_waiting_for_the_writer_ends_with_the_deadline(db: Database) -> None:
    """`database is locked` after what was left, not after 5 seconds, means 504; without a deadline it would be 503."""
    with writer(db), call(0.15) as began:
        with pytest.raises(exc.OperationalError, match="locked") as caught, db.session_scope() as session:
            session.execute(text("SELECT 1"))
        assert 0.15 <= time.monotonic() - began < 0.2 + NOISE
        assert isinstance(translate(caught.value), DeadlineExceeded)
    assert isinstance(translate(caught.value), Overloaded)
    assert busy_timeout(db) == 5000


def test_a_slow_query_is_interrupted_at_the_deadline(db: Database) -> None:
    """A query that computes is ended at the deadline and means 504; the same connection computes on for the next call."""
    with call(0.15) as began:
        with pytest.raises(exc.OperationalError, match="interrupted") as caught, db.session_scope() as session:
            session.execute(text(SLOW))
        assert 0.15 <= time.monotonic() - began < 0.2 + NOISE
        assert isinstance(translate(caught.value), DeadlineExceeded)
    with db.session_scope() as session:
        assert session.scalar(text(SLOW.replace("200000000", "300000"))) == 300000


def test_the_next_call_on_the_same_connection_has_its_own_time(db: Database) -> None:
    """A connection that is kept over several calls obeys each of them in turn, and none of them without a deadline."""
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with call(0.05), pytest.raises(exc.OperationalError):
            connection.execute(text(SLOW))
        with call(30):
            assert quick(connection) == 300000
        assert quick(connection) == 300000
        assert connection.scalar(text("PRAGMA busy_timeout")) == 5000


def quick(connection: Connection) -> object:
    return connection.scalar(text(SLOW.replace("200000000", "300000")))


def test_waiting_for_the_pool_ends_with_the_deadline(db: Database) -> None:
    """With every connection in use the wait ends with what is left and means 504; without a deadline 503."""
    with db.engine.connect(), call(0.15) as began:
        with pytest.raises(exc.TimeoutError) as caught:
            db.engine.connect()
        assert 0.15 <= time.monotonic() - began < 0.2 + NOISE
        assert isinstance(translate(caught.value), DeadlineExceeded)
    assert isinstance(translate(caught.value), Overloaded)


def test_a_pool_that_is_renewed_in_a_call_keeps_its_usual_wait(db: Database) -> None:
    """dispose() in a call with little time left does not make that the pool's timeout for ever."""
    with call(0.5):
        db.engine.dispose()
    assert db.engine.pool.timeout() == 2.0  # type: ignore[attr-defined]


def test_a_pool_speaks_as_sqlalchemys(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Where everything is logged at info, opening and closing a pool is still no line."""
    with caplog.at_level(logging.INFO):
        assert count(db) == 0
        db.engine.dispose()
    assert caplog.records == []


def test_a_savepoint_ends_after_the_deadline_too(db: Database) -> None:
    """Rolling a savepoint back is never refused: what comes before it can still be looked at by who caught the error."""
    with db.engine.connect() as connection:
        with call(0.05):
            connection.execute(text("INSERT INTO thing VALUES (1)"))
            with pytest.raises(DeadlineExceeded):
                insert_nested(connection)
        assert connection.scalar(text("SELECT count(*) FROM thing")) == 1
        connection.rollback()


def test_a_late_ping_says_so(db: Database) -> None:
    """ping() in a late call raises DeadlineExceeded and asks nobody."""
    with call(-1), pytest.raises(DeadlineExceeded):
        db.ping()


def test_a_database_in_memory_is_not_asked_by_a_late_call() -> None:
    """The one connection of a memory database is refused too, whoever opened it."""
    engine = make_engine({**DEFAULTS, "DATABASE_URL": "sqlite://"}, "hello")
    with engine.connect() as connection, call(-1), pytest.raises(DeadlineExceeded):
        connection.execute(text("SELECT 1"))
    engine.dispose()


def test_threads_without_the_context_have_no_deadline(db: Database) -> None:
    """A thread of its own, started in a late call, works on: only who takes the context along is held to it."""
    found: list[object] = []
    with call(-1):
        thread = threading.Thread(target=lambda: found.append(count(db)))
        thread.start()
        thread.join()
    assert found == [0]


def test_a_late_request_is_answered_with_504(db: Database) -> None:
    """What SQLAlchemy raises at the deadline is a 504 to the caller, with the code of the tree."""
    app = Flask("late")
    errors.install(app)

    @app.get("/slow")
    def slow() -> str:
        with db.session_scope() as session:
            session.execute(text(SLOW))
        return ""

    with call(0.05):
        answer = app.test_client().get("/slow")
    assert (answer.status_code, answer.get_json()["code"]) == (504, "deadline-exceeded")


def test_redis_is_not_asked_by_a_late_call() -> None:
    """A command, a pipeline and a lock of a late call fail before a connection is made: as ours and as redis-py's error."""
    client = open_redis(ChangingSettings(REDIS_URL="redis://127.0.0.1:1/0"))
    asks: list[Callable[[], object]] = [
        lambda: client.get("x"),
        lambda: client.pipeline().execute_command("INCR", "x").execute(),  # type: ignore[no-untyped-call]
        lambda: client.lock("x").acquire(),
    ]
    with call(-1):
        for ask in asks:
            with pytest.raises(redis.ConnectionError) as caught:
                ask()
            assert isinstance(caught.value, DeadlineExceeded)
            assert caught.value.status == 504
            assert errors.translated(caught.value) is caught.value
    client.close()
