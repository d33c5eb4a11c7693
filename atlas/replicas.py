"""Asking one of several replicas of an `atlas serve`: sticky to one, on to the next when it fails. The one user of urllib3."""

from __future__ import annotations

import json
import random
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from smartrealm import current_call, on_fork, redact_text
from smartrealm.errors import (
    BadRequest,
    ConfigurationError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    Overloaded,
    SmartError,
    Unauthorized,
    Unavailable,
    ValidationFailed,
)
from smartrealm.headers import REQUEST_ID

_CODES: Mapping[str, type[SmartError]] = {
    kind.code: kind
    for kind in (
        BadRequest,
        Conflict,
        DeadlineExceeded,
        Forbidden,
        NotFound,
        Overloaded,
        Unauthorized,
        Unavailable,
        ValidationFailed,
    )
}
_STATUSES: Mapping[int, type[SmartError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: BadRequest,
    409: Conflict,
    413: ValidationFailed,
    415: BadRequest,
    422: ValidationFailed,
}
_NEVER_SENT = (NewConnectionError, ConnectTimeoutError, NameResolutionError)
_MEMBERS = frozenset(["type", "title", "status", "detail", "instance", "code", "errors"])
_EXAMPLE = "http://atlas-1:7070,atlas-2:7070"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client of `atlas serve` waits, in seconds."""

    connect: float = 1.0
    answer: float = 10.0
    """For an answer; beyond what the server itself may wait for its store."""
    beyond_poll: float = 5.0
    """For the answer of a long-poll, beyond the time that it asked for."""
    pause: float = 0.1
    """Before the only replica is asked again; drawn from a half to one and a half of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a replica said. Its repr does not show the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    replica: int

    def json(self) -> Any:
        """The body as JSON. Raises Unavailable when it is none: whoever answered was no Atlas."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise Unavailable(
                f"The answer ({self.status}, {len(self.body)} bytes) is not JSON: this URL is not an Atlas."
            ) from None

    def __repr__(self) -> str:
        return f"<Answer {self.status}, {len(self.body)} bytes>"


class Replicas:
    """The replicas behind one URL, `http(s)://a:7070,b:7070`. Its repr and its errors never show the token.

    A question goes to the replica that answered last. One that cannot be reached, that breaks off or that says it cannot
    answer now hands over to the next, once around. Safe from any thread; a forked child connects anew.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: Patience | None = None,
        sleep: Callable[[float], object] = time.sleep,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.origins, self._prefix = _read_url(url)
        self._authorization = {"Authorization": f"Bearer {_read_token(token)}"} if token else {}
        self.patience = patience or Patience()
        self._sleep = sleep
        self._spread = spread
        self._current = int(spread() * len(self.origins)) % len(self.origins)
        self._manager: urllib3.PoolManager | None = None
        on_fork(self, Replicas._begin_anew)

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
        repeatable: bool = True,
    ) -> Answer:
        """The answer of the first replica that has one; its errors as errors of our tree.

        One that is not `repeatable` is sent again only when it was certainly never received. Raises Unavailable when no
        replica answers.
        """
        sent = {} if headers is None else dict(headers)
        data = None
        if body is not None:
            data = json.dumps(body, separators=(",", ":")).encode()
            sent["Content-Type"] = "application/json"
        target = f"{path}?{query}" if query else path
        failure: SmartError = Unavailable(f"No Atlas was asked at {self}.")
        rounds = max(2, len(self.origins))
        for attempt in range(rounds):
            replica = self._current
            try:
                response = self._send(replica, method, target, data, sent, seconds)
            except HTTPError as error:
                failure = Unavailable(f"{method} {path}: {self._told(replica, error)}")
                self.leave(replica)
                if not repeatable and not _was_never_sent(error):
                    raise failure from None
            else:
                answer = Answer(response.status, response.headers, response.data, replica)
                if answer.status < 300:
                    return answer
                failure = self._error(answer, f"{method} {path}")
                if not isinstance(failure, Unavailable) or not repeatable or len(self.origins) == 1:
                    raise failure
                self.leave(replica)
            if attempt < rounds - 1 and len(self.origins) == 1:
                self._sleep(self.patience.pause * (0.5 + self._spread()))
        raise failure from None

    def lines(self, path: str, *, query: str = "") -> Iterator[bytes]:
        """The lines of a long answer, as they come. Raises Unavailable when it breaks off."""
        replica = self._current
        try:
            response = self._send(replica, "GET", f"{path}?{query}" if query else path, None, {}, None, stream=True)
            if response.status >= 300:
                raise self._error(Answer(response.status, response.headers, response.data, replica), f"GET {path}")
            rest = b""
            for part in response.stream(65536):
                *lines, rest = (rest + part).split(b"\n")
                yield from lines
            if rest:
                yield rest
        except HTTPError as error:
            self.leave(replica)
            raise Unavailable(f"GET {path}: {self._told(replica, error)}") from None

    def stream(self, path: str, parts: Iterable[bytes], *, content_type: str, headers: Mapping[str, str]) -> Answer:
        """POST a body that is made while it is sent; never repeated."""
        replica = self._current
        try:
            response = self._send(replica, "POST", path, parts, {**headers, "Content-Type": content_type}, 600.0)
        except HTTPError as error:
            self.leave(replica)
            raise Unavailable(f"POST {path}: {self._told(replica, error)}") from None
        answer = Answer(response.status, response.headers, response.data, replica)
        if answer.status >= 300:
            raise self._error(answer, f"POST {path}")
        return answer

    def leave(self, replica: int) -> None:
        """Put the next question to another replica, when this one is still the one that is asked."""
        if self._current == replica:
            self._current = (replica + 1) % len(self.origins)

    def close(self) -> None:
        """Close the connections; the next question makes new ones."""
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.clear()

    def _send(
        self,
        replica: int,
        method: str,
        target: str,
        data: Any,
        headers: Mapping[str, str],
        seconds: float | None,
        *,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        if self._manager is None:
            options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
            self._manager = urllib3.PoolManager(len(self.origins), maxsize=32, socket_options=options)
        call = current_call()
        known = {} if call is None else {REQUEST_ID: call.request_id}
        return self._manager.request(
            method,
            f"{self.origins[replica]}{self._prefix}{target}",
            body=data,
            headers={"Accept-Encoding": "gzip", **known, **headers, **self._authorization},
            timeout=urllib3.Timeout(
                connect=self.patience.connect, read=self.patience.answer if seconds is None else seconds
            ),
            retries=False,
            redirect=False,
            preload_content=not stream,
        )

    def _error(self, answer: Answer, what: str) -> SmartError:
        """The error that an answer means; it says the same as it said in the server, as far as the server tells."""
        where = self.origins[answer.replica]
        if answer.status < 400:
            return Unavailable(
                f"{what}: {where} answered with a redirect; put the address of the Atlas itself in the URL."
            )
        try:
            problem = json.loads(answer.body)
        except ValueError:
            problem = None
        if not isinstance(problem, dict):
            problem = {}
        kind = _CODES.get(str(problem.get("code"))) or _STATUSES.get(answer.status)
        if kind is None or issubclass(kind, Unavailable):
            retry_after = answer.headers.get("Retry-After", "")
            detail = problem.get("detail") or f"{problem.get('title') or 'no reason given'} (atlas doctor says more)"
            return (kind or Unavailable)(
                f"{what}: {where} answered {answer.status}: {redact_text(str(detail))}",
                retry_after_seconds=int(retry_after) if retry_after.isdecimal() else None,
            )
        message = str(problem.get("detail") or f"{what}: {where} answered {answer.status}.")
        details = {name: value for name, value in problem.items() if name not in _MEMBERS and name.isidentifier()}
        if issubclass(kind, ValidationFailed):
            return kind(message, errors=problem.get("errors", ()), **details)
        return kind(message, **details)

    def _told(self, replica: int, error: HTTPError) -> str:
        where = self.origins[replica]
        if isinstance(error, SSLError):
            return f"{where} cannot be trusted: {redact_text(str(error))}"
        if _was_never_sent(error):
            return f"{where} cannot be reached{why_never_sent(error)}"
        if isinstance(error, ReadTimeoutError):
            return f"{where} gave no answer in time; whether it did what was asked is not known."
        return f"{where} broke off before its answer was complete ({type(error).__name__})."

    def _begin_anew(self) -> None:
        self._manager = None

    def __str__(self) -> str:
        return ",".join(self.origins) + self._prefix

    def __repr__(self) -> str:
        return f"<Replicas {self}>"


def why_never_sent(error: BaseException) -> str:
    """How the sentence ends that begins with `cannot be reached`: a typo, a host and a program that are down differ."""
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, NameResolutionError):
        return ": no host of this name is known here; is the URL right (ATLAS_URL)?"
    if isinstance(cause, ConnectTimeoutError) and not isinstance(cause, NewConnectionError):  # which is one of its kind
        return ": nothing answered in time; is the host up, and no firewall between?"
    return "; is `atlas serve` running there?"


