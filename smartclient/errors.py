"""What a call to a service can raise: each is an exception of requests and an error of the toolkit at once.

    requests.exceptions.RequestException
    ├── ConnectionError
    │   ├── UnknownService        NotFound           no service of that name; lists the near ones
    │   ├── NoInstances           Unavailable        the service is known, and none of its instances takes calls
    │   ├── CallRefused           SmartError         the sidecar does not let this caller through: token, allow list
    │   ├── BreakerOpen           Unavailable        most of the last calls failed: not asked again for a moment
    │   ├── LimitReached          Overloaded         as many calls are under way as this process allows
    │   ├── ConnectionFailed      Unavailable        refused, reset, closed without an answer
    │   └── ConnectTimedOut       Unavailable        (also ConnectTimeout) no connection within its time
    ├── Timeout
    │   ├── DeadlineExceeded      DeadlineExceeded   the time for the whole call is used up
    │   └── AttemptTimedOut       Unavailable        (also ReadTimeout) no answer within the time of an attempt
    └── BodyBroken                Unavailable        (also ChunkedEncodingError) the answer broke off

Each has `attempts`: what was tried, in order. An error of requests that names a mistake in the call itself (InvalidURL,
InvalidHeader, TooManyRedirects, ...) stays what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import requests.exceptions

from smartrealm import errors


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a call, as it ended."""

    number: int
    """Counted from 1."""
    instance: str
    """Where it went, `host:port`."""
    outcome: str
    """`ok`, `status` (an answer that may be repeated: 429, 502, 503, 504), `refused`, `connect-timeout`, `name`, `reset`,
    `timeout`, `body`, `tls`, `cancelled`. Through a sidecar also `empty` (no instance takes calls) and `unreached` (none took the
    connection)."""
    seconds: float
    status: int | None = None
    reason: str = ""
    """Of a failure without an answer, what the operating system said."""

    def __str__(self) -> str:
        told = f"{self.outcome} {self.status}" if self.status else self.outcome
        return f"{self.instance or 'nowhere'} {told} after {self.seconds:.3f} s"


class CallError(requests.exceptions.RequestException, errors.SmartError):
    """Base of what a call to a service raises."""

    def __init__(
        self,
        message: str = "",
        *,
        service: str = "",
        attempts: tuple[Attempt, ...] = (),
        retry_after_seconds: int | None = None,
        **known: Any,
    ) -> None:
        details = {"service": service} if service else {}
        request, response = known.pop("request", None), known.pop("response", None)
        errors.SmartError.__init__(self, message, **details)
        requests.exceptions.RequestException.__init__(self, self.message, request=request, response=response)
        self.service = service
        self.attempts = attempts
        self.retry_after_seconds = retry_after_seconds
        """Becomes a Retry-After header where the service answers with this error."""


class UnknownService(CallError, requests.exceptions.ConnectionError, errors.NotFound):
    """No service of that name is in the realm. Not repeated."""

    code = "unknown-service"
    status = 500  # of whoever fails for it: the mistake is in its code, not in what it was asked


class NoInstances(CallError, requests.exceptions.ConnectionError, errors.Unavailable):
    """The service is known, and no instance of it takes calls now."""


class CallRefused(CallError, requests.exceptions.ConnectionError):
    """The sidecar of this host did not let the call through: it asks for a token, or this caller is not on the allow list of the
    service. Not repeated, and not sent by another way."""

    code = "call-refused"
    status = 500  # of whoever fails for it: the mistake is in its setting up, not in what it was asked


class BreakerOpen(CallError, requests.exceptions.ConnectionError, errors.Unavailable):
    """Most of the last calls to the service failed, so this one was not sent."""


class LimitReached(CallError, requests.exceptions.ConnectionError, errors.Overloaded):
    """As many calls to the service are under way as this process allows, so this one was not sent."""


class ConnectionFailed(CallError, requests.exceptions.ConnectionError, errors.Unavailable):
    """The service was not reached, or the connection ended before an answer."""


class ConnectTimedOut(CallError, requests.exceptions.ConnectTimeout, errors.Unavailable):
    """No connection came about in time."""


class AttemptTimedOut(CallError, requests.exceptions.ReadTimeout, errors.Unavailable):
    """The service was reached and did not answer within the time of an attempt."""


class BodyBroken(CallError, requests.exceptions.ChunkedEncodingError, errors.Unavailable):
    """The answer broke off in its body."""


class DeadlineExceeded(CallError, requests.exceptions.Timeout, errors.DeadlineExceeded):
    """The time for the whole call, its body included, is used up."""


def translate(error: BaseException) -> errors.SmartError | None:
    """What `response.raise_for_status()` on the answer of a service means to whoever called the service that did it.

    429, 502, 503 and 504 of a service: Unavailable, since it may be well in a moment. None for all else, plain URLs included.
    """
    response = error.response if isinstance(error, requests.exceptions.HTTPError) else None
    if response is None or not str(response.url).startswith("service://"):
        return None
    if response.status_code not in (429, 502, 503, 504):
        return None
    service = str(response.url)[len("service://") :].partition("/")[0].partition("?")[0]
    translated = errors.Unavailable(f"{service} answered {response.status_code}.")
    translated.__cause__ = error
    return translated
