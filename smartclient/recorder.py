"""Cassettes: real answers are written down once and given again ever after, without the services.

    with smartclient.recorder.cassette("tests/cassettes/teams.json"):
        smartclient.get("service://identity/teams")

A call is known by its service, not by host and port, so a cassette that was recorded through the sidecar is replayed
without one, and the other way round. What is secret is masked before it is kept: credentials, cookies, and every header,
parameter and JSON field with a secret name. Of the request only what tells it from others is kept.
"""

from __future__ import annotations

import base64
import json
import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter

from smartclient import runtime
from smartclient.matching import Made
from smartclient.testing import Answer, UnexpectedCall, respond
from smartrealm import redact, redact_text
from smartrealm.errors import ConfigurationError
from smartrealm.redaction import MASK, is_secret_name

Mode = Literal["once", "replay", "rewrite"]
"""once: record when there is no file, else replay. replay: never the network. rewrite: record anew."""

FORMAT = 1

_NOISE = frozenset(
    "connection content-encoding content-length date keep-alive server traceparent tracestate transfer-encoding "
    "x-request-id".split()
)
_CHARSET = re.compile(r"charset=\"?([\w.:-]+)\"?", re.I)
_FORM = "application/x-www-form-urlencoded"


class StaleCassette(UserWarning):
    """A cassette holds answers that nobody asked for: what was tested has changed since it was recorded."""


@contextmanager
def cassette(
    path: str | Path,
    *,
    mode: Mode = "once",
    secrets: Iterable[str] = (),
    stale: Literal["warn", "fail", "ignore"] = "warn",
) -> Iterator[Cassette]:
    """Within the block every call of this process, plain URLs too, is recorded in the file or answered from it.

    `secrets` are texts that must not be kept wherever they stand. `stale` says what happens when a replay leaves answers
    unused. A block that fails records nothing. Raises ConfigurationError for a file that is missing or no cassette, and
    UnexpectedCall for a call that is not in it.
    """
    if mode not in ("once", "replay", "rewrite"):
        raise ValueError(f"mode is {mode!r}: it is once, replay or rewrite")
    file = Path(path)
    recording = mode == "rewrite" or (mode == "once" and not file.exists())
    kept = Cassette(file, recording=recording, secrets=secrets)
    if not recording:
        kept.load()
    with kept._in_place():
        yield kept
    if recording:
        kept.save()
    elif kept.unexpected:
        raise UnexpectedCall("\n".join(str(error) for error in kept.unexpected))
    elif kept.unused:
        kept._tell_stale(stale)


