"""What a drill has to undo, on disk before it is done: so that it is undone whatever becomes of the drill.

Three undo it: the drill itself, at the end of each fault, on Ctrl-C and on TERM; a watchdog beside it, should the drill be
killed or hang; and `sidecar drill --undo`, should both be gone. Undoing twice does no harm.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from sidecar.drill.processes import Process, tree
from smartrealm.errors import Conflict, Unavailable

NAME = "drill.journal"
SCRATCH = "sidecar-drill-"
"""How the folders begin that a drill makes and removes."""


class Undo(Protocol):
    """One thing to take back. `run` may be called twice, by another process, and after what it is about has gone."""

    kind: ClassVar[str]

    def run(self) -> object: ...


@dataclass(frozen=True, slots=True)
class Continue:
    """Let a frozen process go on."""

    kind: ClassVar[str] = "continue"
    pid: int
    started: int

    def run(self) -> bool:
        return Process(self.pid, self.started).send(signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Unlimit:
    """Let a process write to files as before."""

    kind: ClassVar[str] = "unlimit"
    pid: int
    started: int
    soft: int
    hard: int

    def run(self) -> bool:
        if not Process(self.pid, self.started).is_alive:
            return False
        with suppress(ProcessLookupError):
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (self.soft, self.hard))
        return True


@dataclass(frozen=True, slots=True)
class Undrain:
    """Write the announcement of an instance as it was, unless the instance has gone or has been started anew since."""

    kind: ClassVar[str] = "undrain"
    path: str
    incarnation: str

    def run(self) -> bool:
        from dataclasses import replace

        from atlas.announcement import announce, read
        from smartrealm.errors import SmartError

        path = Path(self.path)
        with suppress(SmartError, OSError):
            found = read(path)
            if found.incarnation == self.incarnation and found.draining:
                announce(path.parent.parent, replace(found, draining=False))
                return True
        return False


ROUTE_PROTOCOL = "213"
"""By which the routes of a drill are known: one that the host has itself stays."""


@dataclass(frozen=True, slots=True)
class Unroute:
    """Take a blackhole route of the drill away again."""

    kind: ClassVar[str] = "unroute"
    address: str

    def run(self) -> bool:
        words = ["ip", "route", "del", "blackhole", self.address, "proto", ROUTE_PROTOCOL]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True, slots=True)
class End:
    """End a process of the drill's own, with what it has started."""

    kind: ClassVar[str] = "end"
    pid: int
    started: int

    def run(self) -> bool:
        first = Process(self.pid, self.started)
        if not first.is_alive:
            return False
        for one in tree(self.pid):
            one.send(signal.SIGKILL)
        return True


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a folder that the drill has made. No other: its name says so."""

    kind: ClassVar[str] = "remove"
    path: str

    def run(self) -> bool:
        path = Path(self.path)
        if not path.name.startswith(SCRATCH) or path.parent != Path(tempfile.gettempdir()) or path.is_symlink():
            return False
        shutil.rmtree(path, ignore_errors=True)
        return True


_KINDS: Mapping[str, type[Any]] = {one.kind: one for one in (Continue, Unlimit, Undrain, Unroute, End, Remove)}


class Holding(Protocol):
    """Where the faults note what they have to take back."""

    def holding(self, undos: Sequence[Undo], seconds: float = ...) -> Any: ...


class NoJournal:
    """For tests, which end with their process: undone at the end of the block, and noted nowhere."""

    @contextmanager
    def holding(self, undos: Sequence[Undo], seconds: float = 60.0) -> Iterator[None]:
        try:
            yield
        finally:
            for undo in reversed(undos):
                undo.run()


class Journal:
    """The journal of one drill: a file of JSON lines that is held locked as long as the drill lives, and is gone after it.

    Raises Conflict when another drill has it. Safe from any thread.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._next = 0
        self._guard = threading.Lock()

    def __enter__(self) -> Journal:
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Unavailable(
                f"Nothing is begun, since {self.path} cannot be written ({error.strerror}): what is done is to be on record "
                "before it is done. Run the drill as the user that runs the sidecar."
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            self._file = None
            raise Conflict(
                f"Another drill is under way with {self.path}: end it with Ctrl-C, it undoes what it did."
            ) from None
        self.undo_rest()
        os.ftruncate(self._file, 0)
        self._write({"boot": boot(), "pid": os.getpid()})
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is None:
            return
        if not self.undo_rest():
            with suppress(OSError):
                self.path.unlink()
        os.close(self._file)
        self._file = None

    @contextmanager
    def holding(self, undos: Sequence[Undo], seconds: float = 60.0) -> Iterator[None]:
        """Have these undone at the end of the block, whatever happens; by the watchdog when that is late."""
        numbers = [self._note(undo, time.monotonic() + seconds) for undo in undos]
        try:
            yield
        finally:
            for number, undo in reversed(list(zip(numbers, undos, strict=True))):
                undo.run()
                self._write({"done": number})

    def undo_rest(self) -> int:
        """Undo what is left; gives how many could not be (their reason is in what `undo` raised, which goes on)."""
        return undo_all(self.path)[1]

    def _note(self, undo: Undo, until: float) -> int:
        with self._guard:
            self._next += 1
            number = self._next
        self._write({"id": number, "until": until, "kind": undo.kind, **asdict(undo)})  # type: ignore[call-overload]
        return number

    def _write(self, entry: Mapping[str, Any]) -> None:
        assert self._file is not None
        os.write(self._file, json.dumps(entry).encode() + b"\n")
        os.fsync(self._file)


def undo_all(path: Path, *, late: float | None = None) -> tuple[int, int]:
    """Undo what a journal holds, the last first; with `late` only what was to be undone before that moment. Gives how many
    were undone and how many failed. Those of an earlier boot are over with it, but for folders."""
    done = failed = 0
    for number, until, undo, is_of_now in reversed(left_of(path)):
        if late is not None and until > late:
            continue
        try:
            if is_of_now or isinstance(undo, Remove):
                undo.run()
            with path.open("ab") as file:
                # A line of its own, also behind one that was cut off.
                file.write(b"\n" + json.dumps({"done": number}).encode() + b"\n")
            done += 1
        except (OSError, ValueError):
            failed += 1
    return done, failed


def left_of(path: Path) -> list[tuple[int, float, Undo, bool]]:
    """What a journal holds and has not been undone: number, until when, what, and whether it is of this boot."""
    found: dict[int, tuple[int, float, Undo, bool]] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    is_of_now = True
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):  # the last line of a drill that was killed may be half a line
            entry = json.loads(line)
            if "boot" in entry:
                is_of_now = entry["boot"] == boot()
            elif "done" in entry:
                found.pop(entry["done"], None)
            else:
                number, until, kind = entry.pop("id"), entry.pop("until"), entry.pop("kind")
                found[number] = (number, float(until), _KINDS[kind](**entry), is_of_now)
    return list(found.values())


def is_held(path: Path) -> bool:
    """Whether a drill is under way with this journal."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(file)


def boot() -> str:
    """Which boot of the machine this is: pids mean something within one."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
