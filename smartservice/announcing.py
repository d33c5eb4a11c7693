"""An instance tells the sidecar of its host that it is there: the file that `atlas.announcement` describes, kept by the workers.

The worker that speaks for the instance writes the file, and writes it anew when something changes or the file is lost. The
master writes two things itself, since nobody is faster: that the instance drains, and that it is gone.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartrealm.errors import SmartError

if TYPE_CHECKING:
    from atlas.announcement import Announcement
    from smartservice.lifecycle import Desk

_EVERYWHERE = ("", "0.0.0.0", "::", "[::]")
_log = logging.getLogger("smartservice")


class Announcer:
    """Keeps the announcement of one instance, from one of its workers. Every method is quick, and none raises.

    A sidecar may come at any time. Until then nothing is written, and nothing of Atlas is imported.
    """

    def __init__(self, directory: Path, describe: Callable[[], Announcement], *, desk: Desk) -> None:
        self._directory = directory
        self._describe = describe
        self._desk = desk
        self._written: Announcement | None = None
        self._failure: str | None = None
        self._complained = False

    def beat(self) -> bool:
        """Write what changed, if this worker speaks for the instance. Gives whether a living agent carries it."""
        if not self._is_met():
            self._written = None
            return False
        from atlas.announcement import is_carried

        if self._desk.is_mine():
            self._tell()
        return self._failure is None and is_carried(self._directory)

    def close(self, *, stopping: bool) -> None:
        """Nothing: the master takes the file away, when the last worker has ended."""

    def _is_met(self) -> bool:
        """Whether this host has a sidecar that meets its services there. A folder to which this user has no way is told of once."""
        try:
            return stat.S_ISDIR(os.stat(self._directory / "announce").st_mode)
        except PermissionError:
            if not self._complained and self._desk.is_mine():
                self._complained = True
                _log.warning(
                    "the sidecar of this host cannot be told of this instance: this user may not enter %s; let it join the "
                    "group of that folder (SupplementaryGroups= in a systemd unit)",
                    self._directory,
                )
        except OSError:
            pass  # no sidecar here
        return False

    def _tell(self) -> None:
        from atlas.announcement import FOLDER, announce

        wanted = self._describe()
        path = self._directory / FOLDER / wanted.file_name
        if wanted == self._written and os.path.exists(path):
            return
        try:
            if self._written is None or not _is_another(path, wanted.incarnation):
                self._desk.note(str(announce(self._directory, wanted)))
            self._written = wanted
            now = self._describe()
            if now.draining and not wanted.draining:  # the master was faster, and this has hidden what it said
                announce(self._directory, now)
                self._written = now
        except (SmartError, OSError) as error:
            if self._failure is None:
                _log.warning("the sidecar of this host cannot be told of this instance: %s", error)
            self._failure = str(error)
            return
        self._failure = None


def announcement_of(config: Mapping[str, Any], *, service: str, desk: Desk, draining: bool) -> Announcement:
    """What the settings of a service say of one of its instances."""
    from atlas.announcement import Announcement

    host = config["ADVERTISE_HOST"] or config["HOST"]
    health = config["HEALTH_PATH"] or ("/healthcheck" if config["MANAGEMENT_PORT"] else "")
    return Announcement(
        service=service,
        port=config["ADVERTISE_PORT"] or config["PORT"],
        host="" if host in _EVERYWHERE else host.strip("[]"),
        health=f"{health.rstrip('/')}/ready" if health else "",
        health_port=config["MANAGEMENT_PORT"] or None,
        version=config["RELEASE"],
        weight=config["WEIGHT"],
        zone=config["ZONE"],
        incarnation=desk.incarnation,
        draining=draining,
        pid=desk.pid,
        by="create_app",
    )


def tell_draining(desk: Desk) -> None:
    """Say in the file of the instance that it drains; in the master, at the moment of the signal. Raises nothing."""
    from atlas.announcement import announce

    _in_the_file(desk, lambda directory, found: announce(directory, replace(found, draining=True)))


def tell_gone(desk: Desk) -> None:
    """Take the file of the instance away; in the master, when the workers have ended. Raises nothing."""
    from atlas.announcement import withdraw

    _in_the_file(desk, withdraw)


def _in_the_file(desk: Desk, do: Callable[[Path, Announcement], object]) -> None:
    from atlas.announcement import read

    try:
        path = Path(desk.noted())
        if path.name and os.path.exists(path):
            found = read(path)
            if found.incarnation == desk.incarnation:  # after SIGUSR2 it is that of the new master
                do(path.parent.parent, found)
    except Exception:
        _log.exception("the sidecar of this host could not be told that this instance stops")


def _is_another(path: Path, incarnation: str) -> bool:
    from atlas.announcement import read

    try:
        return read(path).incarnation != incarnation
    except (SmartError, OSError):
        return False
