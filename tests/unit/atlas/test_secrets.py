"""Secrets are sealed before anything is written, and open only with the right key under the right name."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from atlas.secrets import SecretBox, Unreadable
from smartrealm.errors import ConfigurationError, NotConfigured

ONE, TWO = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.mark.parametrize("value", ["s3cret", "", None, 1, {"a": ["ü"]}])
def test_what_is_sealed_is_opened(value: Any) -> None:
    """Any JSON value comes back, and does not show in its sealed form."""
    sealed = SecretBox(ONE).seal("identity/KEY", value)
    assert "s3cret" not in repr(sealed)
    assert SecretBox(ONE).open("identity/KEY", sealed) == value


def test_a_sealed_value_belongs_to_its_name() -> None:
    """Copied to another setting it opens nowhere."""
    sealed = SecretBox(ONE).seal("identity/KEY", "s3cret")
    with pytest.raises(Unreadable):
        SecretBox(ONE).open("billing/KEY", sealed)


def test_the_first_key_seals_and_all_of_them_open() -> None:
    """Keys are rotated by putting the new one in front, and dropping the old one after resealing."""
    old = SecretBox(ONE).seal("a/K", 1)
    both = SecretBox(f"{TWO}, {ONE}")
    new = both.seal("a/K", 2)
    assert (both.open("a/K", old), both.open("a/K", new), SecretBox(TWO).open("a/K", new)) == (1, 2, 2)
    for box in (SecretBox(TWO), SecretBox()):
        with pytest.raises(Unreadable):
            box.open("a/K", old)


@pytest.mark.parametrize("sealed", [None, {}, {"sealed": 5}, {"sealed": "gAAA"}, "text", []])
def test_what_was_never_sealed_is_unreadable(sealed: Any) -> None:
    """Damage is told as damage."""
    with pytest.raises(Unreadable):
        SecretBox(ONE).open("a/K", sealed)


def test_without_a_key_nothing_is_sealed() -> None:
    """The error names the setting and how to make a key."""
    with pytest.raises(NotConfigured, match=r"ATLAS_KEYS.*generate_key"):
        SecretBox().seal("a/K", 1)


@pytest.mark.parametrize("keys", ["hello", f"{ONE},s3cret", ","], ids=["a word", "one of two", "a comma"])
def test_a_wrong_key_is_refused_without_showing_it(keys: str) -> None:
    """ConfigurationError when it is opened, with the name of the setting and none of the keys."""
    with pytest.raises(ConfigurationError, match="ATLAS_KEYS") as caught:
        SecretBox(keys)
    assert "s3cret" not in str(caught.value)
    assert ONE not in str(caught.value)


def test_a_local_map_makes_its_own_key(tmp_path: Path) -> None:
    """The key file is made with the first secret, for its owner only, and used by every process from then on."""
    file = tmp_path / "new" / "realm.db.key"
    box = SecretBox(file=file)
    assert not file.exists()
    sealed = box.seal("a/K", 1)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert SecretBox(file=file).open("a/K", sealed) == 1
    assert [path.name for path in file.parent.iterdir()] == ["realm.db.key"]


def test_reading_makes_no_key(tmp_path: Path) -> None:
    """Who only reads leaves nothing behind."""
    with pytest.raises(Unreadable):
        SecretBox(file=tmp_path / "key").open("a/K", SecretBox(ONE).seal("a/K", 1))
    assert list(tmp_path.iterdir()) == []


def test_one_key_is_made_by_many_at_once(tmp_path: Path) -> None:
    """Processes that need a key at the same moment get the same one."""
    boxes = [SecretBox(file=tmp_path / "key") for _ in range(8)]
    sealed: list[Any] = []
    threads = [threading.Thread(target=lambda box=box: sealed.append(box.seal("a/K", 1))) for box in boxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [SecretBox(file=tmp_path / "key").open("a/K", one) for one in sealed] == [1] * 8


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """Its mode and how to mend it are said."""
    file = tmp_path / "key"
    file.write_text(ONE)
    os.chmod(file, 0o644)
    with pytest.raises(ConfigurationError, match=r"0644.*chmod 600"):
        SecretBox(file=file).seal("a/K", 1)


def test_its_repr_shows_no_key() -> None:
    """Nor does anything else that is printed by accident."""
    assert repr(SecretBox(ONE)) == "<SecretBox with keys from ATLAS_KEYS>"
