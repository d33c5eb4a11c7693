"""From what somebody wrote to what a setting's type asks for.

The plain types are converted here, so that a service whose settings are plain never pays for importing pydantic
(150 to 220 ms); everything else goes through pydantic's TypeAdapter.
"""

from __future__ import annotations

import json
import math
import re
from collections import abc
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from smartconfig.declarations import unmarked
from smartconfig.marks import Mark

_TRUE = frozenset("1 true yes on y t".split())
_FALSE = frozenset("0 false no off n f".split())
_NOTHING = frozenset(["", "none", "null"])
_INTEGER = re.compile(r"[+-]?[0-9]{1,100}")
_SEQUENCES = (list, tuple, set, frozenset)
_LISTED = (*_SEQUENCES, abc.Sequence, abc.Set, abc.Collection, abc.Iterable)
_LONGEST_HINT = 120

_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
    set: "a list",
    frozenset: "a list",
    dict: "an object",
    bytes: "bytes",
    NoneType: "null",
    timedelta: "a duration (seconds, or ISO 8601 such as PT30S)",
}

# What pydantic says in these cases depends on the type alone, never on the input; safe to repeat for a secret.
_SAFE_FOR_SECRETS = frozenset(
    "string_type string_too_short string_too_long string_pattern_mismatch int_type int_parsing float_type float_parsing "
    "bool_type bool_parsing greater_than greater_than_equal less_than less_than_equal too_short too_long missing "
    "list_type dict_type bytes_type bytes_too_short bytes_too_long literal_error enum".split()
)


class Misfit(Exception):
    """A value does not fit its type. The text says what was expected, with nothing of the value in it."""

    def __init__(self, expected: str, details: tuple[tuple[str, str, str], ...] = ()) -> None:
        super().__init__(expected)
        self.expected = expected
        self.details = details
        """(place, pydantic's error type, pydantic's message) for each part; a message may quote the value."""

    def told(self, *, secret: bool) -> str:
        """What was expected, as exactly as can be said; for a secret without anything that could quote it."""
        said = [
            f"{place}: {message}" if place and not secret else message
            for place, kind, message in self.details
            if (place or not kind.endswith(("_type", "_parsing"))) and (not secret or kind in _SAFE_FOR_SECRETS)
        ]
        return "; ".join(said) or self.expected


def convert(value: Any, hint: Any) -> Any:
    """The value as `hint` asks for it: itself when it fits, else converted. Raises Misfit."""
    if fits(value, hint):
        return copied(value)
    core = _core(hint)
    if core in (int, float) and isinstance(value, bool):
        raise Misfit(describe(hint))
    if isinstance(value, str):
        if NoneType in _arms(hint) and value.strip().lower() in _NOTHING:
            return None
        value = _read_text(value, core, hint)
    result = _plain(value, hint) if hint in (bool, int, float) or _is_enum(hint) else _by_arm(value, hint)
    if isinstance(result, float) and not math.isfinite(result):
        raise Misfit("a finite number")
    return result


