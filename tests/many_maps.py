"""Many maps behind one gunicorn: `/NAME/v1/...` is an `atlas serve` of its own over NAME.db, made with its first request.

For tests that want a fresh map over HTTP each, without the second that a server of its own takes to start.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.server.app import make_app
from smartservice import SmartService

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

FOLDER = "MANY_MAPS"
"""The variable that names the folder of the files."""

_apps: dict[str, SmartService] = {}
_making = threading.Lock()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Hand the request to the server of its map."""
    _, name, rest = environ["PATH_INFO"].split("/", 2)
    if name == "ready":
        start_response("200 OK", [("Content-Length", "0")])
        return []
    with _making:
        if name not in _apps:
            _apps[name] = make_app(ATLAS_STORE=f"sqlite:///{Path(os.environ[FOLDER]) / name}.db")
    environ["SCRIPT_NAME"], environ["PATH_INFO"] = f"/{name}", f"/{rest}"
    return _apps[name](environ, start_response)