def _was_never_sent(error: BaseException) -> bool:
    return isinstance(error, _NEVER_SENT) or isinstance(getattr(error, "reason", None), _NEVER_SENT)


def _read_url(url: str) -> tuple[tuple[str, ...], str]:
    """The origins and the path before `/v1`. Raises ConfigurationError, which does not repeat what may be a credential."""
    scheme, separator, rest = url.partition("://")
    rest = re.sub(rf",\s*{re.escape(scheme)}://", ",", rest)  # the scheme may stand before each host
    hosts, slash, path = rest.partition("/")
    if "@" in hosts:
        raise ConfigurationError("The URL of an Atlas holds no credentials: put the token into ATLAS_TOKEN.")
    if scheme not in ("http", "https") or not separator or "?" in rest or "#" in rest or "://" in rest or "," in path:
        raise ConfigurationError(f"{redact_text(url)!r} is no URL of an `atlas serve`: write {_EXAMPLE}.")
    origins = []
    for host in hosts.split(","):
        origin = f"{scheme}://{host.strip()}"
        try:
            parts = urlsplit(origin)
            right = bool(parts.hostname) and (parts.port is None or parts.port > 0) and " " not in host.strip()
        except ValueError:
            right = False
        if not right:
            raise ConfigurationError(
                f"{host!r} in {redact_text(url)!r} is no host with an optional port: write {_EXAMPLE}."
            )
        origins.append(origin)
    return tuple(dict.fromkeys(origins)), f"{slash}{path}".rstrip("/")


def _read_token(token: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(
            "ATLAS_TOKEN holds a character that no token has (a space, a line break?): copy it as `atlas token create` printed it."
        )
    return token
