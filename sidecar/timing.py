"""How long changes take: histograms that one thread fills and others read."""

from __future__ import annotations

from sidecar.facts import Histogram

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds; the last bucket is for what takes longer."""


class Timing:
    """Counts durations by size."""

    def __init__(self) -> None:
        self._counts = [0] * len(BOUNDS)
        self._count = 0
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one; what a clock that was set back makes negative counts as 0."""
        seconds = max(0.0, seconds)
        for number, bound in enumerate(BOUNDS):
            if seconds <= bound:
                self._counts[number] += 1
        self._count += 1
        self._sum += seconds

    def histogram(self) -> Histogram:
        """What was counted so far."""
        return Histogram(tuple(zip(BOUNDS, tuple(self._counts), strict=True)), self._count, self._sum)
