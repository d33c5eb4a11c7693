"""The files through which the instances of a host and its sidecar know each other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from atlas.announcement import (
    FOLDER,
    LOCK,
    MOST_BYTES,
    Announcement,
    Carrier,
    Sidecar,
    announce,
    is_carried,
    is_gone,
    own_pid_space,
    read,
    read_sidecar,
    withdraw,
)
from smartrealm.errors import ConfigurationError, Conflict, ValidationFailed

FULL = Announcement(
    "identity",
    8000,
    host="10.0.0.7",
    health="/ready",
    health_port=8001,
    version="1.4.2",
    weight=0,
    zone="a",
    incarnation="abc",
    draining=True,
    pid=123,
    pid_space="boot:1",
    by="create_app",
)


def drop(directory: Path, content: str | bytes, name: str = "identity.json", mode: int = 0o644) -> Path:
    """A file that somebody wrote into the folder by hand."""
    path = directory / FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("told", [FULL, Announcement("identity", 8000), Announcement("identity", 8000, host="fd00::7")])
def test_what_is_announced_is_read(tmp_path: Path, told: Announcement) -> None:
    """Every field comes back, from a file that an agent of another user can read."""
    path = announce(tmp_path, told)
    assert read(path) == told
    assert path.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_names_of_files_say_which_instance_it_is() -> None:
    """A look into the folder is enough for a person."""
    assert FULL.file_name == "identity@10.0.0.7:8000.json"
    assert Announcement("identity", 8000).file_name == "identity@:8000.json"
    assert Announcement("identity", 8000, host="fd00::7").file_name == "identity@[fd00::7]:8000.json"


def test_three_words_are_enough(tmp_path: Path) -> None:
    """A program in any language announces itself with a format, a name and a port."""
    found = read(drop(tmp_path, '{"format": 1, "service": "identity", "port": 8000}'))
    assert found == Announcement("identity", 8000)
    assert found.instance(host="10.0.0.7", zone="a").to_json() == {
        "service": "identity",
        "host": "10.0.0.7",
        "port": 8000,
        "zone": "a",
    }


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"format": 2}, "format"),
        ({"service": "No Name"}, "service"),
        ({"service": None}, "service"),
        ({"port": "8000"}, "port"),
        ({"port": True}, "port"),
        ({"port": 0}, "port"),
        ({"host": "a b"}, "host"),
        ({"host": "x\nserver evil"}, "host"),
        ({"health": "ready"}, "health"),
        ({"health": "/a b"}, "health"),
        ({"health": "/a\r\nX: y"}, "health"),
        ({"health_port": 70000}, "health_port"),
        ({"version": 14}, "version"),
        ({"weight": 1001}, "weight"),
        ({"weight": 1.5}, "weight"),
        ({"zone": ["a"]}, "zone"),
        ({"draining": "no"}, "draining"),
        ({"pid": -1}, "pid"),
        ({"by": "me"}, "by"),
        ({"prot": 8000}, "prot"),
    ],
)
def test_every_field_is_checked(change: dict[str, Any], field: str) -> None:
    """A mistake is named by its field; a misspelt one is none that is skipped."""
    with pytest.raises(ValidationFailed, match=f"{field}: ") as caught:
        Announcement.from_json({"format": 1, "service": "identity", "port": 8000, **change})
    assert [error["pointer"] for error in caught.value.errors] == [f"#/{field}"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * MOST_BYTES, b'{"format": 1, "port": ' + b"9" * 9000 + b"}"],
)
def test_a_bad_file_has_a_reason(tmp_path: Path, content: bytes) -> None:
    """Whatever is in it, reading raises ValidationFailed and nothing else."""
    with pytest.raises(ValidationFailed):
        read(drop(tmp_path, content))


def test_a_long_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    """16 KB are enough for everybody."""
    with pytest.raises(ValidationFailed, match="longer than 16384"):
        read(drop(tmp_path, b" " * (MOST_BYTES + 1)))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A link, a fifo and a directory are refused by what they are, and nobody waits for a fifo's writer."""
    good = drop(tmp_path, json.dumps(FULL.to_json()))
    folder = good.parent
    (folder / "link.json").symlink_to(good)
    os.mkfifo(folder / "fifo.json")
    (folder / "folder.json").mkdir()
    for name, reason in (("link", "symbolic link"), ("fifo", "no regular file"), ("folder", "no regular file")):
        with pytest.raises(ValidationFailed, match=reason):
            read(folder / f"{name}.json")


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """Who writes it says where calls go; the message says what to do."""
    content = json.dumps(FULL.to_json())
    with pytest.raises(ValidationFailed, match="chmod 644"):
        read(drop(tmp_path, content, mode=0o666))
    assert (
        read(drop(tmp_path, content, mode=0o664)) == FULL
    )  # the group of the folder is the group of those who announce


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to write as somebody else")
def test_strangers_do_not_announce(tmp_path: Path) -> None:
    """In a folder for everybody the files of others are refused by their owner's name; in that of a group its members' are good."""
    path = drop(tmp_path, json.dumps(FULL.to_json()))
    os.chown(path, 65534, 65534)
    path.parent.chmod(0o1777)
    with pytest.raises(ValidationFailed, match="It belongs to"):
        read(path)
    os.chown(path.parent, 0, 65534)
    path.parent.chmod(0o3775)
    assert read(path) == FULL


