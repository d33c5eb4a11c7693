"""`python -m sidecar.probe ready`: ends with 0 when the sidecar of this container is ready, with 1 and a sentence when not.

For probes that are commands: the port of the sidecar's health is a loopback one, which an orchestrator cannot ask. With
`--at-most SECONDS` it is enough after that time that HAProxy runs: without Atlas a pod starts later, and starts.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_SECONDS = 2.0


def answer(port: int, group: str, *, seconds: float = _SECONDS) -> int:
    """The status with which the sidecar answers for its health; 0 when it does not answer."""
    request = f"GET /healthcheck/{group} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode()
    try:
        # By hand: http.client would take three times as long to import as this takes to run.
        with socket.create_connection(("127.0.0.1", port), seconds) as connection:
            connection.settimeout(seconds)
            connection.sendall(request)
            begin = connection.makefile("rb").readline(100).split()
        return int(begin[1])
    except (OSError, ValueError, IndexError):
        return 0


def is_listened_on(path: Path) -> bool:
    """Whether a process has this unix socket open, be it frozen: a connection is refused only when none has."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
    return True


def waited(directory: Path, now: float) -> float:
    """For how long `sidecar up` has been running in this directory; it touches its lock when it begins. Under a clock that was
    set back since then, longer than anybody is to wait."""
    try:
        return abs(now - (directory / "up.lock").stat().st_mtime)
    except OSError:
        return 0.0


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    group = arguments[0] if arguments else "ready"
    at_most = float(arguments[2]) if arguments[1:2] == ["--at-most"] else None
    status = answer(int(environ.get("SIDECAR_ADMIN_PORT") or 4001), group)
    if status == 200:
        return 0
    directory = Path(environ.get("SIDECAR_DIR") or "/run/smartservice")
    if at_most is not None and waited(directory, time.time()) > at_most and is_listened_on(directory / "haproxy.sock"):
        return 0
    print(f"The sidecar is not {group}: {f'it answers {status}' if status else 'it does not answer'}.")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
