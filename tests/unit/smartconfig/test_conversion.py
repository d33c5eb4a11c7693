"""From what somebody wrote to what a type asks for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, field_validator

from smartconfig.conversion import Misfit, convert, describe, type_name


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Limits(BaseModel):
    burst: int = 5
    names: list[str] = []

    @field_validator("names")
    @classmethod
    def no_hunters(cls, names: list[str]) -> list[str]:
        if any("hunter" in name for name in names):
            raise ValueError(f"bad names {names}")
        return names


class Thing:
    pass


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("5", int, 5),
        (" -5 ", int, -5),
        (5.0, int, 5),
        (5, float, 5.0),
        ("1e3", float, 1000.0),
        ("Yes", bool, True),
        ("0", bool, False),
        (1, bool, True),
        ("", str, ""),
        ("", int | None, None),
        ("null", int | None, None),
        ("", str | None, ""),
        ("7", int | None, 7),
        ("a, b,", list[str], ["a", "b"]),
        ('["a,b"]', list[str], ["a,b"]),
        ("", list[str], []),
        ("1,2", list[int], [1, 2]),
        ("1,2", tuple[int, ...], (1, 2)),
        (["a"], set[str], {"a"}),
        ("a,b", Sequence[str], ["a", "b"]),
        ('{"a": 1}', dict[str, int], {"a": 1}),
        ("B", Literal["A", "B"], "B"),
        ("2", Literal[1, 2], 2),
        ("off", Literal["auto", False], False),
        ("1", Literal[1, "1"], "1"),
        ("", Literal[1, 2] | None, None),
        ("2", Annotated[int, Field(ge=1)], 2),
        ("blue", Colour, Colour.BLUE),
        ("BLUE", Colour, Colour.BLUE),
        ("red", Colour | None, Colour.RED),
        (2, Level, Level.HIGH),
        ("2", Level, Level.HIGH),
        ("/tmp", Path, Path("/tmp")),
        ("PT30S", timedelta, timedelta(seconds=30)),
        ("30", timedelta, timedelta(seconds=30)),
        (30, timedelta, timedelta(seconds=30)),
        ("1.10", Decimal, Decimal("1.10")),
        ("12345678-1234-5678-1234-567812345678", UUID, UUID("12345678123456781234567812345678")),
        ('{"burst": 9}', Limits, Limits(burst=9)),
        ({"burst": "9"}, Limits, Limits(burst=9)),
        ("5", int | str, "5"),
        (object, Any, object),
    ],
)
def test_values_become_what_the_type_asks_for(value: object, hint: Any, expected: object) -> None:
    """Each way to write a value gives the value of the declared type."""
    found = convert(value, hint)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("many", int, "a whole number"),
        ("1_000", int, "a whole number"),
        ("", int, "a whole number"),
        (True, int, "a whole number"),
        (1.5, int, "a whole number"),
        (None, int, "a whole number"),
        ("nan", float, "a number"),
        ("1_0", float, "a number"),
        (float("inf"), Annotated[float, Field(ge=0)], "a finite number"),
        (True, Annotated[int, Field(ge=0)], "a whole number"),
        ("maybe", bool, "true or false"),
        (2, bool, "true or false"),
        (5, str, "text"),
        (5, list[str], "a list of text"),
        ("[1", list[int], "a list of whole numbers, as JSON"),
        ("5", dict[str, int], "an object, as JSON"),
        ("green", Colour, "one of 'red', 'blue'"),
        ("C", Literal["A", "B"], "'A' or 'B'"),
        ("0", Annotated[int, Field(ge=1)], "greater than or equal to 1"),
        ({"burst": "x"}, Limits, "burst: a valid integer, unable to parse string as an integer"),
        ("x", Thing, "an instance of Thing"),
    ],
)
def test_a_misfit_says_what_was_expected(value: object, hint: Any, expected: str) -> None:
    """What does not fit is refused with words for the person who wrote it."""
    with pytest.raises(Misfit) as caught:
        convert(value, hint)
    assert expected.lower() in caught.value.told(secret=False).lower()


def test_a_misfit_of_a_secret_quotes_nothing() -> None:
    """A validator's own message may hold the value: it is repeated for plain settings, never for secret ones."""
    with pytest.raises(Misfit) as caught:
        convert({"names": ["hunter2"]}, Limits)
    assert "hunter2" in caught.value.told(secret=False)
    assert caught.value.told(secret=True) == "a Limits"


def test_containers_are_copied() -> None:
    """The snapshot's list is nobody else's list."""
    default = {"a": [1]}
    found = convert(default, dict[str, list[int]])
    found["a"].append(2)
    assert default == {"a": [1]}


@pytest.mark.parametrize(
    ("hint", "name", "words"),
    [
        (int | None, "int | None", "a whole number or null"),
        (list[str], "list[str]", "a list of text"),
        (Literal["a", 1], "Literal['a', 1]", "one of 'a', 1"),
        (Annotated[int, Field(ge=1, le=9)], "int, at least 1, at most 9", "a whole number"),
        (Any, "any", "anything"),
        (Limits, "Limits", "a Limits"),
    ],
)
def test_types_have_names(hint: Any, name: str, words: str) -> None:
    """A type is told as its author wrote it, and in words."""
    assert type_name(hint) == name
    assert describe(hint) == words
