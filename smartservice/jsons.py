"""The one JSON of a service: what views return, what resources return and what problems say is written here.

| Python | JSON |
|---|---|
| `datetime`, `date`, `time` | RFC 3339 text, UTC as `Z`; a datetime without a zone stays without one |
| `timedelta` | ISO 8601 duration in seconds: `PT90.5S` |
| `UUID`, `PurePath` | text |
| `Decimal` | text, every digit kept |
| `Enum` | its value |
| dataclass, pydantic model | an object (a pydantic model by its aliases) |
| `set`, `frozenset`, generator | a list |
| NaN, infinity | null, since JSON has no word for them |
| keys that are no text | what the key would be as a value, as text |
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from flask import Response
from flask.json.provider import DefaultJSONProvider


def to_json_type(value: Any) -> Any:
    """What a value that JSON does not know is written as. Raises TypeError for one that has no good text."""
    if isinstance(value, datetime | time):
        text = value.isoformat()
        return f"{text[:-6]}Z" if text.endswith("+00:00") else text
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID | Decimal | PurePath):
        return str(value)
    if isinstance(value, timedelta):
        return f"PT{value.total_seconds():.6f}".rstrip("0").rstrip(".") + "S"
    if isinstance(value, Enum):
        return value.value
    if hasattr(type(value), "__pydantic_serializer__") and hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, set | frozenset | Iterator):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "__html__"):
        return str(value.__html__())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: return a dict, a dataclass or a pydantic model")


_encode = json.JSONEncoder(default=to_json_type, allow_nan=False, separators=(",", ":")).encode


def encode(value: Any) -> str:
    """The compact JSON of a value, members in the order in which they were put in.

    Raises TypeError or ValueError for a value that cannot be written: an unknown type, a structure that holds itself.
    """
    try:
        return _encode(value)
    except (TypeError, ValueError):
        return _encode(_spelled_out(value, ()))  # once more, slowly: odd keys as text, NaN as null


def _spelled_out(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, Enum):
        return _spelled_out(value.value, above)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if id(value) in above:
        raise ValueError("a structure that holds itself cannot be written as JSON")
    above = (*above, id(value))
    if isinstance(value, Mapping):
        return {_key(key): _spelled_out(item, above) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled_out(item, above) for item in value]
    return _spelled_out(to_json_type(value), above)


def _key(key: Any) -> str | int | float | None:
    plain = _spelled_out(key, ())
    if plain is None or isinstance(plain, str | int | float):
        return plain
    raise TypeError(f"{type(key).__name__} cannot be a member name in JSON")


class SmartJSON(DefaultJSONProvider):
    """Flask's JSON provider over `encode`: `app.json.dumps`, `jsonify` and dicts that views return.

    Compact in every mode, so that the bytes of a reply do not depend on debug.
    """

    sort_keys = False
    compact = True
    default = staticmethod(to_json_type)

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """The JSON text; keyword arguments are those of `json.dumps`."""
        return super().dumps(obj, **kwargs) if kwargs else encode(obj)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """A reply with the JSON of its arguments, as `jsonify` takes them."""
        text = encode(self._prepare_response_obj(args, kwargs))
        response: Response = self._app.response_class(f"{text}\n", mimetype=self.mimetype)  # type: ignore[assignment]
        return response
