"""Where everybody was last, on disk: so that a process which starts while the map is away can call others all the same.

Services, instances, rulings and leases, without overrides and tokens: there is nothing secret in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from atlas.model import Kind
from atlas.world import Position, World
from smartrealm.errors import ValidationFailed

FORMAT = 1
KINDS: tuple[Kind, ...] = ("service", "ruling", "instance")
LEAST_SECONDS = 10.0
"""How old the copy is at least before it is written anew; all processes of a host keep one together."""

_log = logging.getLogger("atlas")


class RememberedWorld:
    """The copy of one map. Every method is safe in several processes at once, and none of them raises."""

    def __init__(self, directory: Path, *, url: str, realm: str, wall_clock: Callable[[], float] = time.time) -> None:
        digest = hashlib.sha256(url.encode()).hexdigest()[:8]
        self.path = directory / "atlas" / f"{realm}-{digest}.json"
        self._wall_clock = wall_clock
        self._warned = False

    def load(self) -> World | None:
        """What was known last; None when there is nothing, or nothing that can be used."""
        try:
            with open(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                if not _is_ours(os.fstat(file.fileno())):
                    _log.warning("what was known of the map is not used: others may write %s", self.path)
                    return None
                document = json.load(file)
            if document["format"] != FORMAT:
                return None
            items = [(kind, str(key), data) for kind, key, data in document["items"] if kind in KINDS]
            return World.from_items(Position.parse(document["position"]), items)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, ValidationFailed) as error:
            _log.warning("what was known of the map cannot be used: %s: %s", self.path, type(error).__name__)
            return None

    def save(self, world: World) -> None:
        """Keep this world, unless somebody has kept one a moment ago. A disk that refuses is told once."""
        try:
            if self._age_seconds() < LEAST_SECONDS:
                return
            items = [(kind, key, data) for kind, key, data in world.items() if kind in KINDS]
            content = {"format": FORMAT, "position": str(world.position), "items": items}
            self._write(json.dumps(content, separators=(",", ":")).encode())
        except OSError as error:
            if not self._warned:
                self._warned = True
                _log.warning("what is known of the map cannot be kept in %s: %s", self.path, error.strerror)

    def _age_seconds(self) -> float:
        try:
            return abs(self._wall_clock() - self.path.stat().st_mtime)
        except FileNotFoundError:
            return float("inf")

    def _write(self, content: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.replace(temporary, self.path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def __repr__(self) -> str:
        return f"RememberedWorld({str(self.path)!r})"


def _is_ours(found: os.stat_result) -> bool:
    """Whether nobody else can have written it: who writes it says where calls go."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
