"""The metrics of calls to other services. Declared for every service; a client is imported only where one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smartclient.runtime import Mesh
    from smartservice.app import SmartService
    from smartservice.metrics import Labels, Metrics

CALLS = "service_calls"
CALL_SECONDS = "service_call_seconds"
ATTEMPTS = "service_call_attempts"
REFUSED = "service_calls_refused"
EJECTIONS = "service_instance_ejections"
DETOURS = "service_call_detours"

_STATES = {"closed": 0.0, "half-open": 0.5, "open": 1.0}


def declare_metrics(app: SmartService, metrics: Metrics) -> None:
    """The metrics of calls to other services; they have no samples before the first call."""
    metrics.counter(CALLS, "Calls to other services, by outcome; one with retries counts once.")
    metrics.counter(CALL_SECONDS, "Seconds that those calls took in all.")
    metrics.counter(ATTEMPTS, "Attempts at those calls: what was really sent, by outcome.")
    metrics.counter(REFUSED, "What was not sent, and why: budget (a retry), breaker, limit, deadline.")
    metrics.counter(EJECTIONS, "Instances that got no calls for a while.")
    metrics.counter(DETOURS, "Calls that went directly, since the sidecar took no connections.")
    metrics.gauge("service_breaker", "1 open, 0.5 half-open, 0 closed.", lambda: _breakers(app), over_workers="max")
    metrics.gauge(
        "service_retry_budget",
        "Retries of calls to a service that this host can afford now.",
        lambda: _budgets(app),
        over_workers="min",
    )
    metrics.gauge(
        "smartservice_map_age_seconds",
        "Seconds since the map of the realm last answered.",
        lambda: _map_age(app),
        over_workers="max",
    )


def _breakers(app: SmartService) -> dict[Labels, float]:
    mesh: Mesh | None = app.part("mesh")
    peers = () if mesh is None else mesh.known_peers()
    return {(("service", peer.name),): _STATES[peer.breaker.state] for peer in peers}


def _budgets(app: SmartService) -> dict[Labels, float]:
    mesh: Mesh | None = app.part("mesh")
    peers = () if mesh is None else mesh.known_peers()
    return {(("service", peer.name),): peer.bucket.tokens for peer in peers}


def _map_age(app: SmartService) -> dict[Labels, float]:
    age = app.atlas.reader.age_seconds if app.has_atlas else None
    return {} if age is None else {(): age}
