"""Zones: the instances nearby take the calls, the others stand by."""

from __future__ import annotations

from collections.abc import Iterable


def others_stand_by(zone: str, able: Iterable[str], all_zones: Iterable[str]) -> bool:
    """Whether instances of other zones are to be backups, given the zones of those that take calls and of all of them.

    Not while fewer than half of this zone's instances take calls: the rest would be overloaded.
    """
    if not zone:
        return False
    near = sum(one == zone for one in able)
    return near > 0 and 2 * near >= sum(one == zone for one in all_zones)
