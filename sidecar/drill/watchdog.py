"""`python -m sidecar.drill.watchdog JOURNAL`: undoes what a drill has left when the drill is killed, hangs or is late.

It reads its standard input, which the drill holds open: the end of that is the end of the drill, however it came. It is a
process of its own session, so that what ends the drill's terminal or group does not end it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sidecar.drill.journal import is_held, left_of, undo_all

LOOK_SECONDS = 0.5
GRACE_SECONDS = 3.0
"""So late the drill itself may be."""


def main(path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.write("watching\n")
    sys.stdout.flush()
    while not select.select([0], [], [], LOOK_SECONDS)[0] or os.read(0, 100):
        undo_all(path, late=time.monotonic() - GRACE_SECONDS)
    undo_all(path)
    end = time.monotonic() + GRACE_SECONDS
    while is_held(path) and time.monotonic() < end:  # the last of a process that dies: its files are not closed at once
        time.sleep(0.05)
    with suppress(OSError):
        if not left_of(path) and not is_held(path):
            path.unlink()


@contextmanager
def watched(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have a watchdog beside the block; it is there when the block begins."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "sidecar.drill.watchdog", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        if child.stdout.readline() != b"watching\n":
            raise OSError(f"the watchdog did not begin, and ended with {child.wait(5)}")
        yield child
    finally:
        child.stdin.close()
        child.stdout.close()
        child.wait(30)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
