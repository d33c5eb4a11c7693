"""An instance in the map: it registers when it serves, says when it drains, renews its lease, and leaves when it stops.

All workers of an instance speak for one lease. The one that holds the lock renews it; when that worker ends, another one
takes over within a second.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from atlas.keeper import Keeper
from atlas.model import Instance, Lease

if TYPE_CHECKING:
    from atlas.directory import Directory
    from smartservice.lifecycle import Desk

_EVERYWHERE = ("", "0.0.0.0", "::", "[::]")


class Registration:
    """Keeps one instance in the map from one worker. `start` after the fork; every method is quick except `close`."""

    def __init__(
        self,
        directory: Directory,
        instance: Callable[[], Instance],
        *,
        desk: Desk,
        ttl_seconds: float,
        is_draining: Callable[[], bool],
    ) -> None:
        self._instance = instance
        self._desk = desk
        self._ttl_seconds = ttl_seconds
        self._is_draining = is_draining
        self._stopping = False
        self._told_draining = False
        self._keeper = Keeper(directory, self.lease)

    @property
    def failure(self) -> str | None:
        """Why the instance could not be registered; None when it is, or another worker does it."""
        return self._keeper.failure

    def start(self) -> None:
        """Register, and stay registered."""
        self._keeper.start()

    def beat(self) -> None:
        """Called about twice a second: say at once when draining begins."""
        if self._is_draining() and not self._told_draining:
            self._told_draining = True
            self._keeper.refresh()

    def close(self, *, stopping: bool, seconds: float = 2.0) -> None:
        """Leave the map if the whole instance is stopping; a worker that is only replaced hands over to another one."""
        self._stopping = True
        self._keeper.close(release=stopping, seconds=seconds)

    def lease(self) -> Lease | None:
        """What is to be held now; None in a worker that does not speak for the instance, or that ends."""
        if self._stopping or not self._desk.is_mine():
            return None
        instance = self._instance()
        return Lease(
            id=f"{instance.service}@{instance.address}",
            incarnation=instance.incarnation,
            ttl_seconds=self._ttl_seconds,
            instances=(instance,),
        )


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
