"""From DATABASE_URL and its settings to a SQLAlchemy engine, made safe for each kind of database.

Nothing connects here: an engine opens its first connection when it is first used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Pool, QueuePool, StaticPool, create_engine, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from smartrealm import ConfigurationError, NotConfigured, redact_text
from smartservice.limits import DeadlinePool, hold_to_deadlines

log = logging.getLogger("smartservice")

SQLITE_BUSY_SECONDS = 5.0
"""How long a SQLite transaction waits for the one writer before it is told `database is locked`."""

READ_ONLY: Mapping[str, Any] = {"smartservice_read_only": True}
"""Execution options of a connection that will only read: on SQLite it waits for no writer."""

_POSTGRES = {"postgres", "postgresql"}
_EXAMPLE = "expected something like postgresql://user@host/name or sqlite:///hello.db"
_inherited: list[Pool] = []


def make_engine(snapshot: Mapping[str, Any], service: str) -> Engine:
    """An engine for DATABASE_URL. Raises ConfigurationError, never showing the password, when it cannot be used."""
    url = read_url(snapshot["DATABASE_URL"])
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, snapshot)
    options = _pool_options(snapshot)
    if url.get_backend_name() == "postgresql":
        options["connect_args"] = _postgres_arguments(url, snapshot, service)
    engine = _create(url, pool_pre_ping=True, **options)
    event.listen(engine, "handle_error", _without_detail)
    hold_to_deadlines(engine, usual_seconds=max(0.0, snapshot["DATABASE_STATEMENT_TIMEOUT"]))
    return engine


def read_url(text: str) -> URL:
    """The URL with its driver: `postgres://` and `postgresql://` mean psycopg 3."""
    if not text:
        raise NotConfigured(f"DATABASE_URL is empty: set it to the service's database; {_EXAMPLE}.")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"DATABASE_URL cannot be read as a URL; {_EXAMPLE}.") from None
    return url.set(drivername="postgresql+psycopg") if url.drivername in _POSTGRES else url


def is_memory(url: URL) -> bool:
    """Whether this is a SQLite database that lives in the memory of one process."""
    database = url.database or ""
    return url.get_backend_name() == "sqlite" and (
        database in ("", ":memory:") or "mode=memory" in database or url.query.get("mode") == "memory"
    )


def reset_after_fork(engine: Engine) -> Engine:
    """Give the child a pool of its own. The parent's connections are neither used nor closed here.

    The old pool is kept for good: collected, it would close sockets and SQLite files that belong to the parent. A memory
    database is copied by the fork like all memory, so it stays.
    """
    if not is_memory(engine.url):
        _inherited.append(engine.pool)
        engine.dispose(close=False)
    return engine


def retire(engine: Engine) -> None:
    """Close the idle connections now, and each of the others as soon as it is given back."""
    event.listen(engine, "checkin", _close_connection)
    pool = engine.pool
    in_use = isinstance(pool, QueuePool) and pool.checkedout()
    engine.dispose()
    if in_use:
        time.sleep(0.05)  # one that was half given back when the listener came is in the pool now
        pool.dispose()


def _close_connection(connection: object, record: ConnectionPoolEntry) -> None:
    if connection is not None:
        record.close()


def _create(url: URL, **options: Any) -> Engine:
    try:
        return create_engine(url, hide_parameters=True, **options)
    except ModuleNotFoundError as error:
        if url.get_backend_name() == "postgresql":
            raise ConfigurationError(
                "DATABASE_URL names PostgreSQL, whose driver is not installed: add smartservice[postgres] to the requirements."
            ) from error
        raise ConfigurationError(
            f"DATABASE_URL needs the Python package {error.name}, which is not installed."
        ) from error
    except NoSuchModuleError:
        raise ConfigurationError(f"DATABASE_URL names {url.drivername!r}, an unknown database; {_EXAMPLE}.") from None
    except ArgumentError as error:
        raise ConfigurationError(f"DATABASE_URL cannot be used: {redact_text(str(error))}") from None


def _pool_options(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "poolclass": DeadlinePool,
        "pool_size": snapshot["DATABASE_POOL_SIZE"],
        "max_overflow": snapshot["DATABASE_POOL_OVERFLOW"],
        "pool_timeout": snapshot["DATABASE_POOL_TIMEOUT"],
        "pool_recycle": snapshot["DATABASE_RECYCLE"],
    }


def _postgres_arguments(url: URL, snapshot: Mapping[str, Any], service: str) -> dict[str, Any]:
    """What libpq is told, unless the URL says it itself (libpq documentation, "Parameter Key Words")."""
    arguments: dict[str, Any] = {
        "connect_timeout": max(2, round(snapshot["DATABASE_CONNECT_TIMEOUT"])),
        "application_name": service[:63],
        # A peer that vanished without a word is noticed after half a minute, not after the kernel's two hours.
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    milliseconds = round(snapshot["DATABASE_STATEMENT_TIMEOUT"] * 1000)
    if milliseconds > 0:
        own = url.query.get("options", "")
        more = own if isinstance(own, str) else " ".join(own)
        arguments["options"] = f"-c statement_timeout={milliseconds} {more}".strip()  # the later of two -c wins
    return arguments


def _without_detail(context: ExceptionContext) -> None:
    """Take PostgreSQL's DETAIL out of an error's text: it quotes the row. Programs find it in `error.orig.diag`."""
    detail = getattr(getattr(context.original_exception, "diag", None), "message_detail", None)
    if detail:
        for error in (context.original_exception, context.sqlalchemy_exception):
            if error is not None:
                error.args = tuple(
                    arg.replace(detail, "(not shown)") if isinstance(arg, str) else arg for arg in error.args
                )


def _sqlite(url: URL, snapshot: Mapping[str, Any]) -> Engine:
    arguments = {"timeout": SQLITE_BUSY_SECONDS, "check_same_thread": False}
    if is_memory(url):
        engine = _create(url, poolclass=StaticPool, connect_args=arguments)
    else:
        engine = _create(_with_directory(url), connect_args=arguments, **_pool_options(snapshot))
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    hold_to_deadlines(engine, usual_seconds=SQLITE_BUSY_SECONDS)
    return engine


def _with_directory(url: URL) -> URL:
    """The URL with an absolute path, in a directory that exists."""
    name = url.database or ""
    if name.startswith("file:"):
        return url
    path = Path(name).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"DATABASE_URL names {path}, and {path.parent} cannot be made: {error}") from error
    return url.set(database=str(path))


def _prepare_sqlite(connection: Any, record: object) -> None:
    """Write-ahead log, foreign keys, and no transaction but those that SQLAlchemy begins."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    """Take the write lock at the beginning: a transaction that reads, then writes, cannot lose another's change.

    SQLite's own way (DEFERRED) lets two read the same row, and refuses the second writer without waiting. Sessions that
    share the one connection of a memory database share its transaction.
    """
    options = connection.get_execution_options()
    driver = connection.connection.dbapi_connection
    if options.get("isolation_level") == "AUTOCOMMIT" or getattr(driver, "in_transaction", False):
        return
    connection.exec_driver_sql("BEGIN" if options.get("smartservice_read_only") else "BEGIN IMMEDIATE")
