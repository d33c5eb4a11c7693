"""What a sidecar says of itself: one sentence, what to look at, whether it is ready."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atlas.world import Position
from sidecar.facts import DoubtedServer, EjectedServer, Facts, OwnInstance, ProxyFacts, Rate, RefusedCommand, Reloads
from sidecar.model import Plan, Server
from sidecar.settings import Settings
from sidecar.status import health_document, rates_document, routes_document, service_document, status_document
from sidecar.telling import service_lines, status_lines
from sidecar.troubles import troubles
from sidecar.why import explain
from tests.unit.sidecar.scene import CALM, NOW, WELL, decision, guarded, many, plan_of, service, troubled

SETTINGS = Settings(Path("/run/s"), Path("/var/s"))


def status(facts: Facts = WELL, plan: Plan = CALM) -> dict[str, Any]:
    document = status_document(facts, plan, SETTINGS, NOW)
    assert json.loads(json.dumps(document)) == document
    return document


def topics(facts: Facts = WELL, plan: Plan = CALM) -> list[tuple[str, str]]:
    return [(one.level, one.topic) for one in troubles(facts, plan, NOW)]


def test_all_is_well_in_one_sentence() -> None:
    """Nothing to look at: the state is well, and the sentence says how much is routed and how old the map is."""
    document = status()
    assert document["state"] == "well"
    assert document["says"] == "All is well: 2 services with 3 instances, Atlas answered 2 s ago."
    assert document["troubles"] == []
    assert document["ready"] is True


def test_the_worst_comes_first() -> None:
    """The sentence tells the worst and how much there is beside; what is wrong comes before what is risky."""
    document = status(*troubled())
    levels = [one["level"] for one in document["troubles"]]
    assert document["state"] == "wrong"
    assert levels == sorted(levels, key=["wrong", "risky", "note"].index)
    assert document["says"].endswith("There are 4 more things to look at.")
    assert {one["topic"] for one in document["troubles"]} == {"quarantine", "silent", "map", "guard", "ejected"}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (replace(WELL, proxy=ProxyFacts("2.6.12", away_since=NOW - 9, failure="cannot bind")), ("wrong", "proxy")),
        (replace(WELL, proxy=ProxyFacts("2.6.12", failure="haproxy.sock is gone", alive=True)), ("wrong", "proxy")),
        (replace(WELL, map_from="none", map_age_seconds=None), ("wrong", "map")),
        (replace(WELL, map_from="disk", map_age_seconds=7200.0), ("risky", "map")),
        (replace(WELL, map_age_seconds=31.0), ("risky", "map")),
        (replace(WELL, map_failure="nobody answers"), ("note", "map")),
        (replace(WELL, lease_failure="403"), ("risky", "lease")),
        (replace(WELL, files_failure="the disk is full."), ("risky", "files")),
        (replace(WELL, tokens_failure="Line 2 of tokens is no token."), ("risky", "tokens")),
        (replace(WELL, own=(OwnInstance("identity", "h:1", "not ready", "refused", NOW - 5),)), ("risky", "own")),
        (replace(WELL, own=(OwnInstance("identity", "h:1", "gone", "", NOW - 5),)), ("risky", "own")),
        (replace(WELL, own=(OwnInstance("identity", "h:1", "starting", "", NOW - 61),)), ("risky", "own")),
        (replace(WELL, unusable={"a@:1.json": "It is no JSON."}), ("risky", "own")),
        (replace(WELL, refusals=(RefusedCommand("identity: add", "No such backend.", NOW - 5),)), ("risky", "refused")),
        (replace(WELL, drift_at=NOW - 5, drift_count=1), ("risky", "drift")),
        (replace(WELL, doubted=(DoubtedServer("identity", "h:1", NOW - 5, 1, "L4 error"),)), ("note", "ejected")),
        (replace(WELL, doubted=(DoubtedServer("identity", "h:1", NOW - 5, 2, "L4 error"),)), ("risky", "ejected")),
        (replace(WELL, pending="a reload is under way", pending_since=NOW - 1), ("note", "reload")),
        (
            replace(WELL, reloads=Reloads(1, 1, NOW - 5, "a try", failure="HAProxy refuses the file.")),
            ("risky", "reload"),
        ),
    ],
)
def test_each_trouble_is_told(facts: Facts, expected: tuple[str, str]) -> None:
    """Each thing that is not well is one line with its level, a full sentence and, but for notes, what to do."""
    (found,) = troubles(facts, CALM, NOW)
    assert (found.level, found.topic) == expected
    assert found.says.endswith(".")
    assert found.advice or found.level == "note"


@pytest.mark.parametrize(
    "facts",
    [
        replace(WELL, map_age_seconds=29.0),
        replace(WELL, refusals=(RefusedCommand("identity: add", "No such backend.", NOW - 700),)),
        replace(WELL, drift_at=NOW - 700, drift_count=4),
        replace(WELL, own=(OwnInstance("identity", "h:1", "draining", "", NOW),)),
        replace(WELL, own=(OwnInstance("identity", "h:1", "starting", "", NOW - 50),)),
        replace(WELL, lease_failure="403", own=()),
        replace(WELL, proxy=ProxyFacts("2.6.12", 7, 700.0, True)),
        replace(WELL, proxy=ProxyFacts("2.6.12", 7, 0.0, True)),
        replace(WELL, proxy=ProxyFacts("2.6.12", 7, 40.0, True), started_at=NOW - 42),
        replace(WELL, proxy=ProxyFacts("2.6.12", 7, 40.0, True), reloads=Reloads(1, 0, NOW - 41, "a new service")),
    ],
)
def test_what_is_over_or_ordinary_is_no_trouble(facts: Facts) -> None:
    """A map within its rhythm, what happened long ago, an instance that drains, a lease that carries nothing."""
    assert topics(facts) == []


def test_a_failure_of_several_lines_is_one_sentence() -> None:
    """HAProxy's words come as a list; on a screen they are parts of the sentence."""
    failure = "HAProxy refuses the file:\n  - no such ACL.\n  - no such map."
    (found,) = troubles(replace(WELL, proxy=ProxyFacts("2.6.12", failure=failure)), CALM, NOW)
    assert found.says.endswith(": HAProxy refuses the file: no such ACL; no such map.")


