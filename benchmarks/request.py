"""CPU for one request with everything on, against bare Flask; and for import plus `create_app`.

Everything on: request id, own context, access line in JSON, metrics, error pipeline, health checks, live config.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

from flask import Flask

from benchmarks.measure import Claim, alternate, ratio_claim, requests_to
from smartservice import create_app


def run() -> list[Claim]:
    """The two claims; about half a minute."""
    return [one_request(), startup()]


def one_request() -> Claim:
    """A small JSON route through the whole WSGI call, access lines written to /dev/null."""
    bare = Flask("bare")
    ours = create_app(ModuleType("bench.config"), environ={"REALM": "production"}, LOG_FORMAT="json")
    for app in (bare, ours):
        app.add_url_rule("/teams/<int:number>", "team", lambda number: {"id": number, "name": "blue"})
    with open(os.devnull, "w") as nowhere:
        sys.stderr, kept = nowhere, sys.stderr
        try:
            taken = alternate({"ours": requests_to(ours, "/teams/7"), "bare": requests_to(bare, "/teams/7")}, rounds=25)
        finally:
            sys.stderr = kept
            ours.close()
    return ratio_claim(
        "CPU per request, everything on", most=1.8, ours=taken["ours"], reference=taken["bare"], against="bare Flask"
    )


BARE = "import flask, flask_restful; app = flask.Flask('x'); flask_restful.Api(app)"
OURS = "import types; from smartservice import create_app; app = create_app(types.ModuleType('shop.config'))"


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
