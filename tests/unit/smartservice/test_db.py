"""app.db without any server: sessions, SQLite, errors, moves."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import ForeignKey, create_engine, event, exc, select, text
from sqlalchemy.orm import Mapped, mapped_column

from smartrealm import ConfigurationError, NotConfigured, SmartError
from smartrealm.errors import Overloaded, Unavailable
from smartservice.db import Base, Database, open_database, translate
from tests.changing import ChangingSettings
from tests.processes import open_files, wait_until


class Pen(Base):
    __tablename__ = "unit_pen"
    id: Mapped[int] = mapped_column(primary_key=True)
    colour: Mapped[str]


class Cap(Base):
    __tablename__ = "unit_cap"
    id: Mapped[int] = mapped_column(primary_key=True)
    pen_id: Mapped[int] = mapped_column(ForeignKey(Pen.id))


TABLES = [Base.metadata.tables["unit_pen"], Base.metadata.tables["unit_cap"]]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = open_database(ChangingSettings(DATABASE_URL=f"sqlite:///{tmp_path}/unit.db"))
    Base.metadata.create_all(database.engine, tables=TABLES)
    yield database
    database.close()


@pytest.fixture
def app(db: Database) -> Flask:
    app = Flask(__name__)
    app.teardown_appcontext(db.end_request)
    return app


def colours(db: Database) -> list[str]:
    with db.session_scope() as session:
        return list(session.scalars(select(Pen.colour).order_by(Pen.id)))


def test_without_a_url_the_message_says_what_to_set() -> None:
    """Asking for a database that is not configured names the setting."""
    with pytest.raises(NotConfigured, match="set DATABASE_URL"):
        open_database(ChangingSettings())


@pytest.mark.parametrize("url", ["nonsense", "://", "oracel://x", "postgresql://h:port/d"])
def test_a_url_that_cannot_be_used_is_refused_by_name(url: str) -> None:
    """A wrong DATABASE_URL is a configuration error that names the setting."""
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        _ = open_database(ChangingSettings(DATABASE_URL=url)).engine


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgres_means_psycopg(scheme: str) -> None:
    """postgres:// and postgresql:// use psycopg 3, and nothing connects before it is used."""
    db = open_database(ChangingSettings(DATABASE_URL=f"{scheme}://u:hidden-pw@nowhere.invalid/d"))

    assert db.engine.driver == "psycopg"
    assert "hidden-pw" not in repr(db)
    db.close()


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL without psycopg says which extra to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    db = open_database(ChangingSettings(DATABASE_URL="postgresql://h/d"))

    with pytest.raises(ConfigurationError, match=r"smartservice\[postgres\]"):
        _ = db.engine


def test_postgres_is_told_our_timeouts_unless_the_url_says_otherwise() -> None:
    """Timeouts and the service's name reach libpq; what the URL says itself wins."""
    seen = connect_arguments("postgresql://h/d?application_name=mine&options=-c%20work_mem%3D1MB")
    assert seen["application_name"] == "mine"
    assert seen["connect_timeout"] == 2
    assert seen["options"] == "-c statement_timeout=30000 -c work_mem=1MB"

    assert connect_arguments("postgresql://h/d")["application_name"] == "hello"
    assert "options" not in connect_arguments("postgresql://h/d", DATABASE_STATEMENT_TIMEOUT=0.0)


def connect_arguments(url: str, **values: object) -> dict[str, object]:
    db = open_database(ChangingSettings(DATABASE_URL=url, **values))
    seen: dict[str, object] = {}

    def stop(dialect: object, record: object, arguments: object, parameters: dict[str, object]) -> None:
        seen.update(parameters)
        raise RuntimeError("not connecting")

    event.listen(db.engine, "do_connect", stop)
    with pytest.raises(RuntimeError, match="not connecting"):
        db.engine.connect()
    return seen


def test_a_request_has_one_session_and_commits_by_itself_only(app: Flask, db: Database) -> None:
    """One session per request; what the request did not commit is gone."""
    with app.app_context():
        assert db.session is db.session
        db.session.add(Pen(colour="blue"))
        db.session.commit()
        db.session.add(Pen(colour="lost"))
        db.session.flush()

    assert colours(db) == ["blue"]
    assert db.pool_status().in_use == 0


def test_a_failed_request_saves_nothing(app: Flask, db: Database) -> None:
    """An exception in a view rolls back, and the connection is back in the pool."""

    @app.post("/pens")
    def add() -> str:
        db.session.add(Pen(colour="broken"))
        db.session.flush()
        raise ZeroDivisionError

    assert app.test_client().post("/pens").status_code == 500
    assert colours(db) == []
    assert db.pool_status().in_use == 0


