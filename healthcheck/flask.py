"""The engine's answers on a Flask app. The one file of this package that imports Flask."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from flask import Blueprint, Flask, Response, current_app, has_app_context, request

from healthcheck.access import LOOPBACK, Access
from healthcheck.engine import GROUPS, Engine
from smartrealm import current_call

ENDPOINT = "_healthcheck"
"""The endpoint of the routes: a name that leaves `healthcheck` to the service's own functions."""


def attach(
    app: Flask | Blueprint,
    engine: Engine,
    path: str = "/healthcheck",
    *,
    token: str | Callable[[], str | None] | None = None,
    trusted_networks: Iterable[str] = LOOPBACK,
    describe: Callable[[], Mapping[str, Any]] | None = None,
) -> None:
    """Answer at `path` (everything), `path/<group>` and `path/<group>/<check>`; `?check=NAME` picks one check too.

    Details go to holders of `token` (`Authorization: Bearer`) and to callers from `trusted_networks` without a
    forwarding header; everybody else sees the status word. On a Flask app, checks run inside its app context.
    """
    access = Access(token, trusted_networks)
    below = ("/" + path.strip("/")).rstrip("/")
    if describe is not None:
        engine.describe = describe
    if engine.around is None and isinstance(app, Flask):
        engine.around = app.app_context

    def healthcheck(group: str | None = None, check: str | None = None) -> Response:
        environ = request.environ
        if check is None and environ.get("QUERY_STRING"):
            check = request.args.get("check")
        answer = engine.answer(group, environ.get("HTTP_ACCEPT", ""), access.shows_details(environ), check)
        call = current_call()
        if answer.status == 404 and call is not None:  # a problem names its request, as every other one does
            problem = {**json.loads(answer.body), "instance": call.request_id}
            return Response(json.dumps(problem), answer.status, answer.headers)
        return Response(answer.body, answer.status, answer.headers)

    for name in GROUPS:  # a rule without a variable is found faster: these are what probes ask
        app.add_url_rule(
            f"{below}/{name}",
            ENDPOINT,
            healthcheck,
            methods=["GET"],
            strict_slashes=False,
            defaults={"group": name},
        )
    for rule in (below or "/", f"{below}/<group>", f"{below}/<group>/<check>"):
        app.add_url_rule(rule, ENDPOINT, healthcheck, methods=["GET"], strict_slashes=False)


def app_logger() -> logging.Logger | None:
    """The logger of the app that is serving, if one is."""
    return current_app.logger if has_app_context() else None


def app_config() -> Mapping[str, Any]:
    """The configuration of the app that is serving, as its own redactor shows it where it has one.

    Raises RuntimeError outside an app context.
    """
    redactor = getattr(current_app, "redactor", None)
    config: Mapping[str, Any] = current_app.config
    return config if redactor is None else redactor.value(dict(config))


def own_app_context() -> AbstractContextManager[Any]:
    """An app context for one helper thread, torn down at its end; nothing where no app is serving."""
    return current_app.app_context() if has_app_context() else nullcontext()
