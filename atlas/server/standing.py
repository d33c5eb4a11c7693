"""What `Directory.status()` says, read for the commands: which leases are overdue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def overdue_of(status: Mapping[str, Any]) -> tuple[dict[str, float], bool]:
    """The leases that were not renewed in time, with the seconds since their last sign of life; and whether they are held."""
    late = {
        str(lease["id"]): float(lease.get("silent_seconds") or 0.0)
        for lease in status.get("leases", ())
        if lease.get("overdue")
    }
    return late, bool(status.get("held"))