def test_two_databases_in_one_context_do_not_touch(app: Flask, db: Database) -> None:
    """Each database has its own session; both end with the context."""
    other = open_database(ChangingSettings(DATABASE_URL="sqlite://"))
    with app.app_context():
        assert other.session is not db.session
        other.session.execute(text("SELECT 1"))
        assert other.session.in_transaction()
        session = other.session

    assert not session.in_transaction()
    other.close()


def test_outside_a_request_the_message_points_to_session_scope(db: Database) -> None:
    """db.session without a request says what to use."""
    with pytest.raises(SmartError, match="session_scope"):
        _ = db.session


def test_session_scope_commits_or_rolls_back(db: Database) -> None:
    """A scope commits at its end; an error rolls it back and goes on."""
    with db.session_scope() as session:
        session.add(Pen(colour="kept"))
    with pytest.raises(ZeroDivisionError):
        break_off(db)

    assert colours(db) == ["kept"]


def break_off(db: Database) -> None:
    with db.session_scope() as session:
        session.add(Pen(colour="lost"))
        session.flush()
        raise ZeroDivisionError


def test_nothing_that_sessions_commit_outlives_rolled_back(app: Flask, db: Database) -> None:
    """rolled_back() undoes commits of requests and scopes, so that each test begins with the same rows."""
    with db.rolled_back():
        with app.app_context():
            db.session.add(Pen(colour="committed"))
            db.session.commit()
        assert colours(db) == ["committed"]

    assert colours(db) == []


def test_concurrent_increments_are_all_counted(db: Database) -> None:
    """Two hundred read-then-write transactions of four threads on SQLite lose none."""
    with db.session_scope() as session:
        session.add(Pen(id=1, colour="0"))

    def increment() -> None:
        for _ in range(50):
            with db.session_scope() as session:
                pen = session.get_one(Pen, 1)
                pen.colour = str(int(pen.colour) + 1)

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert colours(db) == ["200"]


def test_sqlite_keeps_foreign_keys(db: Database) -> None:
    """A row that points to nothing is refused, as PostgreSQL would."""
    with pytest.raises(exc.IntegrityError), db.session_scope() as session:
        session.add(Cap(pen_id=99))


def test_sqlite_makes_the_directory_it_needs(tmp_path: Path) -> None:
    """A file in a directory that does not exist yet works; one that cannot be made names the setting."""
    db = open_database(ChangingSettings(DATABASE_URL=f"sqlite:///{tmp_path}/new/deep/x.db"))
    db.ping()
    db.close()
    assert (tmp_path / "new/deep/x.db").exists()

    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="DATABASE_URL names"):
        _ = open_database(ChangingSettings(DATABASE_URL=f"sqlite:///{tmp_path}/file/x.db")).engine


def test_a_memory_database_is_one_for_all_sessions(app: Flask) -> None:
    """sqlite:// is one database for every session of the app, even while another session is open."""
    db = open_database(ChangingSettings(DATABASE_URL="sqlite://"))
    Base.metadata.create_all(db.engine, tables=TABLES)
    with app.app_context():
        db.session.add(Pen(colour="here"))
        db.session.flush()
        assert colours(db) == ["here"]
        db.end_request(None)
    db.close()


def test_a_ping_waits_for_no_writer(db: Database) -> None:
    """The health check's query answers at once while a transaction holds SQLite's write lock."""
    with db.session_scope() as session:
        session.add(Pen(colour="busy"))
        session.flush()
        begun = time.monotonic()
        db.ping()
        with db.reader.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM unit_pen")) == 0
        assert time.monotonic() - begun < 4  # the writer would be waited for 5


def test_a_ping_of_a_broken_database_is_unavailable(tmp_path: Path) -> None:
    """A file that is no database makes ping raise Unavailable."""
    (tmp_path / "x.db").write_bytes(b"this is not a database, and long enough to show it" * 20)
    db = open_database(ChangingSettings(DATABASE_URL=f"sqlite:///{tmp_path}/x.db"))
    with pytest.raises(Unavailable):
        db.ping()
    db.close()


def test_repr_of_a_model_is_its_primary_key() -> None:
    """A model in a log shows its key, never a column's value."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine, tables=TABLES)
    from sqlalchemy.orm import Session

    with Session(engine) as session:
        pen = Pen(colour="secret")
        assert repr(pen) == "<Pen not saved>"
        session.add(pen)
        session.commit()
        assert repr(pen) == "<Pen id=1>"
    assert repr(pen) == "<Pen id=1>"
    engine.dispose()


def test_every_connection_in_use_is_overloaded(tmp_path: Path) -> None:
    """An exhausted pool gives up after DATABASE_POOL_TIMEOUT and means 503 with Retry-After."""
    limits = {"DATABASE_POOL_SIZE": 1, "DATABASE_POOL_OVERFLOW": 0, "DATABASE_POOL_TIMEOUT": 0.05}
    db = open_database(ChangingSettings(DATABASE_URL=f"sqlite:///{tmp_path}/x.db", **limits))
    with db.engine.connect():
        assert db.pool_status().in_use == db.pool_status().limit == 1
        with pytest.raises(exc.TimeoutError) as caught:
            db.engine.connect()
        with pytest.raises(Overloaded):
            db.ping()
    translated = translate(caught.value)
    db.close()

    assert isinstance(translated, Overloaded)
    assert (translated.status, translated.retry_after_seconds) == (503, 1)
    assert translated.__cause__ is caught.value


def test_a_locked_sqlite_is_overloaded() -> None:
    """`database is locked` means 503, try again."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = 517  # SQLITE_BUSY_SNAPSHOT
    assert isinstance(translate(exc.OperationalError("UPDATE x", None, error)), Overloaded)


