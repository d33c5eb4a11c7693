"""The last overrides that were found good, on disk, so that a process starts while their source is away.

One file for each realm, service and source, `config/<realm>/<service>-<hash of the source's name>.json` below the state
directory: mode 0600, replaced by a rename after an fsync, with a checksum over its content.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smartconfig.sources import Override, Overrides

FORMAT = 1
LARGEST = 16 * 1024 * 1024
LEFTOVER_SECONDS = 60

_log = logging.getLogger("smartconfig")


@dataclass(frozen=True, slots=True)
class Kept:
    """What the disk remembers: the overrides, and the moment of `time.time()` at which they were confirmed."""

    overrides: Overrides
    saved_at: float


class Unusable(Exception):
    """A copy is there and may not be used; the text says why."""


class LastGood:
    """The copy of one service's overrides from one source. Every method is safe in several processes at once."""

    def __init__(self, directory: Path, *, realm: str, service: str, source: str) -> None:
        self._identity = {"realm": realm, "service": service, "source": source}
        digest = hashlib.sha256(source.encode()).hexdigest()[:8]
        self.path = directory / "config" / realm / f"{service}-{digest}.json"
        self._warned = False

    def load(self) -> Kept | None:
        """The copy; None when there is none. Raises Unusable for one that is damaged or that others could write."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unusable(f"{self.path} cannot be read: {error.strerror}") from None
        with open(descriptor, "rb") as file:
            self._check_trust(os.fstat(descriptor))
            content = file.read(LARGEST + 1)
        try:
            return self._decode(content)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Unusable(f"{self.path} is damaged") from None

    def save(self, overrides: Overrides, now: float, *, refresh: bool = False) -> None:
        """Keep these overrides. Another process may have done so already: then nothing is written, unless `refresh`
        asks for a new date. A disk that refuses is logged once and changes nothing else."""
        try:
            if not refresh and self._has(overrides):
                return
            self._write(self._encode(overrides, now))
        except (OSError, TypeError, ValueError) as error:
            if not self._warned:
                self._warned = True
                _log.warning("the last good configuration cannot be kept in %s: %s", self.path, _reason(error))

    def _has(self, overrides: Overrides) -> bool:
        try:
            kept = self.load()
        except Unusable:
            return False
        return kept is not None and kept.overrides.version == overrides.version

    def _check_trust(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            raise Unusable(f"{self.path} is not such a file")
        if found.st_uid != os.geteuid():
            raise Unusable(f"{self.path} belongs to another user")
        if found.st_mode & 0o077:
            raise Unusable(f"{self.path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}, not 0600)")

    def _encode(self, overrides: Overrides, now: float) -> bytes:
        content = {
            "format": FORMAT,
            **self._identity,
            "saved_at": now,
            "version": overrides.version,
            "entries": [asdict(entry) for entry in overrides.entries],
        }
        return json.dumps({"checksum": _checksum(content), "content": content}).encode()

    def _decode(self, content: bytes) -> Kept:
        document: Any = json.loads(content)
        inner = document["content"]
        if document["checksum"] != _checksum(inner) or inner["format"] != FORMAT:
            raise ValueError("the checksum or the format is another one")
        if any(inner[name] != value for name, value in self._identity.items()):
            raise ValueError("it belongs to another service or source")
        entries = tuple(Override(**entry) for entry in inner["entries"])
        return Kept(Overrides(str(inner["version"]), entries), float(inner["saved_at"]))

    def _write(self, content: bytes) -> None:
        directory = self.path.parent
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_leftovers(directory)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=directory)  # mkstemp: 0600
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_directory(directory)

    def _remove_leftovers(self, directory: Path) -> None:
        """Half-written files of processes that were killed: they hold secrets and nobody else takes them away."""
        for path in directory.glob(f".{self.path.name}.*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                    path.unlink()

    def __repr__(self) -> str:
        return f"LastGood({str(self.path)!r})"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _reason(error: Exception) -> str:
    """Why it failed, without a value: what `json` says of one that it cannot write names its type only."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "a value in it has no JSON form"
