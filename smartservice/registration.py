"""An instance in the map: it registers when it serves, says when it drains, renews its lease, and leaves when it stops.

All workers of an instance speak for one lease. The one that holds the lock renews it; when that worker ends, another one
takes over within a second. While the sidecar of the host carries the instance in its own lease, there is none of ours: see
docs/decisions/service-announces-itself.md.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from atlas.keeper import Keeper
from atlas.model import Instance, Lease

if TYPE_CHECKING:
    from atlas.directory import Directory
    from atlas.world import World
    from smartservice.announcing import Announcer
    from smartservice.lifecycle import Desk

AWAY_SECONDS = 5.0
"""So long after the agent of the host was last seen an instance enters the map by itself: well before the agent's lease ends."""

_EVERYWHERE = ("", "0.0.0.0", "::", "[::]")


class Registration:
    """Keeps one instance in the map from one worker. `start` after the fork; every method is quick except `close`.

    `announcer` tells the sidecar of the host, where there may be one; `world`, the map as it is known, says when the sidecar has
    taken the instance over.
    """

    def __init__(
        self,
        directory: Directory,
        instance: Callable[[], Instance],
        *,
        desk: Desk,
        ttl_seconds: float,
        is_draining: Callable[[], bool],
        announcer: Announcer | None = None,
        world: Callable[[], World] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._announcer = announcer
        self._world = world
        self._clock = clock
        self._carried_at = -math.inf
        self._is_carried = False
        self._instance = instance
        self._desk = desk
        self._ttl_seconds = ttl_seconds
        self._is_draining = is_draining
        self._stopping = False
        self._told_draining = False
        self._keeper = Keeper(directory, self.lease)

    @property
    def failure(self) -> str | None:
        """Why the instance could not be registered; None when it is, or another worker or the sidecar does it."""
        return self._keeper.failure

    def start(self) -> None:
        """Announce and register, and stay so."""
        self._look()
        self._keeper.start()

    def beat(self) -> None:
        """Called about twice a second: say at once when draining begins, or when the sidecar comes and goes."""
        self._look()
        is_news = self._is_draining() and not self._told_draining
        self._told_draining = self._told_draining or is_news
        if is_news or (self._is_carried and self._keeper.held is not None):
            self._keeper.refresh()

    def close(self, *, stopping: bool, seconds: float = 2.0) -> None:
        """Leave the map if the whole instance is stopping; a worker that is only replaced hands over to another one."""
        self._stopping = True
        self._keeper.close(release=stopping, seconds=seconds)

    def lease(self) -> Lease | None:
        """What is to be held now; None in a worker that does not speak for the instance, or that ends, and while the sidecar of
        the host carries it."""
        if self._stopping or not self._desk.is_mine():
            return None
        held = self._keeper.held
        if held is None:
            if self._is_carried or self._clock() - self._carried_at < AWAY_SECONDS:
                return None
        elif self._is_carried and self._is_taken_over(held):
            self._directory.release(held.id, held.incarnation)  # of what it carries the sidecar's lease has it all
            return None
        instance = self._instance()
        return Lease(
            id=f"{instance.service}@{instance.address}",
            incarnation=instance.incarnation,
            ttl_seconds=self._ttl_seconds,
            instances=(instance,),
        )

    def _look(self) -> None:
        if self._announcer is None:
            return
        self._is_carried = self._announcer.beat()
        if self._is_carried:
            self._carried_at = self._clock()

    def _is_taken_over(self, held: Lease) -> bool:
        """Whether the map says that another lease carries this very instance, and has heard of ours by now: one that is late
        would tell of the lease that the agent had before."""
        world = None if self._world is None else self._world()
        if world is None or held.id not in world.leases:
            return False
        told = held.instances[0]
        known = world.instances.get(told.service, {}).values()
        return any(one.incarnation == told.incarnation and one.lease not in ("", held.id) for one in known)


def instance_of(
    config: Mapping[str, Any],
    *,
    service: str,
    incarnation: str,
    draining: bool,
    own_address: Callable[[], str] | None = None,
) -> Instance:
    """What the settings of a service say of one of its instances."""
    host = config["ADVERTISE_HOST"] or config["HOST"]
    if host in _EVERYWHERE:
        host = (own_address or address_of_this_host)()
    return Instance(
        service=service,
        host=host.strip("[]"),
        port=config["ADVERTISE_PORT"] or config["PORT"],
        zone=config["ZONE"],
        version=config["RELEASE"],
        weight=config["WEIGHT"],
        draining=draining,
        incarnation=incarnation,
    )


def address_of_this_host() -> str:
    """The address that this host uses towards others. Nothing is sent; without a network it is 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: an address that belongs to nobody; connecting UDP sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
