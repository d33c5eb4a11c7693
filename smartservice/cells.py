"""Numbers in files that several processes keep and anyone may add up: the ground under the metrics.

A file is a sequence of 64 KB pages; a page holds records one after another and never splits one. A record is

    4 bytes  length of the key       4 bytes  how many numbers follow
    the key: JSON list of strings, padded with spaces to a multiple of 8
    the numbers: 8-byte floats in the machine's own order

and a record with key length 0 ends its page. One process writes a file, through a shared mapping, so that the numbers
survive however it ends. The length is written last, so a reader never meets half a record; a number is written in one
piece of 8 bytes. Readers hold the directory's lock shared, whoever merges and removes files holds it alone.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import logging
import math
import mmap
import operator
import os
import re
import shutil
import struct
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

Key = tuple[str, ...]
Over = Literal["sum", "min", "max"]

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PAGE = 1 << 16
_HEAD = struct.Struct("=II")
_DEAD = "dead"
_JOINS: dict[Over, Callable[[float, float], float]] = {"sum": operator.add, "min": min, "max": max}
_log = logging.getLogger("smartservice")


class Numbers(Protocol):
    """One row: a fixed number of floats that can be read and written in place."""

    def __getitem__(self, at: int, /) -> float: ...
    def __setitem__(self, at: int, value: float, /) -> None: ...
    def __iter__(self) -> Iterator[float]: ...


class Cells:
    """Named rows of numbers, in memory. Not safe to extend from several threads at once; the owner holds a lock."""

    shared = False

    def __init__(self) -> None:
        self._rows: dict[Key, Numbers] = {}

    def new(self, key: Key, size: int) -> Numbers:
        """A row of `size` zeros under this key."""
        row = self._rows[key] = self._make(key, size)
        return row

    def items(self) -> Iterator[tuple[Key, Numbers]]:
        return iter(self._rows.items())

    def _make(self, key: Key, size: int) -> Numbers:
        return array("d", bytes(8 * size))


class _FileCells(Cells):
    """Rows in a file. When the disk is full, new rows are kept in memory and one line says so."""

    shared = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file = -1
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._pages = 0
        self._page: mmap.mmap | None = None
        self._used = PAGE

    def _make(self, key: Key, size: int) -> Numbers:
        name = json.dumps(key).encode()
        name += b" " * (-len(name) % 8)
        length = _HEAD.size + len(name) + 8 * size
        if length > PAGE - _HEAD.size:
            return super()._make(key, size)
        if self._used + length > PAGE - _HEAD.size and not self._add_page():
            return super()._make(key, size)
        assert self._page is not None
        at = self._used
        self._page[at + _HEAD.size : at + _HEAD.size + len(name)] = name
        self._page[at + 4 : at + 8] = struct.pack("=I", size)
        self._page[at : at + 4] = struct.pack("=I", len(name))
        self._used += length
        begin = at + _HEAD.size + len(name)
        return memoryview(self._page)[begin : begin + 8 * size].cast("d")

    def _add_page(self) -> bool:
        try:
            # Reserved, not only sized: writing to a hole on a full disk would be a SIGBUS that ends the process.
            os.posix_fallocate(self._file, self._pages * PAGE, PAGE)
            self._page = mmap.mmap(self._file, PAGE, offset=self._pages * PAGE)
        except OSError as error:
            _log.warning("metrics of this worker are incomplete: %s cannot grow (%s)", self._path, error)
            return False
        self._pages += 1
        self._used = 0
        return True

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)


def memory_cells() -> Cells:
    """Rows in memory, for a process that counts for itself alone."""
    return Cells()


def file_cells(directory: str, service: str) -> Cells:
    """Rows in a new file of this process. Falls back to memory, with a warning, when none can be made."""
    for number in itertools.count():
        try:
            return _FileCells(Path(directory, f"{_prefix(service)}{os.getpid()}.{number}.cells"))
        except FileExistsError:
            continue
        except OSError as error:
            _log.warning("metrics of this worker are kept apart: no file in %s (%s)", directory, error)
            return Cells()
    raise AssertionError("unreachable")


def read_all(directory: str, service: str, over: Callable[[Key], Over]) -> dict[Key, list[float]]:
    """The rows of all processes of this service, those of the dead included, put together as `over(key)` says."""
    totals: dict[Key, list[float]] = {}
    with scrape_lock(directory):
        for path in sorted(Path(directory).glob(f"{_prefix(service)}*.cells")):
            for key, values in read_file(path):
                _add(totals, key, values, over(key))
    return totals


def read_file(path: Path) -> Iterator[tuple[Key, list[float]]]:
    """Every row of one file. What cannot be read as a row ends its page."""
    data = path.read_bytes()
    for page in range(0, len(data) - PAGE + 1, PAGE):
        at = page
        while at + _HEAD.size <= page + PAGE:
            length, size = _HEAD.unpack_from(data, at)
            begin = at + _HEAD.size + length
            if not length or begin + 8 * size > page + PAGE:
                break
            values = array("d", data[begin : begin + 8 * size])
            yield tuple(json.loads(data[at + _HEAD.size : begin])), list(values)
            at = begin + 8 * size


def merge_dead(directory: str, living: set[int], *, seconds: float = 2.0) -> int:
    """Add the files of ended processes to the files of the dead and remove them; gives how many files went.

    `living` are processes known to live; any other that still exists is left alone too. Gauges of the dead are dropped.
    Files of prometheus-client are treated alike. Waits at most `seconds` for scrapes that are under way; what was not
    merged then is merged the next time.
    """
    folder = Path(directory)
    gone = [path for path in folder.glob("*.cells") if _is_dead(path.name.split(".")[1], living)]
    foreign = [path for path in folder.glob("*.db") if _is_dead(path.stem.rpartition("_")[2], living)]
    if not gone and not foreign:
        return 0
    try:
        with _lock(folder, fcntl.LOCK_EX, seconds):
            _merge_cells(folder, gone)
            if foreign:
                _merge_foreign(folder, foreign)
    except TimeoutError:
        _log.warning("the metrics of %d ended workers are merged later: a scrape holds %s", len(gone), folder)
        return 0
    return len(gone) + len(foreign)


@contextmanager
def scrape_lock(directory: str) -> Iterator[None]:
    """While held, no file in the directory is merged or removed."""
    with _lock(Path(directory), fcntl.LOCK_SH, 5.0):
        yield


@contextmanager
def _lock(folder: Path, kind: int, seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK or time.monotonic() > end:
                    raise TimeoutError(f"{folder}/lock is held") from error
                time.sleep(0.005)
        yield
    finally:
        os.close(handle)


def _merge_cells(folder: Path, gone: list[Path]) -> None:
    by_service: dict[str, list[Path]] = {}
    for path in gone:
        by_service.setdefault(path.name.split(".")[0], []).append(path)
    for service, paths in by_service.items():
        target = folder / f"{_prefix(service)}{_DEAD}.cells"
        totals: dict[Key, list[float]] = {}
        for path in [*([target] if target.exists() else []), *paths]:
            for key, values in read_file(path):
                if key[0] != "gauge":
                    _add(totals, key, values, "sum")
        new = folder / f"{target.name}.new"
        new.unlink(missing_ok=True)
        made = _FileCells(new)
        for key, values in totals.items():
            row = made.new(key, len(values))
            for at, value in enumerate(values):
                row[at] = value
        os.replace(new, target)
        for path in paths:
            path.unlink()


def _merge_foreign(folder: Path, gone: list[Path]) -> None:
    """The same for the files of prometheus-client, which keeps those of ended processes for ever.

    A gauge that shows each process apart (modes all, live...) has nothing to show for a process that is gone.
    """
    from prometheus_client.mmap_dict import MmapedDict

    kinds: dict[str, list[Path]] = {}
    for path in gone:
        kinds.setdefault(path.name.rpartition("_")[0], []).append(path)
    for kind, paths in kinds.items():
        if not kind.startswith(("gauge_live", "gauge_all")):
            target = folder / f"{kind}_{_DEAD}.db"
            join = _FOREIGN_JOINS.get(kind, _sum_of)
            totals: dict[str, tuple[float, float]] = {}
            for path in [*([target] if target.exists() else []), *paths]:
                for key, value, stamp, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
                    totals[key] = join(totals[key], (value, stamp)) if key in totals else (value, stamp)
            new = folder / f"{target.name}.new"
            new.unlink(missing_ok=True)
            made = MmapedDict(str(new))  # type: ignore[no-untyped-call]
            for key, (value, stamp) in totals.items():
                made.write_value(key, value, stamp)  # type: ignore[no-untyped-call]
            made.close()  # type: ignore[no-untyped-call]
            os.replace(new, target)
        for path in paths:
            path.unlink()


def _sum_of(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return one[0] + other[0], 0.0


_FOREIGN_JOINS: dict[str, Callable[[tuple[float, float], tuple[float, float]], tuple[float, float]]] = {
    "gauge_min": min,
    "gauge_max": max,
    "gauge_mostrecent": lambda one, other: max(one, other, key=lambda pair: pair[1]),
}


def _add(totals: dict[Key, list[float]], key: Key, values: list[float], over: Over) -> None:
    sofar = totals.get(key)
    if sofar is None or len(sofar) != len(values) or math.isnan(sofar[0]):
        totals[key] = values
    elif not math.isnan(values[0]):
        join = _JOINS[over]
        totals[key] = [join(one, other) for one, other in zip(sofar, values, strict=True)]


def _prefix(service: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", service) + "."  # so that a name splits at its dots: service.pid.number.cells


def _is_dead(pid: str, living: set[int]) -> bool:
    if not pid.isdecimal() or int(pid) in living:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


class Shelf:
    """The directory in which the processes of one instance keep their files; told to prometheus-client by its variable.

    One is made for each gunicorn master, in memory where that is possible, and removed when it ends. What masters left
    behind that were killed is removed by the next one: each holds a lock for as long as one of its processes lives. A
    directory that the operator named in PROMETHEUS_MULTIPROC_DIR is emptied instead, and stays.
    """

    def __init__(self, directory: str, *, own: bool, lock: int | None = None) -> None:
        self.directory = directory
        self._own = own
        self._lock = lock  # open until this process and all its children are gone

    @classmethod
    def make(cls, service: str, *, uid: int, gid: int, base: str | None = None) -> Shelf:
        """Make the directory and set the variable. To be called before the app, and with it prometheus-client, is loaded."""
        if "prometheus_client" in sys.modules:
            _log.warning(
                "prometheus_client was imported before gunicorn's settings: its own counters will not be merged"
            )
        named = os.environ.get(DIRECTORY_VARIABLE)
        if named and base is None:
            Path(named).mkdir(parents=True, exist_ok=True)
            if "GUNICORN_PID" not in os.environ:  # not while another master hands over to this one (SIGUSR2)
                for path in [*Path(named).glob("*.db"), *Path(named).glob("*.cells")]:
                    path.unlink(missing_ok=True)
            return cls(named, own=False)
        base = base or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
        prefix = f"smartservice-metrics-{os.geteuid()}-"
        _remove_left_behind(Path(base), prefix)
        directory = tempfile.mkdtemp(prefix=f"{prefix}{_prefix(service)}", dir=base)
        lock = os.open(Path(directory, "owner"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (uid, gid) != (os.geteuid(), os.getegid()):
            os.chown(directory, uid, gid)
        os.environ[DIRECTORY_VARIABLE] = directory
        return cls(directory, own=True, lock=lock)

    def remove(self) -> None:
        """Remove the directory, when it is this instance's own."""
        if self._own:
            shutil.rmtree(self.directory, ignore_errors=True)


def _remove_left_behind(base: Path, prefix: str) -> None:
    for path in base.glob(f"{prefix}*"):
        try:
            if time.time() - path.stat().st_mtime < 60:  # it may be about to be locked
                continue
            with (path / "owner").open("rb") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
