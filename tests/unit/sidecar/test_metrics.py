"""The metrics are what Prometheus reads, and name what is not well."""

from __future__ import annotations

import re
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from sidecar.facts import Facts, ProxyFacts
from sidecar.metrics import Timing, exposition, joined
from sidecar.model import Plan
from tests.unit.sidecar.scene import CALM, NOW, WELL, troubled

THEIRS = """# TYPE haproxy_backend_status gauge
haproxy_backend_status{proxy="identity",state="UP"} 1
haproxy_backend_status{proxy="_spare_001",state="UP"} 1
haproxy_frontend_status{proxy="_calls",state="UP"} 1
"""


def samples(facts: Facts = WELL, plan: Plan = CALM, theirs: str | None = THEIRS) -> dict[tuple[str, str], float]:
    """Every sample by name and labels, as another program reads them."""
    text = exposition(facts, plan, NOW) + joined(theirs)
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {
        (one.name, ",".join(f"{name}={value}" for name, value in one.labels.items())): one.value
        for family in families
        for one in family.samples
    }


def test_a_parser_reads_every_line() -> None:
    """Ours and HAProxy's in one text: each family once, each with help and type, nothing left over."""
    found = samples()
    assert found["sidecar_ready", ""] == 1
    assert found["sidecar_map_age_seconds", ""] == 1.5
    assert found["sidecar_instances", "standing=in"] == 3
    assert found["sidecar_applied_revision", ""] == 41
    assert found["sidecar_exporter_up", ""] == 1
    assert found["haproxy_frontend_status", "proxy=_calls,state=UP"] == 1
    text = exposition(WELL, CALM, NOW)
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert names == re.findall(r"^# HELP (\S+)", text, re.MULTILINE)
    assert all(name.startswith("sidecar_") for name in names)


def test_spare_backends_are_left_away() -> None:
    """They take no calls, and there may be a hundred of them."""
    assert not any("_spare" in labels for _, labels in samples())


def test_a_service_in_a_spare_backend_is_called_by_its_name() -> None:
    """It came at run time: what holds it is called `_spare_001`, which says nothing to whoever looks at a graph."""
    text = joined(THEIRS, {"_spare_001": "teams:1", "identity": "identity"})
    assert 'haproxy_backend_status{proxy="teams:1",state="UP"} 1' in text
    assert 'haproxy_backend_status{proxy="identity",state="UP"} 1' in text
    assert "_spare" not in text


def test_propagation_is_a_histogram() -> None:
    """Cumulated buckets with the infinite one, a sum and a count."""
    found = samples()
    assert found["sidecar_propagation_seconds_bucket", "le=0.25"] == 12
    assert found["sidecar_propagation_seconds_bucket", "le=+Inf"] == 12
    assert found["sidecar_propagation_seconds_count", ""] == 12
    assert found["sidecar_propagation_seconds_sum", ""] == 0.9


def test_what_is_not_well_can_be_alarmed_on() -> None:
    """A guard with its age, ejected servers, quarantine, the age of the map, a proxy that is away."""
    found = samples(*troubled(), theirs=None)
    assert found["sidecar_guard_held_instances", "service=identity"] == 2
    assert found["sidecar_guard_age_seconds", "service=identity"] == 300
    assert found["sidecar_guards", ""] == 1
    assert found["sidecar_ejected_servers", ""] == 1
    assert found["sidecar_quarantined_services", ""] == 1
    assert found["sidecar_map_age_seconds", ""] == 95
    assert found["sidecar_exporter_up", ""] == 0
    assert samples(replace(WELL, proxy=ProxyFacts()))["sidecar_proxy_up", ""] == 0


def test_labels_are_escaped() -> None:
    """A zone with quotes and line breaks stays one label."""
    found = samples(replace(WELL, zone='a"\\b\nc'))
    assert any('zone=a"\\b\nc' in labels for name, labels in found if name == "sidecar_info")


def test_without_a_map_there_is_no_age() -> None:
    """An age of nothing is not told as a number."""
    assert ("sidecar_map_age_seconds", "") not in samples(replace(WELL, map_from="none", map_age_seconds=None))


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
