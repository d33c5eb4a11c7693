"""The settings of a sidecar from the environment: one variable for each, every mistake told at once."""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.settings import Settings
from smartrealm.errors import ConfigurationError
from smartrealm.names import LOCAL, Realm
from smartrealm.places import sidecar_directory, state_directory

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:_-]{0,252}[A-Za-z0-9])?|::1?")
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What may stand in HAProxy's file."""

_SBIN = ("/usr/local/sbin", "/usr/sbin")

LONGEST_DIRECTORY = 107 - len("/haproxy.sock") - 10
"""In bytes: the path of a unix socket has at most 107, and HAProxy first opens it under a name with ten more."""


@dataclass(frozen=True, slots=True)
class Variable:
    """Where one setting comes from, and how its text is read."""

    name: str
    """Of the variable."""
    read: Callable[[str], Any]
    """Raises ValueError, whose text says what is right."""
    help: str
    also: str = ""
    """A name that is asked first: it is meant for the sidecar and not for the services beside it."""
    option: bool = True
    """Whether `sidecar run` has an option for it; a token has none, since others can see a command line."""


def _text(text: str) -> str:
    return text


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("write a host name or an address")
    return text


def _zone(text: str) -> str:
    if len(text) > 200 or not text.isprintable():
        raise ValueError("write a name of at most 200 characters")
    return text


def _path(text: str) -> Path:
    if "\0" in text:
        raise ValueError("write a path")
    return Path(text).expanduser().absolute()


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"write a whole number from {least} to {most}")
        return int(text)

    return read


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text) or not least <= float(text) <= most:
            raise ValueError(f"write seconds, {least:g} to {most:g}")
        return float(text)

    return read


def _switch(text: str) -> bool:
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError("write yes or no")


def _names(text: str) -> tuple[str, ...]:
    found = tuple(filter(None, (one.strip() for one in text.split(","))))
    if not all(_WORD.fullmatch(one) for one in found):
        raise ValueError("write names of letters, digits and . _ -, separated by commas")
    return found


