"""Counting one request under gunicorn: our files against prometheus-client's multiprocess mode with its labels looked up before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from benchmarks.measure import Claim, alternate, ratio_claim

REQUESTS = 20_000


def run() -> list[Claim]:
    """One process that shares its numbers, as a worker does; CPU time for 20,000 requests each."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder}
        output = subprocess.run(
            [sys.executable, "-m", "benchmarks.metrics"], env=environ, check=True, capture_output=True, text=True
        )
    taken = json.loads(output.stdout)
    return [
        ratio_claim(
            "CPU for counting a request: total, duration, by route, method and status",
            most=0.5,
            ours=taken["ours"],
            reference=taken["prometheus-client"],
            against="prometheus-client, multiprocess mode, children kept in a dictionary",
        )
    ]


def measure() -> dict[str, float]:
    """To be run with PROMETHEUS_MULTIPROC_DIR set before prometheus_client is imported."""
    from prometheus_client import Counter, Histogram

    from smartservice.metrics import BOUNDS, Metrics

    counter = Counter("requests", "x", ["route", "method", "status"])
    histogram = Histogram("duration", "x", ["route", "method"], buckets=BOUNDS)
    kept = {
        ("/teams/<id>", "GET", 200): (counter.labels("/teams/<id>", "GET", 200), histogram.labels("/teams/<id>", "GET"))
    }
    metrics = Metrics("bench")

    def theirs() -> None:
        for _ in range(REQUESTS):
            total, duration = kept["/teams/<id>", "GET", 200]
            total.inc()
            duration.observe(0.003)

    def ours() -> None:
        for _ in range(REQUESTS):
            metrics.observe("/teams/<id>", "GET", 200, 0.003)

    return alternate({"ours": ours, "prometheus-client": theirs})


if __name__ == "__main__":
    print(json.dumps(measure()))
