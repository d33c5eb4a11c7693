"""What `HealthCheck` and `EnvironmentDump` share: the two published constructors read as one, and JSON that never breaks.

Runscope's `healthcheck` begins with `(app, path, ...)` and hands further keywords to the route; `py-healthcheck` has no app
and makes a section of each further keyword. What is given decides which was meant.
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from smartrealm.redaction import redact, redact_text

_ROUTE_OPTIONS = frozenset(
    "endpoint provide_automatic_options defaults subdomain methods build_only strict_slashes merge_slashes redirect_to "
    "alias host websocket".split()
)


def is_app(value: object) -> bool:
    """Whether routes can be put on it: a Flask app, a blueprint, a proxy of one."""
    return hasattr(value, "add_url_rule")


def read_arguments(
    owner: str, args: Sequence[Any], given: Mapping[str, Any], with_app: Sequence[str], without: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The named arguments, and the further keywords, of a constructor call in either published form.

    A first argument that is None or takes routes is the app; anything else there is the form without. `app=` and `path=`
    count as such only when the app is one (or None), else they are keywords like any other.
    """
    begins_with_app = bool(args) and (args[0] is None or is_app(args[0]))
    names_app = "app" in given and (given["app"] is None or is_app(given["app"]))
    names = with_app if begins_with_app else without
    if len(args) > len(names):
        raise TypeError(f"{owner}() takes at most {len(names)} positional arguments, {len(args)} were given")
    known = dict(zip(names, args, strict=False))
    if begins_with_app or names_app:
        parameters = {*with_app, *without}
    else:
        parameters = {*with_app, *without} - {"app", "path"}
    further: dict[str, Any] = {}
    for name, value in given.items():
        if name in known:
            raise TypeError(f"{owner}() got {name!r} twice")
        (known if name in parameters else further)[name] = value
    return known, further


def route_options(app: Any) -> frozenset[str]:
    """The keywords that `app.add_url_rule` takes, those of the app's own rule class included."""
    rule = getattr(app, "url_rule_class", None)
    if rule is None:
        return _ROUTE_OPTIONS
    own = inspect.signature(rule.__init__).parameters.values()
    return _ROUTE_OPTIONS | {
        parameter.name for parameter in own if parameter.name not in ("self", "string") and parameter.kind.value < 4
    }


def name_of(function: Any) -> str:
    """What a check is called in its row: its `__name__`; of a partial, that of its function; else its type's."""
    name = getattr(function, "__name__", None) or getattr(getattr(function, "func", None), "__name__", None)
    return str(name or type(function).__name__)


def write_json(value: Any) -> str:
    """JSON of `value`, whatever is in it: objects become redacted text, what cannot be a key is left out."""
    try:
        return json.dumps(value, default=_text, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(_without_nan(redact(value)), default=_text, skipkeys=True)


def fits_json(value: Any) -> bool:
    """Whether JSON can hold it."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value if not isinstance(value, float) or fits_json(value) else str(value)


def _text(value: object) -> Any:
    if isinstance(value, set | frozenset):
        return sorted((redact_text(str(item)) for item in value), key=str)
    try:
        return redact_text(str(value))
    except Exception:
        return f"<{type(value).__name__}>"


def serving_logger() -> logging.Logger | None:
    """The logger of the Flask app that is serving, if one is."""
    if "flask" not in sys.modules:
        return None
    from healthcheck.flask import app_logger

    return app_logger()


def own_app_context() -> AbstractContextManager[Any]:
    """What a check in a helper thread runs in: an app context of its own where a Flask app is serving."""
    if "flask" not in sys.modules:
        return nullcontext()
    from healthcheck import flask

    return flask.own_app_context()
