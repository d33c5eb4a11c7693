"""What is particular to etcd: pages, compaction, several endpoints, users."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from atlas.stores.etcd import EtcdStore
from atlas.stores.store import ANY
from smartrealm.errors import Unavailable
from tests.processes import free_port, later
from tests.store_servers import StoreServer, etcd_cluster, etcd_server

_numbers = itertools.count(1)
PASSWORD = "correct-horse-9"


@pytest.fixture
def server(etcd: StoreServer) -> StoreServer:
    return etcd


@pytest.fixture
def store(server: StoreServer) -> Iterator[EtcdStore]:
    with contextlib.closing(EtcdStore.from_url(server.url(f"own-{next(_numbers)}"))) as found:
        yield found


def ask(server: StoreServer, what: str, request: object, token: str = "") -> Any:
    """Ask the gateway, as an operator would with etcdctl."""
    headers = {"Content-Type": "application/json", **({"Authorization": token} if token else {})}
    question = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v3/{what}", json.dumps(request).encode(), headers
    )
    with urllib.request.urlopen(question, timeout=5) as answer:
        return json.load(answer)


def test_keys_are_readable_below_the_prefix(store: EtcdStore, server: StoreServer) -> None:
    """A document lies at prefix/key, where etcdctl shows it."""
    store.put("lease/host-7", b"body", None)
    key = b64encode(f"{store.address.path}/lease/host-7".encode()).decode()
    assert ask(server, "kv/range", {"key": key})["kvs"][0]["value"] == b64encode(b"body").decode()


def test_more_documents_than_a_page_are_all_found(store: EtcdStore) -> None:
    """`get_all` reads pages of a hundred until there is none, and includes bodies of the largest size."""
    for number in range(205):
        store.put(f"lease/{number:03}", b"x" * 1000, ANY)
    assert list(store.get_all("lease/")) == [f"lease/{number:03}" for number in range(205)]


def test_a_wait_survives_a_compaction(store: EtcdStore, server: StoreServer) -> None:
    """A watch whose revision is compacted away begins again with a read; the next write is told."""
    version = store.put("head", b"1", None)
    told: list[bytes] = []

    def wait() -> None:
        found = store.wait("head", version, 10)
        told.append(found.body if found else b"")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    other = EtcdStore.from_url(server.url("elsewhere"))
    for number in range(50):
        latest = other.put("noise", str(number).encode(), ANY)
    ask(server, "kv/compaction", {"revision": latest, "physical": True})
    assert store._watch("head", 1, 1.0, time.monotonic() + 5) is None, "a compacted revision ends the watch"
    store.put("head", b"2", version)
    thread.join(30)
    other.close()

    assert told == [b"2"]


def test_thousands_of_waits_leave_nothing_open(store: EtcdStore, server: StoreServer) -> None:
    """A wait that ends closes its watch: the server holds none of them afterwards."""
    version = store.put("head", b"1", None)
    for _ in range(300):
        assert store.wait("head", version, 0.001) is None
    end = time.monotonic() + 5
    while watchers(server) and time.monotonic() < end:
        time.sleep(0.05)
    assert watchers(server) == 0


def watchers(server: StoreServer) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("etcd_debugging_mvcc_watcher_total "):
                return int(float(line.split()[1]))
    raise AssertionError("no such metric")


def test_the_endpoint_that_answers_is_used(server: StoreServer) -> None:
    """One of three endpoints refuses, one is silent, the third answers; after the first time nothing is waited for."""
    with etcd_server() as silent:
        silent.freeze()
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{silent.port},127.0.0.1:{server.port}"
        store = EtcdStore.from_url(f"etcd://{hosts}/own-{next(_numbers)}?timeout_seconds=3")
        with contextlib.closing(store):
            assert store.get("head") is None
            begun = time.monotonic()
            version = store.put("head", b"1", None)
            with later(0.2, store.put, "head", b"2", version):
                assert store.wait("head", version, 5).body == b"2"  # type: ignore[union-attr]
            assert time.monotonic() - begun < 2.5  # the silent one would be waited for 3 s, each time
        silent.thaw()


def test_a_connection_that_was_closed_is_noticed_before_it_is_used() -> None:
    """The first write after a restart is done: it is not sent into a connection that ended with the old server."""
    with etcd_server() as server:
        store = EtcdStore.from_url(server.url("own"))
        with contextlib.closing(store):
            version = store.put("head", b"1", None)
            server.kill()
            server.start()
            store.put("head", b"2", version)
            assert getattr(store.get("head"), "body", None) == b"2"


def test_a_write_goes_on_to_the_next_endpoint_only_when_it_was_never_sent(server: StoreServer) -> None:
    """A refused connection carries nothing, so the next endpoint is asked; a silent one may have done it: Unavailable."""
    with etcd_server() as silent:
        silent.freeze()
        place = f"127.0.0.1:{server.port}/own-{next(_numbers)}?timeout_seconds=1"
        refused = EtcdStore.from_url(f"etcd://127.0.0.1:{free_port()},{place}")
        waiting = EtcdStore.from_url(f"etcd://127.0.0.1:{silent.port},{place}")
        with contextlib.closing(refused), contextlib.closing(waiting):
            version = refused.put("head", b"1", None)
            with pytest.raises(Unavailable, match="silent"):
                waiting.put("head", b"2", version)
            assert waiting.get("head").body == b"1"  # type: ignore[union-attr]
            waiting.put("head", b"2", version)
        silent.thaw()


def test_a_wait_at_a_server_without_majority_does_not_sleep_through_it() -> None:
    """A server that lost the others ends its watch: the wait reads again, and fails when no endpoint knows better."""
    with etcd_cluster(3) as servers:

        def cut_off() -> None:
            for server in servers[1:]:
                server.freeze()

        store = EtcdStore.from_url(servers[0].url("own") + "?timeout_seconds=1")
        with contextlib.closing(store):
            version = store.put("head", b"1", None)
            begun = time.monotonic()
            with later(0.3, cut_off), pytest.raises(Unavailable):
                store.wait("head", version, 30)
            assert time.monotonic() - begun < 28
            for server in servers[1:]:
                server.thaw()


@pytest.fixture
def guarded() -> Iterator[StoreServer]:
    """An etcd that knows root and anna, who may read and write below own/."""
    with guarded_etcd() as server:
        yield server


@contextlib.contextmanager
def guarded_etcd(*options: str) -> Iterator[StoreServer]:
    with etcd_server(*options) as server:
        ask(server, "auth/role/add", {"name": "own"})
        begin, end = (b64encode(key).decode() for key in (b"own/", b"own0"))
        permission = {"permType": "READWRITE", "key": begin, "range_end": end}
        ask(server, "auth/role/grant", {"name": "own", "perm": permission})
        for name, role in (("root", "root"), ("anna", "own")):
            ask(server, "auth/user/add", {"name": name, "password": PASSWORD})
            ask(server, "auth/user/grant", {"user": name, "role": role})
        ask(server, "auth/enable", {})
        yield server


def test_a_user_logs_in_and_again_when_the_token_is_not_known_any_more(guarded: StoreServer) -> None:
    """The token is fetched with the first request and anew after the server forgot it; waits work with it too."""
    store = EtcdStore.from_url(f"etcd://anna:{PASSWORD}@127.0.0.1:{guarded.port}/own")
    with contextlib.closing(store):
        version = store.put("head", b"1", None)
        guarded.kill()
        guarded.start()
        assert store.get("head").version == version  # type: ignore[union-attr]
        with later(0.3, store.put, "head", b"2", version):
            assert store.wait("head", version, 5).body == b"2"  # type: ignore[union-attr]


def test_a_change_of_the_users_disturbs_nobody(tmp_path: Path) -> None:
    """A signed token that is older than the last change of users and roles is refused; the store fetches a new one."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "private").write_bytes(key.private_bytes(*kinds))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public").write_bytes(public)
    signed = f"jwt,pub-key={tmp_path / 'public'},priv-key={tmp_path / 'private'},sign-method=RS256"
    with contextlib.ExitStack() as stack:
        guarded = stack.enter_context(guarded_etcd("--auth-token", signed))
        store = EtcdStore.from_url(f"etcd://anna:{PASSWORD}@127.0.0.1:{guarded.port}/own")
        stack.enter_context(contextlib.closing(store))
        version = store.put("head", b"1", None)
        root = ask(guarded, "auth/authenticate", {"name": "root", "password": PASSWORD})["token"]
        ask(guarded, "auth/user/add", {"name": "bert", "password": PASSWORD}, root)
        store.put("head", b"2", version)
        assert store.get("head").body == b"2"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("user", "path", "told"),
    [
        (f"anna:wrong-{PASSWORD}@", "own", "does not let 'anna' in"),
        ("", "own", "refuses"),
        (f"anna:{PASSWORD}@", "other", "permission denied"),
    ],
)
def test_who_may_not_is_told_without_the_password(guarded: StoreServer, user: str, path: str, told: str) -> None:
    """A wrong password, none, and a prefix that is somebody else's are told apart; the password is never shown."""
    store = EtcdStore.from_url(f"etcd://{user}127.0.0.1:{guarded.port}/{path}")
    with contextlib.closing(store):
        for attempt in (lambda: store.get("head"), lambda: store.put("head", b"1", None)):
            with pytest.raises(Unavailable, match=told) as caught:
                attempt()
            assert PASSWORD not in f"{caught.value}{store!r}{store.address!r}"