def test_a_refused_token_has_an_advice_of_its_own() -> None:
    """Where Atlas knows the token no more, as after its store was wiped, the next step is a new one for this host."""
    (found,) = troubles(replace(WELL, map_age_seconds=95.0, map_failure="This token is not known here."), CALM, NOW)
    assert "Atlas has given no map for 95 s (This token is not known here)" in found.says
    assert "`atlas token create host web-1`" in found.advice


@pytest.mark.parametrize("own", [WELL.own, ()])
def test_two_sidecars_with_the_name_of_one_host_are_told_so(own: tuple[OwnInstance, ...]) -> None:
    """The map hears the newer one alone: the other one says why, also without instances, since no drain waits for it."""
    taken = "The lease sidecar@web-1 is held by a newer incarnation: this one is over."
    (found,) = troubles(replace(WELL, lease_failure=taken, own=own), CALM, NOW)
    assert (found.level, found.topic) == ("wrong", "lease")
    assert "Another sidecar speaks for web-1" in found.says
    assert "ADVERTISE_HOST" in found.advice


def test_a_refused_token_at_the_first_start_and_of_the_lease_is_told_the_same() -> None:
    """Without a map, and where only the lease is refused, a refused token leads to the same next step."""
    refused = "This token is not known here."
    (no_map,) = troubles(replace(WELL, map_from="none", map_age_seconds=None, map_failure=refused), CALM, NOW)
    (no_lease,) = troubles(replace(WELL, lease_failure=refused), CALM, NOW)
    assert "`atlas token create host web-1`" in no_map.advice
    assert "`atlas token create host web-1`" in no_lease.advice


def test_a_haproxy_that_is_away_is_told_once_and_by_whom_it_comes_back() -> None:
    """The changes that wait for it are no second line, and the advice holds whoever keeps it running."""
    away = replace(
        WELL, proxy=ProxyFacts("2.6.12", away_since=NOW - 9), pending="It does not answer.", pending_since=NOW - 9
    )
    (found,) = troubles(away, CALM, NOW)
    assert "`sidecar check` says why" in found.advice
    assert "`sidecar up`, systemd or the agent" in found.advice


