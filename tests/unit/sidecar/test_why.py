"""The explanation names who decided, since when, and what to do about a name that nobody knows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest

from sidecar.facts import DoubtedServer, EjectedServer, Facts, OwnInstance
from sidecar.model import Plan, Reason, Side, Standing
from sidecar.why import DECIDED_BY, NEXT, STANDING, explain, instance_says, why_lines
from tests.unit.sidecar.scene import CALM, HERE, NOW, WELL, decision, guarded, plan_of, service, troubled


def why(name: str, address: str | None = None, facts: Facts = WELL, plan: Plan = CALM) -> dict[str, Any]:
    document = explain(name, address, facts, plan, NOW)
    assert json.loads(json.dumps(document)) == document
    return document


def test_every_reason_and_standing_has_words() -> None:
    """No decision of the plan is told by a bare key."""
    assert set(DECIDED_BY) == set(get_args(Reason))
    assert set(STANDING) == set(get_args(Standing))


def test_a_service_that_is_well() -> None:
    """How many take calls, how long a call may take, up to which revision HAProxy has it."""
    document = why("identity")
    assert document["says"] == "identity is routed to 2 instances: 2 in."
    assert any("10 s" in fact for fact in document["facts"])
    assert any("as of revision 41, applied since" in fact for fact in document["facts"])


def test_an_operators_word_is_told_with_its_revision() -> None:
    """Who decided, at which revision, since when, and the reason given."""
    facts, plan = troubled()
    says = why("teams", "10.0.0.5:7000", facts, plan)["says"]
    assert says.startswith("10.0.0.5:7000 takes no calls since ")
    assert "(15 min), decided by an operator's word at revision 40: bert disabled it: loses requests." in says


def test_what_takes_no_calls_leads_to_the_next_step() -> None:
    """By its reason: what an operator has said is taken back by a command, what a check has found is looked at on its host."""
    facts, plan = troubled()
    step = "`atlas enable teams 10.0.0.5:7000` gives it calls again, for every host."
    assert step in why("teams", "10.0.0.5:7000", facts, plan)["facts"]
    assert step in why("teams", None, facts, plan)["facts"]
    failing = plan_of(service("teams", decision("10.0.0.5:7000", "out", "check", "It is not ready.")))
    assert "It is on this host: its log, and `curl` its health address." in why("teams", plan=failing)["facts"]
    assert not any("atlas enable" in fact for fact in why("identity")["facts"])
    assert set(NEXT) < set(get_args(Reason))


@pytest.mark.parametrize("asked", ["10.0.0.7:8000", "10.0.0.7", "8000"])
def test_an_instance_may_be_named_by_a_part(asked: str) -> None:
    """Its address, its host or its port."""
    plan = plan_of(service("identity", decision("10.0.0.7:8000"), decision("10.0.0.8:8001")))
    found = why("identity", asked, plan=plan)
    assert [one["address"] for one in found["instances"]] == ["10.0.0.7:8000"]


def test_a_host_of_ipv6_is_named_without_brackets() -> None:
    """`fd00::7` finds `[fd00::7]:8000`."""
    plan = plan_of((service("identity")[0], {"[fd00::7]:8000": decision("[fd00::7]:8000")}))
    assert why("identity", "fd00::7", plan=plan)["known"]


def test_unknown_names_are_explained_with_the_near_ones() -> None:
    """A service or an instance that is not there: what its callers get, and what may have been meant."""
    document = why("identiy")
    assert document["known"] is False
    assert document["near"] == ["identity"]
    assert "calls are answered 404; did you mean identity?" in document["says"]
    assert "did you mean 10.0.0.7:8000" in why("identity", "10.0.0.7:8001")["says"]
    assert why("zzz")["says"].endswith("`atlas ls` shows what is there.")
    assert "there is no map yet" in why("identity", facts=replace(WELL, map_from="none"), plan=Plan())["says"]


def test_an_own_instance_that_is_not_in_the_map_is_explained_by_its_check() -> None:
    """What is announced here and not ready is told with the reason that its check gives."""
    own = OwnInstance("orders", "10.0.0.7:9000", "not ready", "the connection was refused", NOW - 9)
    facts = replace(WELL, own=(own,))
    assert (
        "10.0.0.7:9000 is announced on this host, and is not ready: the connection was refused."
        in why("orders", facts=facts)["says"]
    )
    elsewhere = replace(facts, own=(replace(own, service="identity"),))
    assert "announced on this host" in why("identity", "9000", facts=elsewhere)["says"]


def test_an_own_instance_that_is_out_is_explained_by_its_check() -> None:
    """The map says only that it drains; the sidecar of its own host knows why."""
    own = OwnInstance("identity", "10.0.0.7:8000", "not ready", "its process has ended", NOW - 9)
    plan = plan_of(service("identity", decision("10.0.0.7:8000", "draining", "drain", "It is about to stop.")))
    facts = why("identity", "8000", replace(WELL, own=(own,)), plan)["facts"]
    assert facts[0] == "10.0.0.7:8000 is announced on this host, and is not ready: its process has ended."


def test_an_atlas_that_is_away_is_told() -> None:
    """Whoever asks about one service learns that what he reads may be old."""
    facts = why("identity", facts=replace(WELL, map_age_seconds=12.0, map_failure="nobody answers"))["facts"]
    assert "The map is 12 s old, since none comes: nobody answers" in facts


def test_a_guard_is_explained() -> None:
    """What it holds, since when, and how to let go."""
    document = why("identity", plan=guarded())
    assert document["says"] == "identity is routed to 3 instances: 1 in, 2 held."
    assert "2 of 3 instances vanished" in document["facts"][0]
    assert "sidecar accept identity" in document["facts"][1]


def test_an_ejection_is_explained() -> None:
    """HAProxy decided, since when, and when it is tried again."""
    ejected = EjectedServer("billing", "10.0.0.7:8080", NOW - 4, NOW + 6, "Layer7 wrong status")
    document = why("billing", "8080", replace(WELL, ejected=(ejected,)))
    assert (
        "decided by HAProxy, which saw too many bad answers: Layer7 wrong status. It is tried again at"
        in document["says"]
    )


def test_an_instance_that_goes_in_and_out_is_explained() -> None:
    """It takes calls just now; that it was ejected of late, how often and why stands beside that."""
    doubted = (DoubtedServer("identity", "10.0.0.8:8000", NOW - 1, 3, "Layer4 timeout"),)
    told = why("identity", facts=replace(WELL, doubted=doubted))["facts"]
    assert any(
        "10.0.0.8:8000 is called again" in one and "ejected 3 times of late: Layer4 timeout" in one for one in told
    )


def test_no_call_is_told_as_503() -> None:
    """Whether there is no instance, or none that takes calls."""
    facts, plan = troubled()
    assert (
        why("teams", None, facts, plan)["says"]
        == "teams takes no calls, which are answered 503: its only instance is out."
    )
    assert "answered 503 until one comes" in why("new", plan=plan_of(service("new")))["says"]
    assert "quarantined" in why("broken", None, facts, plan)["says"]


def test_splits_and_callers_are_told() -> None:
    """Which buckets go where, and who may call."""
    route, decisions = service("identity", decision("10.0.0.7:8000"), callers=("orders",))
    plan = plan_of((replace(route, sides=(Side(500, route.servers),), repeatable=False), decisions))
    facts = "\n".join(why("identity", plan=plan)["facts"])
    assert "buckets 0 to 499 (5 %) go to side 1, 1 instance" in facts
    assert "Only orders may call it" in facts
    assert "repeats nothing" in facts


def test_what_is_not_applied_yet_is_told() -> None:
    """HAProxy may be behind the plan: the explanation is of the plan, and says so."""
    plan = replace(CALM, position=replace(HERE, revision=42))
    document = why("identity", facts=replace(WELL, pending="a reload is under way"), plan=plan)
    assert document["applied"] is False
    assert "abc.42.7 is on its way: a reload is under way." in document["facts"][-1]


def test_the_lines_for_a_terminal() -> None:
    """The sentence, an instance a line, then the facts."""
    lines = why_lines(why("identity"), NOW)
    assert lines[0] == "identity is routed to 2 instances: 2 in."
    assert lines[1].startswith("  10.0.0.7:8000 takes calls since ")
    assert lines[1].endswith("decided by the map")
    assert lines[3].startswith("  - ")
    assert len(why_lines(why("identity", "8000", plan=guarded()), NOW)) > 1


def test_a_server_that_does_not_answer_is_told() -> None:
    """The plan calls it and HAProxy finds it down: both are said."""
    facts = replace(WELL, conditions={"identity": {"10.0.0.7:8000": "down"}})
    (one,) = why("identity", "10.0.0.7", facts)["instances"]
    assert "HAProxy finds that it does not answer now." in instance_says(one, NOW)
