"""Holds the statements of an engine to the deadline of the call that they belong to. Without a deadline: one look.

every database   what has expired is refused before it is sent; a COMMIT too, and the transaction is rolled back;
                 the wait for a connection of the pool ends with the deadline
PostgreSQL       statement_timeout is lowered to what is left, for the transaction (AUTOCOMMIT: for the connection,
                 until it is given back)
SQLite           busy_timeout and a progress handler, until the connection is given back
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, event
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

from smartrealm.errors import DeadlineExceeded
from smartservice import deadlines

_AGAIN_SECONDS = 0.025
"""A connection is told anew what is left when more than this was used since."""

_PROGRESS_STEPS = 5000
"""SQLite looks at the clock once in so many steps of its virtual machine: well under a millisecond."""

_TIDIES = ("ROLLBACK TO", "RELEASE")
"""The statements that end a savepoint are sent whatever the time is."""

_TOLD = "smartservice_deadline"
_IN_FAILED_TRANSACTION = 3  # PQTRANS_INERROR, libpq documentation, "Connection Status Functions"

_LOWER = (
    "SELECT set_config('statement_timeout', %(most)s::text, %(local)s::bool) "
    "FROM (SELECT current_setting('statement_timeout')::interval AS present) AS setting "
    "WHERE present = '0'::interval OR present > %(most)s::text::interval"
)
"""Lowers statement_timeout and never raises it, whoever set it: the service, the URL, the role or the transaction."""


class DeadlinePool(QueuePool):
    """SQLAlchemy's pool, whose wait for a connection is ended by the deadline of the caller too."""

    _usual_seconds: float
    _sqla_logger_namespace = "sqlalchemy.pool.impl.QueuePool"  # its lines belong to SQLAlchemy, as quiet as they were

    @property
    def _timeout(self) -> float:
        left = deadlines.seconds_left()
        return self._usual_seconds if left is None else max(0.0, min(self._usual_seconds, left))

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        self._usual_seconds = seconds

    def connect(self) -> Any:
        """A connection. Refused when the caller's time is used up: neither opening nor testing one is begun."""
        if deadlines.is_passed():
            raise _refusal()
        return super().connect()

    def recreate(self) -> DeadlinePool:
        made = super().recreate()
        assert isinstance(made, DeadlinePool)
        made._usual_seconds = self._usual_seconds
        return made


def hold_to_deadlines(engine: Engine, *, usual_seconds: float) -> None:
    """Let every statement of this engine end with its caller's deadline.

    `usual_seconds` is what the connection does by itself: the statement timeout of PostgreSQL (0 for none), the busy
    timeout of SQLite.
    """
    kinds: dict[str, type[_Limits]] = {
        "psycopg": _PostgresLimits,
        "psycopg2": _PostgresLimits,
        "pysqlite": _SQLiteLimits,
    }
    limits = kinds.get(engine.driver, _Limits)(usual_seconds)
    event.listen(engine, "before_cursor_execute", limits.before_statement, retval=True)
    event.listen(engine, "commit", limits.before_commit)
    event.listen(engine, "reset", limits.give_back)
    if isinstance(limits, _PostgresLimits):
        event.listen(engine, "rollback", limits.before_rollback)
        event.listen(engine, "rollback_savepoint", limits.before_rollback_savepoint)


@dataclass(slots=True)
class _Told:
    """What a connection was told last."""

    deadline: float
    at: float
    local: bool = False
    refused: bool = False


def _refusal(what: str = "before the database was asked") -> DeadlineExceeded:
    return DeadlineExceeded(f"The caller's deadline passed {what}.")


