"""What `--dry-run` works on: a copy of the map in a file that is thrown away, so that a rehearsal runs the same code."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path

from atlas.directory import Directory


def empty(folder: str, open: Callable[..., Directory], environ: Mapping[str, str]) -> Directory:
    """A map of its own in `folder`; nothing of ATLAS_URL, ATLAS_TOKEN and ATLAS_KEYS reaches it."""
    key = Path(folder) / "rehearsal.db.key"  # new secrets are sealed with it, those of the copy cannot be opened
    key.touch(mode=0o600)
    key.write_bytes(urlsafe_b64encode(os.urandom(32)))
    apart = {name: value for name, value in environ.items() if not name.startswith("ATLAS_")}
    return open(f"sqlite:///{Path(folder) / 'rehearsal.db'}", environ={**apart, "REALM": "local"})


def copy_of(real: Directory, folder: str, open: Callable[..., Directory], environ: Mapping[str, str]) -> Directory:
    """A copy with the history, the same revisions, and everything that runs."""
    copy = empty(folder, open, environ)
    copy.import_(real.export())
    return copy
