"""How a value looks when a person may see it: JSON-like text, secrets masked, nothing that moves a cursor."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import Enum
from typing import Any
from urllib.parse import quote, unquote

from smartrealm import mask, redact, redact_text
from smartrealm.redaction import MASK, is_secret_name

LONGEST = 100

_URL_PASSWORD = re.compile(r"://[^\s/:@'\"]*:([^\s'\"]+)@")

_USERINFO = re.compile(r":(?!\*)[^\s:@/\"]+@")
"""What may be a password in a URL that is written wrongly; only a value that was refused is searched for it."""


def plain(value: Any) -> Any:
    """The value as JSON can write it: members of enumerations by value, durations in seconds, models as objects."""
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if hasattr(value, "get_secret_value"):
        return mask(value.get_secret_value())
    return f"<{value.__name__}>" if isinstance(value, type) else _text(value)


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def display(value: Any, *, secret: bool, fingerprint_key: bytes | None = None) -> Any:
    """What a document may hold of this value: a mask for a secret, else the value with every secret in it masked."""
    if secret:
        return mask(unwrapped(value), fingerprint_key)
    return redact(plain(value))


def shown(value: Any, *, secret: bool) -> str:
    """The value in one line of text, cut to a readable length; for messages."""
    if secret:
        return mask(unwrapped(value))
    text = _USERINFO.sub(f":{MASK}@", one_line(display(value, secret=False)))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def one_line(displayed: Any) -> str:
    """JSON text of what `display` gave, with everything escaped that a terminal would act on."""
    return printable(json.dumps(displayed, ensure_ascii=False, default=str))


def printable(text: str) -> str:
    """The text with everything escaped that would end a line or move a cursor."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def unwrapped(value: Any) -> Any:
    """What is inside pydantic's secret types; a text that stays the same between processes for anything else."""
    if hasattr(value, "get_secret_value"):
        return value.get_secret_value()
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value.hex() if isinstance(value, bytes) else plain(value), sort_keys=True, default=str)


def secret_texts(value: Any, secret: bool) -> Iterator[str]:
    """Every text in a value that must not be shown: all of a secret, and the passwords in any URL."""
    if hasattr(value, "get_secret_value"):
        yield from secret_texts(value.get_secret_value(), True)
    elif isinstance(value, str):
        if secret and value:
            yield value
        for password in _URL_PASSWORD.findall(value) if "://" in value else ():
            yield from {password, unquote(password), quote(unquote(password), safe="")}
    elif isinstance(value, bytes):
        if secret and value:
            yield value.decode("utf-8", "backslashreplace")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from secret_texts(item, secret or is_secret_name(str(name)))
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from secret_texts(item, secret)
    elif hasattr(value, "model_dump"):
        yield from secret_texts(value.model_dump(), secret)
    elif value is not None and not isinstance(value, bool | int | float | type):
        yield from secret_texts(_text(value), secret)  # a URL object, a path
    elif secret and isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def told(text: str, secrets: tuple[str, ...]) -> str:
    """A sentence that somebody else wrote, safe to show: secrets masked, one line."""
    return " ".join(redact_text(text, secrets).split())
