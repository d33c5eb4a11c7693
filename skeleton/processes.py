"""Programs that we run: each in a process group of its own, none of them outlives us, a failed one keeps its output."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_LAST_LINES = 40
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failed(Exception):
    """A program ended with another code than 0, or did not end in time. `output` holds its last lines."""

    def __init__(self, what: str, output: str) -> None:
        super().__init__(what)
        self.what = what
        self.output = output


class Running:
    """A started program."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], sink: IO[bytes]) -> None:
        self.name = name
        self.process = process
        self._sink = sink

    def output(self) -> str:
        """Everything it has written so far, both streams."""
        self._sink.seek(0)
        return self._sink.read().decode(errors="replace")

    def last_lines(self) -> str:
        return "\n".join(self.output().splitlines()[-_LAST_LINES:])

    def wait(self, seconds: float = 900.0) -> str:
        """Its output once it has ended well; Failed otherwise."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise Failed(f"{self.name} did not end within {seconds:g} s", self.last_lines()) from None
        if code:
            raise Failed(f"{self.name} ended with {code}", self.last_lines())
        return self.output()

    def close(self) -> None:
        """Forget its output."""
        self._sink.close()

    def end(self) -> None:
        """Kill it and everything in its process group."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.process.wait()


class Processes:
    """Everything that one run has started. Use from the main thread only: the death signal follows the thread."""

    def __init__(self) -> None:
        self._running: list[Running] = []
        self._before_exec = _die_with(os.getpid())

    def start(self, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], name: str = "") -> Running:
        """Start a program without input; its output goes to a nameless file."""
        words = [str(part) for part in command]
        with signals_held():  # Else one could fall between the birth of a child and its entry in the list.
            sink = tempfile.TemporaryFile()  # noqa: SIM115 (closed by end_all)
            try:
                process = subprocess.Popen(
                    words,
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=self._before_exec,
                )
            except BaseException:
                sink.close()
                raise
            running = Running(name or Path(words[0]).name, process, sink)
            self._running.append(running)
        return running

    def run(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path,
        env: Mapping[str, str],
        name: str = "",
        seconds: float = 900.0,
    ) -> str:
        """Run a program to its end and give its output; Failed when it did not end well."""
        return self.start(command, cwd=cwd, env=env, name=name).wait(seconds)

    def wait_all(self, programs: Sequence[Running], seconds: float = 900.0) -> None:
        """Wait for several at once; the first that fails ends the wait with its Failed."""
        until = time.monotonic() + seconds
        waiting = list(programs)
        while waiting:
            for running in [one for one in waiting if one.process.poll() is not None]:
                running.wait()
                waiting.remove(running)
            if waiting:
                if time.monotonic() > until:
                    waiting[0].wait(0)
                time.sleep(0.005)

    def end_all(self) -> None:
        """Kill what still runs, and forget the output of everything."""
        for running in self._running:
            if running.process.poll() is None:
                running.end()
            running.close()
        self._running.clear()


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep a request to stop waiting until the block is done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _die_with(parent: int) -> Callable[[], None]:
    """What a child does before it becomes the program: ask the kernel to kill it when its parent dies (Linux)."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    set_death_signal = 1

    def ask() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        if prctl:
            prctl(set_death_signal, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def clean_environment(environ: Mapping[str, str], **more: str) -> dict[str, str]:
    """The environment for tools: the user's own, without what would redirect Python, pytest or git elsewhere."""
    unwanted = ("PYTHON", "PYTEST", "COV_", "COVERAGE", "GIT_", "VIRTUAL_ENV", "FLASK_", "GUNICORN_")
    wanted = ("GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_CONFIG", "GIT_EXEC_PATH", "GIT_SSL")
    kept = {name: value for name, value in environ.items() if not name.startswith(unwanted) or name.startswith(wanted)}
    return {**kept, **more}


def bare_environment(environ: Mapping[str, str], **more: str) -> dict[str, str]:
    """The environment for the new service: none of the user's settings, so that no database of theirs is ever touched."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT")
    return {**{name: environ[name] for name in kept if name in environ}, **more}
