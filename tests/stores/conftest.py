"""The backends that every contract runs over, and how one is added.

A backend is one entry of STORES or DIRECTORIES: a name and a context manager that is given a scratch directory and yields the
URL of a fresh, empty map. What is expensive (a server) is started once and kept in a session fixture or a cached function;
what is fresh is a prefix, a path or a table. A backend whose server program is missing says so with `servers.require(...)`.

STORES are maps of which we hold the store: they run `test_store_contract.py` and `test_directory_contract.py`.
DIRECTORIES (an `atlas serve` over HTTP) run the second only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

import atlas
from atlas.directory import Directory
from atlas.opening import open_store
from atlas.stores.store import Store
from tests.atlas_server import ManyMaps
from tests.store_servers import SERVERS, shared

Backend = Callable[[Path], AbstractContextManager[str]]

KEYS = "jRk5qbDvFHRvVGwDAIRFbrVCR7TWNjZPqVqwWq2mSgk="


@contextlib.contextmanager
def sqlite(directory: Path) -> Iterator[str]:
    """One file."""
    yield f"sqlite:///{directory / 'realm.db'}"


@contextlib.contextmanager
def sqlite_twice(directory: Path) -> Iterator[str]:
    """The catalogue in one file, presence in another."""
    yield f"sqlite:///{directory / 'catalogue.db'} + sqlite:///{directory / 'presence.db'}"


def server(scheme: str) -> Backend:
    """A place of its own on the one server of a kind, which is started with the first test that asks for it."""

    @contextlib.contextmanager
    def fresh(directory: Path) -> Iterator[str]:
        yield shared.url(scheme)

    return fresh


STORES: dict[str, Backend] = {
    "sqlite": sqlite,
    **{scheme: server(scheme) for scheme in SERVERS},
}
JOINED: dict[str, Backend] = {"sqlite+sqlite": sqlite_twice}
"""Two stores as one map are the same code whatever they are; tests/live/test_two_services.py joins DynamoDB and ZooKeeper."""
served = ManyMaps(keys=KEYS)
DIRECTORIES: dict[str, Backend] = {"http": served.fresh}


@pytest.fixture(scope="session", autouse=True)
def end_served_maps() -> Iterator[None]:
    """End the server of DIRECTORIES after the last test."""
    yield
    served.close()


OpenStore = Callable[[], Store]
OpenDirectory = Callable[..., Directory]


@pytest.fixture(params=list(STORES))
def open_store_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the same fresh store as often as it is called, as so many processes would; all are closed in the end."""
    with ExitStack() as stack:
        url = stack.enter_context(STORES[request.param](tmp_path))

        def open_again() -> Store:
            return stack.enter_context(contextlib.closing(open_store(url)))

        yield open_again


@pytest.fixture
def store(open_store_again: OpenStore) -> Store:
    """A fresh, empty store."""
    return open_store_again()


@pytest.fixture(params=[*STORES, *JOINED, *DIRECTORIES])
def open_directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenDirectory]:
    """Opens the same fresh map as often as it is called; takes `service=`, on whose behalf it is read."""
    backend = {**STORES, **JOINED, **DIRECTORIES}[request.param]
    with ExitStack() as stack:
        url = stack.enter_context(backend(tmp_path))

        def open_again(service: str | None = None) -> Directory:
            return stack.enter_context(atlas.open(url, service=service, keys=KEYS, environ={}))

        yield open_again


@pytest.fixture
def open_other(tmp_path: Path) -> Iterator[OpenDirectory]:
    """Opens a second fresh map, in SQLite: what is moved to or from."""
    with ExitStack() as stack:

        def open_again(service: str | None = None) -> Directory:
            url = f"sqlite:///{tmp_path / 'other' / 'realm.db'}"
            return stack.enter_context(atlas.open(url, service=service, keys=KEYS, environ={}))

        yield open_again


@pytest.fixture
def directory(open_directory: OpenDirectory) -> Directory:
    """A fresh, empty map."""
    return open_directory()
