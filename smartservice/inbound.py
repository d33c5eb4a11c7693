"""What happens around every request, in the order in which it happens. This is the hot path: each line is paid for.

Every request runs in a copied `contextvars` context of its own, which holds its CallContext (request id, caller,
deadline, trace) and the config snapshot that it sees from its first line to its last. Nothing of it reaches the next
request on the same thread.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import Context, copy_context
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flask import Request, Response

from healthcheck.flask import ENDPOINT as HEALTH_ENDPOINT
from smartrealm import headers
from smartrealm.calling import enter_caller
from smartrealm.errors import DeadlineExceeded
from smartservice import logs
from smartservice.splits import Edge

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from smartservice.app import SmartService

REQUEST = "smartservice.request"
"""Where the app leaves the request in the WSGI environment; Flask itself forgets it before the access line is written."""

METRICS_ENDPOINT = "_metrics"
"""The endpoint of the metrics: a name that leaves `metrics` to the service's own functions."""

_REPEATABLE = (502, 503, 504)
_STREAM = "smartservice.stream"
_REQUEST_ID = headers.REQUEST_ID.lower()
_VARIABLES = {
    name: "HTTP_" + name.upper().replace("-", "_")
    for name in (
        headers.REQUEST_ID,
        headers.CALLER,
        headers.DEADLINE,
        headers.TRACEPARENT,
        headers.TRACESTATE,
        headers.BAGGAGE,
        headers.BUCKET,
    )
}
_DEBUG_VARIABLE = "HTTP_" + headers.DEBUG.upper().replace("-", "_")


class Inbound:
    """Serves each request of one app in a context of its own, counts it and writes its access line."""

    def __init__(self, app: SmartService) -> None:
        self._app = app
        self._settings = app.settings
        self._lifecycle = app.lifecycle
        self._tags = frozenset(app.settings.snapshot["CALL_TAGS"])
        self._edge = edge_of(app)
        self._access = logs.AccessLog(app)
        self._gate = logs.DebugGate(logging.root, app.logger)
        self.quiet = {HEALTH_ENDPOINT, METRICS_ENDPOINT}
        """Endpoints whose successful requests are counted and not logged: asked all the time, by machines."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        context = copy_context()
        return context.run(self._serve, context, environ, start_response)

    def _serve(self, context: Context, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        began = time.perf_counter()
        call = _read_call(environ, self._tags, self._edge)
        if _DEBUG_VARIABLE in environ and self._may_debug(environ[_DEBUG_VARIABLE]):
            call = replace(call, debug=True)
            self._gate.__enter__()
        headers.enter_call(call)
        logs.enter_app(self._app)
        self._settings.pin()
        enter_caller(self._app)
        self._lifecycle.enter()
        exchange = _Exchange(self, call, environ, began)

        def respond(status: str, fields: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
            exchange.status = int(status[:3])
            # An app mounted inside this one, or a service that was relayed, has put its own id there.
            others = [field for field in fields if field[0].lower() != _REQUEST_ID]
            if call.failed_calls and exchange.status in _REPEATABLE:
                others.append((headers.RETRY, "no"))  # what failed lies further down, and was repeated there
            return start_response(status, [*others, (headers.REQUEST_ID, call.request_id)], *error)

        try:
            body = self._app.wsgi_app(environ, respond)
        except BaseException:
            exchange.finish()
            raise
        if _STREAM in environ:
            return _Stream(body, context, exchange)
        exchange.finish()
        return body

    def finish(self, call: headers.CallContext, environ: WSGIEnvironment, status: int, seconds: float) -> None:
        """Count one answered request and write its access line; successful probes are only counted."""
        self._lifecycle.leave()
        request: Request | None = environ.pop(REQUEST, None)
        rule = None if request is None else request.url_rule
        route = None if rule is None else rule.rule
        method = environ["REQUEST_METHOD"]
        metrics = self._app.metrics
        if metrics is not None:
            metrics.observe(route, method, status, seconds)
        if status >= 400 or rule is None or rule.endpoint not in self.quiet:
            path = environ.get("PATH_INFO", "")
            self._access.write(method, path, route, status, seconds, environ.get("REMOTE_ADDR"))
        if call.debug:
            self._gate.__exit__()

    def _may_debug(self, header: str) -> bool:
        key = self._settings.snapshot["DEBUG_HEADER_KEY"]
        return bool(key) and is_debug_header(header, key, now=time.time())


class _Exchange:
    """One request and its answer, finished exactly once."""

    __slots__ = ("_began", "_call", "_environ", "_inbound", "status")

    def __init__(self, inbound: Inbound, call: headers.CallContext, environ: WSGIEnvironment, began: float) -> None:
        self._inbound: Inbound | None = inbound
        self._call = call
        self._environ = environ
        self._began = began
        self.status = 500

    def finish(self) -> None:
        inbound, self._inbound = self._inbound, None
        if inbound is not None:
            inbound.finish(self._call, self._environ, self.status, time.perf_counter() - self._began)


class _Stream:
    """The body of a streamed answer: each part is made in the request's own context, its end finishes the request."""

    def __init__(self, body: Iterable[bytes], context: Context, exchange: _Exchange) -> None:
        self._body = body
        self._parts: Iterator[bytes] = iter(body)
        self._context = context
        self._exchange = exchange

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> bytes:
        return self._context.run(next, self._parts)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        try:
            if close is not None:
                self._context.run(close)
        finally:
            self._context.run(self._exchange.finish)


def mark_stream(response: Response, environ: WSGIEnvironment) -> None:
    """Let a streamed answer keep its context until its last byte. Files that the server sends itself need none."""
    if response.is_streamed and not response.direct_passthrough:
        environ[_STREAM] = True


def refuse_expired() -> None:
    """Raise DeadlineExceeded when the caller has stopped waiting before the work was begun."""
    call = headers.current_call()
    if call is not None and call.deadline is not None and call.deadline <= time.monotonic():
        raise DeadlineExceeded("The caller's deadline passed before the work was begun.")


def edge_of(app: SmartService) -> Edge:
    """Who gives a bucket to the requests of this service that bring none, as its settings say."""
    snapshot = app.settings.snapshot
    return Edge(
        headers=snapshot["SPLIT_KEY_HEADERS"],
        cookies=snapshot["SPLIT_KEY_COOKIES"],
        salt=snapshot["SPLIT_SALT"] or str(app.realm),
    )


def _read_call(environ: WSGIEnvironment, tags: Collection[str], edge: Edge) -> headers.CallContext:
    get = environ.get
    return headers.CallContext.from_headers(
        lambda name: get(_VARIABLES[name]), tags=tags, new_bucket=lambda: edge.bucket(environ)
    )


def debug_header(key: str, *, seconds: int, now: float) -> str:
    """The value of a Smart-Debug header that raises requests to debug level for the next `seconds`.

    `<expiry>.<hex>`: the expiry in whole seconds since 1970, and HMAC-SHA-256 (RFC 2104) over `smart-debug:<expiry>`.
    """
    expiry = int(now) + seconds
    return f"{expiry}.{_sign(key, str(expiry))}"


def is_debug_header(header: str, key: str, *, now: float) -> bool:
    """Whether the header was signed with this key and has not expired. Compares in constant time."""
    expiry, _, signature = header.partition(".")
    if not expiry.isascii() or not expiry.isdecimal() or len(expiry) > 12 or not signature.isascii():
        return False
    return int(expiry) > now and hmac.compare_digest(signature, _sign(key, expiry))


def _sign(key: str, expiry: str) -> str:
    return hmac.new(key.encode(), f"smart-debug:{expiry}".encode(), hashlib.sha256).hexdigest()
