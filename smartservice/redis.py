"""`app.redis`: redis-py's client, made to give up fast, to execute each command once and to move while it runs.

    app.redis.set("greeting", "hello")              within about a second it is done or it has failed
    app.redis.blocking(30).blpop("jobs")            for commands that wait on purpose

A command is repeated, once, only when it is a plain read and the connection broke under it. Whatever changes something is
sent at most once: after a broken connection nobody knows whether it was done, and a second INCR would count twice.

A command is sent only while the caller's deadline leaves time, and its reply is awaited no longer than that. The limit is
of the one command: the connection has its usual timeout again afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.lock import Lock
from redis.retry import Retry
from redis.utils import SENTINEL

from smartrealm import ConfigurationError, NotConfigured, SmartError, redact_text
from smartrealm.errors import DeadlineExceeded, Overloaded, Unavailable
from smartservice import deadlines
from smartservice.moving import Moving, Settings

__all__ = ["SmartRedis", "open_redis", "translate"]

REPEATED = frozenset(
    "BITCOUNT BITPOS DBSIZE ECHO EXISTS EXPIRETIME GEODIST GEOHASH GEOPOS GEOSEARCH GET GETBIT GETRANGE HEXISTS HGET "
    "HGETALL HKEYS HLEN HMGET HSTRLEN HVALS INFO LINDEX LLEN LPOS LRANGE MGET PEXPIRETIME PING PTTL SCARD SDIFF SINTER "
    "SINTERCARD SISMEMBER SMEMBERS SMISMEMBER STRLEN SUNION TIME TTL TYPE XLEN XRANGE XREVRANGE ZCARD ZCOUNT ZDIFF "
    "ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYSCORE ZREVRANK "
    "ZSCORE ZUNION".split()
)
"""The commands that are repeated once when their connection breaks: reads that change nothing and keep no cursor."""

_PAUSE_SECONDS = 0.02
_EXAMPLE = "expected redis://host:6379/0, rediss://... or unix://..."


def open_redis(settings: Settings) -> SmartRedis:
    """The Redis that REDIS_URL names. Connects to nothing.

    Raises NotConfigured when REDIS_URL is empty, ConfigurationError when it cannot be read.
    """
    if not settings.snapshot["REDIS_URL"]:
        raise NotConfigured("This service has no Redis: set REDIS_URL, for example to redis://localhost:6379/0.")
    return SmartRedis(settings)


class SmartRedis(redis.Redis):
    """The Redis client of one app: every method of redis.Redis. Safe before a fork and from any thread.

    Fails with redis.ConnectionError or redis.TimeoutError, which `translate` makes Unavailable (503). Follows a change of
    REDIS_URL: the next command goes to the new server, what is under way finishes on the old one.
    """

    def __init__(self, settings: Settings, *, timeout: float | None = None, move_retry_seconds: float = 5.0) -> None:
        service = settings.service
        self._settings = settings
        self._moving = Moving[Pool](
            settings,
            "REDIS_URL",
            open=lambda snapshot: _make_pool(snapshot, service, timeout),
            check=_check,
            retire=Pool.retire,
            reset_after_fork=Pool.anew,
            retry_seconds=move_retry_seconds,
        )
        self._waiting: dict[float, SmartRedis] = {}
        super().__init__(connection_pool=self._moving.get())

    @property
    def connection_pool(self) -> Pool:
        """The pool in force now: redis.Redis asks for it at each command."""
        return self._moving.get()

    @connection_pool.setter
    def connection_pool(self, pool: object) -> None:
        """redis.Redis sets one in its constructor: it is the one in force already."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except redis.TimeoutError:
            raise
        except redis.ConnectionError as error:
            final = isinstance(error, redis.MaxConnectionsError | DeadlineExceeded)
            if final or str(args[0]).upper() not in REPEATED:
                raise
        time.sleep(_PAUSE_SECONDS)
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def lock(self, *args: Any, **options: Any) -> Any:
        """redis-py's lock. It is given back after the caller's deadline too."""
        if options.get("lock_class") is None:
            options["lock_class"] = ReleasedLock
        return super().lock(*args, **options)

    def blocking(self, timeout: float) -> SmartRedis:
        """A client for commands that wait on purpose (BLPOP, XREAD BLOCK, pub/sub): its replies may take `timeout` seconds.

        Ask Redis for less than that: `app.redis.blocking(30).blpop("jobs", timeout=25)`. It has connections of its own,
        as many as REDIS_MAX_CONNECTIONS; the same timeout gives the same client.
        """
        client = self._waiting.get(timeout)
        if client is None:
            client = self._waiting.setdefault(timeout, SmartRedis(self._settings, timeout=timeout))
        return client

    def pool_status(self) -> tuple[int, int, int]:
        """(in use, idle, limit) of this process's connections; connects to nothing."""
        pool = self._moving.opened()
        in_use, idle = pool.counts() if pool is not None else (0, 0)
        return in_use, idle, int(self._settings.snapshot["REDIS_MAX_CONNECTIONS"])

    @property
    def problem(self) -> str | None:
        """Why a change of REDIS_URL could not be followed yet; None when all is well. Has no secret in it."""
        return self._moving.problem

    def close(self) -> None:
        """Close the idle connections, and the others when they are given back. Idempotent."""
        for client in self._waiting.values():
            client.close()
        self._moving.close()

    def __repr__(self) -> str:
        return f"<SmartRedis {redact_text(self._settings.snapshot['REDIS_URL'])}>"


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


def translate(error: BaseException) -> SmartError | None:
    """What an error of redis-py means to the caller of the service; None when it is a fault of the program.

    Every connection in use: Overloaded. No connection, no answer in time, a server that is loading: Unavailable; the
    same when the caller's time is used up: DeadlineExceeded.
    """
    translated: SmartError | None = None
    if isinstance(error, DeadlineExceeded):
        return error
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | redis.WatchError) and deadlines.is_passed():
        translated = DeadlineExceeded(
            f"The caller's deadline passed while Redis worked: {redact_text(str(error)).strip()}"
        )
    elif isinstance(error, redis.MaxConnectionsError):
        translated = Overloaded("Every Redis connection is in use: see REDIS_MAX_CONNECTIONS.", retry_after_seconds=1)
    elif isinstance(error, redis.ConnectionError | redis.TimeoutError):
        translated = Unavailable(f"Redis does not answer: {redact_text(str(error)).strip()}", retry_after_seconds=1)
    if translated is not None:
        translated.__cause__ = error
    return translated


def _make_pool(snapshot: Mapping[str, Any], service: str, timeout: float | None = None) -> Pool:
    url = snapshot["REDIS_URL"]
    if not url:
        raise NotConfigured(f"REDIS_URL is empty: set it to the service's Redis; {_EXAMPLE}.")
    options: dict[str, Any] = {
        "socket_connect_timeout": snapshot["REDIS_CONNECT_TIMEOUT"],
        "socket_timeout": snapshot["REDIS_TIMEOUT"] if timeout is None else timeout,
        "max_connections": snapshot["REDIS_MAX_CONNECTIONS"],
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "client_name": service,
        # RESP2: understood by every server and proxy, and a new connection needs no greeting. `?protocol=3` in the URL wins.
        "protocol": 2,
    }
    try:
        pool = Pool.from_url(url, **options)
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing; refuses an option that nobody knows
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"REDIS_URL cannot be used: {redact_text(str(error), [url])}; {_EXAMPLE}.") from None
    return pool


def _check(pool: Pool) -> None:
    client = redis.Redis(connection_pool=pool)
    client.ping()
