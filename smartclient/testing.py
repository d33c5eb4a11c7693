"""Calls in tests: answers that are registered, and a loud failure for a call that nothing is registered for.

    with smartclient.testing.mock() as calls:
        calls.get("service://identity/teams", json=[{"id": 1}])
        ...
        assert [str(made) for made in calls.made] == ["GET service://identity/teams"]

It stands in for the network, below retries, deadline and breaker: all of them work as ever, with nothing remembered of
calls before. In pytest the fixture `service_calls` is the same. Nothing here is for production.
"""

from __future__ import annotations

import http.client
import io
import json as jsons
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPHeaderDict, HTTPResponse

from smartclient import runtime
from smartclient.matching import NOT_GIVEN, Made, Pattern, explain
from smartclient.transport import Failed

__all__ = ["Answer", "Calls", "Failure", "Made", "Route", "UnexpectedCall", "mock"]

Failure = Literal["refused", "connect-timeout", "timeout", "reset"]
"""refused, connect-timeout: never sent. timeout, reset: sent, and nobody knows what came of it."""

_FAILURES: Mapping[str, tuple[type[OSError], bool]] = {
    "refused": (ConnectionRefusedError, False),
    "connect-timeout": (TimeoutError, False),
    "timeout": (TimeoutError, True),
    "reset": (ConnectionResetError, True),
}


class UnexpectedCall(AssertionError):
    """A call was made that nothing is registered for; says what is registered and what comes near."""


@dataclass(frozen=True)
class Answer:
    """What a call is answered. Of `json`, `text` and `content` one at most; or a failure instead."""

    status: int = 200
    json: Any = NOT_GIVEN
    text: str | None = None
    content: bytes | None = None
    headers: Mapping[str, str | list[str]] = field(default_factory=dict)
    """A list for a header that comes more than once."""
    fails: Failure | Exception | None = None
    """How the attempt fails instead: a kind of failure, or an exception that is raised."""
    delay: float = 0.0
    """Seconds until the answer comes; the attempt's own limit may be sooner."""

    def body(self) -> tuple[bytes, str]:
        """The bytes of the body and their Content-Type."""
        if self.json is not NOT_GIVEN:
            return jsons.dumps(self.json).encode(), "application/json"
        if self.text is not None:
            return self.text.encode(), "text/plain; charset=utf-8"
        return self.content or b"", "application/octet-stream" if self.content else ""


class Route:
    """A registered request with its answers, one stage after another."""

    def __init__(self, pattern: Pattern, answer: Answer | Callable[[Made], Any], times: int | None) -> None:
        self.pattern = pattern
        self.made: list[Made] = []
        self._stages: list[tuple[Answer | Callable[[Made], Any], int | None]] = [(answer, times)]

    @property
    def used_up(self) -> bool:
        """Whether every answer was given as often as it was registered for."""
        most = [times for _, times in self._stages]
        return None not in most and len(self.made) >= sum(times or 0 for times in most)

    def then(self, status: int = 200, *, times: int | None = None, **answer: Any) -> Route:
        """After the answers so far, this one: `calls.get(url, status=503, times=2).then(json=[])`."""
        last, endless = self._stages[-1]
        if endless is None:
            self._stages[-1] = (last, 1)
        self._stages.append((_answer(status, **answer), times))
        return self

    def take(self, made: Made) -> Answer | Callable[[Made], Any]:
        """What answers the next request; counts it."""
        number = len(self.made)
        self.made.append(made)
        for what, times in self._stages:
            if times is None or number < times:
                return what
            number -= times
        raise AssertionError("a route that is used up was asked")

    def __repr__(self) -> str:
        return f"<Route {self.pattern}, called {len(self.made)} times>"


