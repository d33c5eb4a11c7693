"""What Prometheus reads: right with several workers, right while workers come and go, and cheap for each request.

Each process counts its requests in a file of its own, in a directory that all workers of an instance share
(PROMETHEUS_MULTIPROC_DIR, which `smartservice.gunicorn` sets); a scrape adds the files up. When a worker has ended, the
master adds its file to the one of the dead and removes it, so no counter ever goes back and the number of files stays
bounded. Outside of gunicorn the same numbers are in memory, one set for each app.

prometheus-client is imported by the first scrape, not before: counting does not need it. A service's own counters are
made with it as usual and appear in the same answer.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from smartrealm import on_fork
from smartservice.cells import DIRECTORY_VARIABLE, Cells, Numbers, file_cells, memory_cells, read_all, scrape_lock

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SUM = len(BOUNDS) + 1
_SIZE = _SUM + 1

Labels = tuple[tuple[str, str], ...]
Reading = float | Mapping[Labels, float]


@dataclass(frozen=True)
class Gauge:
    """A number that is read when it is needed, in every worker."""

    name: str
    help: str
    read: Callable[[], Reading]  # one number, or one for each set of labels
    over_workers: Literal["sum", "min", "max"]  # how the workers' numbers become one


class Metrics:
    """The metrics of one app. `observe` is on the hot path; everything else happens at a scrape."""

    def __init__(self, service: str, *, directory: str | None = None, **info: str) -> None:
        """`info` are labels of `smartservice_info`: realm, release. `directory` is for tests."""
        self.service = str(service)
        self._info = {name: str(value) for name, value in info.items() if value}
        self._directory = directory
        self._gauges: list[Gauge] = []
        self._counters: dict[str, str] = {}
        self._registry: CollectorRegistry | None = None
        self._own_cells: Cells | None = None
        self._begin_anew()
        on_fork(self, Metrics._begin_anew)

    def observe(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Count one answered request. `route` is the URL rule (`/teams/<id>`), None when no rule matched."""
        key = (route, method, status)
        numbers = self._known.get(key)
        if numbers is None:
            numbers = self._find(key)
        with self._lock:
            numbers[bisect_left(BOUNDS, seconds)] += 1.0
            numbers[_SUM] += seconds

    def gauge(
        self, name: str, help: str, read: Callable[[], Reading], *, over_workers: Literal["sum", "min", "max"] = "sum"
    ) -> None:
        """Show what `read()` returns: a number, or numbers by labels, `{(("pool", "database"),): 3.0}`.

        Each worker reads it now and then (`publish`) and at its own scrapes; a scrape puts the workers' numbers together.
        One that raises is left out and logged.
        """
        self._gauges.append(Gauge(name, help, read, over_workers))

    def counter(self, name: str, help: str) -> None:
        """Declare a number that only grows, counted by `count`; a scrape shows it as `<name>_total`."""
        self._counters[name] = help

    def count(self, name: str, labels: Labels = (), by: float = 1.0) -> None:
        """Add to a declared counter. Labels must be of few values: each set of them is kept for ever."""
        key = (name, labels)
        numbers = self._counted.get(key)
        if numbers is None:
            written = ("counter", name, *(part for label in labels for part in label))
            with self._making:
                numbers = self._counted.get(key)
                if numbers is None:
                    numbers = self._counted[key] = self._cells().new(written, 1)
        with self._lock:
            numbers[0] += by

    @property
    def registry(self) -> CollectorRegistry:
        """A registry of this app alone, for own metrics that another app in the same process must not show."""
        with self._making:
            if self._registry is None:
                from prometheus_client import CollectorRegistry

                self._registry = CollectorRegistry()
            return self._registry

    def warm_up(self) -> None:
        """Import what a scrape needs (a tenth of a second). gunicorn's master does it once for all workers."""
        import prometheus_client  # noqa: F401

    def publish(self) -> None:
        """Write down this process's gauges for the other workers' scrapes."""
        now: dict[tuple[str, ...], float] = {}
        for gauge in self._gauges:
            for labels, value in _read(gauge).items():
                now["gauge", gauge.name, *(part for label in labels for part in label)] = value
        with self._making:
            for key in now.keys() - self._published.keys():
                self._published[key] = self._cells().new(key, 1)
            for key, numbers in self._published.items():
                numbers[0] = now.get(key, math.nan)

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """The metrics as (content type, bytes): the text format, or OpenMetrics when `accept` asks for it."""
        from prometheus_client.exposition import choose_encoder

        self.publish()
        encode, content_type = choose_encoder(accept)
        return content_type, encode(_Everything(self))

    def requests(self) -> dict[tuple[str, str, str], list[float]]:
        """The requests of all workers, the ended ones too: (route, method, status) -> bucket counts and, last, seconds."""
        return {(key[1], key[2], key[3]): values for key, values in self._totals().items() if key[0] == "request"}

    def _find(self, key: tuple[str | None, str, int]) -> Numbers:
        """The numbers for a key seen first. A method or a status that nobody defined is never kept: a caller could make
        up one for each request."""
        route, method, status = key
        known = method in METHODS and 100 <= status <= 599
        written = (
            "request",
            "unmatched" if route is None else route,
            method if method in METHODS else "OTHER",
            str(status) if 100 <= status <= 599 else "other",
        )
        with self._making:
            numbers = self._written.get(written)
            if numbers is None:
                numbers = self._written[written] = self._cells().new(written, _SIZE)
            if known:
                self._known[key] = numbers
            return numbers

    def _cells(self) -> Cells:
        if self._own_cells is None:
            directory = self._shared_directory()
            self._own_cells = memory_cells() if directory is None else file_cells(directory, self.service)
        return self._own_cells

    def _shared_directory(self) -> str | None:
        directory = self._directory or os.environ.get(DIRECTORY_VARIABLE)
        return directory if directory and os.path.isdir(directory) else None

    def _totals(self) -> dict[tuple[str, ...], list[float]]:
        directory = self._shared_directory()
        with self._making:
            own = self._cells()
            if directory is None or not own.shared:
                return {key: list(numbers) for key, numbers in own.items()}
        over = {gauge.name: gauge.over_workers for gauge in self._gauges}
        return read_all(directory, self.service, lambda key: over.get(key[1], "sum") if key[0] == "gauge" else "sum")

    def _begin_anew(self) -> None:
        self._known: dict[tuple[str | None, str, int], Numbers] = {}
        self._counted: dict[tuple[str, Labels], Numbers] = {}
        self._written: dict[tuple[str, ...], Numbers] = {}
        self._published: dict[tuple[str, ...], Numbers] = {}
        self._own_cells = None
        self._lock = threading.Lock()
        self._making = threading.RLock()

    def collect(self) -> Iterator[Metric]:
        """The framework's own families, summed over the workers (the collector protocol of prometheus-client)."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        totals = self._totals()
        info = GaugeMetricFamily("smartservice_info", "What is running here.", labels=["service", *self._info])
        info.add_metric([self.service, *self._info.values()], 1)
        yield info
        requests = CounterMetricFamily("http_requests", "Answered requests.", labels=["route", "method", "status"])
        durations: dict[tuple[str, str], list[float]] = {}
        for key, values in totals.items():
            if key[0] == "request":
                requests.add_metric(key[1:], sum(values[:_SUM]))
                sofar = durations.setdefault((key[1], key[2]), [0.0] * _SIZE)
                durations[key[1], key[2]] = [one + other for one, other in zip(sofar, values, strict=True)]
        yield requests
        histogram = HistogramMetricFamily(
            "http_request_duration_seconds",
            "Time from the first line of a request to its answer.",
            labels=["route", "method"],
        )
        for labels, values in durations.items():
            histogram.add_metric(labels, _buckets(values), values[_SUM])
        yield histogram
        for name, help in self._counters.items():
            counted = CounterMetricFamily(name, help)
            for key, values in totals.items():
                if key[:2] == ("counter", name):
                    counted.add_sample(f"{name}_total", dict(zip(key[2::2], key[3::2], strict=True)), values[0])
            yield counted
        for gauge in self._gauges:
            family = GaugeMetricFamily(gauge.name, gauge.help)
            for key, values in totals.items():
                if key[:2] == ("gauge", gauge.name) and not math.isnan(values[0]):
                    family.add_sample(gauge.name, dict(zip(key[2::2], key[3::2], strict=True)), values[0])
            yield family


class _Everything:
    """The framework's metrics of one app, and what its author counts with prometheus-client."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        from prometheus_client import REGISTRY, values

        yield from self._metrics.collect()
        directory = self._metrics._shared_directory()
        if directory is not None and getattr(values.ValueClass, "_multiprocess", False):
            from prometheus_client.multiprocess import MultiProcessCollector

            with scrape_lock(directory):
                collector = MultiProcessCollector(None, directory)  # type: ignore[no-untyped-call]
                yield from list(collector.collect())  # type: ignore[no-untyped-call]
            return
        if self._metrics._registry is not None:
            yield from self._metrics._registry.collect()
        yield from REGISTRY.collect()


def _read(gauge: Gauge) -> Mapping[Labels, float]:
    try:
        reading = gauge.read()
    except Exception:
        logging.getLogger("smartservice").warning("the metric %s could not be read", gauge.name, exc_info=True)
        return {}
    return reading if isinstance(reading, Mapping) else {(): float(reading)}


def _buckets(values: list[float]) -> list[tuple[str, float]]:
    bounds = [*(repr(bound) for bound in BOUNDS), "+Inf"]
    running, cumulative = 0.0, []
    for bound, count in zip(bounds, values[:_SUM], strict=True):
        running += count
        cumulative.append((bound, running))
    return cumulative
