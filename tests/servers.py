"""Real servers for the tests as children, each on a free port in a directory of its own."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.install_servers import PROGRAMS, find
from tests.processes import Child, accepts, free_port

PASSWORD = "correct-horse-9"
"""The password in every URL of a test server: something to look for where no password may be."""


def require(name: str) -> Path:
    """The executable of a program. Missing: the test is skipped by name, or fails when CI is set and it is not optional."""
    found = find(name)
    if found is not None:
        return found
    reason = f"{name} is not installed ({PROGRAMS[name].how})"
    if os.environ.get("CI") and not PROGRAMS[name].optional:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def directory(user: str | None = None) -> Iterator[Path]:
    """A fresh directory that belongs to `user`, removed afterwards. Not pytest's: those only their owner may enter."""
    path = Path(tempfile.mkdtemp(prefix="smartservice-"))
    if user is not None:
        shutil.chown(path, user)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class PostgresServer:
    """A PostgreSQL server with the role `service`, which may not do more than a service's role should."""

    def __init__(self, port: int, child: Child) -> None:
        self.port = port
        self.child = child
        self._numbers = itertools.count(1)

    def url(self, database: str) -> str:
        return f"postgresql://service:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Make a fresh, empty database; gives its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} OWNER service")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def connections(self, url: str) -> int:
        """How many clients are connected to the database of this URL."""
        name = url.rpartition("/")[2]
        return int(str(self.execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'")))

    def execute(self, statement: str) -> object:
        """Run a statement as the superuser; gives the first column of the first row, if there is one."""
        import psycopg

        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True, connect_timeout=5
        ) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def stop(self) -> None:
        """Stop at once, as a crash would."""
        if self.child.process.poll() is None:
            self.child.signal(signal.SIGQUIT)
        self.child.stop()


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL server; ended and removed afterwards."""
    program = require("postgres")
    user = _unprivileged()
    with directory(user) as root:
        data = root / "data"
        subprocess.run(
            [program.resolve().with_name("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
            check=True, capture_output=True, user=user, cwd=root,
        )  # fmt: skip
        with _running_postgres(program, data, user) as server:
            server.execute("CREATE ROLE service LOGIN")
            yield server


@contextmanager
def _running_postgres(program: Path, data: Path, user: str | None) -> Iterator[PostgresServer]:
    port = free_port()
    settings = {
        "listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off",
        "full_page_writes": "off", "max_connections": 120, "shared_buffers": "32MB",
    }  # fmt: skip
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    child = Child([program, "-D", data, *options], output=data.parent / "log", cwd=data.parent, user=user)
    server = PostgresServer(port, child)
    try:
        child.wait_ready(lambda: _answers(server))
        yield server
    finally:
        server.stop()


def _answers(server: PostgresServer) -> bool:
    import psycopg

    try:
        return server.execute("SELECT 1") == 1
    except psycopg.OperationalError:
        return False


def _unprivileged() -> str | None:
    """PostgreSQL refuses to run as root: the user to run it as, None for the present one."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class RedisServer:
    """A Redis server that keeps nothing on disk."""

    def __init__(self, port: int, child: Child) -> None:
        self.port = port
        self.child = child

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"

    def flush(self) -> None:
        """Forget everything."""
        import redis

        with redis.Redis(port=self.port) as client:
            client.flushall()

    def stop(self) -> None:
        """Stop at once, as a crash would."""
        if self.child.process.poll() is None:
            self.child.signal(signal.SIGKILL)
        self.child.stop()


@contextmanager
def redis_server(port: int | None = None) -> Iterator[RedisServer]:
    """A running Redis server; ended afterwards. Named a port, it can come back where one was stopped."""
    program = require("redis-server")
    with directory() as root:
        port = port or free_port()
        options = {"--port": str(port), "--bind": "127.0.0.1", "--save": "", "--appendonly": "no", "--dir": str(root)}
        arguments = [part for option in options.items() for part in option]
        child = Child([program, *arguments], output=root / "log", cwd=root)
        server = RedisServer(port, child)
        try:
            child.wait_ready(lambda: accepts(port))
            yield server
        finally:
            server.stop()
