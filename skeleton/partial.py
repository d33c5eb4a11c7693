"""A hidden directory in which something is built beside the place where it will stand, and the step that puts it there.

The directory is `.<name>.partial-<random>`, so it is on the same filesystem as the target, and the last step is one
rename that never replaces anything. Its file `owner` holds pid and start time of the process that builds and is locked
(flock) for as long as that process lives: what a killed run left behind is known by a lock that nobody holds.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import time
from pathlib import Path
from types import TracebackType

_NOBODY_YET_SECONDS = 60.0
"""A directory without its owner file is being made by someone, unless it is older than this."""


class Partial:
    """One such directory; `tree` is the place to build in. Leaving the `with` block removes whatever is left of it."""

    def __init__(self, parent: Path, name: str) -> None:
        self.path = parent / f".{name}.partial-{secrets.token_hex(6)}"
        self.tree = self.path / "tree"
        self.path.mkdir(mode=0o700)
        self._owner = os.open(self.path / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(self._owner)
            os.write(self._owner, f"{os.getpid()} {started(os.getpid())}\n".encode())
            self.tree.mkdir()
        except BaseException:
            self.discard()
            raise

    def put(self, target: Path, source: Path | None = None) -> None:
        """Make the finished tree (or another directory in here) appear at `target`, at once and whole.

        FileExistsError when something is there, whatever it is; then nothing has changed.
        """
        rename_new(source or self.tree, target)

    def discard(self) -> None:
        """Remove what is left. Can be called twice."""
        remove(self.path)
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def sweep(parent: Path, name: str = "*") -> list[Path]:
    """Remove what dead runs for this name left in `parent`; what living ones are building stays."""
    swept = []
    for path in parent.glob(f".{name}.partial-????????????"):
        if path.is_dir() and not path.is_symlink() and _is_dead(path):
            remove(path)
            swept.append(path)
    return swept


def remove(path: Path) -> None:
    """Remove a directory with all its content; one that is not there is fine, and read-only folders in it too.

    What is around it stays as it is, its mode included.
    """

    def again(function: object, name: str, error: object) -> None:
        if Path(name) == path:  # Gone already, or not ours to force: the folder above is somebody's own.
            return
        try:
            os.chmod(os.path.dirname(name), 0o700)
            os.unlink(name)
        except OSError:
            pass  # Removed by someone else meanwhile, or it will be swept next time.

    shutil.rmtree(path, onerror=again)


def rename_new(source: Path, target: Path) -> None:
    """Rename, and raise FileExistsError instead of replacing anything, an empty directory included."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        _rename_checked(source, target)
        return
    here, no_replace = -100, 1
    if renameat2(here, os.fsencode(source), here, os.fsencode(target), no_replace) == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # A filesystem that does not know the flag.
        _rename_checked(source, target)
        return
    raise OSError(number, os.strerror(number), str(target))


def _rename_checked(source: Path, target: Path) -> None:
    """The second best: rename alone refuses everything but an empty directory, so only that can be hit by a race."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        os.rename(source, target)
    except (NotADirectoryError, OSError) as error:
        if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR, errno.EEXIST):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def started(pid: int) -> str:
    """When a process began, in the kernel's own ticks; empty where that cannot be known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_dead(path: Path) -> bool:
    """Whether the process that built here has ended."""
    try:
        descriptor = os.open(path / "owner", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        try:
            return time.time() - path.stat().st_mtime > _NOBODY_YET_SECONDS
        except OSError:
            return False
    try:
        if not _lock(descriptor):
            return False
        # A filesystem without locks grants every lock: there the process itself is looked at.
        pid, _, begun = os.read(descriptor, 100).decode(errors="replace").strip().partition(" ")
        if pid.isdigit():
            return not _is_alive(int(pid), begun)
        return time.time() - os.fstat(descriptor).st_mtime > _NOBODY_YET_SECONDS
    finally:
        os.close(descriptor)


def _is_alive(pid: int, begun: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not begun or started(pid) == begun