def test_an_instance_withdraws_what_it_announced(tmp_path: Path) -> None:
    """The file goes, and withdrawing twice is no mistake."""
    announce(tmp_path, FULL)
    assert withdraw(tmp_path, FULL)
    assert not withdraw(tmp_path, FULL)
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_an_old_instance_does_not_withdraw_the_new_one(tmp_path: Path) -> None:
    """One that ends after its successor has begun on the same port leaves the successor's file alone."""
    announce(tmp_path, FULL)
    successor = Announcement("identity", 8000, host="10.0.0.7", incarnation="def")
    path = announce(tmp_path, successor)
    assert not withdraw(tmp_path, FULL)
    assert read(path) == successor


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The message says which folder, and what to set."""
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(ConfigurationError, match=r"announce.*SIDECAR_DIR"):
        announce(tmp_path, FULL)


def test_a_living_agent_is_seen_and_not_disturbed(tmp_path: Path) -> None:
    """Nobody carries before the agent begins, it does until it ends, and asking never takes its lock."""
    assert not is_carried(tmp_path)
    with Carrier(tmp_path) as carrier:
        assert is_carried(tmp_path)
        assert repr(carrier).endswith("taken>")
    assert (tmp_path / LOCK).exists()
    assert not is_carried(tmp_path)
    with Carrier(tmp_path):
        assert is_carried(tmp_path)


def test_a_second_agent_learns_who_the_first_one_is(tmp_path: Path) -> None:
    """Two agents in one directory would undo each other's work."""
    with Carrier(tmp_path, pid=lambda: 4711), pytest.raises(Conflict, match="pid 4711"):
        Carrier(tmp_path).take()


def test_the_sidecar_says_how_services_are_called(tmp_path: Path) -> None:
    """It outlives the agent, since HAProxy does; one that leaves for good takes it along."""
    assert read_sidecar(tmp_path) is None
    carrier = Carrier(tmp_path, pid=lambda: 7).take()
    carrier.tell(Sidecar("http://127.0.0.1:4000", "/run/calls.sock", "testing", "10.0.0.7", tokens=True))
    told = Sidecar("http://127.0.0.1:4000", "/run/calls.sock", "testing", "10.0.0.7", 7, True)
    carrier.close()
    assert read_sidecar(tmp_path) == told
    Carrier(tmp_path).take().close(leave=True)
    assert read_sidecar(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"url": 1}', "[" * 9000])
def test_a_damaged_sidecar_file_is_none(tmp_path: Path, content: str) -> None:
    """Reading it raises nothing."""
    (tmp_path / "sidecar.json").write_text(content)
    assert read_sidecar(tmp_path) is None


def test_a_pid_is_judged_where_it_means_something() -> None:
    """Alive, gone, of an earlier boot (gone), of another container (nobody can tell)."""
    boot = own_pid_space().partition(":")[0]
    own = Announcement("identity", 8000, pid=os.getpid(), pid_space=own_pid_space())
    assert is_gone(own) is False
    assert is_gone(Announcement("identity", 8000, pid=2**30, pid_space=own_pid_space())) is True
    assert is_gone(Announcement("identity", 8000, pid=os.getpid(), pid_space="earlier:1")) is True
    assert is_gone(Announcement("identity", 8000, pid=2**30, pid_space=f"{boot}:1")) is None
    assert is_gone(Announcement("identity", 8000, pid=2**30)) is None
    assert is_gone(Announcement("identity", 8000)) is None


def test_the_space_of_a_pid_is_written_along(tmp_path: Path) -> None:
    """Whoever announces a pid need not know of boots and namespaces."""
    assert read(announce(tmp_path, Announcement("identity", 8000, pid=7))).pid_space == own_pid_space()