class Calls:
    """What is registered and what was made. Routes are tried in the order in which they were registered."""

    def __init__(self, passthrough: bool | str | Iterable[str] = ()) -> None:
        self.routes: list[Route] = []
        self.made: list[Made] = []
        """Every request in order, each attempt for itself."""
        self.unexpected: list[UnexpectedCall] = []
        """Raised for requests that nothing is registered for. What is still here at the end of the block fails the test."""
        self._all_pass = passthrough is True
        given = [passthrough] if isinstance(passthrough, str) else () if isinstance(passthrough, bool) else passthrough
        self._pass = tuple(given)
        if any(prefix.startswith("service:") for prefix in self._pass):
            raise ValueError("calls to services do not pass through; passthrough= is for plain URLs")
        self._lock = threading.Lock()

    def add(
        self,
        method: str,
        url: str,
        *,
        with_params: Mapping[str, Any] | None = None,
        with_json: Any = NOT_GIVEN,
        with_headers: Mapping[str, str] | None = None,
        times: int | None = None,
        answer: Callable[[Made], Any] | None = None,
        status: int = 200,
        **answered: Any,
    ) -> Route:
        """Answer `method` of `url` with `status`, `json=`, `text=`, `content=`, `headers=`, after `delay=`, or `fails=`.

        `with_params`, `with_json` and `with_headers` say what the request must have; `{name}` in the URL stands for one part
        of a path. `answer` is a function that is given the Made and gives an Answer, what is JSON, or (JSON, status).
        `times`: how often this route answers; for ever unless given.
        """
        pattern = Pattern(method, url, params=with_params, json=with_json, headers=with_headers)
        if answer is not None and (answered or status != 200):
            raise TypeError("give a function as answer=, or the parts of an answer, not both")
        route = Route(pattern, answer or _answer(status, **answered), times)
        with self._lock:
            self.routes.append(route)
        return route

    def get(self, url: str, **options: Any) -> Route:
        """Register a GET; the options are those of `add`."""
        return self.add("GET", url, **options)

    def head(self, url: str, **options: Any) -> Route:
        return self.add("HEAD", url, **options)

    def options(self, url: str, **options: Any) -> Route:
        return self.add("OPTIONS", url, **options)

    def post(self, url: str, **options: Any) -> Route:
        return self.add("POST", url, **options)

    def put(self, url: str, **options: Any) -> Route:
        return self.add("PUT", url, **options)

    def patch(self, url: str, **options: Any) -> Route:
        return self.add("PATCH", url, **options)

    def delete(self, url: str, **options: Any) -> Route:
        return self.add("DELETE", url, **options)

    @property
    def unused(self) -> list[Route]:
        """The routes that were never called."""
        return [route for route in self.routes if not route.made]

    def passes(self, url: str) -> bool:
        """Whether a plain URL goes to the network."""
        return self._all_pass or url.startswith(self._pass)

    def find(self, request: requests.PreparedRequest) -> tuple[Made, Answer]:
        """The answer that is registered for a request. Raises UnexpectedCall."""
        made = Made.of(request)
        with self._lock:
            self.made.append(made)
            for route in self.routes:
                variables = route.pattern.variables(made)
                if variables is None or route.used_up or any(route.pattern.differences(made)):
                    continue
                made = replace(made, variables=variables)
                self.made[-1] = made
                break
            else:
                error = UnexpectedCall(explain(made, [(route.pattern, route.used_up) for route in self.routes]))
                self.unexpected.append(error)
                raise error
            taken = route.take(made)
        return made, taken if isinstance(taken, Answer) else _as_answer(taken(made))

    def check(self) -> None:
        """Raise UnexpectedCall when there was a call that nothing is registered for, whoever caught it."""
        if self.unexpected:
            raise UnexpectedCall("\n".join(str(error) for error in self.unexpected))

    def __repr__(self) -> str:
        return f"<Calls: {len(self.routes)} registered, {len(self.made)} made>"

    def __call__(self, request: requests.PreparedRequest, *, service: str, seconds: float) -> requests.Response:
        """Answer an attempt at a call to a service: what the mesh asks in place of the network."""
        _, answer = self.find(request)
        if answer.delay >= seconds:
            time.sleep(max(seconds, 0))
            raise Failed("timeout", TimeoutError("no answer in time"), sent=True)
        time.sleep(answer.delay)
        if isinstance(answer.fails, Exception):
            raise answer.fails
        if answer.fails is not None:
            kind, sent = _FAILURES[answer.fails]
            raise Failed(answer.fails, kind(f"simulated: {answer.fails}"), sent=sent)
        return respond(request, answer)

    def plain(self, request: requests.PreparedRequest, timeout: Any) -> requests.Response:
        """Answer a request to a plain URL."""
        _, answer = self.find(request)
        limit = timeout[1] if isinstance(timeout, tuple) else timeout
        if isinstance(limit, int | float) and answer.delay >= limit:
            time.sleep(limit)
            raise requests.exceptions.ReadTimeout("no answer in time", request=request)
        time.sleep(answer.delay)
        if isinstance(answer.fails, Exception):
            raise answer.fails
        if answer.fails is not None:
            raise _PLAIN_FAILURES[answer.fails](f"simulated: {answer.fails}", request=request)
        return respond(request, answer)


