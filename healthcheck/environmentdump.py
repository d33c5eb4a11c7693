"""`EnvironmentDump` as both published libraries have it: what this process runs on, without its secrets."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from healthcheck.published import fits_json, is_app, read_arguments, write_json
from healthcheck.security import safe_dict
from smartrealm.errors import ConfigurationError
from smartrealm.redaction import MASK, is_secret_name, redact_text

_WITH_APP = ("app", "path", "include_os", "include_python", "include_config", "include_process")
_WITHOUT = ("include_os", "include_python", "include_process")


class EnvironmentDump:
    """`EnvironmentDump(app, "/environment", ...)` puts itself on a Flask app; `EnvironmentDump(...)` is run by `run()`.

    Sections os, python and process, each with an `include_...=True`; on an app also config (`include_config`). Further
    keywords are sections of your own: a value, or a function that gives one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given, further = read_arguments("EnvironmentDump", args, kwargs, _WITH_APP, _WITHOUT)
        self.functions: dict[str, Callable[[], Any]] = {}
        self._wants_config = given.get("include_config", True)
        for name, section in (("os", self.get_os), ("python", self.get_python), ("process", self.get_process)):
            if given.get(f"include_{name}", True):
                self.functions[name] = section
        if given.get("include_config"):
            self._add_config()
        for name, own in further.items():
            if name not in self.functions:
                self.add_section(name, own)
        if is_app(given.get("app")):
            self.init_app(given["app"], given.get("path"))

    def init_app(self, app: Any, path: str | None) -> None:
        """Answer at `path` of a Flask app or blueprint, with its configuration as a section."""
        self._add_config()
        if path:
            app.add_url_rule(path, view_func=self.dump_environment)

    def add_section(self, name: str, func: Any) -> None:
        """Add a section: a value, or a function that gives one. Raises when the name is taken."""
        if name in self.functions:
            raise ConfigurationError(f'The name "{name}" is already taken.')
        self.functions[name] = func if callable(func) else lambda: func

    def dump_environment(self) -> tuple[str, int, dict[str, str]]:
        """The view: gives (body, status, headers), the configuration of the serving app included."""
        self._add_config()
        return self.run()

    def run(self) -> tuple[str, int, dict[str, str]]:
        """Every section as (body, status, headers). A section that fails says so in its place."""
        whole = {name: _section(name, function) for name, function in tuple(self.functions.items())}
        return write_json(whole), 200, {"Content-Type": "application/json"}

    def get_os(self) -> dict[str, Any]:
        """The operating system."""
        return {"platform": sys.platform, "name": os.name, "uname": list(platform.uname())}

    def get_python(self) -> dict[str, Any]:
        """The interpreter, its path and the installed packages."""
        version = sys.version_info
        return {
            "version": sys.version,
            "executable": sys.executable,
            "pythonpath": list(sys.path),
            "version_info": {
                "major": version.major,
                "minor": version.minor,
                "micro": version.micro,
                "releaselevel": version.releaselevel,
                "serial": version.serial,
            },
            "packages": _packages(),
        }

    def get_login(self) -> str:
        """The name of the user that this process runs as; the number of one that has no name."""
        if os.name != "posix":
            return os.environ.get("USER") or os.environ.get("USERNAME") or "UNKNOWN"
        import pwd

        user = os.geteuid()
        try:
            return pwd.getpwuid(user).pw_name
        except KeyError:
            return str(user)

    def get_process(self) -> dict[str, Any]:
        """This process: arguments and environment without their secrets."""
        return {
            "argv": _safe_arguments(sys.argv),
            "cwd": os.getcwd(),
            "user": self.get_login(),
            "pid": os.getpid(),
            "environ": _safe_environ(),
        }

    def get_config(self) -> dict[str, Any]:
        """The configuration of the Flask app that is serving; what JSON cannot hold is left out."""
        from healthcheck.flask import app_config

        return self.safe_dump(app_config())

    def safe_dump(self, dictionary: Mapping[str, Any]) -> dict[str, Any]:
        """What may be shown of a mapping: secrets masked, what JSON cannot hold left out."""
        shown: dict[str, Any] = {
            name: value if fits_json(value) else None
            for name, value in dictionary.items()
            if fits_json(value) or is_secret_name(str(name))
        }
        return safe_dict(shown)

    def _add_config(self) -> None:
        if self._wants_config and "config" not in self.functions:
            self.functions["config"] = self.get_config


# These have hidden their secrets already, and know better: a package may be called PyJWT, its version is no secret.
_SAFE = (EnvironmentDump.get_os, EnvironmentDump.get_python, EnvironmentDump.get_process)


def _packages() -> dict[str, str]:
    """The installed packages and their versions. Their metadata is parsed once each: `name` and `version` do it anew."""
    described = (found.metadata for found in metadata.distributions())
    return {about["Name"]: about["Version"] for about in described if about["Name"]}


def _section(name: str, function: Callable[[], Any]) -> Any:
    try:
        if getattr(function, "__func__", None) in _SAFE:
            return function()
        return safe_dict({name: function()})[name]
    except Exception as error:
        return {"error": redact_text(f"{type(error).__name__}: {error}")}


def _safe_environ() -> dict[str, str]:
    """The environment without its secrets. PWD is a password by its name, and the shell's directory by custom."""
    shown = safe_dict(os.environ)
    directory = os.environ.get("PWD")
    if directory is not None and os.path.isdir(directory):
        shown["PWD"] = directory
    return shown


def _safe_arguments(arguments: list[str]) -> list[str]:
    """`--password=x`, `--password x` and what is secret by its shape."""
    shown: list[str] = []
    hides_next = False
    for argument in arguments:
        if hides_next and not argument.startswith("-"):
            shown.append(MASK)
        else:
            shown.append(redact_text(argument))
        hides_next = argument.startswith("-") and "=" not in argument and is_secret_name(argument.lstrip("-"))
    return shown
