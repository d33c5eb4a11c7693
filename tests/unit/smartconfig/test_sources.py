"""Overrides from a watched file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from smartconfig import FileSource, Override, Overrides
from smartconfig.sources import LARGEST_FILE
from smartrealm import ConfigurationError
from smartrealm.errors import Unavailable


def test_a_flat_file_is_meant_for_its_reader(tmp_path: Path) -> None:
    """Upper-case names at the top belong to the service that reads the file; objects below are scopes."""
    path = tmp_path / "overrides.json"
    path.write_text(json.dumps({"PAGE_SIZE": 50, "*": {"A": None}, "identity": {"B": {"x": 1}}}))
    assert FileSource(path).current().entries == (
        Override("PAGE_SIZE", 50, scope=""),
        Override("A", None, scope="*"),
        Override("B", {"x": 1}, scope="identity"),
    )


def test_a_value_may_carry_author_and_secrecy(tmp_path: Path) -> None:
    """`{"value": ..., "author": ..., "secret": ...}` says more; any other object is the value itself."""
    path = tmp_path / "overrides.json"
    path.write_text(
        json.dumps(
            {
                "A": {"value": 1, "author": "anna", "secret": True},
                "B": {"value": 1, "extra": 2},
                "C": {"value": {"value": 3}},
            }
        )
    )
    assert FileSource(path).current().entries == (
        Override("A", 1, scope="", secret=True, author="anna"),
        Override("B", {"value": 1, "extra": 2}, scope=""),
        Override("C", {"value": 3}, scope=""),
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not JSON: Expecting value (line 1, column 1)"),
        (b'{"A": ', "is not JSON"),
        (b"[1]", "must hold a JSON object of settings, not a list"),
        (b"null", "must hold a JSON object of settings, not a null"),
        (b'{"A": 1, "A": 2}', "'A' is given twice"),
        (b'{"*": {"A": 1, "A": 2}}', "'A' is given twice"),
        (b'{"A": NaN}', "NaN is no JSON number"),
        (b'{"A": -Infinity}', "-Infinity is no JSON number"),
        (b'{"A": 1e999}', "a number is too large"),
        (b'{"A": ' + b"1" * 5000 + b"}", "a number or a nesting that is too large"),
        (b'{"A": ' + b"[" * 100_000, "a number or a nesting that is too large"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b'{"a_b": 1}', "'a_b' is neither a setting (upper case) nor a scope"),
        (b'{"identity": 1}', "scope 'identity' must hold an object"),
        (b'{"identity": {"a": 1}}', "'a' in scope 'identity' is not the name of a setting"),
        (b'{"A": {"value": 1, "author": 5}}', "the author of A must be text"),
        (b'{"A": {"value": 1, "secret": "no"}}', "`secret` of A must be true or false"),
        (b" " * (LARGEST_FILE + 1), "is larger than"),
    ],
)
def test_garbage_is_refused_with_a_sentence(tmp_path: Path, content: bytes, complaint: str) -> None:
    """Whatever is in the file, it is read completely or refused with the place and the reason."""
    path = tmp_path / "overrides.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        FileSource(path).current()
    assert complaint in caught.value.mistakes[0]
    assert str(path) in caught.value.mistakes[0]


def test_every_mistake_in_the_file_is_listed(tmp_path: Path) -> None:
    """Three mistakes, three sentences."""
    path = tmp_path / "overrides.json"
    path.write_text('{"a_b": 1, "identity": 2, "A": {"value": 1, "author": 5}}')
    with pytest.raises(ConfigurationError) as caught:
        FileSource(path).current()
    assert len(caught.value.mistakes) == 3


@pytest.mark.parametrize("kind", ["absent", "directory", "fifo"])
def test_what_is_no_file_is_unavailable(tmp_path: Path, kind: str) -> None:
    """A missing file, a directory and a named pipe are an outage; none of them blocks."""
    path = tmp_path / "overrides.json"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(Unavailable, match=r"overrides\.json"):
        FileSource(path).current()


def test_the_version_follows_the_content(tmp_path: Path) -> None:
    """Equal content has an equal version in every process and path; other content has another."""
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    for path in (first, second):
        path.write_text('{"A": 1}')
    assert FileSource(first).current().version == FileSource(second).current().version
    second.write_text('{"A": 2}')
    assert FileSource(first).current().version != FileSource(second).current().version


def test_waiting_ends_with_the_first_change(tmp_path: Path) -> None:
    """`wait` looks at its pace, and gives the new overrides as soon as it sees them."""
    path = tmp_path / "overrides.json"
    path.write_text('{"A": 1}')
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            path.write_text('{"A": 2}')

    source = FileSource(path, poll_seconds=0.5, sleep=sleep, clock=lambda: 0.5 * len(slept))
    answer = source.wait(source.current().version, 60.0)
    assert answer is not None
    assert answer.entries[0].value == 2
    assert slept == [0.5, 0.5, 0.5]


def test_waiting_ends_when_the_time_is_up(tmp_path: Path) -> None:
    """Nothing changed: `wait` gives None, after one look at least."""
    path = tmp_path / "overrides.json"
    path.write_text('{"A": 1}')
    slept: list[float] = []
    source = FileSource(path, poll_seconds=0.5, sleep=slept.append, clock=lambda: sum(slept))
    version = source.current().version
    assert source.wait(version, 1.2) is None
    assert sum(slept) == pytest.approx(1.2)
    assert source.wait(version, 0.0) is None
    assert source.wait("another", 0.0) is not None


def test_a_settled_file_costs_one_stat(tmp_path: Path) -> None:
    """A file that was found unchanged for two seconds is not read again until its stat changes."""
    path = tmp_path / "overrides.json"
    path.write_text('{"A": 1}')
    past = os.stat(path).st_mtime - 10
    os.utime(path, (past, past))
    source = FileSource(path)
    assert source.current() is source.current()
    path.write_text('{"A": 2}')
    assert source.current().entries[0].value == 2


def test_a_second_write_within_one_tick_is_seen(tmp_path: Path) -> None:
    """A file system with a slow clock shows no difference: a file that was written a moment ago is read again."""
    path = tmp_path / "overrides.json"

    class SlowClock(FileSource):
        def _mark(self) -> tuple[int, ...]:
            return (1_000_000_000, 0, 8, 1, 1)

    now = [1.5]
    source = SlowClock(path, wall_clock=lambda: now[0])
    for number in (1, 2):
        path.write_text(f'{{"A": {number}}}')
        assert source.current().entries[0].value == number
    now[0] = 9.0
    assert source.current() is source.current()


def test_reprs_show_no_value() -> None:
    """Neither an override nor a set of them shows a value."""
    override = Override("A", "hunter2")
    assert "hunter2" not in repr(override) + repr(Overrides("v", (override,)))
