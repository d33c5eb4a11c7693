"""The URLs of stores, taken apart."""

from __future__ import annotations

import pytest

from atlas.stores.address import Address
from smartrealm.errors import ConfigurationError


def read(url: str) -> Address:
    return Address.of(url, port=2379, options=("tls", "ca", "timeout_seconds"), example="etcd://host/atlas")


def test_a_url_is_taken_apart() -> None:
    """Hosts get the default port, parts are unquoted, and what is shown has no credentials."""
    found = read("etcd://anna:p%40ss%2Fw:x@a,b:1234,[::1],[::2]:5/atlas/production/?timeout_seconds=2")
    assert found.hosts == ("a:2379", "b:1234", "[::1]:2379", "[::2]:5")
    assert (found.user, found.password, found.path) == ("anna", "p@ss/w:x", "atlas/production")
    assert found.seconds("timeout_seconds", 3) == 2
    assert found.shown == "etcd://a:2379,b:1234,[::1]:2379,[::2]:5/atlas/production"
    assert "p@ss" not in repr(found)


def test_every_mistake_of_a_url_is_told_together() -> None:
    """One attempt shows all of them, with an example, and never the password."""
    with pytest.raises(ConfigurationError) as caught:
        read("etcd://anna:hunter2@a:x,,c/path?tsl=1&timeot=2")
    assert len(caught.value.mistakes) == 4
    assert "etcd://host/atlas" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "told"), [("tls=perhaps", "neither true nor false"), ("tls=true&timeout_seconds=0", "from 0.01")]
)
def test_an_option_of_the_wrong_kind_is_told(query: str, told: str) -> None:
    """An option is named with what it should be."""
    address = read(f"etcd://a/x?{query}")
    with pytest.raises(ConfigurationError, match=told):
        _ = address.flag("tls") and address.seconds("timeout_seconds", 3)
