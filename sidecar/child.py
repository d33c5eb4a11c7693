"""`python -m sidecar.child PARENT SIGNAL WORDS...`: the command `sidecar WORDS...`, which ends when its parent dies.

Without it a supervisor that is killed would leave an agent that holds the lease and a HAProxy that holds the port.
"""

from __future__ import annotations

import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2); it outlives an exec


def tie(parent: int, number: int) -> None:
    """Let this process get a signal when its parent ends. Linux only; elsewhere nothing happens."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    parent, number, *words = sys.argv[1:]
    tie(int(parent), int(number))
    sys.argv = ["sidecar", *words]
    from sidecar.cli import main as command

    command()


if __name__ == "__main__":
    main()
