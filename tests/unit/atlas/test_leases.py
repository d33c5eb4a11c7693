"""Leases: silence ends them, the absence of news never does, and whoever lives is on the map in the end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from atlas.book import Book
from atlas.leases import LeaseDocument, Patience, document_key
from atlas.model import Instance, Lease
from atlas.stores.store import ANY
from smartrealm.errors import Conflict, Unavailable
from tests.unit.atlas.conftest import make_book
from tests.unit.atlas.faulty import FaultyStore, Time, lost, once

PRESENCE = "log/presence/head"


def lease(name: str = "a", incarnation: str = "i1", ports: Iterable[int] = (8000,), ttl: float = 15.0) -> Lease:
    return Lease(name, incarnation, ttl, tuple(Instance("identity", "127.0.0.1", port) for port in ports))


def ports(book: Book) -> list[int]:
    return sorted(instance.port for instance in book.world().instances.get("identity", {}).values())


def sweep_for(book: Book, time: Time, seconds: int, renew: Iterable[Lease] = ()) -> list[str]:
    """Sweep once a second, while some are renewed every five; gives what was ended."""
    ended = []
    for second in range(seconds):
        time.value += 1
        if second % 5 == 0:
            for one in renew:
                book.hold(one)
        ended += book.sweep()
    return ended


# -- deciding ----------------------------------------------------------------------------------------------------------


def looks(
    patience: Patience, steps: Iterable[tuple[float, dict[str, str]]], ttl: float = 15.0
) -> list[tuple[str, ...]]:
    return [patience.look(now, {name: (version, ttl) for name, version in present.items()}) for now, present in steps]


def test_a_lease_is_overdue_after_its_ttl_of_silence() -> None:
    """Not a second earlier, counted from when this observer first saw it."""
    steps = [(float(now), {"a": "1"}) for now in range(100, 116)]
    assert looks(Patience(), steps) == [()] * 15 + [("a",)]


def test_a_new_version_begins_the_silence_anew() -> None:
    """Any change of the document counts, whatever the clock of its writer says."""
    steps = [(float(now), {"a": str(now // 10)}) for now in range(100, 200)]
    assert set(looks(Patience(), steps)) == {()}


def test_an_observer_that_was_away_gives_a_full_ttl() -> None:
    """A pause longer than the ttl counts for nobody: a store was frozen, or this process."""
    patience = Patience()
    before = [(float(now), {"a": "1"}) for now in range(100, 114)]
    after = [(float(now), {"a": "1"}) for now in range(174, 190)]
    assert looks(patience, before + after) == [()] * 14 + [()] * 15 + [("a",)]


def test_one_look_adds_a_third_of_the_ttl_at_most() -> None:
    """A shorter pause leaves a holder that renews every third of its ttl time to do so."""
    assert looks(Patience(), [(0, {"a": "1"}), (5, {"a": "1"}), (19, {"a": "1"}), (24, {"a": "1"})]) == [
        (),
        (),
        (),
        ("a",),
    ]


def test_mass_expiry_is_held_back() -> None:
    """More than half of at least three leases at once is not believed for ten minutes."""
    patience = Patience()
    steps = [(float(now), {"a": "1", "b": "1", "c": str(now)}) for now in range(700)]
    found = looks(patience, steps)
    assert found[600] == ()
    assert patience.overdue == ("a", "b")
    assert found[616] == ("a", "b")
    assert [bool(one) for one in found].index(True) == 615


@pytest.mark.parametrize(("silent", "alive"), [(1, 0), (2, 0), (1, 1), (2, 2), (3, 3), (1, 5)])
def test_half_of_the_leases_may_end(silent: int, alive: int) -> None:
    """Up to half of them, or up to two in a small realm, are ended at once."""
    present = [{f"s{i}": "1" for i in range(silent)} | {f"a{i}": str(now) for i in range(alive)} for now in range(20)]
    found = looks(Patience(), [(float(now), one) for now, one in enumerate(present)])
    assert found[15] == tuple(f"s{i}" for i in range(silent))


def test_the_guard_lets_go_when_writers_come_back() -> None:
    """As soon as no more than half are overdue, those that stay silent are ended."""
    patience = Patience()
    looks(patience, [(float(now), {"a": "1", "b": "1", "c": "1"}) for now in range(30)])
    assert patience.held_back
    assert looks(patience, [(30, {"a": "1", "b": "2", "c": "2"})]) == [("a",)]
    assert not patience.held_back


# -- holding -----------------------------------------------------------------------------------------------------------


def test_a_renewal_is_one_write_and_no_read(book: Book, store: FaultyStore) -> None:
    """Whatever it carries, a lease that did not change costs one write to its own document."""
    held = lease(ports=range(8000, 8100))
    book.hold(held)
    store.written.clear()
    store.read.clear()
    book.hold(held)
    assert (store.written, store.read) == (["lease/a"], [])


def test_another_report_is_one_write_and_no_read(book: Book, store: FaultyStore) -> None:
    """What a sidecar says of itself lies in the document of its lease: nothing of it reaches the log."""
    held = replace(lease("sidecar@h1"), report={"revision": 1})
    book.hold(held)
    store.written.clear()
    store.read.clear()
    book.hold(replace(held, report={"revision": 2}))
    book.hold(replace(held, report={"revision": 3}))
    assert (store.written, store.read) == (["lease/sidecar@h1"] * 2, [])
    assert book.reports()["sidecar@h1"].revision == 3
    book.hold(replace(held, instances=(), report={"revision": 4}))
    assert book.reports()["sidecar@h1"].revision == 4


def test_a_report_ends_with_its_time(book: Book, time: Time, store: FaultyStore, tmp_path: Path) -> None:
    """Who looks hears nothing of a sidecar that is overdue, whether it has just come or has looked before."""
    held = Lease("sidecar@h1", "i1", 15.0, report={"revision": 1})
    book.hold(held)
    assert set(book.reports()) == {"sidecar@h1"}
    time.value += 16.9
    assert set(book.reports()) == {"sidecar@h1"}
    time.value += 0.2
    assert book.reports() == {}
    with make_book(store, time, tmp_path) as fresh:
        assert fresh.reports() == {}
    book.hold(held)
    assert set(book.reports()) == {"sidecar@h1"}


def test_a_wrong_clock_hides_no_sidecar(store: FaultyStore, time: Time, tmp_path: Path) -> None:
    """A renewal between two looks is a sign of life, whatever time its writer believes it to be."""
    late = Time(time.value - 3600)
    held = Lease("sidecar@h1", "i1", 15.0, report={"revision": 1})
    with make_book(store, late, tmp_path) as sidecar, make_book(store, time, tmp_path) as reader:
        sidecar.hold(held)
        assert reader.reports() == {}
        sidecar.hold(held)
        assert set(reader.reports()) == {"sidecar@h1"}
        time.value += 18
        assert reader.reports() == {}


def test_silence_ends_a_lease_and_its_holder_comes_back(book: Book, time: Time) -> None:
    """A lease that is not renewed for its ttl goes with its instances; the next renewal brings all of it back."""
    book.hold(lease())
    assert sweep_for(book, time, 15) == []
    assert ports(book) == [8000]
    assert sweep_for(book, time, 1) == ["a"]
    assert ports(book) == []
    book.hold(lease())
    assert ports(book) == [8000]
    assert sweep_for(book, time, 60, [lease()]) == []


def test_a_frozen_store_takes_nobodys_time(book: Book, store: FaultyStore, time: Time) -> None:
    """While nothing can be read or written nothing ends, and afterwards everybody has time to renew."""
    holders = [lease(name, ports=[8000 + i]) for i, name in enumerate("ab")]
    for one in holders:
        book.hold(one)
    sweep_for(book, time, 12)
    store.frozen = True
    for _ in range(60):
        time.value += 1
        with pytest.raises(Unavailable):
            book.sweep()
    store.frozen = False
    assert book.sweep() == []
    assert sweep_for(book, time, 13) == []
    assert sweep_for(book, time, 60, holders) == []
    assert ports(book) == [8000, 8001]


def test_a_restarted_observer_gives_a_full_ttl(book: Book, store: FaultyStore, time: Time, tmp_path: Path) -> None:
    """Who has just started to look has seen no silence yet."""
    book.hold(lease())
    time.value += 3600
    with make_book(store, time, tmp_path) as fresh:
        assert fresh.sweep() == []
        assert sweep_for(fresh, time, 14) == []
        assert sweep_for(fresh, time, 1) == ["a"]


def test_any_number_may_sweep(book: Book, store: FaultyStore, time: Time, tmp_path: Path) -> None:
    """Of two observers one ends the lease, and it is ended once."""
    book.hold(lease())
    with make_book(store, time, tmp_path) as other:
        ended = []
        for _ in range(20):
            time.value += 1
            ended += book.sweep() + other.sweep()
    assert ended == ["a"]
    assert book.world().position.presence == 2


def test_mass_silence_is_shown_and_held_back(book: Book, time: Time) -> None:
    """The status says which leases are overdue and that they are not ended; the map keeps them."""
    for i, name in enumerate("abcd"):
        book.hold(lease(name, ports=[8000 + i]))
    assert sweep_for(book, time, 60, [lease("d", ports=[8003])]) == []
    status = book.status()
    assert (status["held_back"], status["overdue"]) == (True, ["a", "b", "c"])
    assert [one["id"] for one in status["leases"] if one["overdue"]] == ["a", "b", "c"]
    assert len(ports(book)) == 4
    assert sorted(sweep_for(book, time, 620, [lease("d", ports=[8003])])) == ["a", "b", "c"]
    assert ports(book) == [8003]


# -- races -------------------------------------------------------------------------------------------------------------


def silent(book: Book, time: Time) -> None:
    """Sweep until the next sweep ends what is not renewed."""
    assert sweep_for(book, time, 15) == []
    time.value += 1


def test_a_renewal_in_the_moment_of_ending_wins(book: Book, store: FaultyStore, time: Time, tmp_path: Path) -> None:
    """A holder that renews just before its document is removed keeps everything."""
    with make_book(FaultyStore(tmp_path), time, tmp_path) as holder:
        holder.hold(lease())
        silent(book, time)
        store.before_delete = once(lambda key: holder.hold(lease()), "lease/a")
        assert book.sweep() == []
    assert ports(book) == [8000]


def test_a_holder_that_finds_its_lease_ended_comes_after_the_ending(
    book: Book, store: FaultyStore, time: Time, tmp_path: Path
) -> None:
    """The document is gone, the removal is about to be written, the holder renews: it is on the map in the end."""
    with make_book(FaultyStore(tmp_path), time, tmp_path) as holder:
        holder.hold(lease())
        silent(book, time)
        store.before_put = once(lambda key: holder.hold(lease()), PRESENCE)
        book.sweep()
        assert ports(book) == [8000]
        assert store.keys("lease/") == ["lease/a"]
        assert sweep_for(book, time, 60, []) == ["a"]
        assert ports(book) == []


def test_a_holder_that_died_while_opening_says_everything_again(book: Book, store: FaultyStore, time: Time) -> None:
    """A document whose entry never reached the log is not taken for a lease that is held."""

    def dead(key: str) -> None:
        if key == PRESENCE:
            raise RuntimeError("killed")

    store.before_put = dead
    with pytest.raises(RuntimeError):
        book.hold(lease())
    store.before_put = None
    assert ports(book) == []
    book.hold(lease())
    assert ports(book) == [8000]


def test_an_answer_that_is_lost_while_renewing_costs_nothing(book: Book, store: FaultyStore) -> None:
    """A renewal without an answer is Unavailable; the next one works and changes nothing on the map."""
    book.hold(lease())
    position = book.world().position
    store.after_put = once(lost, "lease/a")
    with pytest.raises(Unavailable):
        book.hold(lease())
    book.hold(lease())
    book.hold(lease())
    assert book.world().position == position


def test_a_lease_without_a_document_ends_too(book: Book, store: FaultyStore, time: Time) -> None:
    """An observer that died between its two writes leaves no instance behind for ever."""
    book.hold(lease())
    store.delete("lease/a")
    assert sweep_for(book, time, 15) == []
    assert sweep_for(book, time, 1) == ["a"]
    assert ports(book) == []


def test_a_document_without_a_lease_goes(book: Book, store: FaultyStore, time: Time) -> None:
    """What a holder left that died before its entry was written is removed after its ttl."""
    store.put("lease/a", LeaseDocument("i1", 15.0, 0.0).encode(), ANY)
    sweep_for(book, time, 17)
    assert store.keys("lease/") == []


def test_a_release_leaves_what_a_new_incarnation_opens_meanwhile(
    book: Book, store: FaultyStore, time: Time, tmp_path: Path
) -> None:
    """The old process leaves while the new one opens the lease: the new one stays."""
    book.hold(lease(incarnation="old"))
    with make_book(FaultyStore(tmp_path), time, tmp_path) as new:
        store.before_put = once(lambda key: new.hold(lease(incarnation="new")), PRESENCE)
        book.release("a", "old")
        assert book.world().leases["a"].incarnation == "new"
        assert ports(book) == [8000]
        new.hold(lease(incarnation="new"))
    assert sweep_for(book, time, 14) == []


def test_an_incarnation_that_is_over_never_takes_the_lease_back(book: Book) -> None:
    """However often it asks; the newest one goes on renewing."""
    for incarnation in ("i1", "i2", "i3"):
        book.hold(lease(incarnation=incarnation))
    for incarnation in ("i1", "i2"):
        with pytest.raises(Conflict, match="newer"):
            book.hold(lease(incarnation=incarnation))
    book.hold(lease(incarnation="i3"))
    assert book.world().leases["a"].incarnation == "i3"


def test_the_snapshot_of_presence_is_kept(book: Book, store: FaultyStore, tmp_path: Path, time: Time) -> None:
    """A realm in which holders come and go does not grow without end, and a new reader sees the same."""
    for number in range(20):
        book.hold(lease("big", ports=range(8000, 8400), ttl=15.0 + number))
        book.hold(lease("big", ports=(), ttl=15.0 + number))
    assert len(store.keys("snapshot/presence/")) >= 1
    assert len(store.keys("segment/presence/")) < 20
    store.written.clear()
    book.hold(lease("big", ports=(), ttl=34.0))
    assert store.written == ["lease/big"]
    with make_book(FaultyStore(tmp_path), time, tmp_path) as fresh:
        assert list(fresh.world().items()) == list(book.world().items())


@pytest.mark.parametrize("name", ["a", "a_b", "a@[::1]:80", "_5f_", "a%2Fb"])
def test_a_lease_key_is_a_key(name: str) -> None:
    """Every id becomes a key of the store's alphabet, one each."""
    assert document_key(name).removeprefix("lease/").replace("_", "").replace("@", "").replace(":", "").isalnum()
