"""Following the map in one worker: news for those who wait, memory while the store is away, a fresh start where needed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from atlas import wire
from atlas.model import Instance, Lease, Override, Service
from atlas.server.answers import Audience, Prepared
from atlas.server.follower import Follower, Pace
from atlas.world import Delta, Position, World
from smartrealm.errors import Overloaded, Unavailable
from tests.live.atlas_api.double import MapDouble, secret, wait_until

EVERYTHING = Audience("all", None, tokens=True)
MAP = Audience("none")


@pytest.fixture
def following(book: MapDouble) -> Iterator[Follower]:
    """A follower that has read its first world."""
    follower = Follower(
        book, pace=Pace(wait=0.1, sweep=0.05, drain=0.01, draining_wait=0.05, first_world=0.2, doubt=0.3)
    )
    follower.known()
    yield follower
    follower.close()


def told(prepared: Prepared | None) -> World | Delta:
    """What an answer says, as a client reads it."""
    assert prepared is not None
    return wire.read_update(json.loads(prepared.body))


def test_a_reader_that_waits_is_told_of_a_change_at_once(following: Follower, book: MapDouble) -> None:
    """It gets the change and nothing else."""
    since = following.known().position
    threading.Timer(0.05, lambda: book.change(Service("shop"))).start()
    update = told(following.news(since, MAP, 5))
    assert isinstance(update, Delta)
    assert [(edit.kind, edit.key) for edit in update.edits] == [("service", "shop")]
    assert update.position == book.now.position


def test_a_reader_gets_none_when_nothing_happens(following: Follower) -> None:
    """After the time that it asked for, and nobody is counted as waiting any more."""
    begun = time.monotonic()
    assert following.news(following.known().position, MAP, 0.1) is None
    assert time.monotonic() - begun >= 0.1
    assert following.waiting == 0


def test_several_changes_are_one_answer_with_the_last_state_of_each_thing(following: Follower, book: MapDouble) -> None:
    """A reader that was away hears each thing once, as it is now."""
    since = following.known().position
    for size in range(5):
        book.change(Override("web", "PAGE_SIZE", size), Service(f"s{size}"))
    wait_until(lambda: following.world is not None and following.world.position == book.now.position)
    update = told(following.news(since, EVERYTHING, 0))
    assert isinstance(update, Delta)
    values = [edit.after["value"] for edit in update.edits if edit.kind == "override" and edit.after]
    assert values == [4]
    assert len(update.edits) == 6


def test_a_position_of_another_epoch_gets_the_complete_world(following: Follower) -> None:
    """Whatever its numbers say."""
    update = told(following.news(Position("other", 999, 999), MAP, 5))
    assert isinstance(update, World)
    assert set(update.services) == {"web", "billing"}


def test_a_position_that_is_too_old_gets_the_complete_world(following: Follower) -> None:
    """What was before this worker began is not in its ring."""
    assert isinstance(told(following.news(Position("e1", 1, 1), MAP, 5)), World)


def test_everybody_begins_anew_with_a_new_epoch(following: Follower, book: MapDouble) -> None:
    """A map that was imported anew is told as a whole."""
    since = following.known().position
    threading.Timer(0.05, lambda: book.begin_anew("e2")).start()
    update = told(following.news(since, MAP, 5))
    assert isinstance(update, World)
    assert update.position.epoch == "e2"


def test_a_reader_that_knows_the_new_epoch_before_this_worker_is_not_sent_back(book: MapDouble) -> None:
    """The store is asked then, and the answer is the map of that epoch."""
    follower = Follower(book, pace=Pace(wait=5))
    follower.known()
    book.now = World(Position("e2", 1, 1), {"shop": Service("shop")})
    update = told(follower.news(Position("e2", 1, 0), MAP, 5))
    assert isinstance(update, World)
    assert (update.position.epoch, set(update.services)) == ("e2", {"shop"})
    follower.close()


def test_a_reader_from_a_worker_that_is_ahead_waits_until_this_one_has_caught_up(
    following: Follower, book: MapDouble
) -> None:
    """It is never sent back in time; it hears what came after its own position."""
    here = following.known().position
    ahead = Position(here.epoch, here.revision + 1, here.presence)
    assert following.news(ahead, MAP, 0.05) is None
    threading.Timer(0.05, lambda: (book.change(Service("shop")), book.change(Service("later")))).start()
    update = told(following.news(ahead, MAP, 5))
    assert isinstance(update, Delta)
    assert "later" in [edit.key for edit in update.edits]


def test_a_reader_ahead_in_one_part_hears_of_the_other_when_both_are_known(
    following: Follower, book: MapDouble
) -> None:
    """Two workers may see the catalogue and presence in another order; nothing is lost between them."""
    here = following.known().position
    mixed = Position(here.epoch, here.revision + 1, here.presence)
    book.change(Lease("l9", "i"), Instance("web", "h9", 9, lease="l9"))
    wait_until(lambda: following.world is not None and following.world.position == book.now.position)
    assert following.news(mixed, MAP, 0.05) is None
    book.change(Service("shop"))
    update = told(following.news(mixed, MAP, 5))
    assert isinstance(update, Delta)
    assert {edit.key for edit in update.edits} >= {"web/h9:9", "l9"}


def test_a_reader_ahead_of_a_store_that_was_put_back_begins_anew(following: Follower) -> None:
    """A position that the map does not reach belongs to a state that is gone."""
    here = following.known().position
    update = told(following.news(Position(here.epoch, here.revision + 50, here.presence), MAP, 0.3))
    assert isinstance(update, World)


def test_what_a_reader_may_not_see_does_not_wake_it_and_moves_it_on(following: Follower, book: MapDouble) -> None:
    """Its wait goes on; at the end it gets the new position with no edits, so that it never falls behind."""
    since = following.known().position
    threading.Timer(0.02, lambda: book.change(Override("billing", "CURRENCY", "SEK"))).start()
    begun = time.monotonic()
    update = told(following.news(since, Audience("own", "web"), 0.8))
    assert time.monotonic() - begun >= 0.8
    assert isinstance(update, Delta)
    assert (update.edits, update.position) == ((), book.now.position)


def test_a_new_secret_is_opened_for_its_service_only(following: Follower, book: MapDouble) -> None:
    """In news as in the complete world."""
    since = following.known().position
    book.opened["web/NEW_KEY"] = "new-value"
    book.change(secret("web", "NEW_KEY"))
    wait_until(lambda: following.world is not None and following.world.position == book.now.position)

    def value(audience: Audience) -> Any:
        update = told(following.news(since, audience, 0))
        assert isinstance(update, Delta)
        return [(edit.after or {}).get("value") for edit in update.edits]

    assert value(Audience("own", "web")) == ["new-value"]
    assert value(Audience("all", "web")) == ["new-value"]
    assert value(EVERYTHING) == [None]
    assert value(Audience("names")) == [None]
    assert isinstance(told(following.complete(Audience("own", "web"))), World)


def test_a_secret_stays_hidden_whatever_values_are_at_hand() -> None:
    """An audience of one service shows no other one's, also when its value is known."""
    hidden = secret("billing", "BANK_KEY").to_json()
    for audience in (Audience("all", "web"), Audience("names", "web"), EVERYTHING):
        seen, after = audience.shown("override", "billing/BANK_KEY", hidden, {"billing/BANK_KEY": "bank-value"})
        assert seen
        assert after is not None
        assert (after["hidden"], "value" in after) == (True, False)
    assert Audience("own", "web").shown("override", "billing/BANK_KEY", hidden, {}) == (False, None)


