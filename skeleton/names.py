"""Which words can name a service, its owner and its components. Pure functions; nothing is written before they agree."""

from __future__ import annotations

import builtins
import difflib
import keyword
import re
import sys
import unicodedata
from collections.abc import Iterable

from skeleton.errors import WrongUse

LONGEST = 40
"""A DNS label may have 63 characters; Kubernetes appends to the names of jobs and pods."""

COMPONENTS = ("db", "redis")

_LABEL = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_OWNER = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

_KEYWORDS = {word.lower() for word in keyword.kwlist} | {"case", "match", "type"}
_BUILTINS = {name.lower() for name in dir(builtins) if not name.startswith("_")}
# The running Python's own list, and what 3.11 to 3.13 do not agree on.
_STANDARD_LIBRARY = {name.lower() for name in sys.stdlib_module_names} | {
    *("asynchat", "asyncore", "cgi", "cgitb", "chunk", "crypt", "distutils", "imp", "mailcap", "nntplib", "pipes"),
    *("smtpd", "sndhdr", "telnetlib", "uu", "xdrlib", "test"),
}
_OURS = {"smartservice", "smartconfig", "smartrealm", "smartclient", "healthcheck", "skeleton", "atlas", "sidecar"}
_DEPENDENCIES = {
    *("alembic", "aniso8601", "annotated_types", "blinker", "bugsnag", "certifi", "charset_normalizer", "click"),
    *("cookiecutter", "flask", "flask_restful", "greenlet", "gunicorn", "idna", "iniconfig", "itsdangerous", "jinja2"),
    *("mako", "markupsafe", "packaging", "pip", "pkg_resources", "pluggy", "prometheus_client", "psycopg"),
    *("psycopg_binary", "py", "pydantic", "pydantic_core", "pygments", "pytest", "pytz", "redis", "requests", "ruff"),
    *("setuptools", "six", "sqlalchemy", "typing_extensions", "typing_inspection", "urllib3", "uv", "webob"),
    *("werkzeug", "wheel", "yaml"),
}
_REPOSITORY = {"tests", "migrations", "deploy", "vendor", "smoke", "wsgi", "conftest", "setup", "build", "dist", "venv"}
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def package_of(name: str) -> str:
    """The Python package of a service: hyphens become underscores."""
    return name.replace("-", "_")


def check_name(name: str) -> str:
    """Give the name back when it is a DNS label, a Python package and nobody else's; WrongUse with a suggestion if not."""
    reason = _fault(name)
    if not reason:
        return name
    suggestion = suggest(name)
    raise WrongUse(
        f"{_shown(name)} cannot name a service: {reason}; try {suggestion!r}.",
        suggestion=suggestion,
    )


def suggest(name: str) -> str:
    """A name near to this one that `check_name` accepts."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    plain = "-".join(re.findall(r"[a-z0-9]+", plain))[:LONGEST].strip("-")
    if plain[:1].isdigit():
        plain = f"service-{plain}"[:LONGEST].strip("-")
    for candidate in (plain, f"{plain[: LONGEST - 8].strip('-')}-service"):
        if not _fault(candidate):
            return candidate
    return "my-service"


def check_owner(owner: str) -> str:
    """Give the owner back when it can be a label of Kubernetes; WrongUse with a suggestion if not."""
    if _OWNER.fullmatch(owner):
        return owner
    plain = unicodedata.normalize("NFKD", owner).encode("ascii", "ignore").decode()
    suggestion = "-".join(re.findall(r"[A-Za-z0-9]+", plain))[:60].strip("-") or "team-hello"
    raise WrongUse(
        f"{_shown(owner)} cannot be the owner: it becomes a label, so use up to 63 letters, digits, dots, hyphens and "
        f"underscores; try {suggestion!r}.",
        suggestion=suggestion,
    )


def check_components(words: Iterable[str]) -> tuple[str, ...]:
    """The components asked for (each word may hold several, with commas), in their fixed order, each once."""
    asked = [part.strip() for word in words for part in word.split(",") if part.strip()]
    for part in asked:
        if part not in COMPONENTS:
            near = difflib.get_close_matches(part.lower(), (*COMPONENTS, *_OTHER_WORDS), n=1, cutoff=0.5)
            suggestion = _OTHER_WORDS.get(near[0], near[0]) if near else ""
            hint = f"did you mean {suggestion!r}?" if suggestion else f"there are {' and '.join(COMPONENTS)}."
            raise WrongUse(f"{_shown(part)} is no component of a service: {hint}", suggestion=suggestion)
    return tuple(part for part in COMPONENTS if part in asked)


_OTHER_WORDS = {"database": "db", "postgres": "db", "postgresql": "db", "sqlite": "db", "sql": "db", "cache": "redis"}


def check_port(port: int) -> int:
    """Give the port back when an ordinary user may bind it and the management port above it; WrongUse if not."""
    if 1024 <= port <= 64535:
        return port
    suggestion = "8000" if port < 1024 else "64535"
    raise WrongUse(
        f"{port} cannot be the port: use 1024 to 64535 (1000 above it is where probes are answered); try {suggestion}.",
        suggestion=suggestion,
    )


def check_description(text: str) -> str:
    """Give the description back when it is one line of at most 200 characters; WrongUse if not."""
    if text.isprintable() and len(text) <= 200:
        return text
    raise WrongUse("The description is one printable line of at most 200 characters.")


def _fault(name: str) -> str:
    """Why this cannot name a service; empty when it can."""
    if not name:
        return "it is empty"
    if not name.isascii():
        return "a host name has ASCII letters only"
    if "/" in name or "\\" in name or ".." in name:
        return "it is a path, and --into says where the repository goes"
    if any(mark in name for mark in ("{", "}", "[", "]", "%", "$")):
        return "it holds the mark of a template or a variable"
    if len(name) > LONGEST:
        return f"it has {len(name)} characters and {LONGEST} is the most, since Kubernetes appends to it"
    if not _LABEL.fullmatch(name):
        return (
            "it must be lower-case letters, digits and single hyphens, beginning with a letter and not ending in a "
            "hyphen, to be a host name"
        )
    return _taken(package_of(name))


def _taken(package: str) -> str:
    """Whose name the package already is; empty when it is free."""
    places = (
        (_KEYWORDS, "it is a keyword of Python"),
        (_DEVICES, "it is the name of a device on Windows, where nobody could clone the repository"),
        (_STANDARD_LIBRARY, "its package would hide a module of Python's standard library"),
        (_BUILTINS, "it is a built-in name of Python"),
        (_OURS | _DEPENDENCIES, "its package would hide a package that every service depends on"),
        (_REPOSITORY, "every generated repository has something of that name already"),
        ({"localhost", "local", "example", "invalid"}, "it is a reserved host name"),
    )
    return next((reason for words, reason in places if package in words), "")


def _shown(text: str) -> str:
    """The text as one short printable word of a message."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")
