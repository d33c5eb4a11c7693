"""What the folder of announcements says at this moment: cheap to ask ten times a second."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from atlas import announcement as announcements
from atlas.announcement import Announcement
from atlas.model import Instance
from smartrealm.errors import ValidationFailed
from smartrealm.wording import plain

_log = logging.getLogger("sidecar")

Signature = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Announced:
    """One instance, as a file announces it."""

    path: Path
    announcement: Announcement
    instance: Instance
    """With the address and the zone of the host where it told none."""


@dataclass(slots=True)
class _File:
    signature: Signature
    announcement: Announcement | None = None
    reason: str = ""
    """Why what it says now is not used."""
    shadow: str = ""
    """Which newer file announces the same instance."""


class Folder:
    """Follows one folder. Not thread-safe. A bad file is reported and harms no other; a file that was good and is bad
    now counts as it was; a folder that cannot be listed changes nothing: absence of news is never a removal."""

    def __init__(self, path: Path, *, host: str, zone: str) -> None:
        self.path = path
        self.problems: Mapping[str, str] = {}
        """By path: why it is not used."""
        self._host, self._zone = host, zone
        self._files: dict[str, _File] = {}
        self._failure = ""
        self._listed = False

    def look(self) -> Mapping[str, Announced] | None:
        """Every instance that is announced, by its key in the map; None when nothing has changed since the last
        look."""
        try:
            found = {one.name: _signature_of(one.stat(follow_symlinks=False)) for one in announcements.names(self.path)}
        except FileNotFoundError as error:
            if error.filename is None or Path(error.filename).parent == self.path:
                return None  # a file went while the folder was read: the next look finds it gone
            self._failed(error)
            return None
        except OSError as error:
            self._failed(error)
            return None
        if self._listed and not self._failure and found == {name: one.signature for name, one in self._files.items()}:
            return None
        self._listed, self._failure = True, ""
        for name in self._files.keys() - found.keys():
            del self._files[name]
        for name, signature in found.items():
            if name not in self._files or self._files[name].signature != signature:
                self._read(name, signature)
        return self._arranged()

    def remove(self, announced: Announced) -> bool:
        """Take the file of a dead instance away, unless it was written anew since it was read."""
        file = self._files.get(announced.path.name)
        with suppress(OSError):
            if file is not None and _signature_of(os.lstat(announced.path)) == file.signature:
                announced.path.unlink()
                return True
        return False

    def _failed(self, error: OSError) -> None:
        failure = f"It cannot be listed: {error.strerror}."
        if failure != self._failure:
            _log.warning("%s: %s What was announced before goes on.", self.path, failure)
            self._failure = failure
            self._tell()

    def _read(self, name: str, signature: Signature) -> None:
        file = self._files.setdefault(name, _File(signature))
        file.signature = signature
        try:
            file.announcement, file.reason = announcements.read(self.path / name), ""
        except FileNotFoundError:
            del self._files[name]
        except (ValidationFailed, OSError) as error:
            file.reason = str(error)
            _log.warning("%s is not used: %s", plain(self.path / name), plain(file.reason))

    def _arranged(self) -> Mapping[str, Announced]:
        wanted: dict[str, Announced] = {}
        for name, file in sorted(self._files.items(), key=lambda item: item[1].signature):
            file.shadow = ""
            if file.announcement is None:
                continue
            instance = file.announcement.instance(host=self._host, zone=self._zone)
            if older := wanted.get(instance.key):
                self._files[older.path.name].shadow = f"{name} announces the same instance, and is newer."
            wanted[instance.key] = Announced(self.path / name, file.announcement, instance)
        self._tell()
        return wanted

    def _tell(self) -> None:
        told = {str(self.path / name): file.reason or file.shadow for name, file in self._files.items()}
        self.problems = {path: reason for path, reason in told.items() if reason} | (
            {str(self.path): self._failure} if self._failure else {}
        )


def _signature_of(found: os.stat_result) -> Signature:
    # A change of owner or mode can make a bad file a good one: it shows in the time of the change only.
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
