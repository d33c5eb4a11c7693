"""The service, put together: one line for each thing that it answers."""

from smartservice import SmartService, create_app

from [[ cookiecutter.package ]].greetings import Greetings


def make_app(**overrides: object) -> SmartService:
    """The app; `overrides` are settings by name, for tests."""
    app = create_app("[[ cookiecutter.package ]].config", **overrides)
    app.api.add_resource(Greetings, "/greetings")
    return app
