"""The values that the sidecar passes on from room to room: World -> Plan (routes) -> State -> commands and files.

All of them are frozen. Nothing in them is free text: names are names of services, addresses are addresses, the rest is
numbers, so that nothing can be written into HAProxy's files that HAProxy would read as something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from atlas.world import Position

Standing = Literal["in", "backup", "draining", "out", "held", "quarantined"]
"""What became of an instance. in: takes calls. backup: takes calls when none of the nearer ones can. draining: ends what it
has. out: takes none. held: gone from the map, and called all the same (the guard). quarantined: cannot be routed."""

Reason = Literal[
    "map",  # the map says so: registered, gone
    "ruling",  # an operator's word: atlas drain, disable, weight
    "drain",  # the instance itself is about to stop
    "weight",  # its weight is 0
    "version",  # the version policy or the split of the service
    "zone",  # it is in another zone, and there are enough in this one
    "damping",  # it came and went too often, and waits until it has been there for a while
    "guard",  # too many were lost at once
    "ejected",  # HAProxy saw too many bad answers
    "check",  # its own host's sidecar finds that it is not ready
    "invalid",  # what the map says of it cannot be used
]
"""Which rule decided."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Why an instance is called, or why it is not."""

    address: str
    """`host:port`, as in the map."""
    standing: Standing
    reason: Reason
    says: str
    """One sentence for the operator."""
    since: float
    """Time of day at which it was decided first."""
    revision: int = 0
    """The revision of the catalogue, where a ruling or a service decided; else 0."""
    weight: int = 0
    version: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """One server of one backend. `name` and everything that HAProxy cannot change at run time belong together: a server that
    becomes a backup gets another name."""

    name: str
    host: str
    """An IPv4 or IPv6 address, without brackets."""
    port: int
    weight: int = 100
    """0 to 256; of a service's weights the ratio counts."""
    backup: bool = False
    draining: bool = False
    """It takes no new calls."""


Condition = Literal["up", "starting", "down", "drain", "maint"]
"""What HAProxy does with a server. up: it is called. starting: called, with growing weight. down: not called, since a check
failed or its answers were bad. drain: ends what it has. maint: out by command, and leaving."""


@dataclass(frozen=True, slots=True)
class Side:
    """One version of a split service: the calls whose bucket is below `limit`, and not below that of a side before it."""

    limit: int
    """1 to 10,000, in hundredths of a percent, cumulated."""
    servers: tuple[Server, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """Where the calls of one service go."""

    service: str
    servers: tuple[Server, ...] = ()
    sides: tuple[Side, ...] = ()
    """At most three."""
    timeout_ms: int = 10_000
    repeatable: bool = True
    """Whether HAProxy may repeat an idempotent request that got no answer."""
    callers: tuple[str, ...] | None = None
    """Which services may call it; None: everybody."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What the guard of one service holds back."""

    service: str
    since: float
    lost: int
    of: int
    addresses: tuple[str, ...]
    says: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be routed, and why. Services that did not change keep the same Route object from plan to plan."""

    position: Position = field(default_factory=Position)
    routes: Mapping[str, Route] = field(default_factory=dict)
    decisions: Mapping[str, Mapping[str, Decision]] = field(default_factory=dict)
    """By service, then by `host:port`."""
    guards: Mapping[str, Guard] = field(default_factory=dict)
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Services that cannot be routed, each with the reason."""
    again_at: float | None = None
    """When, by the monotonic clock, time alone changes the plan: a ruling ends, an instance has been quiet long enough."""


@dataclass(frozen=True, slots=True)
class State:
    """What HAProxy is to know, or knows: the servers of each backend, and the entries of each map. Parts that did not change
    are the same objects, so that two States are compared in the time of what differs."""

    backends: Mapping[str, Mapping[str, Server]] = field(default_factory=dict)
    """By the name of the backend, then by the name of the server."""
    maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By the name of the map (`routes`, `timeouts`, ...), then by key."""
