"""What is particular to ZooKeeper: watches, sessions, node names, owners."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from kazoo.client import KazooClient

from atlas.stores.store import ANY, Changed
from atlas.stores.zookeeper import ZooKeeperStore
from smartrealm.errors import ConfigurationError, Unavailable
from tests.processes import wait_until
from tests.store_servers import StoreServer, ask_zookeeper

_numbers = itertools.count(1)

Open = Callable[..., ZooKeeperStore]


@pytest.fixture
def server(zookeeper: StoreServer) -> StoreServer:
    return zookeeper


@pytest.fixture
def open_again(server: StoreServer) -> Iterator[Open]:
    """Opens the same fresh place as often as it is called, for a user when there is one."""
    place = f"own-{next(_numbers)}"
    with contextlib.ExitStack() as stack:

        def open_one(user: str = "") -> ZooKeeperStore:
            url = server.url(place)
            url = url.replace("://", f"://{user}@") if user else url
            return stack.enter_context(contextlib.closing(ZooKeeperStore.from_url(url)))

        yield open_one


@pytest.fixture
def store(open_again: Open) -> ZooKeeperStore:
    return open_again()


def watches(server: StoreServer) -> int:
    """How many watches the server holds, for all its clients."""
    return int(ask_zookeeper(server.port, "wchs").rpartition("Total watches:")[2])


def expire(store: ZooKeeperStore, server: StoreServer) -> None:
    """End the store's session, as the server does with one that was silent for too long."""
    twin = KazooClient(f"127.0.0.1:{server.port}", client_id=store._client.client_id)
    twin.start()
    twin.stop()
    twin.close()


def test_thousands_of_waits_hold_one_watch(store: ZooKeeperStore, server: StoreServer) -> None:
    """A wait that ends without news leaves its watch to the next one: neither server nor client collect them."""
    before = watches(server)
    version = store.put("head", b"1", None)
    for _ in range(2000):
        assert store.wait("head", version, 0.0001) is None
    for _ in range(20):
        version = store.put("head", b"2", version)
        assert store.wait("head", None, 1) is not None
        assert store.wait("head", version, 0.001) is None

    assert watches(server) - before <= 1
    assert sum(len(kept) for kept in store._client._data_watchers.values()) <= 1


def test_many_who_wait_for_one_key_share_a_watch(store: ZooKeeperStore, server: StoreServer) -> None:
    """Twenty threads cost the server one watch, and all of them are told."""
    before = watches(server)
    version = store.put("head", b"1", None)
    told: list[bytes] = []

    def wait() -> None:
        found = store.wait("head", version, 10)
        told.append(found.body if found else b"")

    threads = [threading.Thread(target=wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: watches(server) > before)
    time.sleep(0.2)
    assert watches(server) - before == 1
    store.put("head", b"2", version)
    for thread in threads:
        thread.join(30)

    assert told == [b"2"] * 20


def test_a_wait_outlives_its_session(open_again: Open, server: StoreServer) -> None:
    """When the session expires in the middle of a wait, the wait goes on in a new one and hears of the next write."""
    store, other = open_again(), open_again()
    version = store.put("head", b"1", None)
    told: list[bytes] = []

    def wait() -> None:
        found = store.wait("head", version, 15)
        told.append(found.body if found else b"")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    session = store._client.client_id
    expire(store, server)
    wait_until(lambda: store._client.client_id not in (None, session))
    other.put("head", b"2", version)
    thread.join(30)

    assert told == [b"2"]
    assert store.get("head").body == b"2"  # type: ignore[union-attr]


def test_a_close_ends_the_waits_and_the_threads(open_again: Open) -> None:
    """Who waits while the store is closed gets None at once; nothing of kazoo goes on running."""
    before = threading.active_count()
    store = open_again()
    version = store.put("head", b"1", None)
    told: list[object] = []
    thread = threading.Thread(target=lambda: told.append(store.wait("head", version, 30)))
    thread.start()
    time.sleep(0.2)
    begun = time.monotonic()
    store.close()
    thread.join(30)

    assert told == [None]
    assert time.monotonic() - begun < 10
    wait_until(lambda: threading.active_count() <= before)


def test_a_node_made_anew_with_the_same_counter_is_another_version(open_again: Open) -> None:
    """Both counters are 0, and neither a write nor a removal that was decided on the first node touches the second."""
    store, other = open_again(), open_again()
    old = store.put("lease/a", b"first", None)
    other.delete("lease/a")
    other.put("lease/a", b"second", None)
    with pytest.raises(Changed):
        store.put("lease/a", b"third", old)
    with pytest.raises(Changed):
        store.delete("lease/a", old)
    assert other.get("lease/a").body == b"second"  # type: ignore[union-attr]


def test_no_write_lands_on_a_node_made_anew(open_again: Open) -> None:
    """One client makes a node again and again, another writes over what it read: never over a later node than that."""
    maker, writer = open_again(), open_again()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            found = writer.get("lease/a")
            if found is not None and not found.body:
                with contextlib.suppress(Changed):
                    writer.put("lease/a", found.version.encode(), found.version)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    mistaken = 0
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        version = maker.put("lease/a", b"", None)
        found = maker.get("lease/a")
        assert found is not None
        mistaken += found.body not in (b"", version.encode())
        maker.delete("lease/a")
    stop.set()
    for thread in threads:
        thread.join()
    assert mistaken == 0


def test_removals_beside_it_disturb_no_write(open_again: Open) -> None:
    """A conditional write goes through while other documents of its directory come and go."""
    store, other = open_again(), open_again()
    version = store.put("lease/a", b"0", None)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            other.put("lease/b", b"x", ANY)
            other.delete("lease/b")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for number in range(50):
            version = store.put("lease/a", str(number).encode(), version)
    finally:
        stop.set()
        thread.join()
    assert store.get("lease/a").body == b"49"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "key", ["lease/.", "lease/..", "./a", "../a", "lease/a%2Fb", "lease/ä b", "zookeeper/quota", "..", "."]
)
def test_every_name_becomes_one_node(store: ZooKeeperStore, key: str) -> None:
    """Names that ZooKeeper refuses or that mean something in a path are quoted, and come back as they were."""
    version = store.put(key, b"1", None)
    prefix = key.rpartition("/")[0]
    assert store.get(key).version == version  # type: ignore[union-attr]
    assert list(store.get_all(f"{prefix}/" if prefix else "")) == [key]


