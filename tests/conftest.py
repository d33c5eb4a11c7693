"""Fixtures that every test folder shares: the real servers.

A test that asks for `postgres_url` or `redis_url` carries the marker `needs(program)` by itself; a test that starts a
server program on its own says `@pytest.mark.needs("postgres")`. Without the program it is skipped by name, and fails
when CI is set.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests import servers, store_servers

os.environ["ATLAS_URL"] = ""  # no test meets the map of the machine that it runs on, except with a URL of its own
os.environ["SIDECAR_DIR"] = "/nowhere/sidecar"  # nor its sidecar, except in a folder of its own

# Where Debian keeps haproxy and ip, which is on the PATH of root alone.
os.environ["PATH"] += f"{os.pathsep}/usr/sbin"

# A run starts hundreds of processes of the same code. Where bytecode is not kept, each of them would compile it anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell starts what it puts into the background with SIGINT ignored, and children inherit that: they are to be stopped by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_PROGRAM_OF = {
    "postgres": "postgres",
    "redis_server": "redis-server",
    "zookeeper": "zookeeper",
    "etcd": "etcd",
    "dynalite": "dynalite",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the server programs that its fixtures start."""
    for item in items:
        for fixture, program in _PROGRAM_OF.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.needs(program))


def pytest_collection_finish() -> None:
    """Take what importing and collecting made out of every garbage collection to come, which looks at it in vain."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose server program is missing; fail it when CI is set."""
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            servers.require(program)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """create_app sets the process's logging up; each test begins with what the one before it found."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    logging.root.setLevel(level)
    logging.root.handlers = [known for known in logging.root.handlers if known in handlers]


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.PostgresServer]:
    """One PostgreSQL server for the whole run: do not stop it; start another with `servers.postgres_server()`."""
    with servers.postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: servers.PostgresServer) -> Iterator[str]:
    """The URL of a fresh, empty PostgreSQL database; dropped afterwards."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[servers.RedisServer]:
    """One Redis server for the whole run: do not stop it; start another with `servers.redis_server()`."""
    with servers.redis_server() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: servers.RedisServer) -> str:
    """The URL of an empty Redis database."""
    redis_server.flush()
    return redis_server.url()


@pytest.fixture(scope="session")
def zookeeper() -> store_servers.StoreServer:
    """One ZooKeeper server for the whole run: neither stop nor freeze it; start another with `zookeeper_server()`."""
    return store_servers.shared.server("zookeeper")


@pytest.fixture(scope="session")
def etcd() -> store_servers.StoreServer:
    """One etcd server for the whole run: neither stop nor freeze it; start another with `etcd_server()`."""
    return store_servers.shared.server("etcd")


@pytest.fixture(scope="session")
def dynalite() -> store_servers.StoreServer:
    """One dynalite for the whole run: neither stop nor freeze it; start another with `dynalite_server()`."""
    return store_servers.shared.server("dynamodb")


@pytest.fixture(scope="session", autouse=True)
def end_store_servers() -> Iterator[None]:
    """End those of them that were started."""
    yield
    store_servers.shared.close()
