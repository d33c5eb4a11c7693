"""Liveness probes while every request thread is busy: the management listener against the same route on plain gunicorn."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Claim
from tests.live.instances import Instance

PROBES = 8
WITHIN_SECONDS = 0.1
VARIABLES = {"WORKERS": 2, "THREADS": 8, "DRAIN_SECONDS": 0}


def run() -> list[Claim]:
    """Eight probes on each port, each with 100 ms, while sixteen requests hold the sixteen threads."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Instance(Path(folder), management=True, smart=True, variables=VARIABLES) as instance,
    ):
        instance.occupy(VARIABLES["WORKERS"] * VARIABLES["THREADS"], seconds=15.0)
        stock = [_seconds(instance, instance.port) for _ in range(PROBES)]
        ours = [_seconds(instance, instance.management) for _ in range(PROBES)]
        instance.child.signal(signal.SIGQUIT)
    answered = [seconds for seconds in ours if seconds is not None]
    return [
        Claim(
            "liveness probes answered within 100 ms while every thread is busy",
            f"{PROBES} of {PROBES}",
            f"{len(answered)} of {PROBES}, slowest {max(answered, default=0) * 1000:.0f} ms",
            f"the app's own port: {sum(seconds is not None for seconds in stock)} of {PROBES}",
            len(answered) == PROBES,
        )
    ]


def _seconds(instance: Instance, port: int) -> float | None:
    """How long a probe took; None when it was not answered in time."""
    began = time.monotonic()
    good = instance.status("/healthcheck/live", port=port, timeout=WITHIN_SECONDS) == 200
    took = time.monotonic() - began
    time.sleep(0.1)
    return took if good and took <= WITHIN_SECONDS else None


if __name__ == "__main__":
    for claim in run():
        print(claim)
