"""What the book adds to the contract: keys that change, rulings that end, snapshots, stores that fail."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from atlas.book import Book
from atlas.model import Author, Instance, Lease, Ruling, Service
from atlas.rules import LARGEST_VALUE
from atlas.secrets import SecretBox
from atlas.stores.sqlite import SqliteStore
from atlas.world import Delta, Position, World
from smartrealm.errors import NotConfigured, NotFound, Unavailable, ValidationFailed
from tests.processes import wait_until
from tests.unit.atlas.conftest import make_book
from tests.unit.atlas.faulty import FaultyStore, Time, lost, once

ANNA = Author("anna")
CATALOGUE = "log/catalogue/head"


def test_a_change_whose_answer_is_lost_happens_once(book: Book, store: FaultyStore) -> None:
    """The caller gets its revision all the same, and the history has one entry."""
    store.after_put = once(lost, CATALOGUE)
    assert book.set_override("*", "KEY", 1, by=ANNA) == 1
    assert len(book.history()) == 1


def test_a_ruling_ends_by_itself(book: Book, time: Time) -> None:
    """When its time is over the next sweep takes it away, and the history says so."""
    book.put_service(Service("identity"), by=ANNA)
    book.rule(Ruling("identity", "h", 8000, "disabled", expires_at=time.value + 60), by=ANNA)
    book.sweep()
    assert book.world().rulings
    time.value += 60
    book.sweep()
    book.sweep()
    assert book.world().rulings == {}
    (last, *_) = book.history()
    assert (last.revision, last.author, last.why) == (3, "atlas", "expired")


def test_a_ruling_cannot_end_in_the_past(book: Book, time: Time) -> None:
    """It would do nothing, so it is a mistake."""
    book.put_service(Service("identity"), by=ANNA)
    with pytest.raises(ValidationFailed):
        book.rule(Ruling("identity", "h", 8000, "disabled", expires_at=time.value), by=ANNA)


@pytest.mark.parametrize("by", [Author(""), Author("  "), Author("x" * 201), Author("anna", "x" * 2001)])
def test_a_change_has_an_author(book: Book, by: Author) -> None:
    """Nobody changes the map without a name."""
    with pytest.raises(ValidationFailed):
        book.put_service(Service("identity"), by=by)


@pytest.mark.parametrize(
    ("role", "subject", "expires_at", "told"),
    [
        ("king", "anna", None, "no role king"),
        ("reader", "", None, "subject"),
        ("reader", "  ", None, "subject"),
        ("reader", "an\x1b[31mna", None, "subject"),
        ("reader", "anna", float("nan"), "expires_at"),
        ("reader", "anna", float("inf"), "expires_at"),
        ("reader", "anna", 1.0, "over already"),
    ],
)
def test_a_token_that_cannot_be_kept_is_refused(
    role: str, subject: str, expires_at: float | None, told: str, book: Book
) -> None:
    """With what is wrong; never one that would hold for ever by mistake, or whose holder has no name."""
    with pytest.raises(ValidationFailed, match=told):
        book.create_token(role, subject, by=ANNA, expires_at=expires_at)
    assert not book.world().tokens


def test_half_a_character_is_refused_everywhere(book: Book) -> None:
    """Text without UTF-8 is a mistake of the caller, not a failure of the store."""
    half = "\ud800"
    for write in (
        lambda: book.put_service(Service("web", owner=half), by=ANNA),
        lambda: book.put_service(Service("web"), by=Author("anna", half)),
        lambda: book.put_service(Service("web"), by=Author(half)),
        lambda: book.set_override("*", "KEY", {"x": [half]}, by=ANNA),
        lambda: book.set_override("*", "KEY", half, by=ANNA, secret=True),
        lambda: book.hold(Lease("h", "i", instances=(Instance("web", "h", 1, zone=half),))),
        lambda: book.hold(Lease("h", half)),
    ):
        with pytest.raises(ValidationFailed):
            write()
    assert book.world().position.revision == 0


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object(), "x" * LARGEST_VALUE])
def test_a_value_that_cannot_be_kept_is_refused(book: Book, value: object) -> None:
    """Only JSON of a bounded size is a setting; the sentence names the key, never the value."""
    with pytest.raises(ValidationFailed, match=r"\*/KEY") as caught:
        book.set_override("*", "KEY", value, by=ANNA)
    assert "xxx" not in str(caught.value)


def test_the_same_secret_again_is_no_change(book: Book) -> None:
    """Though it is sealed differently every time."""
    assert book.set_override("*", "KEY", "s3cret", by=ANNA, secret=True) == 1
    assert book.set_override("*", "KEY", "s3cret", by=ANNA, secret=True) == 1
    assert book.set_override("*", "KEY", "other", by=ANNA, secret=True) == 2


def test_no_secret_reaches_the_store(book: Book, store: FaultyStore, tmp_path: Path) -> None:
    """Neither in the log, nor in a segment or a snapshot, nor in an export."""
    book.set_override("*", "KEY", "s3cret-value", by=ANNA, secret=True)
    store.close()
    assert b"s3cret-value" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert "s3cret-value" not in repr(list(book.export()))


def test_keys_are_rotated(store: FaultyStore, time: Time) -> None:
    """With the new key in front everything can be read; after resealing the old key may go."""
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()

    def opened(keys: str) -> Book:
        return Book(store, box=SecretBox(keys), service="identity", now=time, clock=time)

    opened(old).set_override("identity", "KEY", "s3cret", by=ANNA, secret=True)
    assert opened(f"{new},{old}").world().overrides["identity/KEY"].value == "s3cret"
    assert opened(f"{new},{old}").reseal(by=ANNA) == 2
    book = opened(new)
    assert book.world().overrides["identity/KEY"].value == "s3cret"
    assert book.secrets("identity") == {"identity/KEY": "s3cret"}
    assert book.secrets("billing") == {}
    assert opened(old).world().overrides["identity/KEY"].value is None


def test_a_secret_that_no_key_opens_is_hidden_and_logged(
    store: FaultyStore, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """Its service goes on without it, and the log says once which setting it is."""
    key, other = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    Book(store, box=SecretBox(key), now=time).set_override("*", "KEY", "s3cret", by=ANNA, secret=True)
    book = Book(store, box=SecretBox(other), service="identity", now=time)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            found = book.world().overrides["*/KEY"]
            assert (found.value, found.hidden) == (None, True)
    assert [record.getMessage().split()[2] for record in caplog.records] == ["*/KEY"]
    with pytest.raises(ValidationFailed, match=r"\*/KEY"):
        book.reseal(by=ANNA)


def test_no_new_key_is_made_beside_secrets_of_an_older_one(store: FaultyStore, time: Time, tmp_path: Path) -> None:
    """A map that was moved without its key file says so, instead of going on with two keys of which one is gone."""
    key = tmp_path / "key"
    with make_book(store, time, tmp_path) as book:
        book.set_override("*", "KEY", "one", by=ANNA, secret=True)
    key.unlink()
    with make_book(store, time, tmp_path) as book:
        with pytest.raises(NotConfigured, match="key is missing"):
            book.set_override("*", "OTHER", "two", by=ANNA, secret=True)
        assert not key.exists()
        book.unset_override("*", "KEY", by=ANNA)
        book.set_override("*", "OTHER", "two", by=ANNA, secret=True)
        assert key.exists()


def test_a_value_is_kept_as_it_will_be_read(book: Book) -> None:
    """What the caller does with it later changes nothing, and keys are text as they are in JSON."""
    value = {1: (2, 3.0)}
    book.set_override("*", "KEY", value, by=ANNA)
    value[4] = (5, 6.0)
    assert book.world().overrides["*/KEY"].value == {"1": [2, 3.0]}


@pytest.mark.parametrize("revision", [1.5, "1", True, None])
def test_a_revision_that_is_none_is_refused(revision: object, book: Book) -> None:
    """Before anything is looked for."""
    with pytest.raises(ValidationFailed, match="whole number"):
        book.rollback(revision, by=ANNA)  # type: ignore[arg-type]


def test_a_secret_needs_a_key(store: FaultyStore) -> None:
    """A map in a shared store without ATLAS_KEYS refuses secrets and takes everything else."""
    book = Book(store)
    with pytest.raises(NotConfigured, match="ATLAS_KEYS"):
        book.set_override("*", "KEY", "s3cret", by=ANNA, secret=True)
    assert book.set_override("*", "KEY", 1, by=ANNA) == 1


def test_a_long_life_leaves_snapshots(book: Book, store: FaultyStore, time: Time, tmp_path: Path) -> None:
    """A realm with a big history is opened by its snapshot, and its history is whole."""
    for number in range(60):
        book.set_override("*", f"KEY_{number % 5}", os.urandom(5000).hex(), by=ANNA)
    assert len(store.keys("snapshot/catalogue/")) >= 1
    fresh_store = FaultyStore(tmp_path)
    with make_book(fresh_store, time, tmp_path) as fresh:
        assert list(fresh.world().items()) == list(book.world().items())
        segments = [key for key in fresh_store.read if key.startswith("segment/")]
        assert len(segments) < len(store.keys("segment/"))
        assert len(fresh.history(limit=100)) == 60


def test_a_snapshot_that_fails_costs_nothing(book: Book, store: FaultyStore) -> None:
    """The change is written already; the next one tries again."""

    def refuse(key: str) -> None:
        if key.startswith("snapshot/"):
            raise Unavailable("disk full")

    store.before_put = refuse
    for number in range(40):
        assert book.set_override("*", "KEY", os.urandom(5000).hex(), by=ANNA) == number + 1
    store.before_put = None
    assert store.keys("snapshot/") == []
    for _ in range(12):
        book.set_override("*", "KEY", os.urandom(5000).hex(), by=ANNA)
    assert len(store.keys("snapshot/")) == 1


def test_a_log_that_was_put_back_is_noticed(tmp_path: Path) -> None:
    """A store that was restored from a copy and went on differently is read anew, not patched over."""
    one, other = SqliteStore(tmp_path / "one.db"), SqliteStore(tmp_path / "other.db")
    reader, writer = Book(one), Book(SqliteStore(tmp_path / "one.db"))
    writer.set_override("*", "A", 1, by=ANNA)
    head = one.get(CATALOGUE)
    assert head is not None
    writer.set_override("*", "B", 1, by=ANNA)
    assert set(reader.world().overrides) == {"*/A", "*/B"}
    one.put(CATALOGUE, head.body, one.get(CATALOGUE).version)  # type: ignore[union-attr]
    with Book(SqliteStore(tmp_path / "one.db")) as fresh:
        fresh.set_override("*", "C", 1, by=ANNA)
        fresh.set_override("*", "D", 1, by=ANNA)
        assert set(reader.world().overrides) == {"*/A", "*/C", "*/D"}
    for book in (reader, writer):
        book.close()
    other.close()


def test_a_reader_ahead_of_the_map_waits_and_then_takes_everything(book: Book) -> None:
    """A position of the same epoch that we have not reached may be another replica's; if it stays so, it was put back."""
    book.put_service(Service("identity"), by=ANNA)
    epoch = book.world().position.epoch
    update = book.wait(Position(epoch, 5, 0), 0)
    assert isinstance(update, World)
    assert update.position == Position(epoch, 1, 0)


