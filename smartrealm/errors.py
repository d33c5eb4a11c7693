"""The error tree of the whole toolkit: code <-> HTTP status <-> problem body.

    SmartError                      500  internal
    ├── ConfigurationError          500  configuration          settings are wrong; lists every mistake
    │   └── NotConfigured           500  not-configured         something was asked for that no setting switches on
    ├── BadRequest                  400  bad-request            the caller's request cannot be read
    │   └── ValidationFailed        422  validation-failed      it can be read, and says something impossible
    ├── Unauthorized                401  unauthorized           no token, or one that is not known here
    ├── Forbidden                   403  forbidden              the token is known and may not do this
    ├── NotFound                    404  not-found
    ├── Conflict                    409  conflict
    ├── Unavailable                 503  unavailable            try again later; may carry retry_after_seconds
    │   └── Overloaded              503  overloaded             a local limit was reached (a pool, a queue)
    └── DeadlineExceeded            504  deadline-exceeded      the caller's time is used up

A message is one sentence that says what is wrong and what to do next. Errors with a status below 500 show their
message to the caller of the service; 5xx show their title only, the message goes to the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar


class SmartError(Exception):
    """Base of every error that the toolkit raises on purpose.

    `details` become members of the problem body (RFC 9457, section 3.2) when the status is below 500.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str = "", **details: Any) -> None:
        super().__init__(message or self.title())
        self.message = message or self.title()
        self.details: Mapping[str, Any] = details

    @classmethod
    def title(cls) -> str:
        """The short summary that never changes between occurrences: the status phrase."""
        return HTTPStatus(cls.status).phrase


class ConfigurationError(SmartError):
    """The settings cannot be used. `mistakes` holds one sentence for each, all of them together."""

    code = "configuration"

    def __init__(self, message: str = "", mistakes: Sequence[str] = (), **details: Any) -> None:
        text = message
        if mistakes:
            text = "\n".join([message or "The configuration cannot be used:", *(f"  - {line}" for line in mistakes)])
        super().__init__(text, **details)
        self.mistakes = tuple(mistakes)


class NotConfigured(ConfigurationError):
    """A part of the service was asked for that no setting switches on; the message names the setting."""

    code = "not-configured"


class BadRequest(SmartError):
    """The request cannot be read: bad JSON, a missing part, a malformed header."""

    code = "bad-request"
    status = 400


class ValidationFailed(BadRequest):
    """The request can be read, but its content breaks the rules.

    `errors` is a list of `{"pointer": "#/name", "detail": "..."}` (RFC 6901 fragments) or
    `{"parameter": "page", "detail": "..."}` for query parameters.
    """

    code = "validation-failed"
    status = 422

    def __init__(self, message: str = "", errors: Sequence[Mapping[str, str]] = (), **details: Any) -> None:
        super().__init__(message or "The request does not fit what this resource takes.", **details)
        self.errors = tuple(dict(error) for error in errors)


class Unauthorized(SmartError):
    """Nobody known is asking: no token came along, or it is unknown, revoked or expired."""

    code = "unauthorized"
    status = 401


class Forbidden(SmartError):
    """The one who asks is known and may not do this."""

    code = "forbidden"
    status = 403


class NotFound(SmartError):
    """The named thing does not exist."""

    code = "not-found"
    status = 404


class Conflict(SmartError):
    """The request contradicts the present state."""

    code = "conflict"
    status = 409


class Unavailable(SmartError):
    """Something that is needed is away for now. `retry_after_seconds` becomes a Retry-After header."""

    code = "unavailable"
    status = 503

    def __init__(self, message: str = "", retry_after_seconds: int | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after_seconds = retry_after_seconds


class Overloaded(Unavailable):
    """A local limit was reached: every connection of a pool is in use, a queue is full."""

    code = "overloaded"


class DeadlineExceeded(SmartError):
    """The time that the caller gave is used up; the work was not begun or was abandoned."""

    code = "deadline-exceeded"
    status = 504
