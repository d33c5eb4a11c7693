"""What there is to drill: the processes of this host, and the services that are called through its sidecar. Values only; who
finds them is `discovery.py`, and for a realm of the drill's own `own.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sidecar.drill.load import Door

Kind = Literal["agent", "haproxy", "atlas", "instance", "program", "remote"]
"""agent, haproxy, atlas: processes of this host. instance: one of this host's. program: one that the user names, such as a
store. remote: an instance of another host, which is reached through Atlas alone."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that a fault can happen to."""

    kind: Kind
    name: str
    """As in the plan and the report: `agent`, `haproxy`, `identity 10.0.0.7:8000`."""
    service: str = ""
    address: str = ""
    pid: int = 0
    """Of its first process; after a kill another one has its place."""
    restarted_by: str = ""
    """Who starts it again when it ends; empty: nobody is known to."""
    announced: str = ""
    """The path of its announcement."""
    why_not: str = ""
    """Why no signal can be sent to it: another user's, in another container."""
    has_children: bool = False
    takes_full_disk: bool = False
    """Whether it survives SIGXFSZ."""
    hosts: tuple[str, ...] = ()
    """agent: the addresses of the replicas of Atlas that are on other hosts."""
    is_local: bool = True
    """Whether it is on this host."""


@dataclass(frozen=True, slots=True)
class Served:
    """One service that is called through the sidecar."""

    name: str
    instances: int
    """Those that take calls."""
    path: str
    """What is asked for."""
    timeout_ms: int = 10_000
    refused: str = ""
    """Why the drill may not call it; empty: it may."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One host of one realm, as it was found."""

    realm: str
    directory: str
    door: Door
    targets: tuple[Target, ...]
    services: Mapping[str, Served]
    left_out: tuple[tuple[str, str], ...] = ()
    """What there is and cannot be drilled, each with the reason."""
    own: bool = False
    """Whether the drill has built it: then it may be wiped and cut."""
    root: bool = False
