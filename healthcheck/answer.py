"""A report as an HTTP answer, in the form that the caller accepts. Free of any framework and of any I/O.

Three forms: the JSON that the published `healthcheck` libraries answer with (the default), `application/health+json` after
draft-inadarei-api-health-check-06, and plain text. Whoever is not to see details gets status words only.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from healthcheck.model import Report, Row, Transition

Kind = Literal["json", "health", "text"]

_CONTENT_TYPES: dict[Kind, str] = {
    "json": "application/json",
    "health": "application/health+json",
    "text": "text/plain; charset=utf-8",
}
_RANGES: dict[Kind, tuple[str, ...]] = {
    "json": ("application/json", "application/*", "*/*"),
    "health": ("application/health+json", "application/*", "*/*"),
    "text": ("text/plain", "text/*", "*/*"),
}
_HEADERS_ALWAYS = (("Cache-Control", "no-store"), ("Vary", "Accept"))


class Answer(NamedTuple):
    """An HTTP answer. The body holds for GET; answer HEAD with the same headers and no body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@lru_cache(maxsize=256)
def negotiate(accept: str) -> Kind:
    """The form to answer in, from an Accept header (RFC 9110, section 12.5.1).

    The most specific range that names a form gives its quality; of equals, the one named first, then JSON. A probe is
    never turned away: what cannot be read or is not offered gets JSON.
    """
    asked: dict[str, tuple[float, int]] = {}
    for place, part in enumerate(accept.lower().split(",")):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        asked.setdefault(name, (_quality(parameters), -place))
    best: tuple[float, int] = (0.0, 0)
    chosen: Kind = "json"
    for kind, ranges in _RANGES.items():
        wanted = next((asked[name] for name in ranges if name in asked), best)
        if wanted[0] > 0 and wanted > best:
            best, chosen = wanted, kind
    return chosen


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def present(
    report: Report, kind: Kind, *, detailed: bool, about: Mapping[str, Any], transitions: Sequence[Transition]
) -> Answer:
    """The answer that says this report in this form."""
    if kind == "text":
        body = _text(report, detailed)
    elif kind == "health":
        body = _json(_health(report, about) if detailed else {"status": report.status})
    else:
        body = _json(_classic(report, about, transitions) if detailed else {"status": _word(report)})
    return Answer(_http_status(report, kind), (("Content-Type", _CONTENT_TYPES[kind]), *_HEADERS_ALWAYS), body)


def not_found(detail: str) -> Answer:
    """The answer to a group or check that does not exist (RFC 9457)."""
    problem = {"type": "about:blank", "title": "Not Found", "status": 404, "code": "not-found"}
    if detail:
        problem["detail"] = detail
    return Answer(404, (("Content-Type", "application/problem+json"), *_HEADERS_ALWAYS), _json(problem))


def _http_status(report: Report, kind: Kind) -> int:
    """500 is what the published libraries answer when the whole is unwell; a group answers 503, as load balancers expect."""
    if report.status != "fail":
        return 200
    return 500 if report.group is None and kind == "json" else 503


def _word(report: Report) -> str:
    return "failure" if report.status == "fail" else "success"


def _classic(report: Report, about: Mapping[str, Any], transitions: Sequence[Transition]) -> dict[str, Any]:
    whole: dict[str, Any] = {
        **about,
        "hostname": socket.gethostname(),
        "status": _word(report),
        "timestamp": report.time,
        "results": [_classic_row(row) for row in report.rows],
    }
    if report.reasons:
        whole["reasons"] = list(report.reasons)
    if report.group is None and transitions:
        whole["transitions"] = [
            {"checker": change.name, "before": change.before, "after": change.after, "timestamp": change.time}
            for change in transitions
        ]
    return whole


def _classic_row(row: Row) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "checker": row.name,
        "output": row.output,
        "passed": row.status != "fail",
        "timestamp": row.time,
        "expires": row.expires,
        "response_time": row.seconds,
        "status": row.status,
        "observed": row.observed,
        "critical": row.critical,
        "groups": list(row.groups),
        "since": row.since,
    }
    if row.hanging_since is not None:
        shown["hanging_since"] = row.hanging_since
    if row.value is not None:
        shown["value"], shown["unit"] = row.value, row.unit
    return shown


_DRAFT_NAMES = {"service": "serviceId", "release": "releaseId"}
"""What the draft (section 3) calls what others call so."""


def _health(report: Report, about: Mapping[str, Any]) -> dict[str, Any]:
    checks: dict[str, list[dict[str, Any]]] = {}
    for row in report.rows:  # "db" and "db:responseTime" have one key, and both are told.
        checks.setdefault(_key(row), []).append(_part(row))
    named = {_DRAFT_NAMES.get(name, name): value for name, value in about.items()}
    whole: dict[str, Any] = {**named, "status": report.status, "checks": checks}
    if report.reasons:
        whole["output"] = "; ".join(report.reasons)
    return whole


def _key(row: Row) -> str:
    """`component:measurement`, section 4.1 of the draft. A name with a colon is such a key already."""
    return row.name if ":" in row.name else f"{row.name}:{'responseTime' if row.value is None else 'value'}"


def _part(row: Row) -> dict[str, Any]:
    part: dict[str, Any] = {"componentId": row.name.partition(":")[0], "status": row.status}
    if row.value is None:
        part["observedValue"], part["observedUnit"] = round(row.seconds * 1000, 3), "ms"
    else:
        part["observedValue"] = row.value
        if row.unit is not None:
            part["observedUnit"] = row.unit
    if row.time is not None:
        part["time"] = _instant(row.time)
    if row.output is not None and (row.status != "pass" or row.observed != "pass"):
        part["output"] = row.output if isinstance(row.output, str) else json.dumps(row.output)
    if row.hanging_since is not None:
        part["hangingSince"] = _instant(row.hanging_since)
    return part


def _text(report: Report, detailed: bool) -> bytes:
    lines: list[str] = [report.status]
    if detailed:
        lines += [f"closed: {reason}" for reason in report.reasons]
        lines += [f"{row.status} {row.name}{_remark(row)}" for row in report.rows]
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _remark(row: Row) -> str:
    if row.output is None:
        return ""
    text = row.output if isinstance(row.output, str) else json.dumps(row.output)
    return f": {' '.join(text.split())}"


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, default=str).encode()
