"""`app.db`: plain SQLAlchemy, with a session for each request and a pool that survives forks, moves and outages.

app.db.session                      the session of this request; commit is explicit, the rest happens at its end
with app.db.session_scope() as s:   the same for scripts and threads: commits at the end, rolls back on an error
class Team(Base): ...               models, usable without any app
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flask import g, has_app_context
from sqlalchemy import Connection, Engine, MetaData, QueuePool, exc, inspect
from sqlalchemy.orm import DeclarativeBase, Session

from smartrealm import NotConfigured, SmartError, redact_text
from smartrealm.errors import DeadlineExceeded, Overloaded, Unavailable
from smartservice import deadlines, engines
from smartservice.moving import Moving, Settings

__all__ = ["Base", "Database", "PoolStatus", "open_database", "translate"]

log = logging.getLogger("smartservice")


class Base(DeclarativeBase):
    """The base class of models. Constraints get predictable names, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )

    def __repr__(self) -> str:
        """The primary key and nothing else: columns may be secret, and reading one may query the database."""
        state = inspect(self)
        if state.identity is None:
            return f"<{type(self).__name__} not saved>"
        names = [column.key for column in state.mapper.primary_key]
        return f"<{type(self).__name__} {' '.join(f'{n}={v!r}' for n, v in zip(names, state.identity, strict=True))}>"


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The connections of this process: `in_use` of at most `limit`, `idle` ones kept open."""

    in_use: int
    idle: int
    limit: int


def open_database(settings: Settings, *, metadata: MetaData | None = None) -> Database:
    """The database that DATABASE_URL names. Connects to nothing.

    Raises NotConfigured when DATABASE_URL is empty, ConfigurationError when it cannot be read.
    """
    if not settings.snapshot["DATABASE_URL"]:
        raise NotConfigured(
            "This service has no database: set DATABASE_URL, for example to sqlite:///hello.db "
            "or postgresql://user@host/name."
        )
    engines.read_url(settings.snapshot["DATABASE_URL"])
    return Database(settings, metadata=metadata)


class Database:
    """The database of one app. Lazy, safe before a fork and from any thread; follows a change of DATABASE_URL."""

    def __init__(
        self, settings: Settings, *, metadata: MetaData | None = None, move_retry_seconds: float = 5.0
    ) -> None:
        self.metadata = metadata if metadata is not None else Base.metadata
        self._outer: Connection | None = None
        service, snapshot = settings.service, settings.snapshot
        self._limit: int = snapshot["DATABASE_POOL_SIZE"] + snapshot["DATABASE_POOL_OVERFLOW"]
        self._engine = Moving[Engine](
            settings,
            "DATABASE_URL",
            open=lambda snapshot: engines.make_engine(snapshot, service),
            check=_select_one,
            retire=engines.retire,
            reset_after_fork=engines.reset_after_fork,
            retry_seconds=move_retry_seconds,
        )

    @property
    def engine(self) -> Engine:
        """The engine in force now. Ask again for each use: a change of DATABASE_URL replaces it."""
        return self._engine.get()

    @property
    def reader(self) -> Engine:
        """The engine in force, for work that only reads: on SQLite it waits for no writer and holds up none."""
        return self.engine.execution_options(**engines.READ_ONLY)

    @property
    def session(self) -> Session:
        """The session of the current request (or app context). What is not committed at its end is rolled back."""
        if not has_app_context():
            raise SmartError(
                "There is no request here, so there is no app.db.session: "
                "use `with app.db.session_scope() as session:` in scripts and threads."
            )
        sessions: dict[Database, Session] = g.setdefault("_smartservice_sessions", {})
        session = sessions.get(self)
        if session is None:
            session = sessions[self] = self._new_session()
        return session

    @contextmanager
    def session_scope(self) -> Iterator[Session]:
        """A session of its own for a script or a thread: commits at the end, rolls back on an error, closes."""
        session = self._new_session()
        try:
            yield session
            session.commit()
        finally:
            _close(session)

    def end_request(self, error: BaseException | None = None) -> None:
        """Roll back what the request did not commit and give its connection back. Never raises."""
        sessions: dict[Database, Session] | None = g.pop("_smartservice_sessions", None)
        for session in (sessions or {}).values():
            _close(session)

    @contextmanager
    def rolled_back(self) -> Iterator[Connection]:
        """For tests: all that any session does in this block, commits included, is undone at its end.

        The sessions share one connection, so use them from one thread at a time.
        """
        with self.engine.connect() as connection:
            transaction = connection.begin()
            self._outer = connection
            try:
                yield connection
            finally:
                self._outer = None
                transaction.rollback()

    def ping(self, timeout: float = 2.0) -> None:
        """Prove with one cheap query that the database answers. Raises Unavailable or Overloaded when it does not.

        `timeout`, and the caller's deadline, bound the query on PostgreSQL; waiting for a connection is bounded by DATABASE_POOL_TIMEOUT and
        DATABASE_CONNECT_TIMEOUT.
        """
        try:
            _select_one(self.engine, timeout)
        except exc.SQLAlchemyError as error:
            raise translate(error) or Unavailable(_sentence("The database does not work", error)) from error

    def pool_status(self) -> PoolStatus:
        """How the pool of this process is used. Cheap; connects to nothing."""
        engine = self._engine.opened()
        pool = engine.pool if engine is not None else None
        if not isinstance(pool, QueuePool):
            return PoolStatus(0, 0, self._limit)
        return PoolStatus(pool.checkedout(), pool.checkedin(), self._limit)

    def close_idle(self) -> None:
        """Close what lies in the pool, as a command does at its end; the next use connects anew. Memory stays."""
        engine = self._engine.opened()
        if engine is not None and not engines.is_memory(engine.url):
            engine.dispose()

    @property
    def problem(self) -> str | None:
        """Why a change of DATABASE_URL could not be followed yet; None when all is well. Has no secret in it."""
        return self._engine.problem

    def close(self) -> None:
        """Close the idle connections, and the others when they are given back. Idempotent."""
        self._engine.close()

    def __repr__(self) -> str:
        engine = self._engine.opened()
        return f"<Database {engine.url.render_as_string() if engine is not None else 'not opened'}>"

    def _new_session(self) -> Session:
        if self._outer is not None:
            return Session(bind=self._outer, join_transaction_mode="create_savepoint")
        return Session(bind=self.engine)


def translate(error: BaseException) -> SmartError | None:
    """What an error of SQLAlchemy means to the caller of the service; None when it is a fault of the program.

    Every connection in use, or SQLite locked for too long: Overloaded. No connection, or a broken one: Unavailable. Any
    of these, or a statement that was ended, when the caller's time is used up: DeadlineExceeded.
    """
    translated: SmartError | None = None
    if isinstance(error, exc.SQLAlchemyError) and _is_late(error):
        translated = DeadlineExceeded(_sentence("The caller's deadline passed while the database worked", error))
    elif isinstance(error, exc.TimeoutError):
        translated = Overloaded(
            "Every connection of the database pool is in use: see DATABASE_POOL_SIZE, DATABASE_POOL_OVERFLOW and "
            "DATABASE_POOL_TIMEOUT, and requests that hold a session for long.",
            retry_after_seconds=1,
        )
    elif isinstance(error, exc.DBAPIError) and _is_locked(error):
        translated = Overloaded(_sentence("The database is busy", error), retry_after_seconds=1)
    elif isinstance(error, exc.DBAPIError) and _is_disconnected(error):
        translated = Unavailable(_sentence("The database does not answer", error), retry_after_seconds=1)
    if translated is not None:
        translated.__cause__ = error
    return translated


_CONNECTION_CLASSES = ("08", "57P", "53")
"""SQLSTATE: connection exceptions, operator intervention (shutdown, start-up), insufficient resources."""


def _is_disconnected(error: exc.DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    if not isinstance(error, exc.OperationalError | exc.InterfaceError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is not None and state.startswith(_CONNECTION_CLASSES):
        return True
    # Without a statement it happened while connecting, or at COMMIT, which has a SQLSTATE of its own.
    return error.statement is None and (state is None or state.startswith(("28", "3D")))


def _is_locked(error: exc.DBAPIError) -> bool:
    """SQLITE_BUSY and SQLITE_LOCKED, extended codes included."""
    return (getattr(error.orig, "sqlite_errorcode", 0) & 0xFF) in (5, 6)


def _is_late(error: exc.SQLAlchemyError) -> bool:
    """Whether time was what was missing, and it was the caller's: QUERY_CANCELED, SQLITE_INTERRUPT, and waits in vain."""
    if not deadlines.is_passed():
        return False
    if isinstance(error, exc.DBAPIError):
        ended = getattr(error.orig, "sqlstate", None) == "57014"
        ended = ended or (getattr(error.orig, "sqlite_errorcode", 0) & 0xFF) == 9
        return ended or _is_locked(error) or _is_disconnected(error)
    return isinstance(error, exc.TimeoutError)


def _sentence(what: str, error: exc.SQLAlchemyError) -> str:
    orig = error.orig if isinstance(error, exc.DBAPIError) else error
    return f"{what}: {redact_text(str(orig)).strip()}"


def _select_one(engine: Engine, timeout: float | None = None) -> None:
    """One query on a pooled connection; waits for no writer."""
    left = deadlines.seconds_left()
    timeout = timeout if timeout is None or left is None else min(timeout, left)
    with engine.connect().execution_options(**engines.READ_ONLY) as connection:
        if timeout is not None and engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, round(timeout * 1000))}")
        connection.exec_driver_sql("SELECT 1")


def _close(session: Session) -> None:
    """Close a session whatever state its connection is in."""
    try:
        session.close()
    except Exception:
        log.warning("a database session could not be closed; its connection is thrown away", exc_info=True)
        session.invalidate()
