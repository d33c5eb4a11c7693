"""What a sidecar knows of itself at one moment: frozen values, from which the page, the commands and the metrics are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from atlas.world import Position
from sidecar.model import Condition

MapSource = Literal["atlas", "disk", "none"]
"""Where the map in force came from: Atlas answered since the start, it was kept on disk by an earlier process, there is none."""


@dataclass(frozen=True, slots=True)
class ProxyFacts:
    """The HAProxy process."""

    version: str = ""
    pid: int = 0
    uptime_seconds: float = 0.0
    running: bool = False
    dynamic: bool = False
    """Whether it can be given new backends while it runs."""
    away_since: float | None = None
    """Time of day since which it does not run."""
    failure: str = ""
    """Why it does not run, in HAProxy's words."""
    alive: bool = False
    """It does not answer the agent, and is there all the same: frozen, ending, or without its socket."""


@dataclass(frozen=True, slots=True)
class Reloads:
    """How often HAProxy was loaded anew, and when it may be again."""

    count: int = 0
    failed: int = 0
    last_at: float | None = None
    last_reason: str = ""
    failure: str = ""
    """Why the last attempt failed; empty: it did not."""
    next_allowed_at: float = 0.0
    """Time of day; one in the past: now."""


@dataclass(frozen=True, slots=True)
class RefusedCommand:
    """A command that HAProxy did not carry out."""

    about: str
    """What it was to do: `identity: add 10.0.0.7:8000`."""
    says: str
    """What HAProxy answered."""
    at: float


@dataclass(frozen=True, slots=True)
class OwnInstance:
    """An instance on this host, as its own checks find it."""

    service: str
    address: str
    state: str
    """Its phase: see `sidecar.readiness.Phase`."""
    reason: str = ""
    since: float = 0.0
    checks: int = 0
    """How often it was asked."""


@dataclass(frozen=True, slots=True)
class EjectedServer:
    """A server that HAProxy takes for bad, because of the answers that it gave."""

    service: str
    address: str
    since: float
    until: float
    """When it is tried again."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DoubtedServer:
    """A server that HAProxy ejected some minutes ago, and calls again."""

    service: str
    address: str
    since: float
    """Called again since then."""
    times: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long something took, as Prometheus counts it."""

    buckets: tuple[tuple[float, int], ...] = ()
    """Upper bounds in seconds, each with how many were at most as long: cumulated, without the infinite one."""
    count: int = 0
    sum: float = 0.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What passes through one service or one of its instances, as HAProxy counts it."""

    requests_per_second: float = 0.0
    sessions: int = 0
    """Under way now."""
    requests: int = 0
    """Since HAProxy was loaded, as the errors."""
    errors: int = 0
    """Answers 5xx, and calls that got none."""
    servers: Mapping[str, Rate] = field(default_factory=dict)
    """By `host:port`."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the agent knows of itself. Times are times of day (seconds since 1970) unless they are lengths."""

    pid: int = 0
    started_at: float = 0.0
    version: str = ""
    """Of the package."""
    realm: str = "local"
    host: str = ""
    zone: str = ""
    position: Position = field(default_factory=Position)
    """Up to where HAProxy has applied the map."""
    applied_at: float | None = None
    map_from: MapSource = "none"
    map_age_seconds: float | None = None
    """How long ago Atlas last answered; of a map from disk, when it was kept. None: there is no map."""
    map_failure: str | None = None
    """Why Atlas did not answer the last question."""
    proxy: ProxyFacts = field(default_factory=ProxyFacts)
    changes: int = 0
    """Changes that were applied, counted."""
    drift_count: int = 0
    """How often HAProxy was found to know something else than it should."""
    drift_at: float | None = None
    reloads: Reloads = field(default_factory=Reloads)
    refusals: tuple[RefusedCommand, ...] = ()
    """The latest ones, the newest last."""
    refusal_count: int = 0
    pending: str = ""
    """Why changes wait: a reload is under way, or may not be yet. Empty: none wait."""
    pending_since: float | None = None
    own: tuple[OwnInstance, ...] = ()
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Announcements on this host that cannot be used, by their file, each with the reason."""
    ejected: tuple[EjectedServer, ...] = ()
    ejections: int = 0
    """Counted."""
    doubted: tuple[DoubtedServer, ...] = ()
    files_failure: str = ""
    """Why HAProxy's file or the map cannot be written to the disk; empty: they are."""
    tokens_failure: str = ""
    """What is not right about the file that says who may call; empty: nothing."""
    lease_failure: str | None = None
    """Why the lease of this host could not be renewed; None: it was."""
    apply_seconds: Histogram = field(default_factory=Histogram)
    """From when a change arrived until HAProxy had it."""
    propagation_seconds: Histogram = field(default_factory=Histogram)
    """From when a change was written into the map until HAProxy had it."""
    conditions: Mapping[str, Mapping[str, Condition]] = field(default_factory=dict)
    """How HAProxy sees the servers, by service and `host:port`; what is missing is up."""
