"""The user's pip configuration, handed to uv, which ignores it: indexes, certificates, proxies. Nothing is written down.

pip's order is kept: the file of the machine, of the user, of the virtual environment, PIP_CONFIG_FILE, then PIP_*
variables. A UV_* variable that the user has set himself wins over all of them.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_SECTIONS = ("global", "install")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def pip_settings(environ: Mapping[str, str], files: Sequence[Path] | None = None) -> dict[str, str]:
    """What pip would use, by the long names of its options (`index-url`, `cert`, ...)."""
    found: dict[str, str] = {}
    if environ.get("PIP_CONFIG_FILE") != os.devnull:
        for path in config_files(environ) if files is None else files:
            found.update(_read(path))
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            found[name[4:].lower().replace("_", "-")] = value
    return found


def config_files(environ: Mapping[str, str]) -> list[Path]:
    """Where pip's configuration can be, the strongest last."""
    home = Path(environ.get("HOME") or "~").expanduser()
    system = [Path(part) / "pip" / "pip.conf" for part in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)]
    paths = [*system, Path("/etc/pip.conf"), home / ".pip" / "pip.conf"]
    paths.append(Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf")
    paths.append(Path(sys.prefix) / "pip.conf")
    if environ.get("PIP_CONFIG_FILE"):
        paths.append(Path(environ["PIP_CONFIG_FILE"]))
    return paths


def _read(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text())
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
    return {
        key.replace("_", "-"): value
        for section in _SECTIONS
        if parser.has_section(section)
        for key, value in parser.items(section)
        if value
    }


def uv_variables(environ: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """The variables that make uv see the same indexes as pip."""
    variables: dict[str, str] = {}
    if "index-url" in settings and not _has(environ, "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        variables["UV_DEFAULT_INDEX"] = settings["index-url"].strip()
    if "extra-index-url" in settings and not _has(environ, "UV_INDEX", "UV_EXTRA_INDEX_URL"):
        variables["UV_INDEX"] = " ".join(settings["extra-index-url"].split())
        if not _has(environ, "UV_INDEX_STRATEGY"):  # pip looks at all of them and takes the best version.
            variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if "find-links" in settings and not _has(environ, "UV_FIND_LINKS"):
        places = [place for place in settings["find-links"].split() if "://" in place or Path(place).exists()]
        if places:
            variables["UV_FIND_LINKS"] = ",".join(places)
    for key, variable in (
        ("cert", "SSL_CERT_FILE"),
        ("client-cert", "SSL_CLIENT_CERT"),
        ("timeout", "UV_HTTP_TIMEOUT"),
        ("default-timeout", "UV_HTTP_TIMEOUT"),
        ("trusted-host", "UV_INSECURE_HOST"),
        ("keyring-provider", "UV_KEYRING_PROVIDER"),
        ("proxy", "ALL_PROXY"),
    ):
        if key in settings and not _has(environ, variable) and not (key == "cert" and settings[key] in ("0", "false")):
            variables[variable] = " ".join(settings[key].split())
    if variables.get("UV_KEYRING_PROVIDER") not in (None, "subprocess"):
        variables["UV_KEYRING_PROVIDER"] = "disabled"
    return variables


def uses_no_index(settings: Mapping[str, str]) -> bool:
    """Whether pip was told to look at no index at all."""
    return settings.get("no-index", "").strip().lower() in ("1", "true", "yes", "on")


def without_credentials(text: str) -> str:
    """The text with every `user:password@` of a URL masked."""
    return _CREDENTIALS.sub("***", text)


def _has(environ: Mapping[str, str], *names: str) -> bool:
    return any(environ.get(name) for name in names)