def test_the_bytes_of_an_answer_are_made_once(following: Follower, book: MapDouble) -> None:
    """All who wait at one position and see the same get the same object; what is for everybody is shared by all kinds."""
    since = following.known().position
    book.change(Service("shop"))
    wait_until(lambda: following.world is not None and following.world.position == book.now.position)
    first = following.news(since, EVERYTHING, 0)
    assert first is following.news(since, EVERYTHING, 0)
    assert first is following.news(since, Audience("own", "web"), 0)
    assert following.complete(MAP) is following.complete(MAP)


def test_reading_goes_on_from_memory_while_the_store_is_away(following: Follower, book: MapDouble) -> None:
    """Complete worlds and polls are answered; news come again when the store does, within a second."""
    since = following.known().position
    book.away = "the store is away"
    with book.news:
        book.news.notify_all()
    wait_until(lambda: following.problem == "the store is away")
    asked = book.asked
    assert isinstance(told(following.complete(MAP)), World)
    for _ in range(20):
        assert following.fresh() is following.world
    assert book.asked <= asked + 5  # a store that is known to be away is not asked by everyone
    assert following.news(since, MAP, 0.05) is None
    book.away = None
    book.change(Service("shop"))
    assert isinstance(told(following.news(since, MAP, 3)), Delta)
    assert following.problem is None


