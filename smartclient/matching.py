"""What a request in a test is, what was registered for it, and why the two do not fit. Pure."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import requests
from requests.structures import CaseInsensitiveDict

from smartclient.routing import from_virtual
from smartrealm import headers as words, redact, redact_text

NOT_GIVEN: Any = type("NotGiven", (), {"__repr__": lambda self: "not given"})()
_VARIABLE = re.compile(r"\\\{(\w+)\\\}")


@dataclass(frozen=True, repr=False)
class Made:
    """One request that was made, as it would have gone over the wire."""

    method: str
    url: str
    """Without its query: `service://identity/teams`."""
    params: Mapping[str, list[str]]
    headers: Mapping[str, str]
    content: bytes
    attempt: int = 1
    """Which attempt of its call, counted from 1."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What stood in the place of each `{name}` of the registered URL."""

    @classmethod
    def of(cls, request: requests.PreparedRequest) -> Made:
        """Read a prepared request; a body that is a file or a generator is read to its end."""
        parts = urlsplit(from_virtual(request.url or ""))
        params: dict[str, list[str]] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            params.setdefault(name, []).append(value)
        attempt = request.headers.get(words.ATTEMPT, "1")
        return cls(
            method=(request.method or "GET").upper(),
            url=plain_url(from_virtual(request.url or "")),
            params=params,
            headers=CaseInsensitiveDict((name, _text(value)) for name, value in request.headers.items()),
            content=content_of(request.body),
            attempt=int(attempt) if attempt.isdecimal() else 1,
        )

    @property
    def service(self) -> str | None:
        """The service that was called; None for a plain URL."""
        parts = urlsplit(self.url)
        return parts.netloc if parts.scheme == "service" else None

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def json(self) -> Any:
        """The body as JSON; None when it is none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def __str__(self) -> str:
        query = f"?{urlencode(self.params, doseq=True)}" if self.params else ""
        return redact_text(f"{self.method} {self.url}{query}")

    __repr__ = __str__


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def content_of(body: Any) -> bytes:
    """The bytes of a request's body."""
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    if hasattr(body, "read"):
        return content_of(body.read())
    return b"".join(content_of(part) for part in body)


def plain_url(url: str) -> str:
    """The URL without query and fragment, in one of its spellings."""
    parts = urlsplit(url)
    netloc = parts.netloc.lower()
    for scheme, port in (("http", ":80"), ("https", ":443")):
        if parts.scheme.lower() == scheme:
            netloc = netloc.removesuffix(port)
    return f"{parts.scheme.lower()}://{netloc}{unquote(parts.path) or '/'}"


class Pattern:
    """What a request must be: its method and URL, and of parameters, JSON body and headers what was named."""

    def __init__(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = NOT_GIVEN,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if "://" not in url:
            raise ValueError(f"{url!r} is no whole URL: write service://name/path, or http(s)://host/path")
        self.method = method.upper()
        self.url = plain_url(url)
        in_url: dict[str, list[str]] = {}
        for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
            in_url.setdefault(name, []).append(value)
        self.params = None if params is None and not in_url else {**in_url, **_as_lists(params or {})}
        self.json = json
        self.headers = dict(headers or {})
        self._regex = re.compile(_VARIABLE.sub(r"(?P<\1>[^/]+)", re.escape(self.url)), re.S)

    def variables(self, made: Made) -> Mapping[str, str] | None:
        """What stands in the places of the URL's variables; None when it is another URL."""
        found = self._regex.fullmatch(made.url)
        return None if found is None else found.groupdict()

    def differences(self, made: Made) -> Iterator[str]:
        """Why a request to the same URL is another one; nothing when it is the same."""
        if self.method != made.method:
            yield f"the method is {self.method}"
        if self.params is not None and self.params != made.params:
            yield f"the parameters are {_shown(self.params)}, not {_shown(made.params)}"
        if self.json is not NOT_GIVEN and (self.json != made.json or not made.content):
            yield f"the JSON body is {_shown(self.json)}, not {_shown(made.json)}"
        for name, value in self.headers.items():
            if made.headers.get(name) != value:
                yield f"the header {name} is another one" if name in made.headers else f"there is a header {name}"

    def __str__(self) -> str:
        query = f"?{urlencode(self.params, doseq=True)}" if self.params else ""
        return redact_text(f"{self.method} {self.url}{query}")


def explain(made: Made, registered: Iterable[tuple[Pattern, bool]]) -> str:
    """The sentence for a request that nothing was registered for; the flag says that all answers of a pattern are given."""
    registered = list(registered)
    lines = [f"nothing is registered for {made}"]
    if not registered:
        lines.append("  nothing is registered at all")
    near = list(_near(made, registered))
    lines += ["  near:", *(f"    {line}" for line in near)] if near else []
    rest = [str(pattern) for pattern, _ in registered]
    lines += ["  registered:", *(f"    {line}" for line in dict.fromkeys(rest))] if rest else []
    return "\n".join(lines)


def _near(made: Made, registered: list[tuple[Pattern, bool]]) -> Iterator[str]:
    others: dict[str, Pattern] = {}
    for pattern, used_up in registered:
        if pattern.variables(made) is not None:
            why = list(pattern.differences(made)) or (["its answers are used up"] if used_up else [])
            yield f"{pattern}: {'; '.join(why)}"
        elif urlsplit(pattern.url)[:2] == urlsplit(made.url)[:2]:
            others[pattern.url] = pattern
    for url in difflib.get_close_matches(made.url, others, n=3, cutoff=0.6):
        yield f"{others[url]}: another path"


def _as_lists(params: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        name: [str(one) for one in (value if isinstance(value, list | tuple) else [value])]
        for name, value in params.items()
        if value is not None
    }


def _shown(value: Any) -> str:
    text = json.dumps(redact(value), ensure_ascii=False, default=str)
    return text if len(text) <= 300 else f"{text[:300]}..."
