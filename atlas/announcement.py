"""How an instance tells the sidecar of its host that it is there: one small JSON file for each, in a folder both know.

    DIRECTORY/announce/identity@10.0.0.7:8000.json   one instance: written by it, or by `sidecar register`
    DIRECTORY/agent.lock                             locked by the agent as long as it lives
    DIRECTORY/sidecar.json                           how services are called through the sidecar

DIRECTORY is what `smartrealm.places.sidecar_directory` gives. A file needs no library, no port and no order of
starting: an instance that was there before the agent is found by it, and one that outlives the agent is found by the
next.
"""

from __future__ import annotations

import fcntl
import grp
import json
import os
import pwd
import re
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from atlas.model import Checker, Instance, address, is_text, is_whole
from smartrealm.errors import ConfigurationError, Conflict, SmartError, Unavailable, ValidationFailed

FORMAT = 1
FOLDER = "announce"
LOCK = "agent.lock"
SIDECAR = "sidecar.json"
MOST_BYTES = 16 * 1024
HEALTH_PATH = "/healthcheck/ready"
WRITERS = ("create_app", "command")

_PATH = re.compile(r"/[!-~]{0,499}")
_NAME = re.compile(r"[A-Za-z0-9@:._\[\]-]{1,250}\.json")
_LOCKING = struct.Struct("hhqqi0q")
"""`struct flock`: l_type, l_whence, l_start, l_len, l_pid."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What one instance says of itself."""

    service: str
    port: int
    host: str = ""
    """How others reach it; empty: as they reach its host."""
    health: str = HEALTH_PATH
    """What answers 200 to 299 while it is ready; empty: it is ready as long as it accepts connections."""
    health_port: int | None = None
    """Where that is asked, when not on `port`."""
    version: str = ""
    weight: int = 100
    zone: str = ""
    """Empty: that of its host."""
    incarnation: str = ""
    """Made anew at every start."""
    draining: bool = False
    pid: int | None = None
    """The process whose end is the end of the instance; for gunicorn the master."""
    pid_space: str = ""
    """In which boot and pid namespace that number means something; `announce` fills it in."""
    by: str = "command"
    """Who wrote it: `create_app`, or `command` for anybody else."""

    @property
    def file_name(self) -> str:
        """`service@host:port.json`; the host is empty when it is not told."""
        return f"{self.service}@{address(self.host, self.port)}.json"

    def instance(self, *, host: str, zone: str = "") -> Instance:
        """The instance in the map, with what the host adds to it."""
        return Instance(
            self.service,
            self.host or host,
            self.port,
            self.zone or zone,
            self.version,
            self.weight,
            self.draining,
            self.incarnation,
        )

    def check(self) -> None:
        """Raise ValidationFailed, with every mistake, unless each field holds what it should."""
        check = Checker("announcement")
        try:
            self.instance(host="localhost").check()
        except ValidationFailed as error:
            check.errors.extend(error.errors)
        health = self.health
        check.want(
            health == "" or (isinstance(health, str) and _PATH.fullmatch(health)),
            "health",
            "a path that begins with a slash, without spaces, at most 500 characters; empty for none",
        )
        check.want(
            self.health_port is None or is_whole(self.health_port, 1, 65535),
            "health_port",
            "a whole number from 1 to 65535",
        )
        check.want(self.pid is None or is_whole(self.pid, 1, 2**31), "pid", "the number of a process")
        check.want(is_text(self.pid_space, 200), "pid_space", "text of at most 200 characters")
        check.want(self.by in WRITERS, "by", "create_app or command")
        check.finish()

    def to_json(self) -> dict[str, Any]:
        """Its fields by name with the format, without those that have their default."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"format": FORMAT} | {
            one.name: told[one.name] for one in fields(self) if told[one.name] != one.default or one.name == "by"
        }

    @classmethod
    def from_json(cls, data: Any) -> Announcement:
        """Made of what a file says. Raises ValidationFailed, which names unknown, missing and wrong fields together."""
        check = Checker("announcement")
        if not isinstance(data, Mapping):
            raise ValidationFailed("This is no announcement: a JSON object is needed.")
        known = [one.name for one in fields(cls)]
        check.want(data.get("format") == FORMAT, "format", f"{FORMAT} is the one that is understood here")
        for name in data:
            check.want(name == "format" or name in known, str(name)[:80], f"unknown; known are {', '.join(known)}")
        for name in ("service", "port"):
            check.want(name in data, name, "missing")
        check.finish()
        made = cls(**{name: value for name, value in data.items() if name != "format"})
        made.check()
        return made


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What `sidecar.json` says: how the services of the realm are called through the sidecar of this host."""

    url: str = ""
    """`http://127.0.0.1:4000`; empty where only the socket is open."""
    socket: str = ""
    """The unix socket for the same; empty where there is none."""
    realm: str = ""
    host: str = ""
    pid: int = 0
    tokens: bool = False
    """Whether a call needs a token of its caller."""