def test_one_who_finds_the_store_away_tells_all_others_of_the_worker(book: MapDouble) -> None:
    """A silent store costs one reader its patience, not each of them."""
    follower = Follower(book, pace=Pace(wait=5))
    follower.known()
    book.away = "the store is silent"
    asked = book.asked
    for _ in range(5):
        assert follower.fresh() is follower.world
    assert book.asked == asked + 1
    follower.close()


def test_a_worker_that_has_never_read_the_map_says_so(book: MapDouble) -> None:
    """It has nothing to answer from; the reason is in the error."""
    book.away = "the store is away"
    follower = Follower(book, pace=Pace(first_world=0.1))
    with pytest.raises(Unavailable, match="the store is away"):
        follower.news(Position(), MAP, 5)
    follower.close()


def test_everybody_is_sent_away_when_the_instance_drains(book: MapDouble) -> None:
    """Who waits is answered at once; who asks from then on waits for a moment only, and still hears news."""
    draining = threading.Event()
    pace = Pace(wait=0.2, drain=0.01, draining_wait=0.1)
    follower = Follower(book, draining=draining.is_set, pace=pace)
    since = follower.known().position
    threading.Timer(0.05, draining.set).start()
    begun = time.monotonic()
    assert follower.news(since, MAP, 20) is None
    assert time.monotonic() - begun < 10
    assert follower.draining
    begun = time.monotonic()
    assert follower.news(since, MAP, 20) is None
    assert 0.1 <= time.monotonic() - begun < 10
    book.change(Service("shop"))
    assert isinstance(told(follower.news(since, MAP, 20)), Delta)
    follower.close()


def test_readers_never_take_the_last_threads(book: MapDouble) -> None:
    """One more than may wait is told to ask elsewhere, so that writers and probes always find a thread."""
    follower = Follower(book, pace=Pace(wait=0.2, most_waiting=1))
    since = follower.known().position
    waiting = threading.Thread(target=follower.news, args=(since, MAP, 1.0))
    waiting.start()
    wait_until(lambda: follower.waiting == 1)
    with pytest.raises(Overloaded, match="ask another replica"):
        follower.news(since, MAP, 1.0)
    assert follower.news(since, MAP, 0) is None
    follower.release()
    waiting.join()
    follower.close()


def test_leases_are_swept_while_the_worker_lives(following: Follower, book: MapDouble) -> None:
    """Again after the store was away."""
    assert book.swept.wait(30)
    book.away = "the store is away"
    time.sleep(0.1)
    book.away = None
    book.swept.clear()
    assert book.swept.wait(30)


def test_closing_ends_the_threads(book: MapDouble) -> None:
    """And begins none again."""
    follower = Follower(book, pace=Pace(wait=5))
    follower.known()
    threads = follower._threads
    follower.close()
    follower.start()
    for thread in threads:
        thread.join(30)
    assert [thread for thread in threads if thread.is_alive()] == []
    assert book.closed
