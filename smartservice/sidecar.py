"""Through which sidecar a service calls others, for those who want to know: `flask doctor`."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

SECONDS = 0.5


@dataclass(frozen=True)
class Found:
    """The sidecar of a service."""

    url: str = ""
    """Empty: it has none."""
    wants_token: bool = False
    answers: bool | None = None
    """None: nobody has asked."""

    def asked(self, seconds: float = SECONDS) -> Found:
        """The same, after a connection was tried. Nothing is sent."""
        parts = urlsplit(self.url)
        try:
            if parts.scheme == "unix":
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.settimeout(seconds)
                    probe.connect(parts.path)
            else:
                socket.create_connection((parts.hostname or "", parts.port or 80), seconds).close()
        except (OSError, ValueError):
            return replace(self, answers=False)
        return replace(self, answers=True)


def find(url: str | None, directory: Path | None) -> Found:
    """What SIDECAR_URL names; without a value the sidecar of this host, if its agent lives."""
    if url is not None or directory is None or not os.path.isdir(directory):
        return Found(url or "")
    from atlas.announcement import is_carried, read_sidecar

    told = read_sidecar(directory) if is_carried(directory) else None
    if told is None:
        return Found()
    return Found(told.url or (f"unix://{told.socket}" if told.socket else ""), told.tokens)
