"""What operators did on this host: one JSON object a line, only ever appended to."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smartrealm.errors import Unavailable

NAME = "audit.jsonl"


class Audit:
    """`audit.jsonl` in a directory. A line is written whole and reaches the disk before `write` returns; safe from any thread."""

    def __init__(self, directory: Path, *, wall_clock: Callable[[], float] = time.time) -> None:
        self.path = directory / NAME
        self._wall_clock = wall_clock

    def write(self, what: str, *, by: str, why: str, **details: Any) -> None:
        """Record who did what, when and why. Raises Unavailable when the disk refuses: then it is not to be done."""
        entry = {"at": round(self._wall_clock(), 3), "what": what, "by": by, "why": why, **details}
        line = json.dumps(entry, ensure_ascii=False).encode(errors="replace") + b"\n"
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o600)
            try:
                os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Unavailable(
                f"Nothing was done, since {self.path} cannot be written ({error.strerror}) and this is to be on record."
            ) from error
