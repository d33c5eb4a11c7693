"""How values look when a person may see them."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from smartconfig.shown import LONGEST, display, shown


class Colour(Enum):
    RED = "red"


class Limits(BaseModel):
    burst: int = 5
    password: str = "hunter2"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (timedelta(minutes=1), 60.0),
        ((1, Colour.RED), [1, "red"]),
        ({"b", "a"}, ["a", "b"]),
        (Limits(), {"burst": 5, "password": "********"}),
        (SecretStr("hunter2"), "********"),
        (Path("/tmp"), "/tmp"),
        (int, "<int>"),
        ({"redis": "redis://:hunter2@h/0"}, {"redis": "redis://:********@h/0"}),
        (None, None),
    ],
)
def test_values_have_a_json_form(value: Any, expected: object) -> None:
    """Every kind of value is shown as JSON can write it, what is secret inside is masked."""
    assert display(value, secret=False) == expected


@pytest.mark.parametrize("value", [Limits(), SecretStr("hunter2"), b"hunter2", ["hunter2"], 5, Colour.RED])
def test_secrets_of_every_kind_have_a_fingerprint(value: Any) -> None:
    """Equal values look equal under one key and different under another, and show nothing."""
    first, again, other = (display(value, secret=True, fingerprint_key=key) for key in (b"a", b"a", b"b"))
    assert first == again != other
    assert first.startswith("******** (hmac ")
    assert "hunter2" not in shown(value, secret=True)


def test_a_long_value_is_cut_after_masking() -> None:
    """A message stays readable, and the cut opens no mask."""
    text = shown("x" * (LONGEST - 20) + " postgres://u:hunter2hunter2hunter2@h/x", secret=False)
    assert len(text) == LONGEST
    assert "hunter2" not in text
