"""Where everybody was last, on disk: so that a process which starts while the map is away can call others all the same.

Services, instances and rulings, without overrides and tokens: there is nothing secret in it. Two generations of two
lines each:

    {"format": 2, "saved_at": ..., "position": "epoch.revision.presence", "instances": 10000, "sha256": ...}
    [[kind, key, data], ...]

What is kept follows the map with one exception: a map of another epoch that has lost most of what was known is more
likely a wiped store than a realm that shut down, and is not kept in place of the full one for an hour. Absence of news
is never a removal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from atlas.model import Kind
from atlas.world import Position, World
from smartrealm.errors import ValidationFailed

FORMAT = 2
KINDS: tuple[Kind, ...] = ("service", "ruling", "instance")
LEAST_SECONDS = 10.0
"""How old the copy is at least before it is written anew; all processes of a host keep one together."""

RELUCTANT_SECONDS = 3600.0
"""For so long a map of another epoch with less than half of the instances does not take the place of what is kept."""

_log = logging.getLogger("atlas")


class RememberedWorld:
    """The copy of one map. Every method is safe in several processes at once, and none of them raises."""

    def __init__(self, directory: Path, *, url: str, realm: str, wall_clock: Callable[[], float] = time.time) -> None:
        digest = hashlib.sha256(url.encode()).hexdigest()[:8]
        self.path = directory / "atlas" / f"{realm}-{digest}.json"
        self.previous = self.path.with_name(f"{self.path.name}.previous")
        self.saved_at: float | None = None
        """Time of day at which what `load` gave was kept; None before that, and when there was nothing."""
        self.failure = ""
        """Why the map cannot be kept; empty: the last one was."""
        self._wall_clock = wall_clock
        self._warned: set[str] = set()
        self._reluctant_at = float("-inf")

    @property
    def age_seconds(self) -> float | None:
        """How old what `load` gave is now."""
        return None if self.saved_at is None else max(0.0, self._wall_clock() - self.saved_at)

    def load(self) -> World | None:
        """What was known last; None when there is nothing, or nothing that can be used. A damaged copy is told, and the
        one before it is used in its place."""
        for path in (self.path, self.previous):
            try:
                content, found = _read(path)
                world, self.saved_at = _parse(content, found)
            except FileNotFoundError:
                continue
            except PermissionError as error:
                _log.warning("what was known of the map is not used: %s: %s", path, error.strerror)
            except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationFailed) as error:
                _log.warning("what was known of the map cannot be used: %s: %s", path, type(error).__name__)
            else:
                if path == self.previous:
                    _log.warning("an older copy of the map is used, from %.0f s ago: %s", self.age_seconds or 0.0, path)
                return world
        self.saved_at = None
        return None

    def load_elsewhere(self, seconds: float) -> World | None:
        """What was known under another URL of the same realm, when that is newer than what `load` gave, and at most this old: the
        map has moved, or the URL is a mistake. Its instances are where they were."""
        name = re.compile(rf"{re.escape(self.path.name.rpartition('-')[0])}-[0-9a-f]{{8}}\.json")
        newest = max(self._wall_clock() - seconds, self.saved_at or 0.0)
        known = None
        with suppress(OSError):
            for path in self.path.parent.iterdir():
                if path == self.path or not name.fullmatch(path.name):
                    continue
                with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, ValidationFailed):
                    world, saved_at = _parse(*_read(path))
                    if saved_at > newest:
                        known, newest, self.saved_at = world, saved_at, saved_at
                        _log.warning("what was known of the map under another URL is newer, and is gone by: %s", path)
        return known

    def save(self, world: World, *, force: bool = False, accept: bool = False) -> bool:
        """Keep this world, unless somebody has kept one a moment ago; gives whether it was. `force`: however short ago
        that was. `accept`: even one of another epoch that has lost most of what was known. A disk that refuses is told
        once."""
        try:
            waited = min(self._age_seconds(), abs(self._wall_clock() - self._reluctant_at))
            if not force and waited < LEAST_SECONDS:
                return False
            if not accept and self._is_reluctant(world):
                return False
            self._write(_content(world, self._wall_clock()))
        except OSError as error:
            self.failure = f"what is known of the map cannot be kept in {self.path}: {error.strerror}"
            self._warn("disk", self.failure)
            return False
        self._warned.clear()
        self.failure = ""
        return True

    def _age_seconds(self) -> float:
        try:
            return abs(self._wall_clock() - self.path.stat().st_mtime)
        except FileNotFoundError:
            return float("inf")

    def _is_reluctant(self, world: World) -> bool:
        """Whether this world looks like that of a wiped store beside what is kept."""
        for path in (self.path, self.previous):
            try:
                head = _head(_read(path)[0])[0]
                epoch, kept = Position.parse(head["position"]).epoch, int(head["instances"])
                age = abs(self._wall_clock() - float(head["saved_at"]))  # the clock may have been set back
                break
            except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationFailed):
                continue
        else:
            return False
        told = sum(len(places) for places in world.instances.values())
        if epoch == world.position.epoch or 2 * told >= kept or age >= RELUCTANT_SECONDS:
            return False
        self._reluctant_at = self._wall_clock()  # not to be found out anew with every change
        self._warn(
            "epoch",
            f"the map begins anew with {told} of {kept} instances: what was known is kept in {self.path} for now",
        )
        return True

    def _warn(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            _log.warning("%s", message)

    def _write(self, content: bytes) -> None:
        """Put it in place so that a power cut at any moment leaves this copy or the one before it."""
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if self._is_whole():
                with suppress(FileNotFoundError):  # another process has done so at this moment
                    os.replace(self.path, self.previous)
            os.replace(temporary, self.path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync(folder)

    def _is_whole(self) -> bool:
        """Whether the present copy is worth keeping as the one before: a damaged one never takes the place of a good
        one."""
        try:
            content, _ = _read(self.path)
            _head(content)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False
        return True

    def __repr__(self) -> str:
        return f"RememberedWorld({str(self.path)!r})"


def _content(world: World, now: float) -> bytes:
    # One by one: a single call for ten thousand instances would keep every other thread waiting for a twentieth of a
    # second.
    encode = json.JSONEncoder(separators=(",", ":")).encode
    body = f"[{','.join(encode(item) for item in world.items(KINDS))}]".encode()
    position = str(world.position)
    head = {
        "format": FORMAT,
        "saved_at": now,
        "position": position,
        "instances": sum(len(places) for places in world.instances.values()),
        "sha256": _digest(position, body),
    }
    return json.dumps(head).encode() + b"\n" + body + b"\n"


def _digest(position: str, body: bytes) -> str:
    digest = hashlib.sha256(position.encode() + b"\n")
    digest.update(body)
    return digest.hexdigest()


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
        found = os.fstat(file.fileno())
        if not _is_ours(found):
            raise PermissionError(1, "others may write it")
        return file.read(), found


def _head(content: bytes) -> tuple[Mapping[str, Any], bytes]:
    """The first line and the bytes of the second, checked. Raises ValueError, KeyError or TypeError for a damaged
    one."""
    first, _, rest = content.partition(b"\n")
    head, body = json.loads(first), rest.rstrip(b"\n")
    if head["format"] != FORMAT:
        raise ValueError("another format")
    if head["sha256"] != _digest(head["position"], body):
        raise ValueError("another checksum")
    return head, body


def _parse(content: bytes, found: os.stat_result) -> tuple[World, float]:
    """The world, and when it was kept. Format 1, of earlier releases, is read, too: it was one document without a
    checksum."""
    if content.startswith(b'{"format":1,'):
        document = json.loads(content)
        told, saved_at = document["items"], found.st_mtime
        position = document["position"]
    else:
        head, body = _head(content)
        told, position, saved_at = json.loads(body), head["position"], float(head["saved_at"])
    items = [(kind, str(key), data) for kind, key, data in told if kind in KINDS]
    return World.from_items(Position.parse(position), items), saved_at


def _sync(folder: Path) -> None:
    """Have the renames written, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_ours(found: os.stat_result) -> bool:
    """Whether nobody else can have written it: who writes it says where calls go."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
