"""Processes of this host: who they are, who started them, and signals that reach nobody else. Linux: it reads /proc.

A pid alone is no name: by the time a signal is sent another program may have it. A Process is a pid with the moment of its
start, and is asked for that again before anything is done to it.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_SUPERVISORS = ("supervisord", "runsv", "s6-supervise", "circusd", "monit")
"""Programs that start again what ends, by the name of their process."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, and no later one that got the same number."""

    pid: int
    started: int
    """In ticks since the boot: field 22 of `/proc/PID/stat`."""

    @property
    def is_alive(self) -> bool:
        """Whether it still is; one that has ended and that nobody has asked for its exit code is not."""
        fields = _stat(self.pid)
        return bool(fields) and int(fields[19]) == self.started and fields[0] not in ("Z", "X")

    @property
    def is_stopped(self) -> bool:
        """Whether it is frozen."""
        fields = _stat(self.pid)
        return bool(fields) and int(fields[19]) == self.started and fields[0] == "T"

    def send(self, number: int) -> bool:
        """Send it a signal; False when it is gone. Raises PermissionError for somebody else's."""
        try:
            handle = os.pidfd_open(self.pid)
        except (ProcessLookupError, OSError):
            return False
        try:
            if not self.is_alive:  # looked at after the handle was taken: from here on it is this one or none
                return False
            signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)


def process(pid: int) -> Process | None:
    """The process that has this number now."""
    fields = _stat(pid)
    return Process(pid, int(fields[19])) if fields and fields[0] not in ("Z", "X") else None


def parent_of(pid: int) -> int:
    """The pid of its parent; 0 when nobody knows."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def tree(pid: int) -> tuple[Process, ...]:
    """The process and everything that it has started, parents first."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        one = todo.pop(0)
        if (known := process(one)) is not None:
            found.append(known)
        todo += sorted(children.get(one, ()))
    return tuple(found)


def words_of(pid: int) -> tuple[str, ...]:
    """Its command line."""
    try:
        text = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ()
    return tuple(text.rstrip("\0").split("\0")) if text else ()


def environ_of(pid: int, name: str) -> str:
    """A variable of its environment as it was at its start; empty where we may not look."""
    with suppress(OSError):
        for line in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            if line.startswith(f"{name}=".encode()):
                return line.partition(b"=")[2].decode(errors="replace")
    return ""


def is_ours(pid: int) -> bool:
    """Whether we may signal it and limit it: it runs as our user, or we are root."""
    try:
        return os.geteuid() in (0, (PROC / str(pid)).stat().st_uid)
    except OSError:
        return False


def ignores(pid: int, number: int) -> bool:
    """Whether a signal does nothing to it, or is caught by it."""
    with suppress(OSError, ValueError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(("SigIgn:", "SigCgt:")) and int(line.split()[1], 16) & (1 << (number - 1)):
                return True
    return False


def listeners(port: int) -> tuple[int, ...]:
    """The pids that listen on a TCP port, those that we may look at; parents first."""
    inodes = set(_listening(port))
    if not inodes:  # looking through the files of every process takes a while
        return ()
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            for link in (entry / "fd").iterdir():
                with suppress(OSError):
                    if os.readlink(link).removeprefix("socket:[").removesuffix("]") in inodes:
                        found.append(int(entry.name))
                        break
    return tuple(sorted(found, key=lambda pid: (parent_of(pid) in found, pid)))


def restarter_of(pid: int) -> str:
    """Who starts this process again when it ends, in words; empty when nobody is known to. `sidecar up`, systemd with
    `Restart=`, and the supervisors whose names are known count; a shell that might loop does not."""
    seen, one = set[int](), pid
    while one > 1 and one not in seen:
        seen.add(one)
        one = parent_of(one)
        words = words_of(one)
        if any(
            Path(word).name in ("sidecar", "sidecar.cli") and words[at + 1 : at + 2] == ("up",)
            for at, word in enumerate(words[:-1])
        ):
            return "sidecar up"
        if name := next((known for known in _SUPERVISORS if any(Path(word).name == known for word in words[:2])), ""):
            return name
    return _unit_that_restarts(seen)


def _unit_that_restarts(pids: set[int]) -> str:
    """The unit of systemd whose main process is among these and that starts it again."""
    import re
    import subprocess

    for pid in pids:
        with suppress(OSError, subprocess.SubprocessError):
            found = re.findall(r"/([^/\n]+\.service)", (PROC / str(pid) / "cgroup").read_text())
            for unit in reversed(found):
                for which in ([], ["--user"]):
                    words = ["systemctl", *which, "show", unit, "-p", "Restart,MainPID"]
                    said = subprocess.run(words, capture_output=True, text=True, timeout=5, check=False).stdout
                    told = dict(line.partition("=")[::2] for line in said.splitlines())
                    if told.get("MainPID") in {str(one) for one in pids} and told.get("Restart") in (
                        "always",
                        "on-failure",
                        "on-abnormal",
                    ):
                        return f"systemd ({unit})"
    return ""


def own_addresses(hosts: Iterable[str]) -> set[str]:
    """Which of these names and addresses are this host's: loopback ones, and those that can be bound here."""
    found = set()
    for host in hosts:
        try:
            for family, _, _, _, place in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.bind((place[0], 0))
                    found.add(host)
                    break
        except OSError:
            continue
    return found


def _listening(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (PROC / "net" / name).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                    yield words[9]


def _stat(pid: int) -> list[str]:
    """What stands behind the name in `/proc/PID/stat`: state, parent, ... start."""
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