def announce(directory: Path, announcement: Announcement) -> Path:
    """Write the file of an instance, or write it anew (draining, another weight); gives its path. It is there whole or
    not at all.

    Raises ConfigurationError when this user may not write there, Unavailable when the disk refuses.
    """
    if announcement.pid is not None and not announcement.pid_space:
        announcement = replace(announcement, pid_space=own_pid_space())
    announcement.check()
    path = directory / FOLDER / announcement.file_name
    _write(path, announcement.to_json(), "announced")
    return path


def withdraw(directory: Path, announcement: Announcement) -> bool:
    """Take the file of an instance away; gives whether it was there. One that another incarnation has written since
    then stays. Raises nothing for a file that is gone, Unavailable when it cannot be removed."""
    path = directory / FOLDER / announcement.file_name
    with suppress(SmartError, OSError):
        found = read(path)
        if announcement.incarnation and found.incarnation != announcement.incarnation:
            return False
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise Unavailable(f"{path} cannot be removed ({error.strerror}): remove it by hand.") from error
    return True


def names(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The files of a folder that may be announcements. Temporary ones begin with a dot; other endings are somebody
    else's. Raises OSError for a folder that cannot be listed."""
    with os.scandir(folder) as entries:
        yield from (one for one in entries if one.name.endswith(".json") and not one.name.startswith("."))


def read(path: Path) -> Announcement:
    """What a file announces. Raises ValidationFailed with the reason for one that cannot be used, FileNotFoundError
    when it is gone. Follows no link, waits for no fifo, and reads no more than 16 KB."""
    if not _NAME.fullmatch(path.name):
        raise ValidationFailed("Its name holds other characters than letters, digits and @ : . _ - [ ].")
    try:
        with open(path, "rb", opener=_opener) as file:
            if reason := _refused(os.fstat(file.fileno()), os.stat(path.parent)):
                raise ValidationFailed(reason)
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValidationFailed(_told_of_opening(error, path)) from error
    if len(content) > MOST_BYTES:
        raise ValidationFailed(f"It is longer than {MOST_BYTES} bytes.")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValidationFailed(f"It is no JSON: {error}.") from error
    return Announcement.from_json(data)


def is_carried(directory: Path) -> bool:
    """Whether an agent lives that carries what is announced in this directory. Takes no lock and never waits."""
    try:
        descriptor = _opener(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _is_locked(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def read_sidecar(directory: Path) -> Sidecar | None:
    """What the sidecar of this host says of itself; None when there is none, or nothing that can be used."""
    try:
        with open(
            os.open(directory / SIDECAR, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
        ) as file:
            found = os.fstat(file.fileno())
            data = (
                json.loads(file.read(MOST_BYTES)) if stat.S_ISREG(found.st_mode) and not found.st_mode & 0o022 else {}
            )
        known = {one.name: type(one.default) for one in fields(Sidecar)}
        told = {name: value for name, value in data.items() if name in known}
        return Sidecar(**told) if told and all(isinstance(told[name], known[name]) for name in told) else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


class Carrier:
    """The one agent of a directory: holds its lock as long as it lives, and says in `sidecar.json` how services are
    called.

    The lock ends with the process, however that ends. `sidecar.json` stays, since HAProxy goes on without its agent.
    """

    def __init__(self, directory: Path, *, pid: Callable[[], int] = os.getpid) -> None:
        self._directory = directory
        self._pid = pid
        self._lock: int | None = None

    def take(self) -> Carrier:
        """Become the agent of this directory. Raises Conflict, with its pid, when there is another."""
        path = self._directory / LOCK
        try:
            (self._directory / FOLDER).mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be opened ({error.strerror}): let the sidecar write there, or set SIDECAR_DIR."
            ) from error
        try:
            if not _takes_lock(descriptor):
                pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise Conflict(f"The sidecar with pid {pid} runs in {self._directory} already: stop it first.")
            os.fchmod(descriptor, 0o644)
            with suppress(OSError):  # on a full disk it is the agent all the same: its pid is for people
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{self._pid()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._lock = descriptor
        return self

    def tell(self, sidecar: Sidecar) -> None:
        """Say how services are called from now on. Raises what `announce` raises, unless the agent before said the same
        and the disk refuses to have it said anew: a full disk keeps no agent from coming back."""
        told = replace(sidecar, pid=sidecar.pid or self._pid())
        try:
            _write(self._directory / SIDECAR, asdict(told), "said")
        except Unavailable:
            before = read_sidecar(self._directory)
            if before is None or replace(before, pid=told.pid) != told:
                raise

    def close(self, *, leave: bool = False) -> None:
        """Let go. With `leave` nothing is called through this directory any more: `sidecar.json` goes, too."""
        if self._lock is None:
            return
        if leave:
            with suppress(OSError):
                (self._directory / SIDECAR).unlink()
        os.close(self._lock)
        self._lock = None

    def __enter__(self) -> Carrier:
        return self.take()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Carrier of {self._directory}{'' if self._lock is None else ', taken'}>"


def own_pid_space() -> str:
    """Where a pid of this process means something: the boot of the machine and the pid namespace; empty where nobody
    can tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def is_gone(announcement: Announcement, space: str | None = None) -> bool | None:
    """Whether the process of an instance has ended; None when its pid says nothing here: none was told, or it is that
    of another container. A pid of an earlier boot is gone."""
    own = own_pid_space() if space is None else space
    if announcement.pid is None or not own or not announcement.pid_space:
        return None
    boot, _, namespace = announcement.pid_space.partition(":")
    own_boot, _, own_namespace = own.partition(":")
    if boot != own_boot:
        return True
    if namespace != own_namespace:
        return None
    try:
        os.kill(announcement.pid, 0)
        # One that has ended and that nobody has asked for its exit code yet: `pid (name) Z ...`
        return Path(f"/proc/{announcement.pid}/stat").read_bytes().rpartition(b")")[2].split()[:1] == [b"Z"]
    except (ProcessLookupError, FileNotFoundError):
        return True
    except (OSError, OverflowError):
        return False


def _write(path: Path, content: Mapping[str, Any], what: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:200]}.", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o644)  # the agent may be another user
                file.write(json.dumps(content).encode())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise ConfigurationError(
            f"Nothing can be {what} in {path.parent} ({error.strerror}): let this user write there, or set SIDECAR_DIR."
        ) from error
    except OSError as error:
        raise Unavailable(f"Nothing can be {what} in {path.parent}: {error.strerror}.") from error


def _opener(path: str | Path, flags: int) -> int:
    """Follows no link, and does not wait for somebody to write to a fifo."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _told_of_opening(error: OSError, path: Path) -> str:
    if path.is_symlink():
        return "It is a symbolic link: write the file itself."
    if isinstance(error, IsADirectoryError):
        return "It is no regular file."
    if isinstance(error, PermissionError):
        return "The sidecar may not read it: `chmod 644` it."
    return f"It cannot be opened: {error.strerror}."


def _refused(found: os.stat_result, folder: os.stat_result) -> str:
    """Why a file is not to be believed; empty when it is. Whoever writes it says where calls go."""
    if not stat.S_ISREG(found.st_mode):
        return "It is no regular file."
    writable_by_all = bool(folder.st_mode & stat.S_IWOTH)
    # In a folder that everybody may write to, the group of a file may be that of the folder and say nothing.
    of_the_group = not writable_by_all and found.st_gid == folder.st_gid
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not of_the_group):
        return "Others may write it: `chmod 644` it."
    trusted = found.st_uid in (0, os.geteuid(), folder.st_uid) or (bool(folder.st_mode & stat.S_IWGRP) and of_the_group)
    if trusted or (folder.st_mode & stat.S_IWGRP and _is_member(found.st_uid, folder.st_gid)):
        return ""
    owner = _user(found.st_uid)
    return f"It belongs to {owner}, who is neither root, nor the user of the sidecar, nor in the group of the folder."


def _is_member(user: int, group: int) -> bool:
    try:
        known = pwd.getpwuid(user)
        return known.pw_gid == group or known.pw_name in grp.getgrgid(group).gr_mem
    except KeyError:
        return False


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _takes_lock(descriptor: int) -> bool:
    """Lock the open file for this process. A lock of the open file (OFD) and not flock: it can be tested without being
    taken, so that those who ask never stand in the way of an agent that starts."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _LOCKING.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    except (AttributeError, OSError):
        return _flocks(descriptor, fcntl.LOCK_EX)
    return True


def _is_locked(descriptor: int) -> bool:
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _LOCKING.pack(fcntl.F_RDLCK, 0, 0, 0, 0))
    except (AttributeError, OSError):
        # A kernel without such locks: the agent has taken the other kind.
        return not _flocks(descriptor, fcntl.LOCK_SH)
    kind: int = _LOCKING.unpack(answer)[0]
    return kind != fcntl.F_UNLCK


def _flocks(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