class Cassette:
    """The interactions of one file. Answers to equal requests are given in the order in which they were recorded."""

    def __init__(self, file: Path, *, recording: bool, secrets: Iterable[str] = ()) -> None:
        self.file = file
        self.recording = recording
        self.unexpected: list[UnexpectedCall] = []
        self._secrets = tuple(secrets)
        self._interactions: list[dict[str, Any]] = []
        self._used: set[int] = set()
        self._lock = threading.Lock()

    @property
    def unused(self) -> list[str]:
        """The recorded requests that were not made in this replay."""
        return [
            _shown(one["request"])
            for place, one in enumerate(self._interactions)
            if not self.recording and place not in self._used
        ]

    def load(self) -> None:
        """Read the file. Raises ConfigurationError."""
        try:
            read = json.loads(self.file.read_text(encoding="utf-8"))
            if read["format"] != FORMAT:
                raise ValueError(f"its format is {read['format']}, and {FORMAT} is known")
            self._interactions = [
                {"request": dict(one["request"]), "answer": dict(one["answer"])} for one in read["interactions"]
            ]
        except FileNotFoundError:
            raise ConfigurationError(
                f"There is no cassette {self.file}: record it with mode='once' (pytest without --record-calls), where the services run."
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{self.file} is no cassette ({error}): remove it and record it anew.") from error

    def save(self) -> None:
        """Write the file in one piece."""
        text = json.dumps({"format": FORMAT, "interactions": self._interactions}, indent=2, ensure_ascii=False)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        new = self.file.with_name(f"{self.file.name}.{os.getpid()}.new")
        new.write_text(f"{text}\n", encoding="utf-8")
        os.replace(new, self.file)

    def record(self, request: requests.PreparedRequest, response: requests.Response, instance: str = "") -> None:
        """Keep an answer, without its secrets and without the address of the instance that gave it."""
        made = Made.of(request)
        known = (*self._secrets, *_secrets_of(made))
        interaction = {"request": self._request(made), "answer": _answer_of(response, known, instance)}
        with self._lock:
            self._interactions.append(interaction)

    def replay(self, request: requests.PreparedRequest) -> requests.Response:
        """The next recorded answer to a request. Raises UnexpectedCall."""
        wanted = self._request(Made.of(request))
        with self._lock:
            same = [place for place, one in enumerate(self._interactions) if one["request"] == wanted]
            place = next((place for place in same if place not in self._used), None)
            if place is None:
                raise self._refused(wanted, len(same))
            self._used.add(place)
            answer = self._interactions[place]["answer"]
        return respond(request, _read_answer(answer))

    def __call__(self, request: requests.PreparedRequest, *, service: str, seconds: float) -> requests.Response:
        """Answer an attempt at a call to a service: what the mesh asks in place of the network."""
        return self.replay(request)

    def __repr__(self) -> str:
        return f"<Cassette {self.file}, {'recording' if self.recording else 'replaying'} {len(self._interactions)}>"

    def _request(self, made: Made) -> dict[str, Any]:
        """What tells a request from others, without secrets: the same when it is recorded and when it is replayed."""
        parts = urlsplit(made.url)
        netloc = parts.netloc.rpartition("@")[2]
        url = urlunsplit((parts.scheme, netloc, redact_text(parts.path, self._secrets), "", ""))
        kept: dict[str, Any] = {"method": made.method, "url": url}
        if made.params:
            kept["params"] = _masked_pairs(made.params, self._secrets)
        kept.update(_body_of(made, self._secrets))
        return kept

    def _refused(self, wanted: Mapping[str, Any], recorded: int) -> UnexpectedCall:
        if recorded:
            why = f"{self.file} holds {recorded} answers to {_shown(wanted)}, and all of them were given"
        else:
            why = f"{self.file} holds no answer to {_shown(wanted)}"
        held = sorted({_shown(one["request"]) for one in self._interactions})
        how = "with mode='rewrite' (pytest --record-calls=rewrite)"
        lines = [
            f"{why}; record it anew {how}. It holds{':' if held else ' nothing.'}",
            *(f"    {one}" for one in held),
        ]
        self.unexpected.append(UnexpectedCall("\n".join(lines)))
        return self.unexpected[-1]

    def _tell_stale(self, stale: str) -> None:
        told = "\n".join(
            [f"{self.file} holds answers that nobody asked for:", *(f"    {line}" for line in self.unused)]
        )
        if stale == "fail":
            raise AssertionError(told)
        if stale == "warn":
            warnings.warn(told, StaleCassette, stacklevel=4)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Between the process and its network: below the retries of calls, and below the adapters of plain URLs."""
        send = HTTPAdapter.send

        def send_plain(adapter: HTTPAdapter, request: requests.PreparedRequest, *args: Any, **keywords: Any) -> Any:
            if not self.recording:
                return self.replay(request)
            response = send(adapter, request, *args, **keywords)
            self.record(request, response)
            return response

        transport = runtime.intercept(None if self.recording else self)
        listener = runtime.record(self.record if self.recording else None)
        HTTPAdapter.send = send_plain  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            HTTPAdapter.send = send  # type: ignore[method-assign]
            runtime.record(listener)
            runtime.intercept(transport)


def _masked_pairs(params: Mapping[str, list[str]], known: tuple[str, ...]) -> dict[str, list[str]]:
    return {
        redact_text(name, known): [MASK if _is_secret_parameter(name) else redact_text(one, known) for one in values]
        for name, values in sorted(params.items())
    }


def _is_secret_parameter(name: str) -> bool:
    return is_secret_name(name) or f"{MASK}" in redact_text(f"https://h/?{name}=planted-value-0")


def _body_of(made: Made, known: tuple[str, ...]) -> dict[str, Any]:
    """What is kept of a request's body: JSON and forms without their secrets, of all else that it was there."""
    if not made.content:
        return {}
    kind = made.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if made.json is not None:
        return {"json": redact(made.json, known)}
    if kind == _FORM:
        form: dict[str, list[str]] = {}
        for name, value in parse_qsl(made.text, keep_blank_values=True):
            form.setdefault(name, []).append(value)
        return {"form": _masked_pairs(form, known)}
    return {"body": kind or "unknown"}


def _secrets_of(made: Made) -> Iterator[str]:
    """The values under secret names in a request: an answer that repeats one must not give it away."""
    for name, value in made.headers.items():
        if name.lower() in ("cookie", "authorization", "proxy-authorization"):
            yield from (part for part in value.replace(";", " ").replace("=", " ").split() if len(part) >= 6)
            if value.lower().startswith("basic "):
                yield from _of_basic(value[6:])
        elif is_secret_name(name):
            yield value
    for name, values in made.params.items():
        yield from values if _is_secret_parameter(name) else ()
    yield from _secrets_in(made.json)


def _of_basic(text: str) -> Iterator[str]:
    try:
        yield base64.b64decode(text).decode("utf-8", "replace").partition(":")[2]
    except ValueError:
        return


def _secrets_in(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if is_secret_name(str(name)) and isinstance(inner, str | int) and not isinstance(inner, bool):
                yield str(inner)
            yield from _secrets_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _secrets_in(inner)


def _answer_of(response: requests.Response, known: tuple[str, ...], instance: str) -> dict[str, Any]:
    """What is kept of an answer: all but its secrets, and what differs from one time to the next."""
    kept: dict[str, Any] = {"status": response.status_code}
    headers: dict[str, Any] = {
        name: MASK if is_secret_name(name) else redact_text(value, known)
        for name, value in response.headers.items()
        if name.lower() not in _NOISE
    }
    cookies = _cookies(response)
    if cookies:
        headers = {
            **{name: value for name, value in headers.items() if name.lower() != "set-cookie"},
            "Set-Cookie": cookies,
        }
    here = f"http://{instance}/"
    for name, value in headers.items():
        if name.lower() == "location" and value.startswith(here):
            headers[name] = value[len(here) - 1 :]
        if name.lower() == "content-type":
            headers[name] = _CHARSET.sub("charset=utf-8", value)
    if headers:
        kept["headers"] = headers
    content = response.content
    if not content:
        return kept
    try:
        return {**kept, "json": redact(json.loads(content), known)}
    except ValueError:
        pass
    for encoding in ("utf-8", _charset_of(response)):
        try:
            return {**kept, "text": redact_text(content.decode(encoding), known)}
        except (UnicodeDecodeError, LookupError):
            continue
    return {**kept, "base64": base64.b64encode(content).decode("ascii")}


def _charset_of(response: requests.Response) -> str:
    """What the answer says of its text; requests' guess for text that says nothing."""
    found = _CHARSET.search(response.headers.get("Content-Type", ""))
    return found[1] if found else response.encoding or "utf-8"


def _cookies(response: requests.Response) -> list[str]:
    """The cookies that were set, without their values."""
    headers = getattr(response.raw, "headers", {})
    given = headers.getlist("Set-Cookie") if hasattr(headers, "getlist") else []
    return [f"{cookie.partition('=')[0]}={MASK}{''.join(cookie.partition(';')[1:])}" for cookie in given]


def _read_answer(kept: Mapping[str, Any]) -> Answer:
    headers = kept.get("headers", {})
    if "json" in kept:
        content = json.dumps(kept["json"], ensure_ascii=False).encode()
    elif "text" in kept:
        content = kept["text"].encode()
    else:
        content = base64.b64decode(kept.get("base64", ""))
    return Answer(kept["status"], content=content, headers=headers)


def _shown(request: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in request.items() if name not in ("method", "url")}
    return f"{request['method']} {request['url']}" + (f" {json.dumps(rest, ensure_ascii=False)}" if rest else "")