_PLAIN_FAILURES: Mapping[str, type[requests.exceptions.RequestException]] = {
    "refused": requests.exceptions.ConnectionError,
    "connect-timeout": requests.exceptions.ConnectTimeout,
    "timeout": requests.exceptions.ReadTimeout,
    "reset": requests.exceptions.ConnectionError,
}


@contextmanager
def mock(*, passthrough: bool | str | Iterable[str] = ()) -> Iterator[Calls]:
    """Within the block every call of this process is answered from what is registered, in every thread.

    A call that nothing is registered for raises UnexpectedCall, and so does the end of the block when somebody caught it.
    `passthrough` names the beginnings of plain URLs that go to the network (True: all of them). Blocks may be nested; the
    inner one counts.
    """
    calls = Calls(passthrough)
    before = runtime.intercept(calls)
    send = HTTPAdapter.send

    def send_plain(adapter: HTTPAdapter, request: requests.PreparedRequest, *args: Any, **keywords: Any) -> Any:
        if calls.passes(request.url or ""):
            return send(adapter, request, *args, **keywords)
        return calls.plain(request, args[1] if len(args) > 1 else keywords.get("timeout"))

    HTTPAdapter.send = send_plain  # type: ignore[method-assign, assignment]  # every plain request passes it
    try:
        yield calls
    except BaseException as error:
        if calls.unexpected and not isinstance(error, UnexpectedCall):
            error.add_note("\n".join(str(one) for one in calls.unexpected))
        raise
    else:
        calls.check()
    finally:
        HTTPAdapter.send = send  # type: ignore[method-assign]
        runtime.intercept(before)


def respond(request: requests.PreparedRequest, answer: Answer) -> requests.Response:
    """The Response that requests would have made of this answer."""
    content, kind = answer.body()
    given = {**({"Content-Type": kind} if kind else {}), "Content-Length": str(len(content)), **answer.headers}
    headers, message = HTTPHeaderDict(), http.client.HTTPMessage()
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            headers.add(name, one)
            message[name] = one
    try:
        reason = http.HTTPStatus(answer.status).phrase
    except ValueError:
        reason = ""
    raw = HTTPResponse(
        body=io.BytesIO(b"" if request.method == "HEAD" else content),
        headers=headers,
        status=answer.status,
        reason=reason,
        version=11,
        preload_content=False,
        decode_content=False,
        original_response=_Original(message),  # type: ignore[arg-type]
        request_method=request.method,
    )
    return HTTPAdapter().build_response(request, raw)


class _Original:
    """As much of http.client's answer as requests needs to find its cookies."""

    def __init__(self, message: http.client.HTTPMessage) -> None:
        self.msg = message

    def isclosed(self) -> bool:
        return True

    def close(self) -> None:
        """There is nothing to close."""


def _answer(status: int = 200, **parts: Any) -> Answer:
    answer = Answer(status, **parts)
    if sum((answer.json is not NOT_GIVEN, answer.text is not None, answer.content is not None)) > 1:
        raise TypeError("an answer has one body: give json=, text= or content=")
    if isinstance(answer.fails, str) and answer.fails not in _FAILURES:
        raise ValueError(f"fails={answer.fails!r}: there are {', '.join(_FAILURES)}, or give an exception")
    return answer


def _as_answer(given: Any) -> Answer:
    if isinstance(given, Answer):
        return given
    if isinstance(given, Exception):
        return Answer(fails=given)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], int):
        return Answer(given[1], json=given[0])
    return Answer(json=given)
