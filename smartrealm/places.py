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
