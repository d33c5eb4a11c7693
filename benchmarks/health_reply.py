"""What a cached health reply costs: the engine's answer on a Flask app against a bare route of the same app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask
from werkzeug.test import EnvironBuilder

from benchmarks.measure import Claim, alternate, ratio_claim
from healthcheck import Engine
from healthcheck.flask import attach

_REQUESTS = 1_000
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


def _requests(app: Flask, path: str, address: str, accept: str) -> Callable[[], None]:
    """Many requests of one kind, past the test client: the WSGI call alone."""
    environ = EnvironBuilder(path, environ_overrides={"REMOTE_ADDR": address, "HTTP_ACCEPT": accept}).get_environ()

    def start_response(status: str, headers: Any, error: Any = None) -> Callable[[bytes], object]:
        assert status.startswith("200")
        return lambda data: None

    def run() -> None:
        for _ in range(_REQUESTS):
            body = app.wsgi_app(dict(environ), start_response)
            b"".join(body)
            body.close()  # type: ignore[attr-defined]

    return run


def run() -> list[Claim]:
    """The same claim for who sees details and for who sees words."""
    app = _app()
    taken = alternate(
        {
            "bare": _requests(app, "/bare", "127.0.0.1", "*/*"),
            "details": _requests(app, "/healthcheck", "127.0.0.1", "application/json"),
            "words": _requests(app, "/healthcheck/ready", "203.0.113.7", "*/*"),
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
