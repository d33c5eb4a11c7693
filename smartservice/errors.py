"""The one error pipeline: every failed request is answered with `application/problem+json` (RFC 9457).

Routing errors, aborts, validation, the SmartError tree, vendor errors and crashes all end here, with the same bytes in
debug, testing and production. A status below 500 says what was wrong; a 5xx says its title only, the rest is in the log.
Handlers that a service registers itself (`@app.errorhandler(404)`, `@blueprint.errorhandler(MyError)`) come first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, current_app, got_request_exception, request
from werkzeug.exceptions import BadRequest, BadRequestKeyError, HTTPException

from smartrealm import current_call
from smartrealm.errors import SmartError, Unavailable, ValidationFailed
from smartrealm.headers import RETRY_AFTER
from smartrealm.redaction import Redactor
from smartservice.jsons import encode

PROBLEM_JSON = "application/problem+json"

CODES: Mapping[int, str] = {
    400: "bad-request",
    401: "unauthorized",
    402: "payment-required",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    408: "request-timeout",
    409: "conflict",
    410: "gone",
    411: "length-required",
    412: "precondition-failed",
    413: "content-too-large",
    414: "uri-too-long",
    415: "unsupported-media-type",
    416: "range-not-satisfiable",
    417: "expectation-failed",
    418: "im-a-teapot",
    421: "misdirected-request",
    422: "unprocessable-content",
    423: "locked",
    424: "failed-dependency",
    428: "precondition-required",
    429: "too-many-requests",
    431: "request-header-fields-too-large",
    451: "unavailable-for-legal-reasons",
    500: "internal",
    501: "not-implemented",
    502: "bad-gateway",
    503: "unavailable",
    504: "gateway-timeout",
    505: "http-version-not-supported",
}
"""The `code` member of an error that is no SmartError, by status."""

_OWN_MEMBERS = frozenset(["type", "title", "status", "instance", "code"])
_TRANSLATORS = ("smartservice.db", "smartservice.redis", "smartclient.errors")

_Report = Callable[[BaseException], object]


def install(app: Flask, *, report: _Report | None = None, redactor: Redactor | None = None) -> None:
    """Answer every error of this app as a problem, and hand each crash to `report` once.

    A crash keeps Flask's course: `got_request_exception` fires once, teardown sees the exception, the log gets its
    traceback. Under DEBUG and TESTING too, the caller gets the reply of production: PROPAGATE_EXCEPTIONS becomes
    False unless the service has set it.
    """
    if app.config.get("PROPAGATE_EXCEPTIONS") is None:
        app.config["PROPAGATE_EXCEPTIONS"] = False
    pipeline = _Pipeline(report, redactor or getattr(app, "redactor", None) or Redactor())
    app.register_error_handler(HTTPException, pipeline.http_exception)
    app.register_error_handler(Exception, pipeline.exception)
    app.after_request(pipeline.watch_stream)
    app.extensions["smartservice.errors"] = pipeline  # the signal below holds its receiver weakly
    got_request_exception.connect(pipeline.crashed, app)


def translated(error: BaseException) -> SmartError | None:
    """The error of our tree that a vendor's error means; None when it means a crash.

    Only the vendors that this process already uses are asked, so nothing is imported for it.
    """
    if isinstance(error, SmartError):
        return error
    for name in _TRANSLATORS:
        translate = getattr(sys.modules.get(name), "translate", None)
        found = None if translate is None else translate(error)
        if found is not None:
            return found  # type: ignore[no-any-return]
    return None


class _Pipeline:
    def __init__(self, report: _Report | None, redactor: Redactor) -> None:
        self._report = report
        self._redactor = redactor

    def http_exception(self, error: HTTPException) -> Response | HTTPException:
        """Answer an abort, a routing error, or a crash that Flask has wrapped in a 500."""
        if error.response is not None:
            return error.get_response(request.environ)  # type: ignore[return-value]
        if error.code is None or error.code < 400:
            return error
        crash = getattr(error, "original_exception", None)
        if isinstance(crash, SmartError):
            return self._problem(crash.status, crash.code, crash.title())
        if error.code >= 500:
            if crash is None:
                current_app.logger.warning("answered %d: %s", error.code, _said(error))
            return self._problem(error.code, CODES.get(error.code, "internal"), None, headers=_headers(error))
        given: tuple[object, ...] = (getattr(error, "data", None), error.description)
        members = next((data for data in given if isinstance(data, Mapping)), {})
        detail = next((members[name] for name in ("detail", "message") if isinstance(members.get(name), str)), None)
        code = CODES.get(error.code, "bad-request")
        return self._problem(error.code, code, None, detail or _said(error), members, headers=_headers(error))

    def exception(self, error: Exception) -> Response:
        """Answer an error that says what it is; let a crash go on to Flask, which wraps it in a 500."""
        if type(error).__module__ == "flask.debughelpers" and isinstance(error.__context__, HTTPException):
            return self.http_exception(error.__context__)  # type: ignore[return-value]  # a 400 that debug mode makes a crash
        smart = translated(error)
        if smart is None or smart.status == 500:
            raise error
        retry_after = smart.retry_after_seconds if isinstance(smart, Unavailable) else None
        headers = [] if retry_after is None else [(RETRY_AFTER, str(retry_after))]
        if smart.status >= 500:
            current_app.logger.warning("answered %d %s: %s", smart.status, smart.code, smart.message)
            return self._problem(smart.status, smart.code, smart.title(), headers=headers)
        members = dict(smart.details)
        if isinstance(smart, ValidationFailed):
            members["errors"] = smart.errors
        detail = smart.message if smart.message != smart.title() else None
        return self._problem(smart.status, smart.code, smart.title(), detail, members, headers)

    def crashed(self, _app: Flask, exception: BaseException, **_: Any) -> None:
        """Hand a crash to the error reports. A report that fails must not take the reply with it."""
        if self._report is None:
            return
        try:
            self._report(exception)
        except Exception:
            current_app.logger.exception("the error report could not be made")

    def watch_stream(self, response: Response) -> Response:
        """Log and report an error that interrupts a streamed reply: its status is already sent."""
        if type(response.response) is not list and response.is_streamed and not response.direct_passthrough:
            response.response = _WatchedStream(
                response.response, self, current_app._get_current_object(), request.method, request.path  # type: ignore[attr-defined]
            )  # fmt: skip
        return response

    def interrupted(self, app: Flask, error: Exception, method: str, path: str) -> None:
        app.logger.error("streaming of %s %s was interrupted", method, path, exc_info=error)
        with app.app_context():
            self.crashed(app, error)

    def _problem(
        self,
        status: int,
        code: str,
        title: str | None,
        detail: str | None = None,
        members: Mapping[str, Any] | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> Response:
        body: dict[str, Any] = {"type": "about:blank", "title": title or _phrase(status), "status": status}
        call = current_call()
        try:
            if detail:
                body["detail"] = self._redactor.text(detail)
            if call is not None:
                body["instance"] = call.request_id
            body["code"] = code
            if members:
                clean = self._redactor.value(json.loads(encode(members)))
                body.update((name, value) for name, value in clean.items() if name not in _OWN_MEMBERS | body.keys())
            content = encode(body).encode() + b"\n"
        except Exception:
            current_app.logger.exception("the details of a %d reply could not be written", status)
            body = {"type": "about:blank", "title": _phrase(status), "status": status, "code": code}
            if call is not None:
                body["instance"] = call.request_id
            content = json.dumps(body, separators=(",", ":")).encode() + b"\n"
        return Response(content, status, headers=list(headers), content_type=PROBLEM_JSON)


class _WatchedStream:
    """The parts of a streamed reply, passed on; an error among them is told before it cuts the connection."""

    def __init__(self, parts: Any, pipeline: _Pipeline, app: Flask, method: str, path: str) -> None:
        self._parts = parts
        self._iterator: Iterator[Any] = iter(parts)
        self._pipeline = pipeline
        self._where = (app, method, path)

    def __iter__(self) -> _WatchedStream:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._iterator)
        except StopIteration:
            raise
        except Exception as error:
            app, method, path = self._where
            self._pipeline.interrupted(app, error, method, path)
            raise

    def close(self) -> None:
        close = getattr(self._parts, "close", None)
        if close is not None:
            close()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown Error"


def _headers(error: HTTPException) -> list[tuple[str, str]]:
    """The headers that belong to the error (Allow, WWW-Authenticate, Retry-After), without those of its HTML body."""
    return [
        (name, value)
        for name, value in error.get_headers(request.environ)
        if name.lower() not in ("content-type", "content-length")
    ]


def _said(error: HTTPException) -> str | None:
    """The description of an abort. Flask words two of them differently in debug mode; here they are always the same."""
    if isinstance(error, BadRequestKeyError):
        return f"The field {error.args[0]!r} is missing." if error.args else "A field is missing."
    if isinstance(error, BadRequest):
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, json.JSONDecodeError):
                return f"The body is not valid JSON: {cause.msg} at line {cause.lineno}, column {cause.colno}."
            if isinstance(cause, UnicodeDecodeError):
                return "The body is not valid JSON: it is not UTF-8."
            cause = cause.__cause__ or cause.__context__
    said: object = error.description  # `abort(400, {...})` is written too, and so is `abort(400, error)`
    return None if said is None or isinstance(said, Mapping) else str(said)
