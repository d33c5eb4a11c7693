"""What the sidecars say of themselves with each renewal of their leases: how it is checked, and read from what was kept.

A sidecar holds the lease `sidecar@<host>`, with the instances of its host or with none. Its report lies in the document of
the lease and nowhere else: a new one is one write, and wakes no reader.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from atlas.model import Checker, Report, is_text, is_time, is_whole
from smartrealm.errors import ValidationFailed

PREFIX = "sidecar@"
"""How the id of a sidecar's lease begins; its host follows."""

LARGEST_REPORT = 128 * 1024
"""Bytes of JSON that a report may have: some three thousand instances with calls under way."""

_SLACK_SECONDS = 2.0
"""So much later than its ttl may a lease be renewed before the clock of another machine calls it overdue."""


def check_report(data: Mapping[str, Any]) -> None:
    """Raise ValidationFailed where a report cannot be one. What it says beyond the known is kept: it may be newer than we."""
    _check_fields(data)
    try:
        size = len(json.dumps(dict(data), allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise ValidationFailed(
            "This report has no JSON form: numbers, text, true, false, null and lists have."
        ) from None
    if size > LARGEST_REPORT:
        raise ValidationFailed(
            f"This report has {size} bytes; at most {LARGEST_REPORT} are kept: leave out what is zero."
        )


def _check_fields(data: Mapping[str, Any]) -> None:
    check = Checker("report")
    check.want(is_text(data.get("host", ""), 255), "host", "the host of the sidecar")
    check.want(is_text(data.get("epoch", ""), 200), "epoch", "text of at most 200 characters")
    check.want(is_time(data.get("at", 0.0)), "at", "seconds since 1970")
    for name in ("revision", "presence", "holding"):
        check.want(is_whole(data.get(name, 0), 0), name, "a whole number")
    sessions = data.get("sessions", {})
    right = isinstance(sessions, Mapping) and all(
        isinstance(key, str) and is_whole(number, 0) for key, number in sessions.items()
    )
    check.want(right, "sessions", "whole numbers by service/host:port")
    check.finish()


def is_sidecar(lease_id: str) -> bool:
    """Whether a lease is that of a sidecar, by its id."""
    return lease_id.startswith(PREFIX)


def host_of(lease_id: str) -> str:
    """The host whose sidecar holds this lease."""
    return lease_id.removeprefix(PREFIX)


def read_report(lease_id: str, told: Mapping[str, Any], *, at: float, ttl_seconds: float) -> Report | None:
    """The report that a lease was renewed with; None where there is none, or none that can be read. `at`: when that was."""
    if not told:
        return None
    try:
        _check_fields(told)
    except ValidationFailed:
        return None
    return Report(
        host=told.get("host") or host_of(lease_id),
        at=float(told.get("at") or at),
        revision=told.get("revision", 0),
        presence=told.get("presence", 0),
        epoch=told.get("epoch", ""),
        sessions=dict(told.get("sessions", {})),
        holding=told.get("holding", 0),
        ttl_seconds=ttl_seconds,
    )


@dataclass(frozen=True, slots=True)
class Renewal:
    """The last renewal of a lease, as its document tells it."""

    version: str
    """Of the document: another one is a renewal, whatever any clock says."""
    at: float
    """By the clock of who wrote it."""
    ttl_seconds: float


@dataclass
class Heard:
    """Decides which leases are overdue for one who looks at them now and then, without ending any.

    At the first look only the clock of the writer tells how old a renewal is; one that came between two looks counts from
    then on by our own clock, so that a clock that is wrong hides no sidecar that lives. Not thread-safe.
    """

    clock: Callable[[], float]
    now: Callable[[], float]
    _seen: dict[str, tuple[str, float | None]] = field(default_factory=dict)

    def overdue(self, renewals: Mapping[str, Renewal]) -> Collection[str]:
        """The ids of those that were not renewed in time."""
        clock, now = self.clock(), self.now()
        self._seen = {name: self._look(name, renewal.version, clock) for name, renewal in renewals.items()}
        return set(self._late(renewals, clock, now))

    def _look(self, name: str, version: str, clock: float) -> tuple[str, float | None]:
        known = self._seen.get(name)
        if known is None:
            return version, None
        return known if known[0] == version else (version, clock)

    def _late(self, renewals: Mapping[str, Renewal], clock: float, now: float) -> Iterator[str]:
        for name, renewal in renewals.items():
            since = self._seen[name][1]
            age = now - renewal.at if since is None else clock - since
            if age > renewal.ttl_seconds + _SLACK_SECONDS:
                yield name
