"""CPU for one request with everything on, against bare Flask; and for import plus `create_app`.

Everything on: request id, own context, access line in JSON, metrics, error pipeline, health checks, live config.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable

from flask import Flask
from werkzeug.test import EnvironBuilder

from benchmarks.measure import Claim, alternate, ratio_claim
from smartservice import create_app

REQUESTS = 2000


def run() -> list[Claim]:
    """The two claims; about half a minute."""
    return [one_request(), startup()]


def one_request() -> Claim:
    """A small JSON route through the whole WSGI call, access lines written to /dev/null."""
    bare = Flask("bare")
    ours = create_app("benchmarks.request", environ={"REALM": "production"}, LOG_FORMAT="json")
    for app in (bare, ours):
        app.add_url_rule("/teams/<int:number>", "team", lambda number: {"id": number, "name": "blue"})
    with open(os.devnull, "w") as nowhere:
        sys.stderr, kept = nowhere, sys.stderr
        try:
            taken = alternate({"ours": calls(ours), "bare": calls(bare)}, rounds=15)
        finally:
            sys.stderr = kept
            ours.close()
    return ratio_claim(
        "CPU per request, everything on", most=1.8, ours=taken["ours"], reference=taken["bare"], against="bare Flask"
    )


def calls(app: Flask) -> Callable[[], None]:
    """A function that sends REQUESTS requests straight into the WSGI app."""
    template = EnvironBuilder("/teams/7", environ_overrides={"REMOTE_ADDR": "127.0.0.1"}).get_environ()

    def start_response(status: str, headers: object, error: object = None) -> Callable[[bytes], object]:
        assert status == "200 OK"
        return lambda _: None

    def send() -> None:
        for _ in range(REQUESTS):
            body = app(dict(template), start_response)
            for _part in body:
                pass
            body.close()  # type: ignore[attr-defined]

    return send


BARE = "import flask, flask_restful; app = flask.Flask('x'); flask_restful.Api(app)"
OURS = "from smartservice import create_app; app = create_app('benchmarks.request')"


def startup() -> Claim:
    """A fresh interpreter each time; user plus system CPU of the child."""
    taken = alternate({"ours": child(OURS), "bare": child(BARE)}, rounds=9, clock=children_cpu)
    return ratio_claim(
        "import + create_app, nothing switched on",
        most=1.6,
        ours=taken["ours"],
        reference=taken["bare"],
        against="Flask + flask-restful",
    )


def child(code: str) -> Callable[[], object]:
    """A run of `code` in a new interpreter that may write its bytecode, as an installed one does."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, env=env)


def children_cpu() -> float:
    """CPU seconds of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
