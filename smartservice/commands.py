"""How our `flask` commands find the service: as Flask's do, but a mistake in the settings is a message, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click
from flask import current_app
from flask.cli import AppGroup, ScriptInfo

from smartrealm import ConfigurationError
from smartservice.app import SmartService

F = TypeVar("F", bound=Callable[..., Any])


def with_service(command: F) -> F:
    """Run a command inside the app context of the service. Ends with 1 and every mistake when its settings are wrong."""

    @wraps(command)
    def in_service(*args: Any, **kwargs: Any) -> Any:
        try:
            app = click.get_current_context().ensure_object(ScriptInfo).load_app()
        except ConfigurationError as error:
            raise click.ClickException(str(error)) from None
        with app.app_context():
            return command(*args, **kwargs)

    return in_service  # type: ignore[return-value]


class ServiceGroup(AppGroup):
    """A group whose commands run inside the app context of the service."""

    def command(self, *args: Any, **kwargs: Any) -> Callable[[Callable[..., Any]], click.Command]:  # type: ignore[override]
        kwargs["with_appcontext"] = False
        register = super().command(*args, **kwargs)
        return lambda command: register(with_service(command))


def service() -> SmartService:
    """The current app, when `create_app` made it; otherwise the command ends with exit code 2."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    if isinstance(app, SmartService):
        return app
    raise click.UsageError("this Flask app was not made by smartservice.create_app")
