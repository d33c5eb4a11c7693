"""The health checks of a service, attached to what it has; and the routes that answer them, and the metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Response, request

from healthcheck import Engine, Result, checks
from healthcheck.flask import attach
from smartservice.inbound import METRICS_ENDPOINT

if TYPE_CHECKING:
    from smartservice.app import SmartService
    from smartservice.metrics import Labels, Metrics


def make_engine(app: SmartService) -> Engine:
    """The engine of one app, with no checks in it yet."""
    config = app.config
    return Engine(
        interval=config["HEALTH_INTERVAL"],
        timeout=config["HEALTH_TIMEOUT"],
        redact=app.redactor.value,
        describe=lambda: {**app.log_fields, "config_version": app.settings.snapshot.version},
    )


def install(app: SmartService) -> None:
    """Check what is configured, and answer at HEALTH_PATH and METRICS_PATH."""
    engine, config = app.health, app.config
    engine.add_gate("ready", app.lifecycle.not_ready)
    _check_dependencies(app)
    app.settings.on_change(["DATABASE_URL", "REDIS_URL"], lambda _old, _new: _check_dependencies(app))
    if app.settings.status.state != "none":
        engine.add("config", checks.config(lambda: app.settings.status), critical=False, interval=1.0)
    if config["HEALTH_DISK_FREE"] > 0:
        engine.add("disk", checks.disk(".", min_free_ratio=config["HEALTH_DISK_FREE"]), critical=False)
    if config["HEALTH_PATH"]:
        attach(
            app,
            engine,
            config["HEALTH_PATH"],
            token=lambda: app.settings.snapshot["HEALTH_TOKEN"],
            trusted_networks=config["HEALTH_TRUSTED_NETWORKS"],
        )
    if config["METRICS_PATH"]:
        app.add_url_rule(config["METRICS_PATH"], METRICS_ENDPOINT, lambda: _show_metrics(app))


def _check_dependencies(app: SmartService) -> None:
    """A check for the database and for Redis, from the moment at which the setting names one."""
    snapshot, known = app.settings.snapshot, app.health.statuses()
    if snapshot["DATABASE_URL"] and "database" not in known:
        app.health.add("database", _following(_database(app), lambda: app.db.problem))
    if snapshot["REDIS_URL"] and "redis" not in known:
        app.health.add("redis", _following(checks.redis(lambda: app.redis), lambda: app.redis.problem))


def _following(check: Callable[[], Any], problem: Callable[[], str | None]) -> Callable[[], Any]:
    """The check's own result; a warning while it passes on the old server because the new one cannot be followed yet."""

    def run() -> Any:
        result = check()
        said = problem()
        return Result("warn", said) if said and result.status == "pass" else result

    return run


def _database(app: SmartService) -> Callable[[], Result]:
    """Asks the database over the app's own pool, without waiting for a writer on SQLite.

    A database in memory is there as long as the process is, and its one connection belongs to the sessions: a question
    in another thread would end with a rollback of what they have not committed yet.
    """

    def check() -> Result:
        from smartservice.engines import READ_ONLY, is_memory

        engine = app.db.engine
        if is_memory(engine.url):
            return Result("pass")
        return checks.database(lambda: engine.execution_options(**READ_ONLY))()

    return check


def _show_metrics(app: SmartService) -> Response:
    metrics = app.metrics
    assert metrics is not None
    content_type, body = metrics.render(request.headers.get("Accept", ""))
    return Response(body, content_type=content_type, headers={"Cache-Control": "no-store"})


def make_metrics(app: SmartService) -> Metrics:
    """The metrics of one app with the gauges of its parts: in flight, health, config version, pools."""
    from smartservice.call_metrics import declare_metrics
    from smartservice.metrics import Metrics

    metrics = Metrics(app.service, realm=app.realm, release=app.config["RELEASE"])
    metrics.gauge("smartservice_requests_in_flight", "Requests being served now.", app.lifecycle.busy)
    metrics.gauge(
        "smartservice_health", "1 pass, 0.5 warn, 0 fail, by check.", lambda: _health(app), over_workers="min"
    )
    metrics.gauge(
        "smartservice_config_version",
        "The config version as a number; equal on all workers that agree.",
        lambda: version_number(app.settings.snapshot.version),
        over_workers="max",
    )
    metrics.gauge(
        "smartservice_config_version_oldest",
        "The lowest of the workers' config versions: other than smartservice_config_version while they differ.",
        lambda: version_number(app.settings.snapshot.version),
        over_workers="min",
    )
    metrics.gauge(
        "smartservice_database_connections_in_use", "Database connections in use.", lambda: _pool(app, "in_use")
    )
    metrics.gauge("smartservice_database_connections_limit", "The most there can be.", lambda: _pool(app, "limit"))
    declare_metrics(app, metrics)
    return metrics


def _health(app: SmartService) -> dict[Labels, float]:
    worth = {"pass": 1.0, "warn": 0.5, "fail": 0.0}
    statuses = app.health.statuses().items()
    return {(("check", name),): worth[status] for name, status in statuses if status is not None}


def _pool(app: SmartService, field: str) -> Any:
    db = app.part("db")
    return {} if db is None else float(getattr(db.pool_status(), field))


def version_number(version: str) -> float:
    """A config version as a number: itself when it is one, else the first 12 hexadecimal digits or a sum of its bytes."""
    if version.isdecimal():
        return float(version)
    try:
        return float(int(version[:12], 16))
    except ValueError:
        return float(sum(version.encode()))
