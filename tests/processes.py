"""Real programs as children of a test: a free port, an own process, an end by pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether something accepts connections on 127.0.0.1:port now."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], object], seconds: float = 30.0, *, what: str = "the condition") -> None:
    """Return as soon as `condition()` is true; fail the test after `seconds`: a bound against "never", not a promise."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {seconds:g} s")
        time.sleep(0.01)


@contextmanager
def later(seconds: float, do: Callable[..., object], *arguments: object) -> Iterator[None]:
    """Call `do` after a while, beside what is inside; it has ended when this ends."""
    timer = threading.Timer(seconds, do, arguments)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def open_files(path: Path) -> int:
    """How many descriptors of this process lead to a file whose path begins with `path`; skips where nobody can tell."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    links = (entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
    return sum(1 for link in links if str(link.readlink()).startswith(str(path)))


class Child:
    """A child process in a process group of its own, its output in a file, ended by pid (TERM, then KILL)."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        output: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
    ) -> None:
        self.output = output
        with output.open("ab") as sink:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                user=user,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self, ready: Callable[[], object], seconds: float = 60.0) -> Child:
        """Wait until `ready()` is true; a child that ends before that fails with its output."""
        end = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None:
                raise AssertionError(f"{self.process.args!r} ended with {self.process.returncode}:\n{self.text()}")
            if time.monotonic() > end:
                self.stop()
                raise AssertionError(f"{self.process.args!r} was not ready within {seconds:g} s:\n{self.text()}")
            time.sleep(0.01)
        return self

    def text(self) -> str:
        """Everything the child has written so far."""
        return self.output.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, seconds: float = 20.0, *, how: int | None = None) -> int:
        """End the child and what it started; gives its exit code. TERM, when `how` names no other signal."""
        if self.process.poll() is None:
            self.process.send_signal(how or signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return self.process.wait(30)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Callers:
    """Threads that call something beside a test: started when it begins, told to stop and joined when it ends."""

    _threads: Sequence[threading.Thread]
    _stop: threading.Event

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
