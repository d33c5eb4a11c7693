"""What the Consul store sends and how it reads answers, against a double; the contracts run against a real agent."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator

import pytest

from atlas.stores.consul import ConsulStore
from atlas.stores.store import ANY, LARGEST_BODY, Changed
from smartrealm.errors import ConfigurationError, Unavailable
from tests.consul_double import ConsulDouble, consul_double
from tests.processes import later

TOKEN = "b1gs3cr3t-9f8e"


@pytest.fixture
def double() -> Iterator[ConsulDouble]:
    with consul_double() as running:
        yield running


@pytest.fixture
def store(double: ConsulDouble) -> Iterator[ConsulStore]:
    found = ConsulStore.from_url(f"consul://127.0.0.1:{double.port}/realms/testing", environ={})
    yield found
    found.close()


def test_documents_lie_below_the_prefix(store: ConsulStore, double: ConsulDouble) -> None:
    """A key of the map is a key of Consul behind the path of the URL, and comes back without it."""
    version = store.put("lease/host-7", b"\x00body", None)

    assert double.body("realms/testing/lease/host-7") == b"\x00body"
    assert [(one.key, one.version) for one in store.get_all("lease/").values()] == [("lease/host-7", version)]


def test_a_body_written_again_has_a_new_version(store: ConsulStore) -> None:
    """Consul keeps the index of an entry that does not change; the flags make each write a change."""
    first = store.put("head", b"same", None)

    assert store.put("head", b"same", first) != first


def test_writes_stand_on_the_index(store: ConsulStore, double: ConsulDouble) -> None:
    """None, a version and ANY become the index 0, that index, and no condition."""
    version = store.put("head", b"1", None)
    for expected in (None, "1", "not-an-index"):
        with pytest.raises(Changed):
            store.put("head", b"2", expected)
    with pytest.raises(Changed):
        store.delete("head", "1")
    store.put("head", b"3", ANY)
    with pytest.raises(Changed):
        store.delete("head", version)
    assert double.body("realms/testing/head") == b"3"


def test_a_body_that_is_too_large_is_not_sent(store: ConsulStore, double: ConsulDouble) -> None:
    """More than LARGEST_BODY is a mistake of the caller."""
    with pytest.raises(ValueError, match="takes 262144"):
        store.put("head", bytes(LARGEST_BODY + 1), None)
    assert double.asked == []


def test_a_wait_is_a_blocking_query(store: ConsulStore, double: ConsulDouble) -> None:
    """After one read the store waits at the server, for a little less than it has."""
    version = store.put("head", b"1", None)
    with later(0.2, double.set, "realms/testing/head", b"2"):
        found = store.wait("head", version, 5)

    assert found is not None
    assert found.body == b"2"
    targets = [target for method, target, _ in double.asked if method == "GET"]
    assert targets[0] == "/v1/kv/realms/testing/head?consistent="
    assert re.fullmatch(rf"/v1/kv/realms/testing/head\?index={version}&wait=4[67]\d\dms", targets[1])


def test_an_index_that_goes_backwards_begins_the_wait_anew(store: ConsulStore, double: ConsulDouble) -> None:
    """After a restored snapshot the indexes are lower: the store reads again instead of waiting for the old ones."""
    double.index = 50

    def restore_and_write() -> None:
        double.restore()
        time.sleep(0.3)
        double.set("realms/testing/head", b"1")

    begun = time.monotonic()
    with later(0.2, restore_and_write):
        found = store.wait("head", None, 5)

    assert found is not None
    assert found.version == "3"
    assert time.monotonic() - begun < 10
    assert len(double.asked) < 30


def test_writes_to_other_keys_wake_nobody_for_long(store: ConsulStore, double: ConsulDouble) -> None:
    """A blocking query on a key that is not there returns with every write; the store goes on waiting."""
    stop = threading.Event()

    def write_elsewhere() -> None:
        while not stop.wait(0.01):
            double.set("somewhere/else", str(time.monotonic()).encode())

    writer = threading.Thread(target=write_elsewhere)
    writer.start()
    try:
        assert store.wait("head", None, 0.5) is None
    finally:
        stop.set()
        writer.join()
    assert len(double.asked) < 60


def test_the_token_goes_along_and_is_never_shown(double: ConsulDouble) -> None:
    """The URL's password goes before CONSUL_HTTP_TOKEN; neither is in a message."""
    place = f"127.0.0.1:{double.port}/atlas"
    for url, environ in (
        (f"consul://:{TOKEN}@{place}", {"CONSUL_HTTP_TOKEN": "other"}),
        (f"consul://{place}", {"CONSUL_HTTP_TOKEN": TOKEN}),
    ):
        store = ConsulStore.from_url(url, environ=environ)
        double.refuses = None
        store.get("head")
        assert double.asked[-1][2] == TOKEN
        double.refuses = (403, f"Permission denied: token {TOKEN}")
        with pytest.raises(Unavailable, match=r"answered 403.*check the token") as caught:
            store.get("head")
        assert TOKEN not in f"{caught.value}{store!r}{double.asked[-1][1]}"
        store.close()


def test_something_else_than_consul_is_told(store: ConsulStore, double: ConsulDouble) -> None:
    """A web server that answers something else is Unavailable, not a crash."""
    double.refuses = (200, "<html>")
    with pytest.raises(Unavailable, match="does not speak Consul"):
        store.get("head")


def test_a_refused_transaction_is_not_a_conflict(store: ConsulStore, double: ConsulDouble) -> None:
    """An error in a transaction that is not about the index leaves the caller with Unavailable."""
    double.refuses = (409, '{"Results": null, "Errors": [{"OpIndex": 0, "What": "Permission denied"}]}')
    with pytest.raises(Unavailable, match="Permission denied"):
        store.put("head", b"1", None)


def test_another_agent_is_asked_when_one_is_away(double: ConsulDouble) -> None:
    """Of several agents the one that answers is used."""
    store = ConsulStore.from_url(f"consul://127.0.0.1:1,127.0.0.1:{double.port}/atlas", environ={})
    version = store.put("head", b"1", None)
    assert store.get("head").version == version  # type: ignore[union-attr]
    store.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("consul://", "a host is missing"),
        ("consul://a:b", "no port from 1 to 65535"),
        ("consul://:hunter2@a/x?tsl=1", "unknown option 'tsl'"),
    ],
)
def test_a_url_that_cannot_be_used_is_told(url: str, told: str) -> None:
    """Every mistake is named with an example, and no credential is shown."""
    with pytest.raises(ConfigurationError) as caught:
        ConsulStore.from_url(url, environ={})
    assert told in str(caught.value)
    assert "consul://127.0.0.1:8500/atlas" in str(caught.value)
    assert "hunter2" not in str(caught.value)