def test_a_haproxy_that_is_being_started_is_not_to_be_ended() -> None:
    """In the first moments of an agent nobody is told to end a HAProxy that only begins to listen."""
    (found,) = troubles(replace(WELL, proxy=ProxyFacts(alive=True), pending="HAProxy is being started"), CALM, NOW)
    assert found.says == "HAProxy is being started, and no call passes through this sidecar yet."
    assert "End it" not in found.advice


def test_a_haproxy_that_was_started_anew_is_told_for_a_while() -> None:
    """A crash that is over within a second is found later: when HAProxy began, and that no reload of this agent did it."""
    (found,) = troubles(replace(WELL, proxy=ProxyFacts("2.6.12", 7, 40.0, True)), CALM, NOW)
    assert (found.level, found.topic, found.since) == ("note", "proxy", NOW - 40)
    assert "HAProxy was started anew 40 s ago" in found.says


def test_a_guard_says_what_it_holds_and_how_it_ends() -> None:
    """How many of how many, since when, which, and the command that lets go."""
    (found,) = troubles(WELL, guarded(), NOW)
    assert "identity: 2 of 3 instances vanished" in found.says
    assert "10.0.0.8:8000, 10.0.0.9:8000" in found.says
    assert 'sidecar accept identity --why "..."' in found.advice
    assert found.since == NOW - 300


def test_a_service_whose_instances_all_drain_still_takes_calls() -> None:
    """Servers in the route decide, not standings: those that drain and are called all the same are no silence."""
    drains = decision("10.0.0.7:8000", "draining", "drain")
    route, decisions = service("identity", drains)
    called = replace(route, servers=(Server("a", "10.0.0.7", 8000, backup=True),))
    leaving = replace(route, servers=(Server("a", "10.0.0.7", 8000, draining=True),))
    assert topics(plan=plan_of((called, decisions))) == []
    assert topics(plan=plan_of((leaving, decisions))) == [("wrong", "silent")]


def test_services_without_instances_are_one_note() -> None:
    """What was registered and never started is worth knowing, and nothing to be woken for."""
    plan = plan_of(*(service(f"new-{number}") for number in range(12)))
    (found,) = troubles(WELL, plan, NOW)
    assert found.level == "note"
    assert "and 4 more" in found.says
    assert status(plan=plan)["state"] == "well"


def test_a_service_that_is_routed_as_before_is_not_said_to_be_gone() -> None:
    """What the map says of it now cannot be used, and the terms before are in force: no call of it fails."""
    plan = replace(CALM, quarantined={"identity": "callers is 5; what was known before stays in force"})
    (found,) = troubles(WELL, plan, NOW)
    assert found.level == "risky"
    assert "is routed as before" in found.says


def test_it_is_not_said_that_no_call_passes_while_haproxy_is_there() -> None:
    """Somebody has removed its socket: it cannot be told anything, and goes on calling whom it knows."""
    (found,) = troubles(
        replace(WELL, proxy=ProxyFacts("2.6.12", failure="haproxy.sock is gone", alive=True)), CALM, NOW
    )
    assert "calls pass as before" in found.says
    assert "haproxy.pid" in found.advice


def test_a_thousand_troubles_stay_readable() -> None:
    """A hundred are told, the rest is counted."""
    plan = replace(CALM, quarantined={f"s-{number}": "no good." for number in range(1000)})
    document = status(plan=plan)
    assert len(document["troubles"]) == 100
    assert document["more_troubles"] == 900


def test_an_ejected_server_is_out_in_the_routes() -> None:
    """The map takes it for good, HAProxy does not: the route says what HAProxy does."""
    ejected = EjectedServer("billing", "10.0.0.7:8080", NOW - 4, NOW + 6, "Layer7 wrong status")
    document = service_document("billing", replace(WELL, ejected=(ejected,)), CALM)
    (found,) = document["instances"]
    assert (found["standing"], found["reason"], found["until"]) == ("out", "ejected", NOW + 6)


def test_routes_hold_every_service_once() -> None:
    """Services that are routed, quarantined or only decided upon, in order, each with its instances."""
    _, plan = troubled()
    document = routes_document(WELL, plan)
    assert [one["service"] for one in document["services"]] == ["billing", "broken", "identity", "teams"]
    assert json.loads(json.dumps(document)) == document


