"""What `--dry-run` works on: a copy of the map in a file that is thrown away, so that a rehearsal runs the same code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from atlas.directory import Directory
from atlas.model import Instance, Lease
from atlas.world import World


def empty(folder: str, open: Callable[..., Directory], environ: Mapping[str, str]) -> Directory:
    """A map of its own in `folder`; it never leads to the real one, nor to its keys."""
    apart = {name: value for name, value in environ.items() if not name.startswith("ATLAS_")}
    return open(f"sqlite:///{Path(folder) / 'rehearsal.db'}", environ={**apart, "REALM": "local"})


def copy_of(real: Directory, folder: str, open: Callable[..., Directory], environ: Mapping[str, str]) -> Directory:
    """A copy with the history, the same revisions, and everything that runs."""
    copy = empty(folder, open, environ)
    copy.import_(real.export())
    for lease in _leases(real.world()):
        copy.hold(lease)
    return copy


def _leases(world: World) -> list[Lease]:
    carried: dict[str, list[Instance]] = {}
    for inner in world.instances.values():
        for instance in inner.values():
            carried.setdefault(instance.lease, []).append(instance)
    return [dataclasses.replace(lease, instances=tuple(carried.get(lease.id, ()))) for lease in world.leases.values()]
