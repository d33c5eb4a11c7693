"""Keeps a few programs running beside each other: the process behind `sidecar up`, in a container or on a laptop.

Each program is started again when it ends, and the others notice nothing. TERM or INT ends them one after the other, the one
that was started last first, each within its own bound; a second one hurries. As the first process of a container it takes in
every orphan. It starts programs with posix_spawn, never with a fork of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Protocol

from smartrealm.errors import ConfigurationError, Conflict

WRONG_USE = 2
"""With this code a program says that starting it again would not help."""

LOCK = "up.lock"
"""In the directory of the sidecar: held by its supervisor."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_STEADY_SECONDS = 10.0  # a program that ran so long is started again without a longer pause
_POLL_SECONDS = 0.05
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Say = Callable[..., object]


def say(event: str, **fields: object) -> None:
    """Write one line of log: one JSON object, or plain words in a terminal."""
    if sys.stderr.isatty():
        words = "".join(f" {name}={value}" for name, value in fields.items())
        line = f"{datetime.now():%H:%M:%S} supervisor: {event}{words}"
    else:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now, "level": "INFO", "logger": "sidecar.supervisor", "message": event, **fields})
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:  # Nobody reads the log any more. That is no reason to end what serves.
        pass


@dataclass(frozen=True)
class Program:
    """What is kept running, and how it is ended."""

    name: str
    command: tuple[str, ...]
    stop_signal: int = signal.SIGTERM
    stop_seconds: float = 5.0
    """After which it is killed."""
    hurry_signal: int = signal.SIGKILL
    """What it gets when somebody asks a second time."""
    is_ready: Callable[[], bool] | None = None
    """Asked until it is true; then the programs behind this one are started."""
    ready_seconds: float = 2.0
    """After which they are started all the same."""
    needed: bool = False
    """Whether everything ends when this one says at its very first start that it cannot run (code 2)."""


class System(Protocol):
    """What the supervisor does to processes."""

    def start(self, program: Program) -> int: ...

    def signal(self, pid: int, number: int) -> None: ...


