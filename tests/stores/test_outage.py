"""What every store over a server does while the server is silent, away, or back again."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from atlas.opening import open_store
from atlas.stores.store import ANY, Changed, Store
from smartrealm.errors import Unavailable
from tests.processes import wait_until
from tests.store_servers import SERVERS, StoreServer

TIMEOUT = 1.0
"""In place of 3 s, so that the tests are short."""

LATER = 10.0
"""What is promised to take two seconds, on a machine that is five times slower."""

_numbers = itertools.count(1)

SECRET = b"not-to-be-shown-anywhere"


@pytest.fixture(scope="module", params=list(SERVERS))
def running(request: pytest.FixtureRequest) -> Iterator[StoreServer]:
    """A server of its own for these tests: they freeze it and kill it."""
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture
def server(running: StoreServer) -> Iterator[StoreServer]:
    """That server, alive and awake before and after each test."""
    yield running
    running.thaw()
    if running.child.process.poll() is not None:
        running.start()


@pytest.fixture
def open_again(server: StoreServer) -> Iterator[Callable[[], Store]]:
    """Opens the same place as often as it is called; it was made before, since making it may take longer than the tests wait."""
    place = f"outage-{next(_numbers)}"
    with contextlib.closing(open_store(url_of(server, place, 30))) as patient:
        patient.put("made", b"", ANY)
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(open_store(url_of(server, place))))


def url_of(server: StoreServer, place: str, timeout: float = TIMEOUT) -> str:
    url = server.url(place)
    return f"{url}{'&' if '?' in url else '?'}timeout_seconds={timeout}"


def put_within(store: Store, key: str, body: bytes, seconds: float) -> float:
    """Put until it works; gives how long that took."""
    begun = time.monotonic()
    while True:
        try:
            store.put(key, body, ANY)
            return time.monotonic() - begun
        except Unavailable:
            assert time.monotonic() - begun < seconds, "still Unavailable"


def test_a_silent_server_is_unavailable_in_time(server: StoreServer, open_again: Callable[[], Store]) -> None:
    """Reads and writes give up after about `timeout_seconds`, with a sentence without bodies; afterwards all is well."""
    store = open_again()
    version = store.put("head", b"1", None)
    asks = (
        lambda: store.get("head"),
        lambda: store.put("head", SECRET, version),
        lambda: store.get_all("lease/"),
        lambda: store.wait("head", version, 10),
        lambda: open_again().get("head"),
    )
    server.freeze()
    with ThreadPoolExecutor(len(asks)) as pool:
        begun = time.monotonic()
        outcomes = [pool.submit(ask) for ask in asks]
        for outcome in outcomes:
            error = outcome.exception()
            assert isinstance(error, Unavailable)
            assert store.guarantees.name in str(error)
            assert SECRET.decode() not in str(error)
        assert time.monotonic() - begun < TIMEOUT + LATER
    server.thaw()

    assert put_within(store, "head", b"2", 30) < LATER
    assert store.get("head").body == b"2"  # type: ignore[union-attr]


def test_a_wait_outlives_silence(server: StoreServer, open_again: Callable[[], Store]) -> None:
    """A server that was silent in the middle of a wait tells of what is written after it."""
    store, other = open_again(), open_again()
    version = store.put("head", b"1", None)
    told: list[bytes | None] = []

    def wait() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not told:
            with contextlib.suppress(Unavailable):
                found = store.wait("head", version, 5)
                if found is not None:
                    told.append(found.body)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    server.freeze()
    time.sleep(TIMEOUT + 0.5)
    server.thaw()
    put_within(other, "head", b"2", 30)
    begun = time.monotonic()
    thread.join(60)

    assert told == [b"2"]
    assert time.monotonic() - begun < LATER


def test_a_server_that_came_back_is_used(server: StoreServer, open_again: Callable[[], Store]) -> None:
    """Killed and started again, with its data: the same object works within two seconds, nothing is lost, waits go on."""
    store = open_again()
    version = store.put("head", b"1", None)
    told: list[bytes] = []

    def wait() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not told:
            with contextlib.suppress(Unavailable):
                found = store.wait("head", version, 5)
                if found is not None:
                    told.append(found.body)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    server.kill()
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        store.get("head")
    with pytest.raises(Unavailable):
        store.put("head", b"lost", version)
    assert time.monotonic() - begun < 2 * TIMEOUT + LATER
    server.start()

    assert put_within(store, "lease/a", b"x", 30) < LATER
    found = store.get("head")
    assert found is not None
    assert (found.body, found.version) == (b"1", version)
    store.put("head", b"2", version)
    begun = time.monotonic()
    thread.join(60)
    assert told == [b"2"]
    assert time.monotonic() - begun < LATER


def test_a_store_that_is_first_used_in_an_outage_works_after_it(server: StoreServer) -> None:
    """A process that starts while the server is away needs no restart when it is back."""
    with contextlib.closing(open_store(url_of(server, "first-used"))) as store:
        server.kill()
        with pytest.raises(Unavailable):
            store.get("head")
        server.start()
        assert put_within(store, "head", b"1", 30) < LATER


def test_no_step_is_counted_twice_over_crashes(server: StoreServer, open_again: Callable[[], Store]) -> None:
    """What was refused as Changed was not written, and what was acknowledged stays, however often the server dies."""
    store = open_again()
    store.put("count", b"", None)
    acknowledged: list[str] = []
    refused: list[str] = []
    stop = threading.Event()

    def append(name: str) -> None:
        number = 0
        while not stop.is_set():
            with contextlib.suppress(Unavailable):
                found = store.get("count")
                assert found is not None
                number += 1
                word = f"{name}{number}"
                try:
                    store.put("count", found.body + f" {word}".encode(), found.version)
                    acknowledged.append(word)
                except Changed:
                    refused.append(word)

    threads = [threading.Thread(target=append, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            _wait_for(acknowledged, 3)
            server.kill()
            server.start()
        _wait_for(acknowledged, 3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    words: list[str] = []

    def read() -> bool:
        with contextlib.suppress(Unavailable):
            words[:] = store.get("count").body.decode().split()  # type: ignore[union-attr]
            return True
        return False

    wait_until(read)
    assert len(words) == len(set(words))
    assert set(acknowledged) <= set(words)
    assert not set(refused) & set(words)


def _wait_for(acknowledged: list[str], more: int) -> None:
    wanted = len(acknowledged) + more
    wait_until(lambda: len(acknowledged) >= wanted, what="more writes")


def test_a_fork_in_the_middle_of_a_wait_works_in_both(server: StoreServer, open_again: Callable[[], Store]) -> None:
    """A thread that waits while its process forks hears of the child's write; the child has its own connection."""
    store = open_again()
    version = store.put("head", b"0", None)
    told: list[bytes] = []

    def wait() -> None:
        found = store.wait("head", version, 60)
        if found is not None:
            told.append(found.body)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            known = store.get("head")
            store.put("head", b"child", known.version if known else None)
            written = store.wait("head", version, 30)
            store.close()
            code = 0 if written is not None and written.body == b"child" else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    thread.join(60)

    assert os.waitstatus_to_exitcode(status) == 0
    assert told == [b"child"]
    store.put("head", b"parent", ANY)
    assert store.get("head").body == b"parent"  # type: ignore[union-attr]


def test_waits_of_a_closed_store_end(open_again: Callable[[], Store]) -> None:
    """Who waits while the store is closed is not kept, and nothing is connected behind the back of whoever closed it."""
    store = open_again()
    if store.guarantees.name == "consul":
        pytest.skip("consul: a blocking query ends in its own time")
    version = store.put("head", b"1", None)
    told: list[object] = []
    thread = threading.Thread(target=lambda: told.append(store.wait("head", version, 60)))
    thread.start()
    time.sleep(0.3)
    begun = time.monotonic()
    store.close()
    thread.join(60)

    assert told == [None]
    assert time.monotonic() - begun < LATER
