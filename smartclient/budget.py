"""How many retries a host affords: each success pays for a tenth of one, in an account that all its workers share.

One bucket per target service lies in a memory-mapped file, one file per realm and user. A hundred workers that meet an outage
together have one bucket to spend, not a hundred. Without a file that can be trusted the bucket is the process's own.
"""

from __future__ import annotations

import fcntl
import logging
import math
import mmap
import os
import stat
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

PER_SUCCESS = 0.1
"""What a success pays in: with it, at most a tenth more attempts than calls in the long run."""

MOST_TOKENS = 20.0
FIRST_TOKENS = 3.0
"""What a new bucket holds, and what an idle one comes back to: a few retries."""

MEMORY_SECONDS = 2.0
"""What a bucket holds above FIRST_TOKENS shrinks to 37 % in this time: wealth follows the successes of the last seconds, so
that an outage never meets more than a tenth of the calls of two seconds, at any rate."""

TRICKLE_SECONDS = 30.0
"""Below FIRST_TOKENS one token comes back in this time, for services that are called once in a while."""

_MAGIC: Final = b"smartclient budget 1\n".ljust(64, b"\0")
_SLOT = struct.Struct("<63sxdd")
_VALUES = struct.Struct("<dd")
_SLOTS = 4096
_SIZE = len(_MAGIC) + _SLOTS * _SLOT.size
_PROBES = 64

_log = logging.getLogger("smartclient")


def filled(tokens: float, since: float, now: float) -> float:
    """What a bucket holds at `now` that held `tokens` at `since` (of one monotonic clock)."""
    if now <= since:
        return tokens
    if tokens > FIRST_TOKENS:
        return FIRST_TOKENS + (tokens - FIRST_TOKENS) * math.exp((since - now) / MEMORY_SECONDS)
    return min(FIRST_TOKENS, tokens + (now - since) / TRICKLE_SECONDS)


class Bucket:
    """The retries that are left for one service. Safe from any thread and any process of the host."""

    __slots__ = ("_at", "_clock", "_earned", "_file", "_lock", "_memory")

    def __init__(self, memory: mmap.mmap | bytearray, at: int, file: int | None, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._at = at
        self._file = file
        self._clock = clock
        self._lock = threading.Lock()
        self._earned = 0.0

    def pay_in(self) -> None:
        """Count a success. It is written to the shared account by tens, and is nobody's before."""
        self._earned += PER_SUCCESS
        if self._earned > 0.99:
            self._earned = 0.0
            self._move(-1.0)

    def take(self) -> bool:
        """Whether a retry is affordable; then it is paid for."""
        return self._move(1.0)

    @property
    def tokens(self) -> float:
        """How many retries are affordable now."""
        tokens, since = _VALUES.unpack_from(self._memory, self._at)
        return float(filled(tokens, since, self._clock()))

    def begin_anew(self) -> None:
        """In a forked child: another thread of the parent may have held the lock; what it earned stays the parent's."""
        self._lock = threading.Lock()
        self._earned = 0.0

    def _move(self, price: float) -> bool:
        with self._lock:
            if self._file is not None:
                fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self._at)
            try:
                now = self._clock()
                tokens, since = _VALUES.unpack_from(self._memory, self._at)
                tokens = filled(tokens, since, now)
                paid = tokens >= price
                left = min(MOST_TOKENS, tokens - price) if paid else tokens
                _VALUES.pack_into(self._memory, self._at, left, now)
                return paid
            finally:
                if self._file is not None:
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._at)


class Budget:
    """The buckets of one realm. The file is opened with the first one."""

    def __init__(
        self, folder: str | Path | None = None, realm: str = "local", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = Path(folder) if folder else None
        self._realm = realm
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, Bucket] = {}
        self._memory: mmap.mmap | None = None
        self._file: int | None = None
        self._opened = False

    def bucket(self, service: str) -> Bucket:
        """The bucket of a service."""
        found = self._buckets.get(service)
        if found is None:
            with self._lock:
                found = self._buckets.get(service) or self._buckets.setdefault(service, self._make(service))
        return found

    @property
    def shared(self) -> bool:
        """Whether the buckets are shared with other processes."""
        with self._lock:
            self._open()
        return self._memory is not None

    def begin_anew(self) -> None:
        """In a forked child."""
        self._lock = threading.Lock()
        for bucket in self._buckets.values():
            bucket.begin_anew()

    def close(self) -> None:
        """Let go of the file."""
        self._buckets = {}
        if self._memory is not None and self._file is not None:
            os.close(self._file)
        self._memory = self._file = None
        self._opened = False

    def _make(self, service: str) -> Bucket:
        self._open()
        if self._memory is not None and self._file is not None:
            at = _find(self._memory, self._file, service, self._clock())
            if at is not None:
                return Bucket(self._memory, at, self._file, self._clock)
        return self.own_bucket(self._clock)

    @staticmethod
    def own_bucket(clock: Callable[[], float] = time.monotonic) -> Bucket:
        """A bucket that nobody else sees."""
        return Bucket(bytearray(_VALUES.pack(FIRST_TOKENS, clock())), 0, None, clock)

    def _open(self) -> None:
        if self._opened:
            return
        self._opened = True
        try:
            folder = own_folder(self._folder)
            self._file = os.open(
                folder / f"budget-{self._realm}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            self._memory = _map(self._file)
        except (OSError, ValueError) as error:
            if self._file is not None:
                os.close(self._file)
            self._file = self._memory = None
            _log.warning("retries are counted by this process alone, its budget file cannot be used: %s", error)


def own_folder(folder: Path | None) -> Path:
    """The folder of shared state: the one given, else one of this user's in memory (or among temporary files).

    Raises OSError for one that others may write to.
    """
    if folder is None:
        memory = Path("/dev/shm")
        base = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
        folder = base / f"smartclient-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} does not belong to this user alone")
    return folder


def _map(file: int) -> mmap.mmap:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
    try:
        if os.fstat(file).st_uid != os.getuid():
            raise PermissionError("the budget file belongs to another user")
        if os.fstat(file).st_size < _SIZE:  # never made smaller: others may have it mapped
            os.posix_fallocate(file, 0, _SIZE)  # takes the room: a full disk is an error here, and no SIGBUS later
        memory = mmap.mmap(file, _SIZE)
        if memory[: len(_MAGIC)] != _MAGIC:
            memory[:] = bytes(_SIZE)
            memory[: len(_MAGIC)] = _MAGIC
        return memory
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)


def _find(memory: mmap.mmap, file: int, service: str, now: float) -> int | None:
    """Where the values of a service lie; a free slot is taken for a new one. None when its corner of the file is full."""
    name = service.encode()
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
    try:
        for step in range(_PROBES):
            at = len(_MAGIC) + (zlib.crc32(name) + step) % _SLOTS * _SLOT.size
            held = _SLOT.unpack_from(memory, at)[0].rstrip(b"\0")
            if not held:
                _SLOT.pack_into(memory, at, name, FIRST_TOKENS, now)
                held = name
            if held == name:
                return at + _SLOT.size - _VALUES.size
        return None
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)
