"""Thousands of steps over a store that loses writes and answers: what was acknowledged is there, once; all see the same."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from atlas.book import Book
from atlas.model import Author, Instance, Lease
from atlas.world import Delta, World
from smartrealm.errors import Conflict, SmartError, Unavailable
from tests.unit.atlas.conftest import make_book
from tests.unit.atlas.faulty import FaultyStore, Time


class Chaos:
    """Loses one in ten writes on the way there, and one in ten answers on the way back."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def lose(self, key: str) -> None:
        if self.random.random() < 0.1:
            raise Unavailable("lost")


def step(book: Book, chance: random.Random, number: int) -> None:
    """One of the things that clients do, with an author of its own."""
    ports = tuple(Instance("identity", "h", 8000 + chance.randrange(4)) for _ in range(chance.randrange(3)))
    lease_id, incarnation = f"host-{chance.randrange(3)}", f"i{chance.randrange(2)}"
    action = chance.randrange(10)
    if action == 0:
        book.release(lease_id, incarnation)
    elif action <= 3:
        book.hold(Lease(lease_id, incarnation, 15.0, tuple({one.key: one for one in ports}.values())))
    elif action == 4:
        book.sweep()
    else:
        ballast = chance.choice([0, 0, 0, 4000])
        value = [number, os.urandom(ballast).hex()]
        book.set_override("*", f"KEY_{chance.randrange(5)}", value, by=Author(f"step-{number}"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_was_acknowledged_is_there_once_and_all_see_the_same(tmp_path: Path, seed: int) -> None:
    """Two writers over a faulty store, and a reader that follows by deltas only."""
    chance, chaos, time = random.Random(seed), Chaos(seed), Time()
    stores = [FaultyStore(tmp_path) for _ in range(3)]
    books = [make_book(store, time, tmp_path) for store in stores]
    world = books[2].world()
    for store in stores[:2]:
        store.before_put = store.after_put = chaos.lose
    acknowledged: list[str] = []
    deltas = 0
    for number in range(150):
        time.value += chance.random() * 4
        try:
            before = books[2].world().position.revision
            step(chance.choice(books[:2]), chance, number)
            if books[2].world().position.revision > before:
                acknowledged.append(f"step-{number}")
        except (Unavailable, Conflict):
            pass
        except SmartError as error:
            raise AssertionError(f"step {number} raised {error!r}") from error
        if chance.random() < 0.5:
            update = books[2].wait(world.position, 0)
            deltas += isinstance(update, Delta)
            world = world.apply(update) if isinstance(update, Delta) else update or world
    books[2].world()  # reads what a wait would hear of within its interval
    final = books[2].wait(world.position, 0)
    world = world.apply(final) if isinstance(final, Delta) else final or world
    fresh = make_book(FaultyStore(tmp_path), time, tmp_path)
    complete: World = fresh.world()
    assert (list(world.items()), world.position) == (list(complete.items()), complete.position)
    authors = [change.author for change in fresh.history(limit=10_000)]
    assert len(set(authors)) == len(authors)
    assert set(acknowledged) <= set(authors)
    assert deltas > 10
    assert [change.revision for change in fresh.history(limit=10_000)] == list(range(len(authors), 0, -1))
    for book in (*books, fresh):
        book.close()
