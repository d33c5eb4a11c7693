"""What a cached health reply costs: the engine's answer on a Flask app against a bare route of the same app."""

from __future__ import annotations

from flask import Flask

from benchmarks.measure import Claim, alternate, ratio_claim, requests_to
from healthcheck import Engine
from healthcheck.flask import attach

_CHECKS = 8


def _app() -> Flask:
    app = Flask("bench")
    engine = Engine(interval=3600)
    for number in range(_CHECKS):
        engine.add(f"check-{number}", lambda: (True, "fine"))
    attach(app, engine)

    @app.get("/bare")
    def bare() -> str:
        return "ok"

    return app


def run() -> list[Claim]:
    """The same claim for who sees details and for who sees words."""
    app = _app()
    taken = alternate(
        {
            "bare": requests_to(app, "/bare", HTTP_ACCEPT="*/*"),
            "details": requests_to(app, "/healthcheck", HTTP_ACCEPT="application/json"),
            "words": requests_to(app, "/healthcheck/ready", HTTP_ACCEPT="*/*", REMOTE_ADDR="203.0.113.7"),
        },
        rounds=15,
    )
    return [
        ratio_claim(
            f"cached health reply, {_CHECKS} checks with details, CPU",
            most=1.3,
            ours=taken["details"],
            reference=taken["bare"],
            against="bare Flask route",
        ),
        ratio_claim(
            "cached readiness reply for strangers, CPU",
            most=1.3,
            ours=taken["words"],
            reference=taken["bare"],
            against="bare Flask route",
        ),
    ]
