"""A store that can fail, and a book over it whose time is turned by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas.book import Book
from atlas.secrets import SecretBox
from tests.unit.atlas.faulty import FaultyStore, Time


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaultyStore]:
    """A fresh store."""
    store = FaultyStore(tmp_path)
    yield store
    store.close()


@pytest.fixture
def time() -> Time:
    """The clock of `book`."""
    return Time()


@pytest.fixture
def book(store: FaultyStore, time: Time, tmp_path: Path) -> Iterator[Book]:
    """A map over `store`, with `time`."""
    with make_book(store, time, tmp_path) as book:
        yield book


def make_book(store: FaultyStore, time: Time, path: Path, service: str | None = None) -> Book:
    """Another one, as another process has it."""
    box = SecretBox(file=path / "key")
    return Book(store, box=box, service=service, now=time, clock=time, sleep=time.sleep)
