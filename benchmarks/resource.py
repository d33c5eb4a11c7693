"""What a resource costs with everything on, against stock flask-restful on a bare Flask app. CPU, one process."""

from __future__ import annotations

import io
import logging
import sys
from contextlib import redirect_stderr
from types import ModuleType
from typing import Any

import flask_restful
from flask import Flask

from benchmarks.measure import Claim, alternate, ratio_claim, requests_to
from smartservice import create_app

_REQUESTS = 500


class Team(flask_restful.Resource):  # type: ignore[misc]
    """A small JSON reply, as most are."""

    def get(self, number: int) -> Any:
        return {"id": number, "name": "blue", "members": [{"name": f"member {n}", "active": True} for n in range(5)]}


def _stock() -> Flask:
    app = Flask("stock")
    flask_restful.Api(app).add_resource(Team, "/teams/<int:number>")
    return app


def _smart() -> Flask:
    config = ModuleType("bench_resource.config")
    sys.modules[config.__name__] = config
    app = create_app(config, LOG_FORMAT="json", TESTING=True)
    app.api.add_resource(Team, "/teams/<int:number>")
    return app


def run() -> list[Claim]:
    """A resource through create_app, access line included, against stock flask-restful without any."""
    handlers = list(logging.root.handlers)
    with redirect_stderr(io.StringIO()):
        stock, smart = (
            requests_to(app, "/teams/7", times=_REQUESTS, HTTP_ACCEPT="application/json")
            for app in (_stock(), _smart())
        )
        taken = alternate({"stock": stock, "smart": smart}, rounds=15)
    logging.root.handlers[:] = handlers
    return [
        ratio_claim(
            "CPU of a resource, everything on",
            most=1.4,
            ours=taken["smart"],
            reference=taken["stock"],
            against=f"stock flask-restful on bare Flask ({taken['stock'] / _REQUESTS * 1e6:.0f} us)",
        )
    ]
