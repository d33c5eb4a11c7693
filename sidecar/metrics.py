"""The sidecar in the text format of Prometheus (version 0.0.4): its own figures, prefixed `sidecar_`, then HAProxy's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sidecar.facts import Facts, Histogram
from sidecar.model import Plan
from sidecar.status import is_ready, numbers

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds; the last bucket is for what takes longer."""

Sample = tuple[Mapping[str, str], float]


def exposition(facts: Facts, plan: Plan, now: float) -> str:
    """Everything that the sidecar knows of itself as metrics."""
    return "\n".join([*_state(facts, plan, now), *_counters(facts), *_histograms(facts)]) + "\n"


def _state(facts: Facts, plan: Plan, now: float) -> Iterator[str]:
    info = {"version": facts.version, "realm": facts.realm, "host": facts.host, "zone": facts.zone}
    yield from _family("sidecar_info", "gauge", "Always 1.", [({**info, "haproxy": facts.proxy.version}, 1)])
    yield from _one("sidecar_start_time_seconds", "gauge", "When the agent started.", facts.started_at)
    yield from _one("sidecar_ready", "gauge", "1 while HAProxy runs and there is a map.", is_ready(facts))
    yield from _one("sidecar_proxy_up", "gauge", "1 while HAProxy runs.", facts.proxy.running)
    if facts.map_age_seconds is not None:
        help_ = "Since Atlas last answered; of a map from disk, since it was kept."
        yield from _one("sidecar_map_age_seconds", "gauge", help_, facts.map_age_seconds)
    sources = [({"source": name}, float(facts.map_from == name)) for name in ("atlas", "disk", "none")]
    yield from _family("sidecar_map_source", "gauge", "1 for where the map in force came from.", sources)
    for name, wanted, applied in (
        ("revision", plan.position.revision, facts.position.revision),
        ("presence", plan.position.presence, facts.position.presence),
    ):
        yield from _one(f"sidecar_map_{name}", "gauge", f"The {name} of the map in force.", wanted)
        yield from _one(f"sidecar_applied_{name}", "gauge", f"The {name} up to which HAProxy has the map.", applied)
    found = numbers(facts, plan)
    yield from _one("sidecar_services", "gauge", "Services that are routed.", found["services"])
    standings = ("in", "backup", "draining", "out", "held", "quarantined")
    samples = [({"standing": name}, float(found[name])) for name in standings]
    yield from _family("sidecar_instances", "gauge", "Instances by what became of them.", samples)
    yield from _one("sidecar_ejected_servers", "gauge", "Servers that HAProxy takes for bad now.", len(facts.ejected))
    held = [({"service": name}, float(guard.lost)) for name, guard in sorted(plan.guards.items())]
    yield from _one("sidecar_guards", "gauge", "Services of which the guard holds instances.", len(plan.guards))
    yield from _family("sidecar_guard_held_instances", "gauge", "Instances that the guard of a service holds.", held)
    ages = [({"service": name}, max(0.0, now - guard.since)) for name, guard in sorted(plan.guards.items())]
    yield from _family("sidecar_guard_age_seconds", "gauge", "For how long the guard of a service holds them.", ages)
    help_ = "Services that cannot be routed."
    yield from _one("sidecar_quarantined_services", "gauge", help_, len(plan.quarantined))
    ready = sum(1 for one in facts.own if one.state == "ready")
    own = [({"ready": "yes"}, float(ready)), ({"ready": "no"}, float(len(facts.own) - ready))]
    yield from _family("sidecar_own_instances", "gauge", "Instances of this host, by its own checks.", own)
    help_ = "1 while the lease of this host cannot be renewed."
    yield from _one("sidecar_lease_failing", "gauge", help_, facts.lease_failure is not None)
    help_ = "1 while HAProxy's file or the map cannot be written to the disk."
    yield from _one("sidecar_files_failing", "gauge", help_, bool(facts.files_failure))
    yield from _one("sidecar_changes_pending", "gauge", "1 while changes wait for a reload.", bool(facts.pending))


def _counters(facts: Facts) -> Iterator[str]:
    yield from _one("sidecar_changes_total", "counter", "Changes that were applied to HAProxy.", facts.changes)
    help_ = "How often HAProxy knew something else than it should."
    yield from _one("sidecar_drift_total", "counter", help_, facts.drift_count)
    yield from _one("sidecar_refused_total", "counter", "Commands that HAProxy refused.", facts.refusal_count)
    yield from _one("sidecar_ejections_total", "counter", "Servers that HAProxy took for bad.", facts.ejections)
    reloads = facts.reloads
    samples = [({"outcome": "done"}, float(reloads.count)), ({"outcome": "failed"}, float(reloads.failed))]
    yield from _family("sidecar_reloads_total", "counter", "How often HAProxy was loaded anew.", samples)


def _histograms(facts: Facts) -> Iterator[str]:
    help_ = "From when a change arrived until HAProxy had it."
    yield from _histogram("sidecar_apply_seconds", help_, facts.apply_seconds)
    help_ = "From when a change was written into the map until HAProxy had it."
    yield from _histogram("sidecar_propagation_seconds", help_, facts.propagation_seconds)


def _one(name: str, kind: str, help_: str, value: float) -> Iterator[str]:
    return _family(name, kind, help_, [({}, value)])


def _family(name: str, kind: str, help_: str, samples: Sequence[Sample]) -> Iterator[str]:
    yield f"# HELP {name} {help_}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield f"{name}{_labels(labels)} {_number(value)}"


def _histogram(name: str, help_: str, histogram: Histogram) -> Iterator[str]:
    yield f"# HELP {name} {help_}"
    yield f"# TYPE {name} histogram"
    for bound, number in histogram.buckets:
        yield f'{name}_bucket{{le="{_number(bound)}"}} {number}'
    yield f'{name}_bucket{{le="+Inf"}} {histogram.count}'
    yield f"{name}_sum {_number(histogram.sum)}"
    yield f"{name}_count {histogram.count}"


def _labels(labels: Mapping[str, str]) -> str:
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{told}}}" if told else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))


def joined(theirs: str | None, backends: Mapping[str, str] = {}) -> str:
    """HAProxy's own metrics (None: it did not answer), to be put behind ours.

    Each backend is called by what it holds: a service that came at run time lives in one with a name that says nothing. The
    backends that are kept free are left away.
    """
    told = "\n".join(_one("sidecar_exporter_up", "gauge", "1 when HAProxy gave its own metrics.", theirs is not None))
    lines = (_renamed(line, backends) for line in (theirs or "").splitlines())
    return "\n".join([told, *(line for line in lines if line is not None)]) + "\n"


def _renamed(line: str, backends: Mapping[str, str]) -> str | None:
    before, mark, rest = line.partition('{proxy="_spare')
    if not mark:
        return line
    name, quote, rest = rest.partition('"')
    holds = backends.get(f"_spare{name}")
    return None if holds is None else f'{before}{{proxy="{_escaped(holds)}{quote}{rest}'


class Timing:
    """Counts durations by size: one thread fills it, others read."""

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
