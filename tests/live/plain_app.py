"""A plain Flask app with the framework's lifecycle and metrics attached by hand: what gunicorn's hooks need, no more."""

from __future__ import annotations

import os
import time

from flask import Flask, Response, request
from prometheus_client import Counter

from smartservice.lifecycle import Lifecycle
from smartservice.metrics import Metrics

BIRTHDAYS = Counter("birthdays", "A counter of the service's own.")


class PlainApp(Flask):
    """Flask, and the attributes that the hooks look for."""

    def __init__(self) -> None:
        super().__init__("plain_app")
        self.lifecycle = Lifecycle()
        self.metrics = Metrics("plain")
        self.metrics.gauge("http_requests_in_flight", "Requests being served.", self.lifecycle.busy)

    def close(self) -> None:
        self.lifecycle.close()


def make_app() -> PlainApp:
    app = PlainApp()
    if os.environ.get("SLOW_START"):
        time.sleep(float(os.environ["SLOW_START"]))

    @app.after_request
    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule is not None else None
        app.metrics.observe(route, request.method, response.status_code, 0.001)
        return response

    @app.route("/work", methods=["GET", "POST"])
    def work() -> str:
        request.get_data()
        BIRTHDAYS.inc()
        time.sleep(0.02)
        return "done"

    @app.route("/sleep/<float:seconds>")
    def sleep(seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    @app.route("/pid")
    def pid() -> str:
        return str(os.getpid())

    @app.route("/metrics")
    def metrics() -> Response:
        content_type, body = app.metrics.render(request.headers.get("Accept", ""))
        return Response(body, content_type=content_type)

    @app.route("/healthcheck/live")
    def live() -> tuple[str, int]:
        reason = app.lifecycle.not_live(60.0)
        return (reason or "pass", 503 if reason else 200)

    @app.route("/healthcheck/ready")
    def ready() -> tuple[str, int]:
        reason = app.lifecycle.not_ready()
        return (reason or "pass", 503 if reason else 200)

    app.lifecycle.on_close(lambda: print(f"closed in {os.getpid()}", flush=True))
    return app