def test_ten_thousand_instances_fit_into_two_megabytes() -> None:
    """The document of the largest realm stays small enough for a page."""
    assert len(json.dumps(routes_document(WELL, many(1000, 10)), separators=(",", ":"))) < 2_000_000


def test_rates_name_what_is_called() -> None:
    """Services and servers through which nothing passed are left away."""
    document = rates_document({"a": Rate(1.0, 0, 9, 0, {"h:1": Rate(1.0, 0, 9, 0), "h:2": Rate()}), "b": Rate()})
    assert list(document["services"]) == ["a"]
    assert list(document["services"]["a"]["servers"]) == ["h:1"]


# -- health ------------------------------------------------------------------------------------------------------------


def health(facts: Facts = WELL, plan: Plan = CALM, group: str | None = "ready") -> tuple[int, dict[str, Any]]:
    found = health_document(facts, plan, NOW, group=group, hostname="web-1")
    assert found is not None
    return found


def test_ready_is_a_proxy_that_runs_and_a_map() -> None:
    """Without one of them readiness fails; whatever else is not well only warns."""
    assert health()[0] == 200
    assert health(replace(WELL, proxy=ProxyFacts()))[0] == 503
    assert health(replace(WELL, map_from="none"))[0] == 503
    assert health(replace(WELL, map_from="disk"))[0] == 200
    assert [
        status(facts)["ready"] for facts in (WELL, replace(WELL, proxy=ProxyFacts()), replace(WELL, map_from="none"))
    ] == [
        True,
        False,
        False,
    ]
    code, body = health(*troubled())
    assert (code, body["status"]) == (200, "success")
    warned = {row["checker"] for row in body["results"] if row["status"] == "warn"}
    assert warned == {"map", "guard", "quarantine", "ejected"}


def test_live_holds_nothing_but_the_agent() -> None:
    """Liveness never contains what a restart would not mend."""
    code, body = health(replace(WELL, proxy=ProxyFacts(), map_from="none"), group="live")
    assert code == 200
    assert [row["checker"] for row in body["results"]] == ["agent"]


def test_the_whole_fails_with_500_and_an_unknown_group_is_unknown() -> None:
    """As the services answer."""
    assert health(replace(WELL, map_from="none"), group=None)[0] == 500
    assert health_document(WELL, CALM, NOW, group="nonsense") is None


def test_readiness_says_how_old_the_map_is() -> None:
    """As a value with its unit, for whoever watches it."""
    _, body = health(replace(WELL, map_age_seconds=95.0))
    (row,) = [row for row in body["results"] if row["checker"] == "map"]
    assert (row["status"], row["value"], row["unit"]) == ("warn", 95.0, "s")


# -- in words ----------------------------------------------------------------------------------------------------------


def test_the_terminal_says_the_same() -> None:
    """`sidecar status` begins with the sentence, then tells each trouble with what to do, then the facts."""
    facts, plan = troubled()
    lines = status_lines(status(facts, plan), NOW)
    assert lines[0].startswith("wrong  broken is not routed")
    assert any(line.startswith("risky  identity: 2 of 3") for line in lines)
    assert any("-> They come back" in line for line in lines)
    assert lines[1] == "       -> `sidecar why broken`; correct it in the map (`atlas show broken`)."
    assert sum("broken is not routed" in line for line in lines) == 1
    assert any(line.startswith("map       from Atlas, 95 s old; applied: revision 41 (abc.41.7)") for line in lines)
    assert any("identity     10.0.0.7:8000  ready" in line for line in lines)


def test_what_is_behind_is_told() -> None:
    """A map that is not applied yet is shown as on its way."""
    lines = status_lines(status(plan=replace(CALM, position=Position("abc", 42, 7))), NOW)
    assert any("abc.42.7 is on its way" in line for line in lines)


def test_what_is_in_the_map_cannot_steer_the_terminal() -> None:
    """Control characters of a reason arrive as a replacement."""
    plan = plan_of(service("identity", decision("10.0.0.7:8000", "out", "ruling", "red \x1b[31m\nalert")))
    told = "\n".join(service_lines(explain("identity", None, WELL, plan, NOW), {}, NOW))
    assert "\x1b" not in told
    assert "red \N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}alert" in told
