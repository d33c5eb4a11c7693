"""The parts of HAProxy's file that are the same for every map: how a call is read, answered, retried and bounded.

Every line says to the one who reads the file at night what it is for. Nothing of the map is in here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from http import HTTPStatus

from sidecar.layout import NEWER, USUAL_MS

MARGIN_MS = 200
"""How much longer than its deadline a caller is waited for: it leaves by itself, and an instance that is asked for what nobody
could do in that time is not ejected for it. HAProxy counts a timeout of its own as an error of the instance."""

HOP_HEADERS = ("Keep-Alive", "Proxy-Connection", "TE")
"""What belongs to one connection. HAProxy itself takes off `Connection` alone."""

UNNAMED = ((400, "bad-request"), (408, "request-timeout"), (413, "content-too-large"), (500, "internal"))
NAMED = (
    (400, "bad-request", "The request to %s cannot be read."),
    (408, "request-timeout", "The request to %s did not arrive in time."),
    (413, "content-too-large", "The request to %s is too large."),
    (500, "internal", "HAProxy could not pass the request on to %s."),
    (502, "bad-gateway", "The instance of %s that was asked ended the connection, or its answer cannot be read."),
    (503, "unavailable", "No instance of %s could be reached."),
    (504, "gateway-timeout", "%s did not answer in time."),
)
"""What HAProxy answers of its own accord, once it is known which service is meant."""

_SERVICE = "%[var(txn.service)]"
_REPLACED = "{ stopping } { str(calls),map_str(maps/newer.map) -m found }"
"""A HAProxy that is stopped for good has none after it: the map is filled after a reload that went well."""


def problem(status: int, code: str, detail: str = "", *, named: bool = False) -> str:
    """The body of an answer, in the shape that every service answers errors in. In `detail`, `%s` is the service."""
    parts = ['"type":"about:blank"', f'"title":{json.dumps(HTTPStatus(status).phrase)}', f'"status":{status}']
    if detail:
        parts.append(f'"detail":{json.dumps(detail.replace("%s", _SERVICE))}')
    end = [f'"code":"{code}"', *([f'"service":"{_SERVICE}"'] if named else [])]
    # The variable holds its own comma: a request without an id has no member "instance".
    return "{" + ",".join(parts) + "," + ("%[var(txn.instance)]" if named or detail else "") + ",".join(end) + "}"


def _returns(status: int, body: str, condition: str, header: str = "") -> str:
    more = f" hdr {header}" if header else ""
    return f"http-request return status {status} content-type application/problem+json lf-string '{body}'{more} {condition}"


def _errors() -> Iterator[str]:
    for status, code, detail in NAMED:
        body = problem(status, code, detail, named=True)
        # What no instance took was executed by none, so its caller may send it again, whatever its method.
        mark = " hdr Smart-Service unreached" if status == 503 else ""
        yield f"http-error status {status} content-type application/problem+json lf-string '{body}'{mark}"


def edge() -> list[str]:
    """What the frontends have in common."""
    return [
        "mode http",
        "timeout client 75s",
        "timeout http-request 10s",
        "timeout http-keep-alive 75s",
        "# A reload ends an idle connection with the answer to its next request, never between two.",
        "option idle-close-on-response",
        "# Before it is known which service is meant.",
        *(
            f"http-error status {status} content-type application/problem+json string '{problem(status, code)}'"
            for status, code in UNNAMED
        ),
    ]


def service() -> list[str]:
    """What the backends have in common: all of them are the same but for their servers."""
    empty = problem(503, "unavailable", "%s is known, and no instance of it takes calls now.", named=True)
    return [
        "mode http",
        "balance roundrobin",
        "# All of another zone at once, not the first of them alone.",
        "option allbackups",
        "timeout connect 1s",
        "timeout queue 1s",
        f"timeout server {USUAL_MS}ms",
        "timeout check 2s",
        "# A call that became a websocket may be silent for longer than an answer may take.",
        "timeout tunnel 1h",
        "# The first request of a connection never goes over one that the instance may be closing at that moment.",
        "http-reuse safe",
        "# A connection that failed is tried elsewhere, at once; so is a request that may be repeated and got no answer at all.",
        "# An answer of 5xx or a timeout is never repeated here: that is for the caller, within its budget.",
        "# A host that lost its power says nothing. The system asks idle connections whether it is there: after 3 s it is not,",
        "# and a request that may be repeated goes elsewhere. A program that is merely slow is not touched by this.",
        "option srvtcpka",
        "srvtcpka-idle 1s",
        "srvtcpka-intvl 1s",
        "srvtcpka-cnt 2",
        "retries 3",
        "option redispatch 1",
        "retry-on conn-failure empty-response",
        "http-request disable-l7-retry if { var(txn.service),map_str(maps/once.map) -m found }"
        " || !{ method GET HEAD PUT DELETE OPTIONS TRACE } !{ req.fhdr(Idempotency-Key) -m found }",
        "http-request set-timeout server var(txn.timeout)",
        "# A caller that leaves takes its request along, and nobody holds that against the instance.",
        "option abortonclose",
        "# Not nbsrv, which is 0 in a worker that ends: it still answers the last request of each connection it has.",
        _returns(503, empty, "if { be_conn_free eq 0 }", "Smart-Service empty"),
        "# What only HAProxy itself may say: a service that passes on such an answer of another one does not speak for it.",
        "http-response del-header Smart-Service",
        "# Which servers went down and came up, for the agent. Requests are not logged.",
        "log global",
        *_errors(),
    ]


def passing() -> list[str]:
    """What a worker that was replaced needs to pass a call on to the one after it, which does all that is to be done."""
    return [
        "mode http",
        "timeout connect 1s",
        "timeout queue 1s",
        "# The one after it knows how long a call may take.",
        "timeout server 1h",
        "option abortonclose",
        "retries 3",
    ]


def calls(*, realm: str, tokens: bool, salt: str, key_headers: Sequence[str], key_cookies: Sequence[str]) -> list[str]:
    """How a call finds its backend. What nearly every call needs comes first, and what few need behind the way out of it."""
    keys = [*(f"req.fhdr({name})" for name in key_headers), *(f"req.cook({name})" for name in key_cookies)]
    return [
        "# 0. A worker that a reload has replaced answers one more request on each idle connection, a minute later perhaps, and",
        "# nothing can be told to it any more: it passes that on to the one after it, once there is one.",
        f"http-request allow if {_REPLACED}",
        "",
        *_named_service(),
        *_caller(tokens),
        *_limits(),
        *_usual(tokens),
        *_known(realm, tokens),
        *_allowed(tokens),
        *_bucket(salt, keys),
        *_sides(),
        "",
        "# 9. Where to.",
        f"use_backend {NEWER} if {_REPLACED}",
        "use_backend %[var(txn.backend)] if !{ var(txn.side) -m found }",
        "use_backend %[var(txn.side)] if { var(txn.side),nbsrv gt 0 } || { stopping }",
        "use_backend %[var(txn.backend)]",
    ]


def _named_service() -> Iterator[str]:
    yield "# 1. Which service is meant."
    yield "http-request set-var(txn.service) req.fhdr(Smart-Service) if { req.fhdr_cnt(Smart-Service) eq 1 }"
    yield "http-request set-var(txn.backend) var(txn.service),map_str(maps/routes.map)"
    yield "acl known var(txn.backend) -m found"
    yield """http-request set-var-fmt(txn.instance) '"instance":"%[req.fhdr(X-Request-ID)]",'""" + (
        " if { req.fhdr(X-Request-ID) -m reg ^[A-Za-z0-9._:+/=@-]{1,128}$ }"
    )


def _caller(tokens: bool) -> Iterator[str]:
    yield ""
    if tokens:
        yield "# 2. Who calls: the token says it, whatever the caller claims. The token stays here."
        digest = "req.fhdr(Smart-Sidecar-Token),sha2(256),hex,lower"
        yield f"http-request set-var(txn.caller) {digest},map_str(maps/tokens.map)"
        yield "acl trusted var(txn.caller) -m found"
        yield "http-request set-header Smart-Caller %[var(txn.caller)]"
        yield "# Behind an upgrade to HTTP/2 nobody would read who calls."
        yield "http-request del-header Upgrade if { req.hdr(Upgrade) -m sub -i h2c }"
    else:
        yield "# 2. What belongs to this connection stays here, and so does a token for another sidecar."
    for name in ("Smart-Sidecar-Token", *HOP_HEADERS):
        yield f"http-request del-header {name}"


def _limits() -> Iterator[str]:
    yield ""
    yield "# 3. How long it may take: as the map says, and no longer than the caller waits."
    yield f"http-request set-var(txn.timeout) var(txn.service),map_str_int(maps/timeouts.map,{USUAL_MS})"
    yield f"http-request set-var(txn.deadline) req.fhdr(Smart-Deadline),add({MARGIN_MS})" + (
        " if { req.fhdr(Smart-Deadline) -m reg ^[0-9]{1,9}$ }"
    )
    yield f"acl late var(txn.deadline),sub({MARGIN_MS}) eq 0"
    yield "http-request set-var(txn.timeout) var(txn.deadline) if { var(txn.deadline),sub(txn.timeout) lt 0 }"


def _usual(tokens: bool) -> Iterator[str]:
    yield ""
    yield "# 4. The way out: a service that is there, that everybody may call and that has no split, and a bucket that came"
    yield "# along. All that follows, to the choice of the backend, is for the other calls."
    yield "http-request set-var(txn.bucket) req.fhdr(Smart-Bucket),add(0)" + (
        " if { req.fhdr_cnt(Smart-Bucket) eq 1 } { req.fhdr(Smart-Bucket) -m reg ^(0|[1-9][0-9]{0,3})$ }"
    )
    yield "acl placed var(txn.bucket) -m found"
    yield "acl guarded var(txn.service),map_str(maps/guarded.map) -m found"
    yield "acl split var(txn.service),map_str(maps/limits-1.map) -m found"
    yield f"http-request allow if known placed !late !guarded !split{' trusted' if tokens else ''}"


def _known(realm: str, tokens: bool) -> Iterator[str]:
    yield ""
    yield "# 5. Whether the service is there. What is no name of a service is forgotten: it is never repeated in an answer."
    yield "http-request unset-var(txn.service) if !known !{ var(txn.service) -m reg ^[a-z](-?[a-z0-9])*$ }"
    yield "http-request unset-var(txn.service) if !known { var(txn.service),length gt 63 }"
    yield "acl named var(txn.service) -m found"
    if tokens:
        hint = "send the token of the calling service in Smart-Sidecar-Token."
        challenge = "WWW-Authenticate Smart-Sidecar-Token hdr Smart-Service unauthorized"
        said = problem(401, "unauthorized", f"Calls to %s need a token that is known here: {hint}", named=True)
        yield _returns(401, said, "if !trusted named", challenge)
        said = problem(401, "unauthorized", f"Calls need a token that is known here: {hint}")
        yield _returns(401, said, "if !trusted", challenge)
    said = problem(400, "bad-request", "Name the service that is called in one header Smart-Service.")
    yield _returns(400, said, "if !named")
    said = problem(404, "unknown-service", f"%s is not registered in realm {realm}.", named=True)
    yield _returns(404, said, "if !known", "Smart-Service unknown")


def _allowed(tokens: bool) -> Iterator[str]:
    yield ""
    yield "# 6. Whether the caller may call it, where the service has a list of its callers, and whether there is time."
    if not tokens:
        yield "http-request set-var(txn.caller) req.fhdr(Smart-Caller) if guarded"
    yield "acl listed var(txn.service),concat(/,txn.caller),map_str(maps/callers.map) -m found"
    said = problem(403, "forbidden", "The caller is not on the list of those that may call %s.", named=True)
    yield _returns(403, said, "if guarded !listed", "Smart-Service refused")
    said = problem(504, "deadline-exceeded", "The caller of %s had no time left.", named=True)
    yield _returns(504, said, "if late")


def _bucket(salt: str, keys: Sequence[str]) -> Iterator[str]:
    yield ""
    yield "# 7. The bucket of the one for whom this is done: as it came, else of the first key there is, else by lot."
    yield "http-request set-var(txn.new) bool(true) if !placed"
    for number, key in enumerate(keys):
        condition = "!placed" if number == 0 else "!placed !{ var(txn.key),length gt 0 }"
        yield f"http-request set-var(txn.key) {key} if {condition}"
    if keys:
        yield f"http-request set-var(txn.bucket) str({salt}:),concat(,txn.key),crc32(0),mod(10000)" + (
            " if !placed { var(txn.key),length gt 0 }"
        )
    yield "http-request set-var(txn.bucket) rand(10000) if !placed"
    yield "http-request set-header Smart-Bucket %[var(txn.bucket)] if { var(txn.new) -m found }"


def _sides() -> Iterator[str]:
    yield ""
    yield "# 8. The side of a split: the first whose limit is above the bucket; so the first is looked at last."
    yield "http-request allow if !split"
    for number in (1, 2, 3):
        condition = "" if number == 1 else f" if {{ var(txn.limit{number - 1}) -m found }}"
        yield f"http-request set-var(txn.limit{number}) var(txn.service),map_str_int(maps/limits-{number}.map){condition}"
    for number in (3, 2, 1):
        yield f"http-request set-var(txn.side) var(txn.service),map_str(maps/sides-{number}.map)" + (
            f" if {{ var(txn.bucket),sub(txn.limit{number}) lt 0 }}"
        )
