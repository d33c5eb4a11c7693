"""The socket of HAProxy's master process: who its workers are, and the word that makes it reload.

One command a connection. The master listens a moment after its worker does, and not while it executes itself anew.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sidecar.probe import is_listened_on
from smartrealm.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Processes:
    """What the master says of itself and its workers."""

    master: int
    reloads: int
    failed: int
    """How many reloads have failed since the last one that did not."""
    worker: int | None
    """The one that takes new calls; None while there is none, or (3.x) when the last reload failed."""
    old: tuple[int, ...]
    """Those that end what they have; also, after a failed reload, the one that goes on (3.x)."""


def parse_processes(text: str) -> Processes:
    """The answer of the master to `show proc`."""
    master = reloads = failed = 0
    workers: list[int] = []
    old: list[int] = []
    section = workers
    for line in text.split("\n"):
        if line.startswith("#"):
            section = old if line.startswith("# old workers") else workers
        elif found := re.match(r"(\d+)\s+(master|worker)\s+(\d+)(?:\s+\[failed: (\d+)\])?", line):
            if found[2] == "master":
                master, reloads, failed = int(found[1]), int(found[3]), int(found[4] or 0)
            else:
                section.append(int(found[1]))
    if not master:
        raise Unavailable(f"What answers on HAProxy's master socket is no HAProxy: {text[:80]!r}.")
    return Processes(master, reloads, failed, workers[0] if workers else None, tuple(old))


class Master:
    """The master of one HAProxy. `worker_socket` tells whether there is a HAProxy at all. Everything raises Unavailable when
    it does not answer."""

    def __init__(
        self,
        path: Path,
        worker_socket: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self._worker_socket = worker_socket
        self._clock = clock
        self._sleep = sleep

    def processes(self) -> Processes:
        """The pids of the master and its workers."""
        return parse_processes(self.ask("show proc"))

    def ask(self, text: str, seconds: float = 2.0) -> str:
        """The master's answer to one command. It listens a moment after its worker does, and not while it executes itself
        anew (a start, a reload): then it is asked again."""
        end = self._clock() + seconds
        while True:
            try:
                return _ask(self.path, text, seconds)
            except OSError as error:
                may_come = isinstance(error, ConnectionError) and is_listened_on(self._worker_socket)
                if not may_come or self._clock() > end:
                    raise Unavailable(
                        f"The master of HAProxy does not answer on {self.path} "
                        f"({error.strerror or error}): it is not running, or was started without -S."
                    ) from error
                self._sleep(0.005)

    def begin(self, text: str) -> Asked:
        """Tell it something whose answer may take its time."""
        return Asked(self.path, text)


class Asked:
    """A command to the master whose answer is not waited for: it may come late, or, from another version, never."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text
        self._said = bytearray()
        self._over = False

    def __enter__(self) -> Asked:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connection.connect(str(self._path))
            self._connection.sendall(self._text.encode() + b"\n")
        except OSError as error:
            self._connection.close()
            raise Unavailable(
                f"HAProxy's master could not be told on {self._path}: {error.strerror or error}"
            ) from error
        self._connection.setblocking(False)
        return self

    def __exit__(self, *raised: object) -> None:
        self._connection.close()

    def said(self) -> str:
        """What it has said so far."""
        self.is_over()
        return self._said.decode(errors="replace")

    def is_over(self) -> bool:
        """Whether it has closed the connection."""
        while not self._over:
            try:
                more = self._connection.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:  # the master has executed itself anew
                more = b""
            self._said += more
            self._over = not more
        return self._over


def _ask(path: Path, text: str, seconds: float) -> str:
    """Send one command to the master's socket and read until it closes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(str(path))
        connection.sendall(text.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)  # or some versions wait for more
        answer = bytearray()
        while more := connection.recv(1 << 16):
            answer += more
    return answer.decode(errors="replace").strip("\n")