def test_hundreds_of_nodes_are_read_together(store: ZooKeeperStore, server: StoreServer) -> None:
    """Over a distance of 10 ms, 600 documents take a fraction of the 6 s of as many questions one after the other."""
    for number in range(600):
        store.put(f"lease/host-{number}", b"x" * 100, None)
    with distant(server.port) as port:
        far = ZooKeeperStore.from_url(f"zookeeper://127.0.0.1:{port}/{store.address.path}")
        with contextlib.closing(far):
            far.get("lease/host-1")
            begun = time.monotonic()
            assert len(far.get_all("lease/")) == 600
            assert time.monotonic() - begun < 5


@contextlib.contextmanager
def distant(port: int) -> Iterator[int]:
    """The port of a server that is 10 ms farther away than `port`."""

    def carry(source: socket.socket, target: socket.socket, seconds: float) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(1 << 20):
                time.sleep(seconds)
                target.sendall(part)

    listener = socket.create_server(("127.0.0.1", 0))
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)

        def serve() -> None:
            with contextlib.suppress(OSError):
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                for one in (near, far):
                    stack.enter_context(one)
                threading.Thread(target=carry, args=(near, far, 0), daemon=True).start()
                carry(far, near, 0.01)

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])


def test_what_a_user_makes_is_that_users(open_again: Open) -> None:
    """With a user in the URL the nodes are closed to everybody else, who is told so without the password."""
    owner = open_again("anna:correct-horse-9")
    owner.put("head", b"1", None)
    assert owner.get("head").body == b"1"  # type: ignore[union-attr]
    for stranger in (open_again(), open_again("bert:battery-staple-7")):
        with pytest.raises(Unavailable, match="may not do this") as caught:
            stranger.get("head")
        assert "staple" not in f"{caught.value}{stranger!r}"


def test_nothing_secret_is_logged(open_again: Open, caplog: pytest.LogCaptureFixture) -> None:
    """At debug level too, neither bodies nor passwords are written."""
    with caplog.at_level(logging.DEBUG):
        store = open_again("anna:correct-horse-9")
        store.put("head", b"body-of-a-document", None)
        store.get("head")
    assert "correct-horse" not in caplog.text
    assert "body-of" not in caplog.text


def test_without_kazoo_the_extra_is_named() -> None:
    """Who has not installed kazoo is told what to install, when the store is first used and not before."""
    program = (
        "import sys; sys.modules['kazoo'] = None\n"
        "from atlas.opening import open_store\n"
        "store = open_store('zookeeper://127.0.0.1:1/x')\n"
        "try: store.get('head')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.startswith(ConfigurationError.__name__)
    assert "smartservice[zookeeper]" in told
