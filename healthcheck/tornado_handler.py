"""A Tornado handler for `HealthCheck` and `EnvironmentDump`. The one file that imports tornado."""

from __future__ import annotations

import importlib
from typing import Any

_web: Any = importlib.import_module("tornado.web")


class TornadoHandler(_web.RequestHandler):  # type: ignore[misc]
    """GET answers what `checker.run()` says: `("/healthcheck", TornadoHandler, {"checker": health})`."""

    def initialize(self, checker: Any) -> None:
        self.checker = checker

    def get(self, *args: Any, **kwargs: Any) -> None:
        body, status, headers = self.checker.run(*args, **kwargs)
        self.set_status(status)
        for name, value in headers.items():
            self.set_header(name, value)
        self.write(body)