def test_a_closed_map_ends_waiting(store: FaultyStore) -> None:
    """Who waits while it is closed is told so, soon."""
    book = Book(store)
    book.put_service(Service("identity"), by=ANNA)
    told: list[BaseException] = []

    def wait() -> None:
        try:
            book.wait(book.world().position, 60)
        except Unavailable as error:
            told.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: any(one.name == "atlas-catalogue" for one in threading.enumerate()), 5)
    book.close()
    thread.join(30)
    assert "closed" in str(told[0])
    assert not [one for one in threading.enumerate() if one.name.startswith("atlas-")]


def test_waiting_on_a_store_that_is_away_is_unavailable_and_recovers(store: FaultyStore) -> None:
    """It is said while it lasts; when the store answers again the next wait brings what was missed."""
    with Book(store) as book, Book(SqliteStore(store.inner.path)) as other:
        book.put_service(Service("identity"), by=ANNA)
        position = book.world().position
        assert book.wait(position, 0.1) is None
        store.frozen = True
        with pytest.raises(Unavailable, match="frozen"):
            book.wait(position, 10)
        other.set_override("*", "KEY", 1, by=ANNA)
        with pytest.raises(Unavailable, match="frozen"):
            book.wait(position, 10)
        store.frozen = False
        update = book.wait(position, 10)
        assert update is not None
        assert update.position.revision == 2


