"""What the functions stand on that `smartclient consumer` writes: one call, and an error that says what was answered."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests
from requests import Response as Response

if TYPE_CHECKING:
    from smartclient.keywords import CallKeywords
    from smartclient.sessions import Session

    class Options(CallKeywords, total=False):
        """What every written function takes beside its own parameters."""

        headers: Mapping[str, str]
        session: Session
        """A session of one's own, for its cookies, headers, hooks or mesh."""


_VARIABLE = re.compile(r"\{([^{}]+)\}")
_NOTHING: Any = object()


def call(
    service: str,
    method: str,
    path: str,
    *,
    variables: Mapping[str, object] | None = None,
    slashes: Collection[str] = (),
    query: Mapping[str, object] | None = None,
    body: object = _NOTHING,
    options: Options | None = None,
) -> requests.Response:
    """Call `method` of `service` at the path, its `{variables}` filled in; those in `slashes` may hold slashes.

    What is None in the query is not sent. Raises requests.HTTPError with the problem that the service answered, and
    ValueError for a variable that would lead to another path.
    """
    import smartclient

    keywords: dict[str, Any] = dict(options or {})
    session = keywords.pop("session", None)
    if body is not _NOTHING:
        keywords["json"] = body
    if query:
        keywords["params"] = list(_pairs(query))
    url = service + _VARIABLE.sub(lambda found: _filled(found[1], variables or {}, slashes), path)
    request = smartclient.request if session is None else session.request
    response: requests.Response = request(method, url, **keywords)
    if response.status_code >= 400:
        raise requests.HTTPError(_said(service, method, path, response), response=response)
    return response


def _filled(name: str, variables: Mapping[str, object], slashes: Collection[str]) -> str:
    text = _text(variables[name])
    parts = text.split("/") if name in slashes else [text]
    if any(part in (".", "..", "") for part in parts):
        raise ValueError(f"{name} is {text!r}: a part of a path is neither empty nor made of dots.")
    return quote(text, safe="/" if name in slashes else "")


def _pairs(query: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    for name, value in query.items():
        if isinstance(value, Mapping):  # an object is its members (style form, exploded)
            yield from _pairs(value)
            continue
        values = value if isinstance(value, list | tuple | set | frozenset) else [value]
        yield from ((name, _text(one)) for one in values if one is not None)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime | date | time) else str(value)


def _said(service: str, method: str, path: str, response: requests.Response) -> str:
    """One sentence: what was asked, the status, and the code and detail of the problem."""
    problem: Any = None
    if response.headers.get("Content-Type", "").partition(";")[0] == "application/problem+json":
        try:
            problem = response.json()
        except ValueError:
            pass
    told = [str(problem[name]) for name in ("code", "detail") if problem.get(name)] if isinstance(problem, dict) else []
    what = ": ".join(told) or response.reason or "no reason given"
    return f"{service.removeprefix('service://')} answered {response.status_code} to {method} {path}: {what}"