class Spawned:
    """Real processes, each in a process group of its own: Ctrl-C in a terminal then reaches the supervisor alone."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = dict(os.environ if environ is None else environ)

    def start(self, program: Program) -> int:
        # Python ignores SIGPIPE, and a shell SIGINT in the background; what is ignored would be inherited.
        return os.posix_spawnp(
            program.command[0],
            list(program.command),
            self._environ,
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, *_STOPPING),
        )

    def signal(self, pid: int, number: int) -> None:
        try:
            if number == signal.SIGKILL:  # nobody is left to end what it has started
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        except ProcessLookupError:
            pass


@dataclass
class _Life:
    """One program, and what became of it."""

    program: Program
    pid: int | None = None
    begun_at: float = 0.0
    """When it was started first."""
    started_at: float = 0.0
    start_at: float | None = None
    starts: int = 0
    pause: float = _FIRST_PAUSE
    ready: bool = False
    stopped_at: float | None = None
    killed: bool = False

    def ended(self, now: float) -> None:
        """Decide when it is started again."""
        if now - self.started_at >= _STEADY_SECONDS:
            self.pause = _FIRST_PAUSE
        self.start_at = now + self.pause
        self.pause = min(_LONGEST_PAUSE, self.pause * 2)
        self.pid = None


class Supervisor:
    """Decides what is started and what is ended; `run` tells it what happens. Not thread-safe."""

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        system: System | None = None,
        clock: Callable[[], float] = time.monotonic,
        say: Say = say,
    ) -> None:
        self._lives = [_Life(program) for program in programs]
        self._system = system or Spawned()
        self._clock = clock
        self._say = say
        self._stopping = False
        self.exit_code = 0
        """0: it was asked to end and everything ended by itself. 1: something had to be killed. 2: it could not begin."""

    @property
    def is_over(self) -> bool:
        return self._stopping and all(life.pid is None for life in self._lives)

    def asked_to_stop(self, number: int) -> None:
        """TERM, INT or HUP came. The first one ends everything in order, the second at once."""
        self._say("told to stop", signal=signal.Signals(number).name, hurry=self._stopping)
        if not self._stopping:
            self._stopping = True
            return
        for life in self._lives:
            if life.pid is None:
                continue
            life.stopped_at = self._clock() if life.stopped_at is None else life.stopped_at
            if life.program.hurry_signal == signal.SIGKILL:
                life.killed, self.exit_code = True, self.exit_code or 1
            self._system.signal(life.pid, life.program.hurry_signal)

    def ended(self, pid: int, code: int) -> None:
        """A process is over; `code` as of subprocess: negative for a signal. Processes of others are none of its business."""
        life = next((life for life in self._lives if life.pid == pid), None)
        if life is None:
            return
        now = self._clock()
        lasted = now - life.started_at
        life.ended(now)
        if code == WRONG_USE and life.starts == 1 and not life.ready and life.program.needed and not self._stopping:
            self._stopping, self.exit_code = True, WRONG_USE
        again = {} if self._stopping or life.start_at is None else {"again_in": round(life.start_at - now, 3)}
        self._say(f"{life.program.name} ended", pid=pid, code=code, seconds=round(lasted, 3), **again)

    def tick(self) -> float | None:
        """Do what is due now; gives the seconds until something else is, None when only an event can change anything."""
        now = self._clock()
        return self._stop_next(now) if self._stopping else self._start_due(now)

    def _start_due(self, now: float) -> float | None:
        waits: list[float] = []
        for life in self._lives:
            if life.pid is None and (life.start_at is None or life.start_at <= now):
                self._start(life, now)
            if life.pid is None:
                waits.append((life.start_at or now) - now)
            if not self._lets_others_start(life, now):
                waits.append(_POLL_SECONDS)
                break
        return min(waits, default=None)

    def _start(self, life: _Life, now: float) -> None:
        life.starts += 1
        life.started_at, life.start_at = now, None
        life.begun_at = now if life.starts == 1 else life.begun_at
        try:
            life.pid = self._system.start(life.program)
        except OSError as error:  # out of processes or of memory: the same as one that ended at once
            life.ended(now)
            self._say(f"{life.program.name} could not be started", error=str(error))
            return
        self._say(f"{life.program.name} started", pid=life.pid, starts=life.starts)

    def _lets_others_start(self, life: _Life, now: float) -> bool:
        """Whether those behind it may start: it is ready, or late. Once it was ready, it stays so: a restart of one is no matter of
        the others."""
        program = life.program
        life.ready = life.ready or program.is_ready is None or (life.pid is not None and program.is_ready())
        return life.ready or now - life.begun_at >= program.ready_seconds

    def _stop_next(self, now: float) -> float | None:
        for life in reversed(self._lives):
            if life.pid is None:
                continue
            if life.stopped_at is None:
                life.stopped_at = now
                self._system.signal(life.pid, life.program.stop_signal)
            left = life.stopped_at + life.program.stop_seconds - now
            if left <= 0 and not life.killed:
                life.killed = True
                self.exit_code = self.exit_code or 1
                self._say(f"{life.program.name} did not end", pid=life.pid, seconds=life.program.stop_seconds)
                self._system.signal(life.pid, signal.SIGKILL)
            return max(left, 0.0) if not life.killed else None
        return None


def run(supervisor: Supervisor) -> int:
    """Supervise until everything has ended; gives the exit code. To be called in the main thread."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    numbers: list[int] = []

    def noted(number: int, frame: FrameType | None) -> None:
        numbers.append(number)

    # nohup means it: a hang-up that is ignored stays so.
    heard = [one for one in _STOPPING if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN]
    before = {number: signal.signal(number, noted) for number in (*heard, signal.SIGCHLD)}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        while True:
            _reap(supervisor)
            while numbers:
                if (number := numbers.pop(0)) in _STOPPING:
                    supervisor.asked_to_stop(number)
            wait = supervisor.tick()
            if supervisor.is_over:
                return supervisor.exit_code
            select.select([reader], [], [], wait)
            _emptied(reader)
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _reap(supervisor: Supervisor) -> None:
    """Take in every process that has ended, orphans of others too: that is the duty of the first process of a container."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        supervisor.ended(pid, os.waitstatus_to_exitcode(status))


def _emptied(reader: int) -> None:
    try:
        while os.read(reader, 512):
            pass
    except BlockingIOError:
        pass


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold the directory for one supervisor: two HAProxies would share one port. Raises Conflict with the pid of the other."""
    path = directory / LOCK
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be opened ({error.strerror}): let this user write there, or set SIDECAR_DIR."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise Conflict(f"A `sidecar up` with pid {pid} runs in {directory} already: end it first.") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)  # its time of change is the begin: see sidecar.probe
        yield
    finally:
        os.close(descriptor)


def holder(directory: Path) -> int | None:
    """The process id of the supervisor that holds this directory; None when nobody does, or it cannot be found out."""
    try:
        with (directory / LOCK).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
    except (OSError, ValueError):
        pass
    return None
