"""Makes a requests.Response of what came over the wire."""

from __future__ import annotations

import inspect
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import requests
from requests.cookies import extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers
from urllib3.exceptions import DecodeError, HTTPError, ProtocolError

from smartclient.errors import Attempt, DeadlineExceeded
from smartclient.routing import from_virtual, service_of
from smartclient.transport import Answer, Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def make(request: requests.PreparedRequest, answer: Answer, seconds: float) -> requests.Response:
    """The response, its body unread."""
    response = requests.Response()
    response.status_code = answer.status
    headers: CaseInsensitiveDict[str] = CaseInsensitiveDict(answer.headers)  # repeated ones are joined
    response.headers = headers
    response.encoding = get_encoding_from_headers(headers)
    response.raw = answer
    response.reason = answer.reason or ""
    response.url = from_virtual(request.url or "")
    response.request = request
    response.elapsed = timedelta(seconds=seconds)
    if "set-cookie" in headers:
        extract_cookies_to_jar(response.cookies, request, answer)  # type: ignore[no-untyped-call]
    return response


def read(response: requests.Response) -> None:
    """Read the whole body, as `response.content` does. Raises Failed when it breaks off, and what requests raises for a body
    that cannot be decoded."""
    try:
        content = response.raw.read(decode_content=True)
    except DeadlineExceeded as error:
        raise Failed("timeout", error, sent=True) from error
    except ProtocolError as error:
        raise Failed("body", error, sent=True) from error
    except DecodeError as error:
        raise requests.exceptions.ContentDecodingError(error, request=response.request, response=response) from error
    except (HTTPError, OSError) as error:
        raise Failed("body", error, sent=True) from error
    response._content = content
    response._content_consumed = True  # type: ignore[attr-defined]


def with_attempts(response: requests.Response, attempts: Sequence[Attempt]) -> requests.Response:
    """The response with the list of what was tried."""
    told = response.attempts = tuple(attempts)  # type: ignore[attr-defined]
    raw, content = response.raw, cast(object, response._content)
    if content is False and type(raw) is Answer:  # it is read later
        raw.attempts, raw.service = told, service_of(response.request.url or "") or ""
    return response


def from_fallback(fallback: Any, error: Exception, url: str) -> requests.Response:
    """What stands in for a failed call: `fallback` itself, or what it returns, called with the error if it takes one."""
    if callable(fallback) and not isinstance(fallback, requests.Response):
        fallback = fallback(error) if _takes_an_argument(fallback) else fallback()
    return _as_response(fallback, url)


def _takes_an_argument(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _as_response(value: Any, url: str) -> requests.Response:
    """The value itself when it is a response, else 200 with it as JSON; text and bytes as they are."""
    if isinstance(value, requests.Response):
        return value
    response = requests.Response()
    response.status_code = 200
    response.reason = "OK"
    response.url = url
    kind = "text/plain; charset=utf-8" if isinstance(value, str) else "application/octet-stream"
    if not isinstance(value, str | bytes):
        value, kind = json.dumps(value), "application/json"
    response.headers["Content-Type"] = kind
    response.encoding = "utf-8"
    response._content = value.encode() if isinstance(value, str) else value
    response._content_consumed = True  # type: ignore[attr-defined]
    return response
