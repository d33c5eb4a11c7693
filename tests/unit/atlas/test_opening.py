"""`atlas.open` understands every URL of a map, or says which there are."""

from __future__ import annotations

from pathlib import Path

import pytest

import atlas
from atlas.book import Book
from atlas.opening import STORES, open_store, scheme_of
from atlas.stores.sqlite import SqliteStore
from smartrealm.errors import ConfigurationError


def test_nothing_is_connected_by_opening(tmp_path: Path) -> None:
    """A URL gives a map; the file comes with the first use."""
    directory = atlas.open(f"sqlite:///{tmp_path}/realm.db", environ={})
    assert isinstance(directory, Book)
    assert list(tmp_path.iterdir()) == []
    assert directory.world().services == {}
    assert (tmp_path / "realm.db").exists()
    directory.close()


def test_the_local_realm_has_a_map_by_itself(tmp_path: Path) -> None:
    """Without a URL it is the file `atlas.db` in the state directory, which all services of the machine share."""
    with atlas.open(environ={"STATE_DIR": str(tmp_path)}) as directory:
        directory.world()
    assert (tmp_path / "atlas.db").exists()


def test_another_realm_must_be_told(tmp_path: Path) -> None:
    """In production nobody falls back to a file: the error names ATLAS_URL and what it may hold."""
    with pytest.raises(ConfigurationError, match=r"production.*ATLAS_URL.*zookeeper://"):
        atlas.open(environ={"REALM": "production", "STATE_DIR": str(tmp_path)})
    url = f"sqlite:///{tmp_path}/realm.db"
    with atlas.open(environ={"REALM": "production", "ATLAS_URL": url}) as directory:
        directory.world()
    assert (tmp_path / "realm.db").exists()


def test_two_stores_are_joined(tmp_path: Path) -> None:
    """The catalogue goes to the first, presence to the second."""
    url = f"sqlite:///{tmp_path}/c.db + sqlite:///{tmp_path}/p.db"
    with atlas.open(url, environ={}) as directory:
        directory.put_service(atlas.Service("identity"), by=atlas.Author("anna"))
        directory.hold(atlas.Lease("host-1", "i1"))
    for name, keys in (("c", ["log/catalogue/head"]), ("p", ["log/presence/head"])):
        store = SqliteStore(tmp_path / f"{name}.db")
        assert list(store.get_all("log/")) == keys
        store.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqllite:///x.db", "Did you mean sqlite://"),
        ("zookeper://a", "Did you mean zookeeper://"),
        ("htp://a", "Did you mean http://"),
        ("mysql://anna:s3cret@host/db", "no store mysql://"),
        ("realm.db", "begins with a scheme"),
        ("127.0.0.1:7070", "Did you mean http://127.0.0.1:7070\\?"),
        ("anna:s3cret@host:7070", "begins with a scheme"),
        ("//anna:s3cret@host", "begins with a scheme"),
        ("sqlite:///a + sqlite:///b + sqlite:///c", "two joined"),
        ("sqlite:///a + http://anna:s3cret@b", "cannot be joined"),
        ("sqlite:///a + s3cret", "begins with a scheme"),
    ],
)
def test_what_is_not_understood_is_explained(url: str, told: str) -> None:
    """The known forms and the likely meaning are named, credentials never."""
    with pytest.raises(ConfigurationError, match=told) as caught:
        atlas.open(url, environ={})
    assert "s3cret" not in str(caught.value)


def test_every_scheme_has_its_store() -> None:
    """The classes that the table names exist and take a URL."""
    examples = {
        "sqlite": "sqlite:///realm.db",
        "zookeeper": "zookeeper://a:2181,b:2181/realm",
        "dynamodb": "dynamodb://eu-central-1/realm",
        "etcd": "etcd://a:2379,b:2379/realm",
        "consul": "consul://a:8500/realm",
    }
    assert examples.keys() == STORES.keys()
    for scheme, url in examples.items():
        assert type(open_store(url)).__name__ == STORES[scheme][1]


@pytest.mark.parametrize(
    ("url", "scheme"), [("HTTP://a", "http"), ("a b://c", ""), ("", ""), ("://", ""), ("1://a", "")]
)
def test_a_scheme_is_a_word_before_two_slashes(url: str, scheme: str) -> None:
    """In small letters, and nothing else of the URL."""
    assert scheme_of(url) == scheme


def test_keys_are_checked_when_it_is_opened(tmp_path: Path) -> None:
    """A wrong ATLAS_KEYS is said at once, not with the first secret."""
    with pytest.raises(ConfigurationError, match="ATLAS_KEYS"):
        atlas.open(f"sqlite:///{tmp_path}/realm.db", environ={"ATLAS_KEYS": "nonsense"})
