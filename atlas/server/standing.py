"""What `Directory.status()` says, read for the commands: which leases are overdue, what is behind the map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SLACK_SECONDS = 2.0
"""So much later than its ttl may a lease be renewed before a clock that is not the holder's calls it overdue."""


def overdue_of(status: Mapping[str, Any], now: float) -> dict[str, float]:
    """The leases that were not renewed in time, with the seconds since their last sign of life.

    Whoever keeps the map alive has watched them; a program that has only just come reads the holder's clock.
    """
    late = {}
    for lease in status.get("leases", ()):
        silent = max(0.0, now - float(lease.get("renewed_at") or lease.get("opened_at") or now))
        if lease.get("overdue") or silent > float(lease["ttl_seconds"]) + _SLACK_SECONDS:
            late[str(lease["id"])] = silent
    return late


def is_held(status: Mapping[str, Any]) -> bool:
    """Whether so many leases are overdue at once that none is given up."""
    return bool(status.get("held_back"))


def store_problem(status: Mapping[str, Any]) -> str:
    """Why a server cannot ask its store, and so serves from memory; empty when it can."""
    return str(status.get("server", {}).get("store_problem") or "")


def stores(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the stores behind the map promise: one, or the catalogue's and presence's."""
    found: list[Mapping[str, Any]] = [status[name] for name in ("catalogue", "presence") if name in status]
    return found[:1] if len(found) == 2 and found[0] == found[1] else found


def where(status: Mapping[str, Any]) -> str:
    """The names of the stores."""
    return " + ".join(str(store.get("name", "")) for store in stores(status))
