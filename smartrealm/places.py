"""Where files go when nobody says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def state_directory(environ: Mapping[str, str]) -> Path:
    """Where state goes when nobody says: STATE_DIR, else `smartservice` in XDG_STATE_HOME, else in `~/.local/state`."""
    if given := environ.get("STATE_DIR"):
        return Path(given)
    home = environ.get("XDG_STATE_HOME") or ""
    # The XDG specification tells to ignore a relative path.
    base = Path(home) if os.path.isabs(home) else Path(environ.get("HOME") or "~").expanduser() / ".local" / "state"
    return base / "smartservice"


RUN_DIRECTORY = Path("/run/smartservice")


def sidecar_directory(environ: Mapping[str, str], realm: str) -> Path:
    """Where the sidecar of a host and its services meet: SIDECAR_DIR, else `<realm>` in /run/smartservice where that is
    there, else in `sidecar` of the state directory. Short, since the path of a unix socket has at most 107 bytes."""
    if given := environ.get("SIDECAR_DIR"):
        return Path(given)
    base = RUN_DIRECTORY if RUN_DIRECTORY.is_dir() else state_directory(environ) / "sidecar"
    return base / realm
