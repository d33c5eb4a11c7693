"""Where the `flask` command finds the app."""

from [[ cookiecutter.package ]].app import make_app

__all__ = ["make_app"]
