"""What a program can observe of what it did, as plain values that can be compared."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http.cookiejar import CookieJar
from types import ModuleType
from typing import Any

import requests

from tests.live.plain.server import Seen, Server


@dataclass(frozen=True)
class Run:
    """Everything that can be seen of one program: its result, its warnings, what the servers saw."""

    result: Any
    warnings: list[Any]
    seen: list[Any]


@dataclass(frozen=True)
class Place:
    """The servers of a program: `here`, `there` (another port), `safe` (https with a certificate of its own)."""

    here: Server
    there: Server
    safe: Server


Program = Callable[[ModuleType, Place], object]


def run(program: Program, library: ModuleType, place: Place) -> Run:
    """The program with `library` as its requests."""
    servers = (place.here, place.there, place.safe)
    for server in servers:
        server.forget()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        result = observe(program(library, place))
    return Run(
        result,
        [(warning.category, plain_text(str(warning.message))) for warning in warned if not _is_about_garbage(warning)],
        [[observe(seen) for seen in server.seen] for server in servers],
    )


def _is_about_garbage(warning: warnings.WarningMessage) -> bool:
    """Whether this was said by the garbage collector, which comes when it likes."""
    return issubclass(warning.category, ResourceWarning)


def attempt(call: Callable[..., object], *arguments: Any, **keywords: Any) -> Any:
    """What the call gives, or the exception that it raises: for programs that go on."""
    try:
        return call(*arguments, **keywords)
    except Exception as error:
        return error


def observe(value: object) -> Any:
    """Plain values for responses, requests, exceptions, jars and containers of them."""
    if isinstance(value, requests.Response):
        return _response(value)
    if isinstance(value, requests.PreparedRequest):
        return _prepared(value)
    if isinstance(value, BaseException):
        return _error(value)
    if isinstance(value, Seen):
        headers = tuple((name, plain_text(text)) for name, text in value.headers)
        return (plain_text(value.line), headers, plain_bytes(value.body), value.connection > 0)
    if isinstance(value, CookieJar):
        return sorted((cookie.name, cookie.value, cookie.domain, cookie.path) for cookie in value)
    if isinstance(value, timedelta):
        return ("elapsed", value > timedelta(0))
    if isinstance(value, Mapping):
        return {observe(key): observe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [observe(item) for item in value]
    if isinstance(value, bytes):
        return plain_bytes(value)
    return plain_text(value) if isinstance(value, str) else value


def _response(response: requests.Response) -> dict[str, Any]:
    return {
        "class": type(response),
        "url": response.url,
        "status": (response.status_code, response.reason, response.ok),
        "headers": list(response.headers.items()),
        "encoding": (response.encoding, attempt(lambda: response.apparent_encoding)),
        "body": observe(attempt(lambda: response.content)),
        "text": observe(attempt(lambda: response.text)),
        "links": response.links,
        "cookies": observe(response.cookies),
        "elapsed": observe(response.elapsed),
        "redirect": (response.is_redirect, response.is_permanent_redirect),
        "next": observe(attempt(lambda: response.next)),
        "history": [observe(earlier) for earlier in response.history],
        "request": observe(response.request),
    }


def _prepared(request: requests.PreparedRequest) -> dict[str, Any]:
    return {
        "class": type(request),
        "method": request.method,
        "url": request.url,
        "headers": [(name, observe(value)) for name, value in (request.headers or {}).items()],
        "body": observe(request.body) if isinstance(request.body, str | bytes | None) else type(request.body),
        "hooks": {name: len(hooks) for name, hooks in request.hooks.items()},
    }


def _error(error: BaseException) -> dict[str, Any]:
    return {
        "class": type(error),
        "text": plain_text(str(error)),
        "cause": type(error.__cause__),
        "context": type(error.__context__),
        "request": observe(getattr(error, "request", None)),
        "response": observe(getattr(error, "response", None)),
    }


_CHANGING = [
    (re.compile(r"0x[0-9a-f]{6,}"), "0x"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<32 hex>"),
    (re.compile(r'(cnonce|response)="[0-9a-f]+"'), r'\1=""'),
    (re.compile(r"(\d+\.\d+)? ?seconds? ?left"), "seconds left"),
]


def plain_text(text: str) -> str:
    """The text without what differs from run to run: addresses, multipart boundaries, client nonces."""
    for pattern, replacement in _CHANGING:
        text = pattern.sub(replacement, text)
    return text


def plain_bytes(data: bytes) -> bytes:
    """As `plain_text`, for bytes."""
    return plain_text(data.decode("latin1")).encode("latin1")
