"""`app.client`: smartclient as this service uses it: its name, its realm, its map, and its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartclient import Session
from smartclient.errors import Attempt
from smartclient.runtime import Mesh, Observer, Options

if TYPE_CHECKING:
    from smartservice.app import SmartService
    from smartservice.metrics import Labels, Metrics

CALLS = "service_calls"
CALL_SECONDS = "service_call_seconds"
ATTEMPTS = "service_call_attempts"
REFUSED = "service_calls_refused"
EJECTIONS = "service_instance_ejections"

_STATES = {"closed": 0.0, "half-open": 0.5, "open": 1.0}


def open_mesh(app: SmartService) -> Mesh:
    """What the calls of this app share. Nothing is connected, no thread is started."""
    config = app.config
    options = Options(
        caller=app.service,
        realm=app.realm,
        zone=config["ZONE"],
        sidecar_url=config["SIDECAR_URL"],
        deadline_seconds=config["CALL_DEADLINE"],
        retries=config["CALL_RETRIES"],
        tags=tuple(config["CALL_TAGS"]),
    )
    observer = Observer() if app.metrics is None else MetricsObserver(app.metrics)
    reader = app.atlas.reader if app.has_atlas else None
    return Mesh(options, reader=reader, observer=observer)


def open_client(app: SmartService) -> Session:
    """A session on the app's own mesh."""
    return Session(mesh=app.mesh)


class MetricsObserver(Observer):
    """Counts calls, attempts, refusals and ejections in the metrics of the app."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def attempt(self, service: str, attempt: Attempt) -> None:
        self._metrics.count(ATTEMPTS, (("service", service), ("outcome", attempt.outcome)))

    def call(self, service: str, method: str, outcome: str, seconds: float, attempts: int) -> None:
        labels = (("service", service), ("outcome", outcome))
        self._metrics.count(CALLS, labels)
        self._metrics.count(CALL_SECONDS, labels, seconds)

    def ejected(self, service: str, instance: str, seconds: float) -> None:
        self._metrics.count(EJECTIONS, (("service", service),))

    def refused(self, service: str, why: str) -> None:
        self._metrics.count(REFUSED, (("service", service), ("why", why)))


def declare_metrics(app: SmartService, metrics: Metrics) -> None:
    """The metrics of calls to other services; they have no samples before the first call."""
    metrics.counter(CALLS, "Calls to other services, by outcome; one with retries counts once.")
    metrics.counter(CALL_SECONDS, "Seconds that those calls took in all.")
    metrics.counter(ATTEMPTS, "Attempts at those calls: what was really sent, by outcome.")
    metrics.counter(REFUSED, "What was not sent, and why: budget (a retry), breaker, limit, deadline.")
    metrics.counter(EJECTIONS, "Instances that got no calls for a while.")
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