def fits(value: Any, hint: Any) -> bool:
    """Whether a value already is what `hint` asks for, as far as that can be told without pydantic."""
    if hint is Any:
        return True
    if hint is None:
        return value is None
    origin, arms = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return all(isinstance(item, Mark) for item in hint.__metadata__) and fits(value, arms[0])
    if origin in (Union, UnionType):
        return any(fits(value, arm) for arm in arms)
    if origin is Literal:
        return any(type(value) is type(arm) and value == arm for arm in arms)
    if origin in (list, set, frozenset):
        return isinstance(value, origin) and all(fits(item, arms[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(key, arms[0]) and fits(item, arms[1]) for key, item in value.items()
        )
    if origin is tuple:
        return isinstance(value, tuple) and _fits_tuple(value, arms)
    return isinstance(hint, type) and origin is None and _is_instance(value, hint)


def _fits_tuple(value: tuple[Any, ...], arms: tuple[Any, ...]) -> bool:
    if len(arms) == 2 and arms[1] is Ellipsis:
        return all(fits(item, arms[0]) for item in value)
    return len(value) == len(arms) and all(fits(item, arm) for item, arm in zip(value, arms, strict=True))


def _is_instance(value: Any, hint: type) -> bool:
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    try:
        return isinstance(value, hint)
    except TypeError:  # a TypedDict, a protocol
        return False


def copied(value: Any) -> Any:
    """A copy of lists, dictionaries and sets, so that one reader's change is nobody else's."""
    if type(value) is list:
        return [copied(item) for item in value]
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    return set(value) if type(value) is set else value


def _core(hint: Any) -> Any:
    """The type under Annotated and `| None`."""
    if get_origin(hint) is Annotated:
        return _core(get_args(hint)[0])
    arms = [arm for arm in _arms(hint) if arm is not NoneType]
    return _core(arms[0]) if len(arms) == 1 and arms[0] is not hint else hint


def _arms(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Annotated:
        return _arms(get_args(hint)[0])
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _read_text(text: str, core: Any, hint: Any) -> Any:
    """What a text means for a type that is not text: JSON for lists and objects, a comma list for plain lists."""
    if core in (bool, int, float) or _is_enum(core):
        return _plain(text, core)
    if isinstance(core, type) and issubclass(core, PurePath):
        return core(text)
    kind = get_origin(core) or core
    if core is timedelta:
        return timedelta(seconds=_plain(text, float)) if _INTEGER.fullmatch(text.strip()) else text
    if kind is Literal:
        return _choice(text, get_args(core))
    if not _is_composite(kind):
        return text
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise Misfit(f"{describe(hint)}, as JSON") from None
    if kind in _LISTED:
        return [part.strip() for part in text.split(",") if part.strip()]
    raise Misfit(f"{describe(hint)}, as JSON")


def _choice(text: str, choices: tuple[Any, ...]) -> Any:
    """The choice that the text means: itself, else the first that is written so (`2`, `true`)."""
    if text in choices:
        return text
    for choice in choices:
        try:
            if not isinstance(choice, str) and _plain(text, type(choice)) == choice:
                return choice
        except Misfit:
            continue
    return text


def _is_composite(kind: Any) -> bool:
    if kind in _LISTED or (isinstance(kind, type) and issubclass(kind, Mapping)):
        return True
    return any(hasattr(kind, name) for name in ("model_fields", "__dataclass_fields__", "__required_keys__"))


def _plain(value: Any, hint: Any) -> Any:
    """A switch, a number or a member of an enumeration. Raises Misfit."""
    if isinstance(hint, type) and isinstance(value, hint) and type(value) is not bool:
        return value
    if _is_enum(hint):
        for member in hint:
            if value == member.value or (isinstance(value, str) and value in (str(member.value), member.name)):
                return member
        raise Misfit(describe(hint))
    word = value.strip().lower() if isinstance(value, str) else value
    if hint is bool and (value is True or value is False):
        return value
    if hint is bool and (word in _TRUE or word == 1):
        return True
    if hint is bool and (word in _FALSE or word == 0):
        return False
    if hint is int and isinstance(word, str) and _INTEGER.fullmatch(word):
        return int(word)
    if hint is int and isinstance(word, float) and word.is_integer():
        return int(word)
    if hint is float and isinstance(word, str | int) and "_" not in str(word):
        try:
            number = float(word)
        except (ValueError, OverflowError):
            raise Misfit(describe(hint)) from None
        if math.isfinite(number):
            return number
    raise Misfit(describe(hint))


def _by_arm(value: Any, hint: Any) -> Any:
    """The value if it fits by now, else what pydantic makes of it."""
    if fits(value, hint):
        return copied(value)
    core = _core(hint)
    if get_origin(hint) is not Annotated and (core in (bool, int, float, str) or _is_enum(core)):
        return _plain(value, core)
    return _with_pydantic(value, hint)


def _with_pydantic(value: Any, hint: Any) -> Any:
    from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

    try:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hint)
        except PydanticSchemaGenerationError:
            adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        return adapter.validate_python(value)
    except ValidationError as error:
        details = tuple(
            (".".join(str(part) for part in item["loc"]), item["type"], _said(item["msg"]))
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise Misfit(describe(hint), details) from None
    except (PydanticSchemaGenerationError, PydanticUserError):
        raise Misfit(f"{describe(hint)}, which cannot be given from outside") from None
    except Exception as error:  # a validator that somebody wrote
        raise Misfit(f"{describe(hint)} (checking it failed with {type(error).__name__})") from None


def _said(message: str) -> str:
    for start in ("Input should be ", "Value error, ", "Assertion failed, "):
        message = message.removeprefix(start)
    return message


def describe(hint: Any) -> str:
    """The type in words for a person who sets a value: `a whole number`, `one of 'a', 'b'`, `a list of text`."""
    origin, arms = get_origin(hint), get_args(hint)
    if hint is Any:
        return "anything"
    if origin is Annotated:
        return describe(arms[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(describe(arm) for arm in arms))
    if origin is Literal:
        return "one of " + ", ".join(repr(arm) for arm in arms)
    if origin in _SEQUENCES and arms:
        return f"a list of {_plural(describe(arms[0]))}"
    if _is_enum(hint):
        return "one of " + ", ".join(repr(member.value) for member in hint)
    named = _NAMES.get(origin or hint)
    return named or f"a {type_name(hint)}"


def _plural(described: str) -> str:
    words = {"a whole number": "whole numbers", "a number": "numbers", "an object": "objects", "a list": "lists"}
    return words.get(described, described)


def type_name(hint: Any) -> str:
    """The type as its author wrote it, short: `int`, `list[str]`, `str | None`."""
    if hint is Any:
        return "any"
    if hint is NoneType or hint is None:
        return "None"
    origin, arms = get_origin(hint), get_args(hint)
    if origin is Annotated:
        plain, _ = unmarked(hint)
        extra = [text for text in map(_constraint, getattr(plain, "__metadata__", ())) if text]
        return ", ".join([type_name(arms[0]), *extra])
    if origin in (Union, UnionType):
        return " | ".join(type_name(arm) for arm in arms)
    if origin is Literal:
        return "Literal[" + ", ".join(repr(arm) for arm in arms) + "]"
    if origin is not None and arms:
        inside = ", ".join("..." if arm is Ellipsis else type_name(arm) for arm in arms)
        return f"{getattr(origin, '__name__', str(origin))}[{inside}]"
    return str(getattr(hint, "__name__", hint))[:_LONGEST_HINT]


_LIMITS = {
    "ge": "at least {}",
    "gt": "more than {}",
    "le": "at most {}",
    "lt": "less than {}",
    "min_length": "length at least {}",
    "max_length": "length at most {}",
    "multiple_of": "a multiple of {}",
    "pattern": "matching {}",
}


def _constraint(item: Any) -> str:
    """`Field(ge=1, le=100)` or `annotated_types.Ge(1)` in words."""
    parts = [item, *(getattr(item, "metadata", None) or ())]
    return ", ".join(
        words.format(getattr(part, name))
        for part in parts
        for name, words in _LIMITS.items()
        if getattr(part, name, None) is not None
    )