def test_rolling_back_needs_a_kind_for_a_key(book: Book) -> None:
    """And tokens are never brought back."""
    book.put_service(Service("identity"), by=ANNA)
    with pytest.raises(ValidationFailed, match="kind"):
        book.rollback(0, by=ANNA, key="identity")
    with pytest.raises(ValidationFailed, match="Tokens"):
        book.rollback(0, by=ANNA, kind="token", key="x")
    with pytest.raises(NotFound):
        book.rollback(-1, by=ANNA)
    assert book.rollback(0, by=ANNA, kind="service") == 2
    assert book.world().services == {}


def test_a_history_with_a_hole_is_unavailable(book: Book, store: FaultyStore) -> None:
    """What was lost in the store is named; nothing is made up."""
    for number in range(40):
        book.set_override("*", "KEY", number, by=ANNA)
    (key,) = store.keys("segment/")
    store.delete(key)
    fresh = Book(store)
    for read in (lambda: fresh.history(limit=100), lambda: list(fresh.export()), lambda: book.rollback(1, by=ANNA)):
        book._catalogue._segments.clear()
        with pytest.raises(Unavailable, match="missing"):
            read()


def test_a_map_that_was_emptied_can_be_written(book: Book, store: FaultyStore, time: Time, tmp_path: Path) -> None:
    """A process that knew the map before writes to the new one as it is: empty."""
    book.put_service(Service("identity"), by=ANNA)
    book.hold(Lease("host-1", "i1", 15.0, (Instance("identity", "h", 8000),)))
    for prefix in ("log/", "lease/"):
        for key in store.keys(prefix):
            store.delete(key)
    assert set(book.world().services) == {"identity"}
    book.hold(Lease("host-1", "i1", 15.0, (Instance("identity", "h", 8000),)))
    assert book.put_service(Service("identity"), by=ANNA) == 1
    with make_book(FaultyStore(tmp_path), time, tmp_path) as fresh:
        assert list(fresh.world().items()) == list(book.world().items())
        assert (set(fresh.world().services), set(fresh.world().leases)) == ({"identity"}, {"host-1"})


