"""What the map hears of this host: one lease, with its instances and the report of its sidecar."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from atlas.directory import Directory
from atlas.keeper import Keeper
from atlas.model import Instance, Lease, Report
from atlas.world import World
from sidecar.local import Local
from sidecar.settings import Settings
from smartrealm.errors import Forbidden


class HostLease:
    """Holds the lease of this host. What `report` gives goes along with each renewal, and at once where it matters to others."""

    def __init__(self, settings: Settings, directory: Directory, local: Local, report: Callable[[], Report]) -> None:
        incarnation = os.urandom(8).hex()
        self._report = report
        self._reported: tuple[object, ...] = ()
        self._map = _OwnFirst(directory, settings.host)
        self._keeper = Keeper(self._map, lambda: lease(settings, local, incarnation, report))

    @property
    def failure(self) -> str | None:
        """Why the last renewal failed; None when it did not."""
        return self._keeper.failure

    @property
    def left_out(self) -> Mapping[str, str]:
        """Instances that announce another address than this host's, and that its token may not speak for; each with the reason."""
        return self._map.left_out

    def start(self) -> None:
        self._keeper.start()

    def refresh(self) -> None:
        """Say at once what has changed."""
        self._keeper.refresh()

    def refresh_when_awaited(self) -> None:
        """Say at once what somebody may wait for: a change of the catalogue is in force, calls have ended."""
        report = self._report()
        worth = (report.epoch, report.revision, report.sessions, report.holding)
        if worth != self._reported:
            self._reported = worth
            self._keeper.refresh()

    def close(self, *, leave: bool) -> None:
        """Renew it no more: it goes on until the next agent takes it over. `leave`: it ends now, with its instances."""
        self._keeper.close(release=leave)


class _OwnFirst:
    """The map, as its Keeper sees it. A lease that is refused is told once more with the instances at this host's own address: one
    that announces another one takes no other out of the map."""

    def __init__(self, directory: Directory, host: str) -> None:
        self.left_out: Mapping[str, str] = {}
        self._directory = directory
        self._host = host
        self.sweep = directory.sweep
        self.release = directory.release

    def hold(self, lease: Lease) -> None:
        try:
            self._directory.hold(lease)
            self.left_out = {}
        except Forbidden as error:
            own = tuple(one for one in lease.instances if one.host == self._host)
            if own == lease.instances:
                raise
            self._directory.hold(replace(lease, instances=own))
            self.left_out = {f"{one.service}@{one.address}": error.message for one in lease.instances if one not in own}


def lease(
    settings: Settings, local: Local, incarnation: str, report: Callable[[], Report] | None = None
) -> Lease | None:
    """The lease of this host, for `atlas.keeper.Keeper`; None until every instance that was there at the start has been
    asked.

    `incarnation` is made anew at every start of the agent, the id is the same for ever: so a new agent takes over what
    the one before carried, in one write and without a gap. An agent that stops closes its Keeper with `release=False`:
    the instances go on.
    """
    if not local.settled:
        return None
    return Lease(
        id=lease_id(settings.host),
        incarnation=incarnation,
        ttl_seconds=settings.ttl_seconds,
        instances=local.instances(),
        report={} if report is None else report().to_json(),
    )


def lease_id(host: str) -> str:
    """`sidecar@host`."""
    return f"sidecar@{host}"


def carried_by(host: str, world: World | None) -> list[Instance]:
    """What the map says that this host carries."""
    if world is None:
        return []
    own = lease_id(host)
    return [one for table in world.instances.values() for one in table.values() if one.lease == own]
