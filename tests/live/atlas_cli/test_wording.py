"""How the map is told in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from atlas.model import Change, Edit
from atlas.server.wording import (
    change_json,
    change_line,
    edit_text,
    kind_of,
    parse_span,
    parse_value,
    table,
    value_and_kind,
    value_text,
)
from smartrealm.errors import ValidationFailed
from smartrealm.wording import plain, span


@pytest.mark.parametrize(
    ("text", "value", "kind"),
    [
        ("50", 50, "a number"),
        ("-1.5", -1.5, "a number"),
        ("true", True, "true or false"),
        ("True", "True", "text"),
        ("null", None, "null"),
        ('"50"', "50", "text"),
        ("fast", "fast", "text"),
        ("", "", "text"),
        ("007", "007", "text"),
        ("NaN", "NaN", "text"),
        ("[1, 2]", [1, 2], "a list"),
        ('{"a": 1}', {"a": 1}, "an object"),
        ("{broken", "{broken", "text"),
    ],
)
def test_a_value_is_json_where_it_is_json(text: str, value: Any, kind: str) -> None:
    """What is typed becomes JSON where it can, and the answer says what it became."""
    understood = parse_value(text)
    assert understood == value
    assert type(understood) is type(value)
    assert value_and_kind(understood) == f"{json.dumps(value)} ({kind})"
    assert kind_of(understood) == kind


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("15min", 900),
        ("15m", 900),
        ("2h", 7200),
        ("1h30m", 5400),
        ("7d", 604800),
        ("1.5h", 5400),
    ],
)
def test_lengths_of_time_are_written_as_people_say_them(text: str, seconds: float) -> None:
    """Every unit, alone and together."""
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "2x", "2h!", "-2h", "0", "tomorrow", "99999d"])
def test_a_length_that_is_none_is_explained(text: str) -> None:
    """What cannot be a length of time is refused with examples."""
    with pytest.raises(ValidationFailed, match=r"90s|ten years"):
        parse_span(text)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-3, "0 s"), (12, "12 s"), (99, "99 s"), (600, "10 min"), (7200, "2 h"), (11400, "3 h 10 min")],
)
def test_a_length_is_told_in_the_unit_that_fits(seconds: float, told: str) -> None:
    """Short ones in seconds, long ones in hours."""
    assert span(seconds) == told


def test_text_of_others_cannot_steer_the_terminal() -> None:
    """Escape sequences, line breaks and reversed writing are replaced."""
    assert plain("a\x1b[31mb\nc\x9b2Jd\u202ee") == "a\ufffd[31mb\ufffdc\ufffd2Jd\ufffde"


def test_a_long_value_is_cut_and_its_length_told() -> None:
    """Nobody gets a screen full of one value."""
    assert value_text("x" * 500).endswith("(502 characters)")
    assert len(value_text("x" * 500)) < 120


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (Edit("override", "identity/PAGE_SIZE", {"value": 20}, {"value": 50}), "identity PAGE_SIZE = 50 (was 20)"),
        (Edit("override", "*/LEVEL", None, {"value": "debug"}), '* LEVEL = "debug"'),
        (Edit("override", "identity/KEY", {"value": "x", "secret": True}, None), "identity KEY unset (was (secret))"),
        (
            Edit("ruling", "identity/web-1:8010", None, {"state": "disabled", "reason": "slow\nvery"}),
            "identity web-1:8010 disabled (slow very)",
        ),
        (Edit("service", "identity", {"owner": "a"}, {"owner": "b"}), 'identity changed: owner "b" (was "a")'),
        (Edit("token", "ab12", None, {"role": "reader", "subject": "wall"}), "token ab12 (reader for wall) made"),
        (Edit("instance", "identity/web-1:8010", None, {"version": "2"}), "identity web-1:8010 came version 2"),
        (Edit("instance", "identity/web-1:8010", {}, None), "identity web-1:8010 left"),
    ],
)
def test_an_edit_is_one_sentence(edit: Edit, told: str) -> None:
    """Each kind of edit reads like a sentence, from what to what."""
    assert edit_text(edit) == told


def test_a_secret_is_in_no_form_of_a_change() -> None:
    """Neither the line nor the JSON of a change holds the value of a secret or the hash of a token."""
    edits = (
        Edit("override", "identity/KEY", {"value": "hunter1", "secret": True}, {"value": "hunter2", "secret": True}),
        Edit("token", "ab12", None, {"role": "reader", "subject": "wall", "digest": "hunter3"}),
    )
    change = Change(1, 100.0, "anna", "", edits)
    assert "hunter" not in change_line(change, 200.0) + json.dumps(change_json(change)) + " ".join(
        map(edit_text, edits)
    )


def test_columns_are_aligned_whatever_their_colour() -> None:
    """Styled cells take the room of their letters."""
    lines = table(("a", "b"), [("\x1b[31mred\x1b[0m", "1"), ("plain", "22")], right=("b",))
    assert lines[1] == "\x1b[31mred\x1b[0m     1"
    assert lines[2] == "plain  22"