class _Limits:
    """The events of one engine. This class refuses what has expired; its heirs end what is under way."""

    def __init__(self, usual_seconds: float) -> None:
        self._usual_seconds = usual_seconds
        self._ever_told = False

    def before_statement(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> tuple[str, Any]:
        deadline = deadlines.deadline()
        if deadline is not None:
            self._ever_told = True
            self._hold(connection, statement, deadline)
        elif self._ever_told and _TOLD in connection.info:
            self._raise_again(connection.connection.dbapi_connection)
            del connection.info[_TOLD]
        return statement, parameters

    def _hold(self, connection: Connection, statement: str, deadline: float) -> None:
        driver: Any = connection.connection.dbapi_connection
        if statement.startswith(_TIDIES) or self._is_failed(driver):
            return
        told: _Told | None = connection.info.get(_TOLD)
        now = time.monotonic()
        if deadline - now < deadlines.SHORTEST:
            connection.info[_TOLD] = told = told or _Told(deadline, now, local=True)
            told.refused = True
            raise _refusal()
        if told is None or told.deadline != deadline or now - told.at > _AGAIN_SECONDS:
            self._tell(connection, driver, told, deadline, now)

    def _tell(self, connection: Connection, driver: Any, told: _Told | None, deadline: float, now: float) -> None:
        if told is not None and told.deadline < deadline:
            self._raise_again(driver)
        local = self._lower(driver, deadline, deadline - now)
        if local is not None:
            connection.info[_TOLD] = _Told(deadline, now, local, told is not None and told.refused)

    def before_commit(self, connection: Connection) -> None:
        if not self._ever_told:
            return
        driver: Any = connection.connection.dbapi_connection
        if deadlines.is_passed() and self._in_transaction(driver):
            # SQLAlchemy takes a transaction whose COMMIT failed for ended: without this the next user would be in it.
            try:
                driver.rollback()
            except Exception:
                connection.invalidate()
            self._forget_local(connection)
            raise _refusal("before the transaction was committed, so it was rolled back")
        self._forget_local(connection)

    def before_rollback(self, connection: Connection) -> None:
        self._forget_local(connection)

    def before_rollback_savepoint(self, connection: Connection, name: str, context: object) -> None:
        """What was told after the savepoint goes with it, so the next statement tells it again."""
        told: _Told | None = connection.info.get(_TOLD) if self._ever_told and not connection.invalidated else None
        if told is not None:
            told.at = -math.inf

    def give_back(self, driver: Any, record: ConnectionPoolEntry, state: PoolResetState) -> None:
        told: _Told | None = record.info.pop(_TOLD, None)
        if told is not None and not state.terminate_only:
            self._clean(driver, told)

    def _forget_local(self, connection: Connection) -> None:
        if not self._ever_told or connection.invalidated:
            return
        told: _Told | None = connection.info.get(_TOLD)
        if told is not None and told.local and not told.refused:
            del connection.info[_TOLD]

    def _is_failed(self, driver: Any) -> bool:
        """Whether the transaction can only be rolled back: whatever is sent then is refused by the server."""
        return False

    def _in_transaction(self, driver: Any) -> bool:
        return True

    def _lower(self, driver: Any, deadline: float, left: float) -> bool | None:
        """Limit what is sent next. True: until the transaction ends; False: until it is taken back; None: not needed."""
        return None

    def _raise_again(self, driver: Any) -> None:
        """Take back what `_lower` did, inside of a transaction maybe."""

    def _clean(self, driver: Any, told: _Told) -> None:
        """Make the connection as it was, whatever its transaction did; the transaction itself is lost."""


class _PostgresLimits(_Limits):
    def _is_failed(self, driver: Any) -> bool:
        return int(driver.info.transaction_status) == _IN_FAILED_TRANSACTION

    def _in_transaction(self, driver: Any) -> bool:
        return int(driver.info.transaction_status) != 0

    def _lower(self, driver: Any, deadline: float, left: float) -> bool | None:
        usual, autocommit = self._usual_seconds, driver.autocommit
        if usual and left >= usual:
            return None
        if autocommit and not usual:  # behind a pooler a SET may stay with a server connection that others use
            return None
        limit = {"most": f"{math.ceil(left * 1000)}ms", "local": not autocommit}
        with driver.cursor() as cursor:
            cursor.execute(_LOWER, limit)
        return not autocommit

    def _raise_again(self, driver: Any) -> None:
        with driver.cursor() as cursor:
            cursor.execute(f"SET {'' if driver.autocommit else 'LOCAL '}statement_timeout TO DEFAULT")

    def _clean(self, driver: Any, told: _Told) -> None:
        statements = [] if told.local else ["RESET statement_timeout"]
        if told.refused:  # an unlock in a `finally` may have been refused; the next user must not hold the lock
            statements.append("SELECT pg_advisory_unlock_all()")
        if not statements:
            return
        driver.rollback()
        with driver.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        driver.commit()


class _SQLiteLimits(_Limits):
    def _in_transaction(self, driver: Any) -> bool:
        return bool(driver.in_transaction)

    def _lower(self, driver: Any, deadline: float, left: float) -> bool | None:
        driver.execute(f"PRAGMA busy_timeout = {math.ceil(min(left, self._usual_seconds) * 1000)}")
        driver.set_progress_handler(lambda: time.monotonic() >= deadline, _PROGRESS_STEPS)
        return False

    def _raise_again(self, driver: Any) -> None:
        driver.set_progress_handler(None, 0)
        driver.execute(f"PRAGMA busy_timeout = {math.ceil(self._usual_seconds * 1000)}")

    def _clean(self, driver: Any, told: _Told) -> None:
        self._raise_again(driver)
