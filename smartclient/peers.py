"""What a process knows of each service that it calls, and by which way the next call goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas.splits import BUCKETS, parse_split
from smartclient.balance import Balancer
from smartclient.breaker import Breaker
from smartclient.limit import Limit
from smartclient.sidecar import Way
from smartrealm.errors import ValidationFailed

if TYPE_CHECKING:
    from atlas.model import Service
    from atlas.world import World
    from smartclient.budget import Bucket
    from smartclient.runtime import Options


class Peer:
    """What the process knows of one service that it calls. Changed under the lock of its mesh."""

    __slots__ = (
        "_options", "_spread", "balancer", "breaker", "bucket", "limit", "name", "review_at", "service", "sides", "through",
        "way", "world", "world_beside",
    )  # fmt: skip

    def __init__(self, name: str, options: Options, bucket: Bucket, spread: Callable[[], float]) -> None:
        self.name = name
        self._options = options
        self._spread = spread
        self.breaker = Breaker(options.breaker, spread=spread)
        self.balancer = self._make_balancer()
        self.limit = Limit(options.limit)
        self.bucket = bucket
        """Of its retry budget."""
        self.service: Service | None = None
        self.world: World | None = None
        self.review_at = -math.inf
        self.sides: tuple[tuple[int, Balancer], ...] = ()
        """Of a split: the upper limit of the buckets of each share, and its instances. What is above all of them goes to `balancer`."""
        self.way: Way | None = None
        self.through: Balancer | None = None
        """The sidecar, as the one instance that it is for its callers."""
        self.world_beside: World | None = None
        """The map when a call last went through the sidecar."""

    def go_by(self, world: World | None, now: float, time_of_day: float) -> list[tuple[str, int]]:
        """Take over where the map says that its instances are; gives the addresses that are gone."""
        self.world = world
        self.service = None if world is None else world.services.get(self.name)
        limits = _limits_of(self.service)
        if world is None or not limits:
            gone = self.balancer.update(() if world is None else world.callable_places(self.name, time_of_day), now)
            for _, side in self.sides:
                gone += side.update((), now)
            self.sides = ()
            return self._without_kept(gone)
        known = [side for _, side in self.sides]
        sides = tuple(
            (limit, known[at] if at < len(known) else self._make_balancer()) for at, limit in enumerate(limits)
        )
        gone = [address for side in known[len(sides) :] for address in side.update((), now)]
        first = 0
        for limit, side in sides:
            gone += side.update(world.callable_places(self.name, time_of_day, first), now)
            first = limit
        rest = world.callable_places(self.name, time_of_day, min(first, BUCKETS - 1))
        gone += self.balancer.update(rest, now)
        self.sides = sides
        return self._without_kept(gone)

    def go_through(self, way: Way, world: World | None, now: float) -> None:
        """Take over by which way the sidecar is reached, and what the map beside it says of the service."""
        if self.way is not way:
            through = self._make_balancer()
            through.update((way.place,), now)
            self.way, self.through = way, through
        self.world_beside = world
        if world is not None:
            self.service = world.services.get(self.name)

    def side_of(self, bucket: int) -> Balancer:
        """The instances on the side of the split that a bucket belongs to."""
        return next((side for limit, side in self.sides if bucket < limit), self.balancer)

    def balancers(self) -> tuple[Balancer, ...]:
        """All of them."""
        through = () if self.through is None else (self.through,)
        return (self.balancer, *through, *(side for _, side in self.sides))

    def _make_balancer(self) -> Balancer:
        return Balancer(zone=self._options.zone, settings=self._options.balance, spread=self._spread)

    def _without_kept(self, gone: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """What left one side and is still on another has not gone."""
        if not gone:
            return gone
        sides = (self.balancer, *(side for _, side in self.sides))
        kept = {member.socket_address for side in sides for member in side.members}
        return [address for address in gone if address not in kept]


@dataclass(slots=True)  # not frozen: one is made for each call, and that would cost twice as much
class Route:
    """Whom a call goes to, and how: through the sidecar, or directly where `way` is None."""

    peer: Peer
    way: Way | None = None


def _limits_of(service: Service | None) -> tuple[int, ...]:
    if service is None or not service.split:
        return ()
    try:
        return tuple(share.limit for share in parse_split(service.split))
    except ValidationFailed:  # the map counts it as none, too
        return ()
