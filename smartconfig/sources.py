"""Where overrides come from: any object with `current` and `wait`. A watched JSON file is one of them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from smartrealm import ConfigurationError, ServiceName
from smartrealm.errors import Unavailable

EVERY_SERVICE = "*"
"""The scope of an override that is meant for every service which declares the name."""

READER = ""
"""The scope of an override that is meant for whichever service reads it."""

LARGEST_FILE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Override:
    """One value that somebody set from outside. Its repr never shows the value."""

    key: str
    value: Any = field(repr=False)
    scope: str = EVERY_SERVICE
    """`*`, the name of one service, or empty: the service that reads it."""
    secret: bool = False
    author: str | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """Everything that a source says at one version. Equal versions mean equal entries, on every host."""

    version: str
    entries: tuple[Override, ...] = ()


class Source(Protocol):
    """Something that knows overrides. Both methods may raise anything when it cannot answer.

    A source that has to be polled also carries `poll_seconds`: it is then asked with `seconds=0` at that pace. One that
    waits by itself while it cannot answer carries `paces_itself = True`: it is not spared after a failure.
    """

    @property
    def name(self) -> str:
        """What a person would call it; part of every origin and of the name of the last good copy."""

    def current(self) -> Overrides:
        """The overrides now."""

    def wait(self, version: str, seconds: float) -> Overrides | None:
        """The overrides as soon as their version is not `version`; None when nothing changed for `seconds`."""


class FileSource:
    """Overrides from a JSON file, followed while it changes.

    `{"PAGE_SIZE": 50}` is meant for the service that reads it; `{"*": {...}, "identity": {...}}` has scopes. A value is
    plain, or `{"value": 50, "author": "anna", "secret": true}`. The version is a hash of the content, so that all
    processes agree on it. Replace the file by a rename; a half-written one is refused like any other garbage.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        poll_seconds: float = 0.5,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = os.path.abspath(os.fspath(path))
        self.poll_seconds = poll_seconds
        self._sleep = sleep
        self._clock = clock
        self._wall_clock = wall_clock
        self._settled: tuple[tuple[int, ...], Overrides] | None = None

    def __repr__(self) -> str:
        return f"FileSource({self.name!r})"

    def current(self) -> Overrides:
        """Read the file; a call that finds the same file as before costs one `stat`.

        Raises Unavailable when it cannot be read, ConfigurationError with every mistake when it is no such file.
        """
        settled = self._settled
        mark = self._mark()
        if settled is not None and settled[0] == mark:
            return settled[1]
        content = self._read()
        overrides = Overrides(hashlib.sha256(content).hexdigest()[:12], parse(content, self.name))
        # A second write within the same tick of the file system's clock leaves size and time as they were: what was
        # written just now is read again next time.
        if abs(self._wall_clock() - mark[0] / 1e9) > 2 and mark == self._mark():
            self._settled = mark, overrides
        return overrides

    def wait(self, version: str, seconds: float) -> Overrides | None:
        """Look every `poll_seconds` until the content is another one, at least once."""
        end = self._clock() + seconds
        while True:
            overrides = self.current()
            if overrides.version != version:
                return overrides
            left = end - self._clock()
            if left <= 0:
                return None
            self._sleep(min(self.poll_seconds, left))

    def _mark(self) -> tuple[int, ...]:
        try:
            found = os.stat(self.name)
        except OSError as error:
            raise _unreadable(self.name, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise Unavailable(f"{self.name} is not a regular file.")
        return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)

    def _read(self) -> bytes:
        try:
            with open(self.name, "rb") as file:
                content = file.read(LARGEST_FILE + 1)
        except OSError as error:
            raise _unreadable(self.name, error) from error
        if len(content) > LARGEST_FILE:
            raise ConfigurationError(mistakes=[f"{self.name} is larger than {LARGEST_FILE} bytes."])
        return content


def _unreadable(name: str, error: OSError) -> Unavailable:
    return Unavailable(f"{name} cannot be read: {error.strerror or type(error).__name__}.")


def parse(content: bytes, name: str) -> tuple[Override, ...]:
    """The entries in the text of an overrides file. Raises ConfigurationError with every mistake; shows no value."""
    document = _document(content, name)
    mistakes: list[str] = []
    entries: list[Override] = []
    for key, value in document.items():
        if key.isupper():
            entries.append(_entry(key, value, READER, name, mistakes))
        elif not _is_scope(key):
            mistakes.append(
                f"{name}: {key!r} is neither a setting (upper case) nor a scope (`*` or the name of a service)."
            )
        elif not isinstance(value, dict):
            mistakes.append(f"{name}: scope {key!r} must hold an object of settings.")
        else:
            entries += [_entry(inner, item, key, name, mistakes) for inner, item in value.items()]
    if mistakes:
        raise ConfigurationError(mistakes=mistakes)
    return tuple(entries)


def _entry(key: str, value: Any, scope: str, name: str, mistakes: list[str]) -> Override:
    if not key.isupper():
        mistakes.append(f"{name}: {key!r} in scope {scope!r} is not the name of a setting (upper case).")
    if not isinstance(value, dict) or "value" not in value or not value.keys() <= {"value", "author", "secret"}:
        return Override(key, value, scope)
    author, secret = value.get("author"), value.get("secret", False)
    if author is not None and not isinstance(author, str):
        mistakes.append(f"{name}: the author of {key} must be text.")
        author = None
    if not isinstance(secret, bool):
        mistakes.append(f"{name}: `secret` of {key} must be true or false.")
        secret = True
    return Override(key, value["value"], scope, secret, author)


def _is_scope(key: str) -> bool:
    if key == EVERY_SERVICE:
        return True
    try:
        ServiceName(key)
    except ConfigurationError:
        return False
    return True


def _document(content: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(
            content.decode("utf-8-sig"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_such_number,
            parse_float=_finite,
        )
    except UnicodeDecodeError:
        raise ConfigurationError(mistakes=[f"{name} is not UTF-8 text."]) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ConfigurationError(mistakes=[f"{name} is not JSON: {error.msg} ({place})."]) from None
    except _Refused as error:
        raise ConfigurationError(mistakes=[f"{name}: {error}."]) from None
    except (ValueError, RecursionError):
        raise ConfigurationError(mistakes=[f"{name} holds a number or a nesting that is too large."]) from None
    if not isinstance(document, dict):
        raise ConfigurationError(mistakes=[f"{name} must hold a JSON object of settings, not a {_kind(document)}."])
    return document


class _Refused(Exception):
    """JSON that Python would read, and nobody should write."""


def _without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _Refused(f"{key!r} is given twice")
        result[key] = value
    return result


def _no_such_number(text: str) -> NoReturn:
    raise _Refused(f"{text} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _Refused("a number is too large")
    return number


def _kind(value: Any) -> str:
    kinds = {list: "list", str: "text", int: "number", float: "number", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)
