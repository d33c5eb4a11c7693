"""Connections to Redis that keep to the deadline of the call in which they are used, and the pool that holds them.

A command is sent only while time is left, and its reply is awaited no longer than that. The limit is of the one command:
the connection has its usual timeout again afterwards. One whose reply did not come in time is closed, as always.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.lock import Lock
from redis.utils import SENTINEL

from smartrealm.errors import DeadlineExceeded
from smartservice import deadlines


class TooLate(DeadlineExceeded, redis.ConnectionError):
    """The caller's time was used up before the command was sent. Also redis-py's ConnectionError, which it tidies up after."""


class _Bounded:
    """What the connections of every kind do before they connect, send and read. Goes before redis-py's class."""

    _sock: Any
    socket_timeout: float | None
    socket_connect_timeout: float | None

    def _connect(self) -> Any:
        left = _left_or_refuse()
        if left is None:
            return super()._connect()  # type: ignore[misc]
        usual, usual_connect = self.socket_timeout, self.socket_connect_timeout
        self.socket_timeout, self.socket_connect_timeout = _shorter(usual, left), _shorter(usual_connect, left)
        try:
            made = super()._connect()  # type: ignore[misc]
        finally:
            self.socket_timeout, self.socket_connect_timeout = usual, usual_connect
        made.settimeout(usual)
        return made

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        left = _left_or_refuse()
        if left is None or self._sock is None:
            super().send_packed_command(command, check_health)  # type: ignore[misc]
            return
        self._sock.settimeout(_shorter(self.socket_timeout, left))
        super().send_packed_command(command, check_health)  # type: ignore[misc]
        self._sock.settimeout(self.socket_timeout)

    def can_read(self, timeout: float = 0) -> bool:
        if timeout:
            left = _left_or_refuse()
            timeout = timeout if left is None else min(timeout, left)
        return bool(super().can_read(timeout))  # type: ignore[misc]

    def read_response(self, *args: Any, timeout: Any = SENTINEL, **options: Any) -> Any:
        left = deadlines.seconds_left()
        if left is not None:
            # Put back by the parser after each read. Sent is sent: a reply that is there already is still taken.
            timeout = _shorter(self.socket_timeout if timeout is SENTINEL else timeout, max(left, deadlines.SHORTEST))
        return super().read_response(*args, timeout=timeout, **options)  # type: ignore[misc]


class _BoundedTCP(_Bounded, Connection):
    pass


class _BoundedTLS(_Bounded, SSLConnection):
    pass


class _BoundedUnix(_Bounded, UnixDomainSocketConnection):
    pass


_BOUNDED: dict[type, type] = {
    Connection: _BoundedTCP,
    SSLConnection: _BoundedTLS,
    UnixDomainSocketConnection: _BoundedUnix,
}


class Pool(redis.ConnectionPool):
    """redis-py's pool, whose connections know of deadlines, and which can be retired: then what is given back is closed."""

    retired = False

    def __init__(self, connection_class: type = Connection, **options: Any) -> None:
        super().__init__(connection_class=_BOUNDED.get(connection_class, connection_class), **options)

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        _left_or_refuse()
        return super().get_connection(*arguments, **options)

    def release(self, connection: Any) -> None:
        super().release(connection)
        if self.retired:
            self.disconnect(inuse_connections=False)

    def retire(self) -> None:
        """Close the idle connections now, and each of the others as soon as it is given back."""
        self.retired = True
        self.disconnect(inuse_connections=False)

    def anew(self) -> Pool:
        """A pool like this one for a forked child. This one is kept, so that its sockets are not closed there."""
        _inherited.append(self)
        return Pool(
            connection_class=self.connection_class, max_connections=self.max_connections, **self.connection_kwargs
        )

    def counts(self) -> tuple[int, int]:
        """How many connections are in use and how many are idle."""
        return len(self._in_use_connections), len(self._available_connections)


class ReleasedLock(Lock):
    """redis-py's lock, given back whatever the time is: else it would outlive the request that was late."""

    def do_release(self, expected_token: Any) -> None:
        with deadlines.ignored():
            super().do_release(expected_token)


_inherited: list[Pool] = []


def _left_or_refuse() -> float | None:
    left = deadlines.seconds_left()
    if left is not None and left < deadlines.SHORTEST:
        raise TooLate("The caller's deadline passed before Redis was asked.")
    return left


def _shorter(usual: float | None, left: float) -> float:
    return left if usual is None else min(usual, left)