def test_nothing_is_asked_before_it_is_needed(store: FaultyStore) -> None:
    """Making a book reads and writes nothing."""
    store.frozen = True
    assert "Book(" in repr(Book(store, store, service="identity"))


def test_instances_of_a_removed_service_stay_visible(book: Book) -> None:
    """What runs is on the map whether or not the catalogue knows it."""
    book.hold(Lease("host-1", "i1", 15.0, (Instance("ghost", "h", 8000),)))
    assert book.world().knows("ghost")
    assert book.rule(Ruling("ghost", "h", 8000, weight=5), by=ANNA) == 1


@pytest.fixture
def joined(tmp_path: Path, time: Time) -> Iterator[tuple[Book, FaultyStore, FaultyStore]]:
    """A map whose catalogue and presence are in two stores, read once, with one service that has one instance."""
    for name in ("catalogue", "presence"):
        (tmp_path / name).mkdir()
    catalogue, presence = FaultyStore(tmp_path / "catalogue"), FaultyStore(tmp_path / "presence")
    with Book(catalogue, presence, now=time, sleep=time.sleep) as book:
        book.put_service(Service("web"), by=ANNA)
        book.hold(Lease("host-1", "i1", 15.0, (Instance("web", "h", 8000),)))
        book.world()
        yield book, catalogue, presence


def test_settings_change_while_presence_is_away(joined: tuple[Book, FaultyStore, FaultyStore]) -> None:
    """In the night in which one of two stores is down the other half of the map can be mended; guards are not guessed."""
    book, _, presence = joined
    presence.frozen = True
    assert book.set_override("web", "LIMIT", 1, by=ANNA) == 2
    assert book.rollback(1, by=ANNA, kind="override") == 3
    assert book.put_service(Service("web", owner="shop"), by=ANNA) == 4
    disabled = Ruling("web", "h", 8000, "disabled")
    with pytest.raises(Unavailable):
        book.rule(disabled, by=ANNA)
    with pytest.raises(Unavailable):
        book.remove_service("web", by=ANNA)
    assert book.rule(disabled, by=ANNA, force=True) == 5


def test_readers_are_told_of_one_store_while_the_other_is_away(joined: tuple[Book, FaultyStore, FaultyStore]) -> None:
    """What changed is told, and what cannot be heard of stays as it was; nobody takes half of a map for all of it."""
    book, catalogue, presence = joined
    position = book.world().position
    presence.frozen = True
    book.set_override("web", "LIMIT", 1, by=ANNA)
    update = book.wait(position, 1)
    assert isinstance(update, Delta)
    assert [edit.key for edit in update.edits] == ["web/LIMIT"]
    with pytest.raises(Unavailable):
        book.wait(Position("another", 1, 1), 0)
    with Book(catalogue, presence) as fresh, pytest.raises(Unavailable):
        fresh.wait(position, 0)


def test_leases_end_while_the_catalogue_is_away(joined: tuple[Book, FaultyStore, FaultyStore]) -> None:
    """What runs is known to the store of presence alone."""
    book, catalogue, _ = joined
    catalogue.frozen = True
    assert book.sweep() == []
