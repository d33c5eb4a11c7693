"""A service made with create_app, as small as they come; also its own config module."""

from __future__ import annotations

import time
from typing import Any

from flask import request

from smartservice import SmartService, create_app

SERVICE_NAME = "smart"


def make_app(**overrides: Any) -> SmartService:
    app = create_app("tests.live.smart_app", **overrides)

    @app.route("/work", methods=["GET", "POST"])
    def work() -> str:
        request.get_data()
        time.sleep(0.02)
        return "done"

    @app.route("/sleep/<float:seconds>")
    def sleep(seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    return app
