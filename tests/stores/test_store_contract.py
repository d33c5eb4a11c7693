"""What every store promises (`atlas/stores/store.py`)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from atlas.stores.store import ANY, LARGEST_BODY, Changed, Store
from tests.processes import wait_until
from tests.stores.conftest import OpenStore


def test_a_document_that_is_not_there_is_none(store: Store) -> None:
    """Asking for what nobody wrote gives None, and removing it is no error."""
    assert store.get("log/catalogue/head") is None
    store.delete("log/catalogue/head")


def test_what_was_written_is_read_back(store: Store) -> None:
    """A body comes back byte for byte, with the version that the write gave."""
    body = bytes(range(256))
    version = store.put("log/catalogue/head", body, None)
    found = store.get("log/catalogue/head")
    assert found is not None
    assert (found.key, found.body, found.version) == ("log/catalogue/head", body, version)


def test_an_empty_body_is_a_body(store: Store) -> None:
    """No bytes at all are kept too, and are not taken for absence."""
    version = store.put("empty", b"", None)
    found = store.get("empty")
    assert found is not None
    assert (found.body, found.version) == (b"", version)


def test_every_key_of_the_alphabet_is_kept_apart(store: Store) -> None:
    """Keys that differ in one character are different documents."""
    keys = ["a/b", "a/b.c", "a/b_c", "a/b:c", "a/b@c", "a/b-c", "a/B", "a/b/c", "a/0", "b"]
    for key in keys:
        store.put(key, key.encode(), None)
    assert [getattr(store.get(key), "body", None) for key in keys] == [key.encode() for key in keys]


def test_the_largest_body_fits(store: Store) -> None:
    """LARGEST_BODY bytes of noise are taken, twice over the same key."""
    body = os.urandom(LARGEST_BODY)
    version = store.put("big", body, None)
    assert store.get("big").body == body  # type: ignore[union-attr]
    store.put("big", body[::-1], version)
    assert store.get("big").body == body[::-1]  # type: ignore[union-attr]


def test_a_new_document_is_refused_where_one_is(store: Store) -> None:
    """`expected=None` writes nothing when there is a document, even one with the same body."""
    version = store.put("head", b"first", None)
    for body in (b"second", b"first"):
        with pytest.raises(Changed):
            store.put("head", body, None)
    found = store.get("head")
    assert found is not None
    assert (found.body, found.version) == (b"first", version)


def test_a_write_over_another_version_is_refused(store: Store) -> None:
    """Compare-and-set writes only over the version that was read, and leaves everything as it was otherwise."""
    old = store.put("head", b"1", None)
    new = store.put("head", b"2", old)
    assert new != old
    with pytest.raises(Changed):
        store.put("head", b"3", old)
    assert store.get("head").body == b"2"  # type: ignore[union-attr]


def test_a_write_over_a_document_that_is_gone_is_refused(store: Store) -> None:
    """A version that was read does not bring a removed document back."""
    version = store.put("head", b"1", None)
    store.delete("head")
    with pytest.raises(Changed):
        store.put("head", b"2", version)
    assert store.get("head") is None


def test_a_write_without_condition_always_lands(store: Store) -> None:
    """`expected=ANY` makes the document or replaces it."""
    first = store.put("lease/a", b"1", ANY)
    second = store.put("lease/a", b"1", ANY)
    assert first != second
    found = store.get("lease/a")
    assert found is not None
    assert found.version == second


def test_a_document_made_anew_has_a_new_version(store: Store) -> None:
    """Removed and written again is a change: the version of before is not valid for it."""
    old = store.put("head", b"same", None)
    store.delete("head", old)
    new = store.put("head", b"same", None)
    assert new != old
    with pytest.raises(Changed):
        store.put("head", b"other", old)


def test_a_removal_over_another_version_is_refused(store: Store) -> None:
    """A conditional delete takes away only what was read."""
    old = store.put("lease/a", b"1", None)
    new = store.put("lease/a", b"2", old)
    with pytest.raises(Changed):
        store.delete("lease/a", old)
    assert store.get("lease/a") is not None
    store.delete("lease/a", new)
    assert store.get("lease/a") is None


def test_a_conditional_removal_of_nothing_is_no_error(store: Store) -> None:
    """One that is gone already is what was wanted."""
    version = store.put("lease/a", b"1", None)
    store.delete("lease/a")
    store.delete("lease/a", version)
    assert store.get("lease/a") is None


def test_all_documents_below_a_prefix_are_found(store: Store) -> None:
    """`get_all` gives what lies below the slash, whatever the number, and nothing beside it."""
    assert dict(store.get_all("lease/")) == {}
    versions = {f"lease/host-{number}": store.put(f"lease/host-{number}", b"x" * 200, ANY) for number in range(120)}
    for beside in ("lease", "leases/a", "lease.a/b", "lease-a", "leas/e", "log/lease/a"):
        store.put(beside, b"beside", ANY)
    found = store.get_all("lease/")
    assert {key: document.version for key, document in found.items()} == versions
    assert all(document.key == key and document.body == b"x" * 200 for key, document in found.items())


def test_another_client_sees_what_was_written(open_store_again: OpenStore) -> None:
    """What one client was told is written, another one reads, with the same version."""
    one, two = open_store_again(), open_store_again()
    assert two.get("head") is None
    version = one.put("head", b"1", None)
    wait_until(lambda: two.get("head"), what="the write")
    assert two.get("head").version == version  # type: ignore[union-attr]
    with pytest.raises(Changed):
        two.put("head", b"2", "never-a-version")
    two.put("head", b"2", version)
    with pytest.raises(Changed):
        one.put("head", b"3", version)


def test_of_many_writers_one_wins_each_version(open_store_again: OpenStore) -> None:
    """Eight clients that count in one document lose no step."""
    clients = [open_store_again() for _ in range(4)]
    clients[0].put("count", b"0", None)

    def count(client: Store) -> None:
        for _ in range(5):
            while True:
                found = client.get("count")
                assert found is not None
                try:
                    client.put("count", str(int(found.body) + 1).encode(), found.version)
                    break
                except Changed:
                    continue

    threads = [threading.Thread(target=count, args=(client,)) for client in clients for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clients[0].get("count").body == b"40"  # type: ignore[union-attr]


def test_a_wait_for_what_is_there_already_returns_at_once(store: Store) -> None:
    """A version that was not seen yet is news, and so is a document that was not seen at all."""
    version = store.put("head", b"1", None)
    begun = time.monotonic()
    for seen in (None, "another-version"):
        found = store.wait("head", seen, 30)
        assert found is not None
        assert (found.body, found.version) == (b"1", version)
    assert time.monotonic() - begun < 10


def test_a_wait_without_news_ends_with_none(store: Store) -> None:
    """After its seconds a wait gives None: for a document that stays, and for one that never comes."""
    version = store.put("head", b"1", None)
    for key, seen in (("head", version), ("other", None)):
        begun = time.monotonic()
        assert store.wait(key, seen, 0.3) is None
        assert 0.25 < time.monotonic() - begun < 10


def test_a_wait_of_no_seconds_looks_once(store: Store) -> None:
    """`seconds=0` tells of a change that is there and waits for none."""
    version = store.put("head", b"1", None)
    assert store.wait("head", version, 0) is None
    assert store.wait("head", None, 0) is not None


def late_after(store: Store, change: Callable[[], object], key: str, seen: str | None) -> tuple[float, bytes]:
    """How long after `change()` a wait that was under way already told of it, and what."""
    told: list[tuple[float, bytes]] = []

    def waiting() -> None:
        found = store.wait(key, seen, 20)
        if found is not None:
            told.append((time.monotonic(), found.body))

    thread = threading.Thread(target=waiting)
    thread.start()
    time.sleep(0.3)  # so that the wait is under way; if it is not yet, the promise is the same
    begun = time.monotonic()
    change()
    thread.join(30)
    assert told
    return told[0][0] - begun, told[0][1]


def test_a_wait_tells_of_a_change_by_another_client(open_store_again: OpenStore) -> None:
    """A change is told within the poll interval that the store declares, and a second."""
    one, two = open_store_again(), open_store_again()
    version = one.put("head", b"1", None)
    late, body = late_after(two, lambda: one.put("head", b"2", version), "head", version)
    assert body == b"2"
    assert late < one.guarantees.poll_seconds + 1


def test_a_wait_tells_of_a_change_by_the_same_client(store: Store) -> None:
    """A process that waits in one thread and writes in another hears of its own write."""
    version = store.put("head", b"1", None)
    late, body = late_after(store, lambda: store.put("head", b"2", version), "head", version)
    assert body == b"2"
    assert late < store.guarantees.poll_seconds + 1


def test_a_wait_tells_of_a_document_that_is_made(open_store_again: OpenStore) -> None:
    """Waiting begins before there is anything."""
    one, two = open_store_again(), open_store_again()
    late, body = late_after(two, lambda: one.put("head", b"1", None), "head", None)
    assert body == b"1"
    assert late < one.guarantees.poll_seconds + 1


def test_a_document_that_is_removed_is_no_news(open_store_again: OpenStore) -> None:
    """A wait sleeps through a removal and tells of the document that comes after it."""
    one, two = open_store_again(), open_store_again()
    version = one.put("head", b"1", None)

    def replace() -> None:
        one.delete("head")
        time.sleep(0.2)
        one.put("head", b"2", None)

    late, body = late_after(two, replace, "head", version)
    assert body == b"2"
    assert 0.2 <= late < one.guarantees.poll_seconds + 1.2


def test_a_closed_store_connects_anew(store: Store) -> None:
    """`close` may come twice, and a store that is used after it goes on."""
    store.put("head", b"1", None)
    store.close()
    store.close()
    assert store.get("head").body == b"1"  # type: ignore[union-attr]


def test_a_child_process_works_beside_its_parent(open_store_again: OpenStore) -> None:
    """A store that was used before a fork serves parent and child, each over its own connection."""
    store = open_store_again()
    version = store.put("head", b"0", None)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            store.put("head", b"child", version)
            for number in range(20):
                store.put(f"child/{number}", str(number).encode(), None)
            code = 0 if store.get("head").body == b"child" else 2  # type: ignore[union-attr]
        finally:
            os._exit(code)
    for number in range(20):
        store.put(f"parent/{number}", str(number).encode(), None)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    wait_until(lambda: store.get("head").body == b"child", 5)  # type: ignore[union-attr]
    for number in range(20):
        assert store.get(f"parent/{number}").body == str(number).encode()  # type: ignore[union-attr]
    wait_until(lambda: len(store.get_all("child/")) == 20, 5)


def test_it_says_what_it_guarantees(store: Store) -> None:
    """Every store declares its name, how current its reads are, how changes are told and what it survives."""
    told = store.guarantees
    assert told.name
    assert told.reads in ("linearizable", "own writes")
    assert told.wait in ("pushed", "polled")
    assert (told.poll_seconds > 0) == (told.wait == "polled")
    assert told.survives
