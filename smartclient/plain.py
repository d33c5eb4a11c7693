"""Plain URLs under a deadline or with our keywords: requests makes the call, and it ends in time.

Without a deadline in force and without our keywords a plain URL never comes here. Nothing of the mesh goes along: no headers,
no breaker, no budget.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests
from urllib3 import HTTPResponse
from urllib3.exceptions import DecodeError, ProtocolError, ReadTimeoutError, SSLError as TLSError

from smartclient import answers
from smartclient.attempts import body_of, split_timeout
from smartclient.deadlines import moment_of
from smartclient.errors import Attempt, DeadlineExceeded
from smartclient.retry import IDEMPOTENT, REPEATABLE_STATUSES, Failure, Rules, decide, read_retry_after
from smartclient.watch import watched
from smartrealm import headers as words
from smartrealm.headers import current_call, new_request_id

_PART = 64 * 1024


@dataclass(frozen=True, slots=True)
class Ours:
    """Our keywords, as they were given."""

    deadline: float | None
    retries: int | None
    idempotency_key: str | bool | None
    fallback: Any
    hedge: float | bool | None


def perform(
    session: requests.Session, method: str, url: str, ours: Ours, keywords: dict[str, Any]
) -> requests.Response:
    """`Session.request` of requests, done within the deadline; tried again as often as `retries` says (by default never)."""
    key = new_request_id() if ours.idempotency_key is True else ours.idempotency_key
    if key:
        keywords["headers"] = {**(keywords.get("headers") or {}), words.IDEMPOTENCY_KEY: key}
    data = keywords.get("data")
    replayable = data is None or isinstance(data, str | bytes | dict | list | tuple)
    rules = Rules(ours.retries or 0, method.upper() in IDEMPOTENT or bool(key), replayable)
    stream = bool(session.stream if keywords.get("stream") is None else keywords["stream"])

    def send(timeout: Any) -> requests.Response:
        return requests.Session.request(session, method, url, **{**keywords, "stream": True, "timeout": timeout})

    return _PlainCall(session, ours, rules, keywords.get("timeout"), stream).run(send, url)


def perform_prepared(
    session: requests.Session, request: requests.PreparedRequest, ours: Ours, keywords: dict[str, Any]
) -> requests.Response:
    """`Session.send` of requests, done within the deadline."""
    rules = Rules(ours.retries or 0, (request.method or "") in IDEMPOTENT, body_of(request).replayable)
    stream = bool(session.stream if keywords.get("stream") is None else keywords["stream"])

    def send(timeout: Any) -> requests.Response:
        given = {name: value for name, value in keywords.items() if value is not None}
        return requests.Session.send(session, request, **{**given, "stream": True, "timeout": timeout})

    return _PlainCall(session, ours, rules, keywords.get("timeout"), stream).run(send, request.url or "")


class _PlainCall:
    def __init__(self, session: requests.Session, ours: Ours, rules: Rules, timeout: Any, stream: bool) -> None:
        if ours.hedge:
            raise ValueError("hedge= is for service:// URLs: a plain URL has no second instance.")
        self._session = session
        self._ours = ours
        self._rules = rules
        self._timeout = timeout
        self._stream = stream
        self._attempts: list[Attempt] = []
        self._begun = time.monotonic()
        self._until = moment_of(ours.deadline, math.inf, current_call(), self._begun)

    def run(self, send: Callable[[Any], requests.Response], url: str) -> requests.Response:
        try:
            response = self._try(send, url)
            if self._ours.fallback is None or response.status_code not in REPEATABLE_STATUSES:
                return answers.with_attempts(response, self._attempts)
            response.close()
            error: Exception = requests.exceptions.HTTPError(f"{response.status_code}", response=response)
        except requests.exceptions.RequestException as failure:
            failure.attempts = tuple(self._attempts)  # type: ignore[attr-defined]
            if self._ours.fallback is None:
                raise
            error = failure
        return answers.with_attempts(answers.from_fallback(self._ours.fallback, error, url), self._attempts)

    def _try(self, send: Callable[[Any], requests.Response], url: str) -> requests.Response:
        while True:
            number, begun = len(self._attempts) + 1, time.monotonic()
            if begun >= self._until:
                raise self._too_late(url)
            response: requests.Response | None = None
            error: requests.exceptions.RequestException | None = None
            try:
                response = self._exchange(send, begun, url)
                failure = _failure_of(number, response)
            except DeadlineExceeded:
                self._note(number, url, "timeout", begun, None)
                raise
            except requests.exceptions.RequestException as caught:
                response = None  # one whose body broke off is none
                error, failure = caught, Failure(number, outcome_of(caught), body_touched=True)
            self._note(number, url, failure.outcome if failure else "ok", begun, response)
            if failure is not None:
                decision = decide(self._rules, failure, self._until - time.monotonic())
                if decision.again:
                    time.sleep(decision.pause)
                    continue
            if response is not None:
                return response
            if time.monotonic() >= self._until:
                raise self._too_late(url) from error
            assert error is not None
            raise error

    def _exchange(self, send: Callable[[Any], requests.Response], begun: float, url: str) -> requests.Response:
        """One answer, its body read unless the program streams it; whatever drips is cut off at the deadline."""
        if self._until == math.inf:
            response = send(self._timeout)
            if not self._stream:
                response.content  # noqa: B018
            return response
        with watched(self._session, self._until) as watch:
            response = send(self._limits(begun))
            if not self._stream:
                watch.reads(response.raw)
                self._read(response, url)
        if watch.fired:  # a body without a length seems to be whole then
            response.close()
            raise self._too_late(url)
        return response

    def _limits(self, now: float) -> Any:
        """requests' timeouts, none longer than what is left."""
        left = self._until - now
        try:
            connect, answer = split_timeout(self._timeout)
        except (TypeError, ValueError):
            return self._timeout  # requests says what is wrong with it
        if 0 in (connect, answer):
            return self._timeout
        return (left if connect is None else min(connect, left), left if answer is None else min(answer, left))

    def _read(self, response: requests.Response, url: str) -> None:
        """Read the body as `response.content` does, each part within what is left of the time."""
        raw = response.raw
        sock = getattr(getattr(raw, "_connection", None), "sock", None)
        read_before: object = response._content
        if sock is None or read_before is not False or not isinstance(raw, HTTPResponse):
            response.content  # noqa: B018
            return
        parts: list[bytes] = []
        usual = sock.gettimeout()
        try:
            while True:
                left = self._until - time.monotonic()
                if left <= 0:
                    raise self._too_late(url)
                sock.settimeout(left if usual is None else min(left, usual))
                part = raw.read1(_PART, decode_content=True)
                if not part:
                    break
                parts.append(part)
        except ProtocolError as error:
            raise requests.exceptions.ChunkedEncodingError(error)  # noqa: B904 - as requests raises it
        except DecodeError as error:
            raise requests.exceptions.ContentDecodingError(error)  # noqa: B904
        except ReadTimeoutError as error:
            if time.monotonic() >= self._until:
                raise self._too_late(url) from error
            raise requests.exceptions.ConnectionError(error)  # noqa: B904
        except TLSError as error:
            raise requests.exceptions.SSLError(error)  # noqa: B904
        finally:
            if response.raw.closed is False and not parts:
                response.close()
        response._content = b"".join(parts)
        response._content_consumed = True  # type: ignore[attr-defined]

    def _note(self, number: int, url: str, outcome: str, begun: float, response: requests.Response | None) -> None:
        status = None if response is None else response.status_code
        host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        self._attempts.append(Attempt(number, host, outcome, time.monotonic() - begun, status))

    def _too_late(self, url: str) -> DeadlineExceeded:
        host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        return DeadlineExceeded(
            f"The deadline of {max(0.0, self._until - self._begun):.3g} s for the call to {host} passed.",
            attempts=tuple(self._attempts),
        )


def outcome_of(error: requests.exceptions.RequestException) -> str:
    """The word of `Attempt.outcome` for an exception of requests."""
    if isinstance(error, requests.exceptions.SSLError):
        return "tls"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "connect-timeout"
    if isinstance(error, requests.exceptions.Timeout):
        return "timeout"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "body"
    if isinstance(error, requests.exceptions.ConnectionError):
        told = repr(error)
        if "NameResolutionError" in told:
            return "name"
        return "refused" if "NewConnectionError" in told else "reset"
    return "cancelled"


def _failure_of(number: int, response: requests.Response) -> Failure | None:
    if response.status_code not in REPEATABLE_STATUSES:
        return None
    asked = read_retry_after(response.headers.get(words.RETRY_AFTER), time.time())
    return Failure(number, "status", body_touched=True, retry_after_seconds=asked)
