"""`app.client`: smartclient as this service uses it: its name, its realm, its map, and its metrics."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from smartclient import Session
from smartclient.errors import Attempt
from smartclient.runtime import Mesh, Observer, Options
from smartservice.call_metrics import ATTEMPTS, CALL_SECONDS, CALLS, DETOURS, EJECTIONS, REFUSED

if TYPE_CHECKING:
    from smartservice.app import SmartService
    from smartservice.metrics import Metrics


def open_mesh(app: SmartService) -> Mesh:
    """What the calls of this app share. Nothing is connected, no thread is started."""
    config = app.config
    options = Options(
        caller=app.service,
        realm=app.realm,
        zone=config["ZONE"],
        sidecar_url=config["SIDECAR_URL"],
        sidecar_dir=None if app.sidecar_dir is None else str(app.sidecar_dir),
        sidecar_token=config["SIDECAR_TOKEN"],
        deadline_seconds=config["CALL_DEADLINE"],
        retries=config["CALL_RETRIES"],
        tags=tuple(config["CALL_TAGS"]),
        # of its own within STATE_DIR: that one may be open to a group, which the budget must not be
        state_dir=None if app.state_dir is None else os.path.join(app.state_dir, "smartclient"),
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

    def detour(self, service: str) -> None:
        self._metrics.count(DETOURS, (("service", service),))
