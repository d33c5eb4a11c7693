"""The headers that services say to each other, and the context of one call, which alone reads and writes them."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

REQUEST_ID = "X-Request-ID"
"""Names one request through every service that it touches: 1 to 128 of `A-Z a-z 0-9 . _ : + / = @ -`."""

CALLER = "Smart-Caller"
"""The name of the calling service."""

DEADLINE = "Smart-Deadline"
"""How many milliseconds the caller will still wait, counted from when the request arrives."""

TRACEPARENT = "traceparent"
"""W3C Trace Context, level 1: `00-<32 hex>-<16 hex>-<2 hex>`."""

TRACESTATE = "tracestate"
"""W3C Trace Context: vendor entries, passed on untouched beside a valid traceparent."""

DEBUG = "Smart-Debug"
"""A signed permission to log this one request at debug level; see `flask debug-header`."""

RETRY_AFTER = "Retry-After"

SERVICE = "Smart-Service"
"""Which service a request is meant for, where one address stands for many (the local HAProxy)."""

ATTEMPT = "Smart-Attempt"
"""The number of this attempt at one logical call, counted from 1."""

RETRY = "Smart-Retry"
"""On an answer, `no`: the failure lies further down and was retried there; whoever receives it does not retry."""

BUCKET = "Smart-Bucket"
"""0 to 9999: on which side of a split the one is for whom this is done. Computed once, where a request enters the realm."""

SIDECAR_TOKEN = "Smart-Sidecar-Token"
"""Shows the sidecar who calls, where it asks for that; it is taken off there."""

IDEMPOTENCY_KEY = "Idempotency-Key"
"""Makes a POST or PATCH repeatable: it is for the service to do the work of one key once."""

BAGGAGE = "baggage"
"""W3C Baggage: `key=value` pairs that flow through every service; only allow-listed keys are passed on."""

LONGEST_BAGGAGE = 8192
"""The least that every platform must pass on (W3C Baggage, section 3.3.2); what is longer is cut."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")
_CALLER = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_MILLISECONDS = re.compile(r"[0-9]{1,9}")
_BUCKET = re.compile(r"[0-9]{1,4}")


@dataclass(frozen=True, slots=True)
class CallContext:
    """What one request knows of its call. Immutable; threads that work for the request take it along."""

    request_id: str
    caller: str | None = None
    deadline: float | None = None
    """The moment of `time.monotonic()` at which the caller stops waiting; None when it did not say."""
    traceparent: str | None = None
    tracestate: str | None = None
    debug: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    """The allow-listed entries of the caller's baggage."""
    bucket: int | None = None
    """0 to 9999: on which side of every split this is done; None where nobody has said so."""
    failed_calls: list[str] = field(default_factory=list, compare=False)
    """The services whose calls failed for good while this request was served, retries and all. It is shared by all the
    contexts that are derived from this one; an answer 502, 503 or 504 then says `Smart-Retry: no`."""

    @classmethod
    def from_headers(
        cls,
        get: Callable[[str], str | None],
        *,
        tags: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] | None = None,
        new_bucket: Callable[[], int] | None = None,
    ) -> CallContext:
        """Read the headers with `get(name)`. A header that breaks its format counts as absent; never raises.

        Of the baggage only the entries named in `tags` are kept. `new_bucket` gives the bucket where no header does.
        """
        request_id = get(REQUEST_ID)
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = (new_id or new_request_id)()
        caller = get(CALLER)
        remaining = get(DEADLINE)
        traceparent = get(TRACEPARENT)
        traced = traceparent is not None and _TRACEPARENT.fullmatch(traceparent) is not None
        bucket = get(BUCKET)
        if bucket is not None and _BUCKET.fullmatch(bucket):
            number: int | None = int(bucket)
        else:
            number = None if new_bucket is None else new_bucket()
        return cls(
            request_id=request_id,
            caller=caller if caller and _CALLER.fullmatch(caller) else None,
            deadline=clock() + int(remaining) / 1000 if remaining and _MILLISECONDS.fullmatch(remaining) else None,
            traceparent=traceparent if traced else None,
            tracestate=get(TRACESTATE) if traced else None,
            tags=read_baggage(get(BAGGAGE), tags) if tags else {},
            bucket=number,
        )

    def to_headers(self, *, clock: Callable[[], float] = time.monotonic) -> Mapping[str, str]:
        """The headers that carry this context to the next service; the deadline as what is left of it."""
        headers = {REQUEST_ID: self.request_id}
        if self.caller is not None:
            headers[CALLER] = self.caller
        if self.deadline is not None:
            headers[DEADLINE] = str(max(0, math.floor((self.deadline - clock()) * 1000)))
        if self.traceparent is not None:
            headers[TRACEPARENT] = self.traceparent
            if self.tracestate is not None:
                headers[TRACESTATE] = self.tracestate
        if self.bucket is not None:
            headers[BUCKET] = str(self.bucket)
        if self.tags:
            headers[BAGGAGE] = ",".join(f"{name}={quote(value, safe='')}" for name, value in self.tags.items())
        return headers


def read_baggage(header: str | None, allowed: Collection[str]) -> Mapping[str, str]:
    """The entries of a W3C Baggage header that are allowed; their properties (after `;`) are dropped."""
    found: dict[str, str] = {}
    for entry in (header or "")[:LONGEST_BAGGAGE].split(","):
        name, equals, value = entry.partition(";")[0].partition("=")
        if equals and name.strip() in allowed:
            found[name.strip()] = unquote(value.strip())
    return found


_current: ContextVar[CallContext | None] = ContextVar("smartrealm_call_context", default=None)

enter_call = _current.set
"""Make a CallContext the current one of this execution context; gives the token for `leave_call`."""

leave_call = _current.reset
"""Undo `enter_call`, with its token."""

current_call = _current.get
"""The CallContext in which this code runs, or None outside of any request."""


def new_request_id() -> str:
    """32 hexadecimal digits from the operating system's random source."""
    return os.urandom(16).hex()