def _printable(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError("write 1 to 64 letters, digits and . _ -")
    return text


VARIABLES: Mapping[str, Variable] = {
    "realm": Variable("REALM", lambda text: str(Realm(text)), "The environment that this host belongs to."),
    "directory": Variable("SIDECAR_DIR", _path, "Where its sockets and HAProxy's files are."),
    "state": Variable("SIDECAR_STATE", _path, "Where the map is kept; else below STATE_DIR."),
    "atlas_url": Variable("ATLAS_URL", _text, "Which map; else the local realm's."),
    "atlas_token": Variable("ATLAS_TOKEN", _text, "The token of this host.", option=False),
    "host": Variable("ADVERTISE_HOST", _host, "How others reach this host.", also="SIDECAR_HOST"),
    "zone": Variable("ZONE", _zone, "Where this host stands: its own zone is called first."),
    "port": Variable("SIDECAR_PORT", _whole(1, 65535), "The loopback port on which services are called."),
    "loopback": Variable("SIDECAR_LOOPBACK", _switch, "Whether that port is opened."),
    "socket": Variable("SIDECAR_SOCKET", _switch, "Whether services may be called through calls.sock."),
    "admin_port": Variable("SIDECAR_ADMIN_PORT", _whole(0, 65535), "The loopback port of the page; 0 for none."),
    "tokens_file": Variable("SIDECAR_TOKENS", _path, "Who may call: see `sidecar token create`."),
    "salt": Variable("SIDECAR_SALT", _printable, "What the buckets of a split are salted with; else the realm."),
    "key_headers": Variable("SIDECAR_KEY_HEADERS", _names, "Which headers name the one who is put into a bucket."),
    "key_cookies": Variable("SIDECAR_KEY_COOKIES", _names, "Which cookies do, when no header does."),
    "haproxy": Variable("SIDECAR_HAPROXY", _text, "The program, by name or path."),
    "spare_backends": Variable(
        "SIDECAR_SPARE_BACKENDS", _whole(0, 100_000), "Backends kept free for new services; 0: a tenth, at least 40."
    ),
    "max_connections": Variable(
        "SIDECAR_MAX_CONNECTIONS", _whole(10, 10_000_000), "How many connections HAProxy takes at once."
    ),
    "reload_seconds": Variable("SIDECAR_RELOAD_SECONDS", _seconds(0, 86_400), "The least time between two reloads."),
    "compare_seconds": Variable(
        "SIDECAR_COMPARE_SECONDS", _seconds(0.1, 86_400), "How often HAProxy is compared with what it should know."
    ),
    "ttl_seconds": Variable("SIDECAR_TTL_SECONDS", _seconds(1, 3600), "How long the lease of this host lasts."),
    "check_seconds": Variable(
        "SIDECAR_CHECK_SECONDS",
        _seconds(0.1, 3600),
        "How often the instances of this host are asked whether they are ready.",
    ),
}
"""By the name of the field in Settings."""

_OTHERS = frozenset({"SIDECAR_URL", "SIDECAR_TOKEN", "SIDECAR_PROXY", "SIDECAR_TRACEBACK", "SIDECAR_HOST"})
"""Names that begin alike and are none of the fields: where a service finds the sidecar, what the commands take."""


def settings_from(environ: Mapping[str, str], *, needs_atlas: bool = True, **given: Any) -> Settings:
    """The settings that the environment says, under those that are `given` (None: not given; text is read as the variable is).

    An empty variable counts as absent. Raises ConfigurationError with every mistake: the variable, its value, what is right.
    """
    mistakes: list[str] = []
    found: dict[str, Any] = {}
    for name, variable in VARIABLES.items():
        value = given.get(name)
        told = _told(name, variable, value is not None)
        if value is None:
            value = (environ.get(variable.also) if variable.also else None) or environ.get(variable.name) or None
        if isinstance(value, str):
            value = _read(variable, value, told, mistakes)
        if value is not None:
            found[name] = value
    mistakes += _unknown(environ)
    realm = found.setdefault("realm", LOCAL)
    if realm != LOCAL and not found.get("atlas_url") and needs_atlas:
        mistakes.append(f"ATLAS_URL is not set, and only the realm `local` has a map by itself (REALM is {realm}).")
    found.setdefault("directory", sidecar_directory(environ, realm).absolute())
    found.setdefault("state", (state_directory(environ) / "sidecar" / realm).absolute())
    found.setdefault("haproxy", haproxy_program(environ))
    settings = Settings(**found)
    mistakes += _together(settings)
    if mistakes:
        raise ConfigurationError("The settings of the sidecar cannot be used:", mistakes)
    return settings


def haproxy_program(environ: Mapping[str, str], beside: Sequence[str] = _SBIN) -> str:
    """`haproxy` where it is on the PATH; else where systems keep it that have it on the PATH of root alone, as Debian does."""
    if shutil.which("haproxy", path=environ.get("PATH")):
        return "haproxy"
    return shutil.which("haproxy", path=os.pathsep.join(beside)) or "haproxy"


def _told(name: str, variable: Variable, is_option: bool) -> str:
    return f"--{option_name(name)}" if is_option and variable.option else variable.name


def option_name(field_name: str) -> str:
    """The option of `sidecar run` for a field of Settings."""
    return {"atlas_url": "atlas"}.get(field_name, field_name.replace("_", "-"))


def _read(variable: Variable, text: str, told: str, mistakes: list[str]) -> Any:
    try:
        return variable.read(text)
    except ValueError as error:
        mistakes.append(f"{told} is {text!r}: {error}.")
    except ConfigurationError as error:
        mistakes.append(f"{told}: {error.message}")
    return None


def _unknown(environ: Mapping[str, str]) -> list[str]:
    """Variables that look like ours and are none: a slip of the pen would go unnoticed."""
    known = {variable.name for variable in VARIABLES.values()}
    found = []
    for name in sorted(environ):
        if not name.startswith("SIDECAR_") or name in known or name in _OTHERS:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if near:
            found.append(f"{name} is no setting: did you mean {near[0]}?")
    return found


def _together(settings: Settings) -> list[str]:
    """What each of them allows and all of them do not."""
    found = []
    if not settings.loopback and not settings.socket:
        found.append("SIDECAR_LOOPBACK and SIDECAR_SOCKET are both off: then nobody can call anything.")
    if settings.loopback and settings.port == settings.admin_port:
        found.append(f"SIDECAR_PORT and SIDECAR_ADMIN_PORT are both {settings.port}: each needs a port of its own.")
    excess = len(os.fsencode(settings.directory)) - LONGEST_DIRECTORY
    if excess > 0:
        found.append(
            f"SIDECAR_DIR is {settings.directory}: too long by {excess} bytes for the unix sockets in it. Take one of at most "
            f"{LONGEST_DIRECTORY}, such as /run/smartservice/REALM."
        )
    return found
