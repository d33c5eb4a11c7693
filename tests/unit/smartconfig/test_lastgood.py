"""The copy on disk."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path

import pytest

from smartconfig import Override, Overrides
from smartconfig.lastgood import LEFTOVER_SECONDS, LastGood, Unusable
from smartrealm.places import state_directory

GOOD = Overrides("v7", (Override("A", [1, {"x": None}], "identity", True, "anna"), Override("B", "ü")))


def store(directory: Path, source: str = "atlas") -> LastGood:
    return LastGood(directory, realm="testing", service="identity", source=source)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    """The overrides, their version and the moment they were confirmed survive."""
    store(tmp_path).save(GOOD, 123.5)
    kept = store(tmp_path).load()
    assert kept is not None
    assert kept.overrides == GOOD
    assert kept.saved_at == 123.5


def test_nothing_kept_is_none(tmp_path: Path) -> None:
    """Without a copy there is nothing to fear."""
    assert store(tmp_path).load() is None


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    """Mode 0600, whatever the umask; the directory 0700."""
    old = os.umask(0)
    try:
        store(tmp_path).save(GOOD, 1.0)
    finally:
        os.umask(old)
    path = store(tmp_path).path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_copy_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    """Group or world access means that anybody may have read or written it."""
    store(tmp_path).save(GOOD, 1.0)
    store(tmp_path).path.chmod(mode)
    with pytest.raises(Unusable, match="open to other users"):
        store(tmp_path).load()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_copy_of_another_user_is_refused(tmp_path: Path) -> None:
    """A file that somebody else owns is not ours to trust."""
    store(tmp_path).save(GOOD, 1.0)
    os.chown(store(tmp_path).path, 12345, -1)
    with pytest.raises(Unusable, match="another user"):
        store(tmp_path).load()


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    """The copy is a regular file at its own place."""
    store(tmp_path).save(GOOD, 1.0)
    path = store(tmp_path).path
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unusable):
        store(tmp_path).load()


def test_a_changed_copy_is_refused(tmp_path: Path) -> None:
    """A single changed value breaks the checksum."""
    store(tmp_path).save(GOOD, 1.0)
    path = store(tmp_path).path
    path.write_text(path.read_text().replace('"v7"', '"v8"'))
    with pytest.raises(Unusable, match="damaged"):
        store(tmp_path).load()


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"checksum": 1, "content": {}}', "[" * 100_000])
def test_garbage_is_refused(tmp_path: Path, content: str) -> None:
    """Whatever is in the file, it is refused, not believed."""
    store(tmp_path).save(GOOD, 1.0)
    store(tmp_path).path.write_text(content)
    with pytest.raises(Unusable, match="damaged"):
        store(tmp_path).load()


def test_a_copy_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """No prefix of a copy passes for one."""
    store(tmp_path).save(GOOD, 1.0)
    path = store(tmp_path).path
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(Unusable):
            store(tmp_path).load()


def test_services_and_sources_do_not_mix(tmp_path: Path) -> None:
    """Another source, and a file copied from another service, are not ours."""
    store(tmp_path).save(GOOD, 1.0)
    assert store(tmp_path, "another").load() is None
    other = LastGood(tmp_path, realm="testing", service="billing", source="atlas")
    other.path.write_bytes(store(tmp_path).path.read_bytes())
    other.path.chmod(0o600)
    with pytest.raises(Unusable):
        other.load()


def test_the_same_version_is_written_once(tmp_path: Path) -> None:
    """Four workers that learn of one version write it once; a refresh gives it a new date."""
    store(tmp_path).save(GOOD, 1.0)
    before = store(tmp_path).path.stat().st_ino
    store(tmp_path).save(GOOD, 2.0)
    assert store(tmp_path).path.stat().st_ino == before
    store(tmp_path).save(GOOD, 3.0, refresh=True)
    kept = store(tmp_path).load()
    assert kept is not None
    assert kept.saved_at == 3.0


def test_leftovers_of_killed_writers_go(tmp_path: Path) -> None:
    """A half-written file older than a minute is removed by the next writer, a fresh one may be in use."""
    kept = store(tmp_path)
    kept.save(GOOD, 1.0)
    old, new = (kept.path.parent / f".{kept.path.name}.{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("half")
    past = old.stat().st_mtime - LEFTOVER_SECONDS - 5
    os.utime(old, (past, past))
    kept.save(GOOD, 2.0, refresh=True)
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("value", [object(), {1, 2}, {("a",): 1}])
def test_what_has_no_json_form_is_told_once(tmp_path: Path, value: object, caplog: pytest.LogCaptureFixture) -> None:
    """A value that cannot be kept costs one warning, without the value, and no start."""
    kept = store(tmp_path)
    with caplog.at_level(logging.WARNING, "smartconfig"):
        for version in ("1", "2"):
            kept.save(Overrides(version, (Override("A", value),)), 1.0)
    assert [record.getMessage() for record in caplog.records] == [
        f"the last good configuration cannot be kept in {kept.path}: a value in it has no JSON form"
    ]


def test_a_disk_that_refuses_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A state directory that cannot be made costs one warning."""
    (tmp_path / "config").write_text("a file in the way")
    kept = store(tmp_path)
    with caplog.at_level(logging.WARNING, "smartconfig"):
        kept.save(GOOD, 1.0)
        kept.save(GOOD, 2.0, refresh=True)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STATE_DIR": "/a", "XDG_STATE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_STATE_HOME": "/b", "HOME": "/c"}, "/b/smartservice"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/c"}, "/c/.local/state/smartservice"),
        ({"HOME": "/c"}, "/c/.local/state/smartservice"),
    ],
)
def test_where_state_goes(environ: dict[str, str], expected: str) -> None:
    """STATE_DIR, else XDG_STATE_HOME, else the home directory."""
    assert state_directory(environ) == Path(expected)


def test_the_format_is_versioned(tmp_path: Path) -> None:
    """The file says its format, so that a later one can tell."""
    store(tmp_path).save(GOOD, 1.0)
    assert json.loads(store(tmp_path).path.read_text())["content"]["format"] == 1
