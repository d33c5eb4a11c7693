"""Running the command of a rolling restart for one instance: its output shown as it comes, and kept when it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from atlas.model import Instance

POLL_SECONDS = 0.05
GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL for a command that is stopped."""

_LONGEST_LINE = 2000


@dataclass(frozen=True, slots=True)
class Ran:
    """How the command ended. `code` is None when its time was over."""

    code: int | None
    seconds: float
    kept: Path | None = None
    """Where its output is kept; only of one that failed."""

    @property
    def is_good(self) -> bool:
        return self.code == 0

    def told(self) -> str:
        if self.code is None:
            ended = f"was stopped after {self.seconds:.0f} s"
        elif self.code < 0:
            ended = f"was killed by signal {-self.code}"
        else:
            ended = f"ended with {self.code}"
        return f"the command {ended}" + (f" (its output: {self.kept})" if self.kept else "")


def variables(instance: Instance) -> dict[str, str]:
    """What the command finds in its environment."""
    return {
        "SERVICE": instance.service,
        "INSTANCE": instance.address,
        "HOST": instance.host,
        "PORT": str(instance.port),
        "VERSION": instance.version,
    }


def expand(command: str, instance: Instance) -> str:
    """The command with `{service}`, `{instance}`, `{host}` and `{port}` filled in; all other braces are the shell's.

    None of the four can hold anything that a shell would read. A version can: it is in the environment only.
    """
    for name, value in variables(instance).items():
        if name != "VERSION":
            command = command.replace(f"{{{name.lower()}}}", value)
    return command


def run(
    command: str,
    instance: Instance,
    *,
    seconds: float,
    say: Callable[[str], None],
    environ: Mapping[str, str],
    timer: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    grace: float = GRACE_SECONDS,
) -> Ran:
    """Run it with `sh`, in a session of its own; ended with its children when its time is over or the caller is stopped.

    Its output goes through a file and not through a pipe: a service that it starts in the background keeps what it writes to,
    and is not waited for.
    """
    begun = timer()
    handle, name = tempfile.mkstemp(
        prefix=f"atlas-roll-{instance.service}-{instance.host}-{instance.port}-", suffix=".log"
    )
    path = Path(name.replace(":", "_"))
    os.rename(name, path)
    kept = None
    try:
        with os.fdopen(handle, "ab") as output, path.open("rb") as read:
            lines = _Lines(read, say)
            child = _start(expand(command, instance), output, {**environ, **variables(instance)})
            try:
                while child.poll() is None and timer() - begun < seconds:
                    lines.show()
                    sleep(POLL_SECONDS)
            except BaseException:
                _stop(child, grace)
                lines.show(end=True)
                raise
            in_time = child.poll() is not None
            if not in_time:
                _stop(child, grace)
            lines.show(end=True)
        if (not in_time or child.returncode != 0) and path.stat().st_size:
            kept = path
        return Ran(child.returncode if in_time else None, timer() - begun, kept)
    finally:
        if kept is None:
            path.unlink()


def _start(command: str, output: BinaryIO, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start it. In a thread of its own: Ctrl-C in the middle of a start would leave a program that nobody knows, and that
    goes on once its instance takes calls again."""
    with ThreadPoolExecutor(1) as starter:
        starting = starter.submit(
            subprocess.Popen,
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
        )
        try:
            return starting.result()
        except BaseException:
            if starting.exception() is None:
                _stop(starting.result(), GRACE_SECONDS)
            raise


def _stop(child: subprocess.Popen[bytes], grace: float) -> None:
    """End it and whatever it has started: a part that took no notice of TERM would go on with an instance that takes calls. A
    second Ctrl-C does not wait."""
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            end = time.monotonic() + grace
            while _lives(child) and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        raise


def _lives(child: subprocess.Popen[bytes]) -> bool:
    """Whether any process of its group is there still."""
    child.poll()
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return child.returncode is None
    return True


class _Lines:
    """Shows what a file has grown by, line by line."""

    def __init__(self, file: BinaryIO, say: Callable[[str], None]) -> None:
        self._file = file
        self._say = say
        self._rest = b""

    def show(self, *, end: bool = False) -> None:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        if end and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._say(line.decode("utf-8", "replace")[:_LONGEST_LINE])
