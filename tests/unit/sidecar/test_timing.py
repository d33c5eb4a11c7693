"""Durations are counted as Prometheus wants them."""

from __future__ import annotations

from sidecar.timing import Timing


def test_each_bucket_holds_all_that_took_no_longer() -> None:
    """Buckets are cumulated; what takes longer than all of them is in the count; a clock set back counts as no time."""
    timing = Timing()
    for seconds in (0.004, 0.04, 20.0, -3.0):
        timing.add(seconds)
    found = timing.histogram()
    assert dict(found.buckets)[0.005] == 2
    assert dict(found.buckets)[0.05] == 3
    assert dict(found.buckets)[10.0] == 3
    assert (found.count, round(found.sum, 3)) == (4, 20.044)