@pytest.mark.parametrize(
    ("sqlstate", "statement", "expected"),
    [
        (None, None, Unavailable),  # refused, no route, no such host
        ("57P03", None, Unavailable),  # the server is starting
        ("53300", None, Unavailable),  # too many clients
        ("28P01", None, Unavailable),  # wrong password
        ("57P01", "SELECT 1", Unavailable),  # the server was stopped during the query
        ("57014", "SELECT pg_sleep(9)", None),  # statement_timeout
        ("40001", None, None),  # serialization failure at COMMIT
        ("42P01", "SELECT * FROM nothing", None),  # no such table
        (None, "SELECT * FROM nothing", None),
    ],
)
def test_only_connection_failures_are_unavailable(
    sqlstate: str | None, statement: str | None, expected: type[SmartError] | None
) -> None:
    """A database that is away is 503; a fault of the program stays what it is."""

    class FromServer(Exception):
        pass

    orig = FromServer("failed")
    orig.sqlstate = sqlstate  # type: ignore[attr-defined]
    translated = translate(exc.OperationalError(statement, None, orig))

    assert type(translated) is (expected or type(None))


def test_an_error_shows_no_values() -> None:
    """The text of a failed statement does not hold the values that were sent with it."""
    db = open_database(ChangingSettings(DATABASE_URL="sqlite://"))
    with pytest.raises(exc.OperationalError) as caught, db.session_scope() as session:
        session.execute(text("SELECT * FROM nothing WHERE a = :a"), {"a": "planted-value"})
    db.close()

    assert "planted-value" not in str(caught.value)


def test_a_new_url_moves_and_sessions_in_flight_finish_on_the_old(tmp_path: Path) -> None:
    """A change of DATABASE_URL swaps the engine; who began on the old one finishes there."""
    settings = ChangingSettings(DATABASE_URL=f"sqlite:///{tmp_path}/old.db")
    db = open_database(settings)
    old = db.engine
    with db.session_scope() as session:
        session.execute(text("CREATE TABLE only_old (id int)"))
        session.commit()
        settings.change(DATABASE_URL=f"sqlite:///{tmp_path}/new.db")
        wait_until(lambda: db.engine is not old)
        assert session.scalar(text("SELECT count(*) FROM only_old")) == 0
    with db.session_scope() as session, pytest.raises(exc.OperationalError, match="only_old"):
        session.execute(text("SELECT * FROM only_old"))

    wait_until(lambda: open_files(tmp_path / "old.db") == 0, what="the old file closed")
    db.close()
    assert open_files(tmp_path / "new.db") == 0


def test_a_new_url_that_does_not_work_changes_nothing(tmp_path: Path) -> None:
    """The old database stays in force while the new one cannot be used; the reason is told; later it moves."""
    settings = ChangingSettings(DATABASE_URL=f"sqlite:///{tmp_path}/old.db")
    db = Database(settings, move_retry_seconds=0.01)
    old = db.engine
    (tmp_path / "new.db").write_bytes(b"this is no database, and long enough to show it" * 20)
    settings.change(DATABASE_URL=f"sqlite:///{tmp_path}/new.db")
    wait_until(lambda: db.problem)
    assert "the old one stays in force" in str(db.problem)
    assert db.engine is old

    (tmp_path / "new.db").unlink()
    wait_until(lambda: db.engine is not old)
    wait_until(lambda: db.problem is None)
    db.close()


def test_a_url_that_is_taken_back_ends_the_move(tmp_path: Path) -> None:
    """A wrong URL that is corrected to the old one leaves no thread and no problem behind."""
    settings = ChangingSettings(DATABASE_URL=f"sqlite:///{tmp_path}/old.db")
    db = Database(settings)
    old = db.engine
    settings.change(DATABASE_URL="")
    wait_until(lambda: db.problem)
    settings.change(DATABASE_URL=f"sqlite:///{tmp_path}/old.db")
    wait_until(lambda: db.problem is None)

    assert db.engine is old
    db.close()
