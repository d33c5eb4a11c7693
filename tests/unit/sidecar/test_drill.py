"""What a drill plans, how it judges, and that it undoes what it does: without a process."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.drill.discovery import atlas_hosts
from sidecar.drill.expectations import FAULTS, RULES
from sidecar.drill.judge import Course, judge, longest_gap
from sidecar.drill.load import Call, lost_why
from sidecar.drill.own import planned as planned_own
from sidecar.drill.plan import Wish, make_plan
from sidecar.drill.report import answer, plan_document, plan_text, report_document, report_text
from sidecar.drill.scene import Served
from sidecar.drill.watch import conditions_of, instances_of
from smartrealm.errors import ConfigurationError, Unavailable
from tests.unit.sidecar.drilling import HOST, IDENTITY, FakeRealm, judged, names, planned, scene_with, steady, step

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "faults.md"


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_the_host_is_drilled_first_and_its_instances_in_turn() -> None:
    """Each fault happens once to each part of the host, and to one instance of each service, another one each time."""
    found = names(planned())
    assert found[:3] == ["freeze agent", "slow agent", "disk-full agent"]
    assert [name for name in found if "identity" in name] == [
        f"freeze identity {IDENTITY[0]}",
        f"slow identity {IDENTITY[1]}",
        f"disk-full identity {IDENTITY[0]}",
        f"crash identity {IDENTITY[1]}",
        f"kill identity {IDENTITY[0]}",
        f"flap identity {IDENTITY[1]}",
    ]


def test_with_every_each_instance_has_each_fault() -> None:
    """--every drills one by one what else is drilled in turn."""
    found = names(planned(every=True))
    assert sum("identity" in name for name in found) == 12


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({"only": ("kill",)}, ["kill agent", "kill haproxy", f"kill identity {IDENTITY[0]}"]),
        ({"only": ("kill:agent",)}, ["kill agent"]),
        ({"only": ("kill:identity",)}, [f"kill identity {IDENTITY[0]}"]),
        ({"only": (f"kill:{IDENTITY[1]}",)}, [f"kill identity {IDENTITY[1]}"]),
        ({"only": ("flap", "kill"), "skip": ("kill",)}, [f"flap identity {IDENTITY[0]}"]),
    ],
)
def test_faults_are_chosen(wish: dict[str, Any], expected: list[str]) -> None:
    """--only and --skip take a fault, or a fault and whom it is for: a kind, a service, an address."""
    assert names(planned(**wish)) == expected


def test_nothing_is_killed_that_nobody_starts_again() -> None:
    """It is left out with the reason, unless the user says that something does."""
    scene = scene_with("agent", restarted_by="")
    plan = planned(scene)
    assert "kill agent" not in names(plan)
    assert "starts it again" in dict(plan.left_out)["kill agent"]
    assert "kill agent" in names(planned(scene, restarts=True))


def test_other_hosts_are_left_alone() -> None:
    """Nothing happens to what is not on this host; with --remote no more than Atlas can do, and never a signal."""
    plan = planned()
    assert not [one for one in plan.steps if not one.target.is_local]
    assert "another host" in dict(plan.left_out)["flap identity 10.0.0.8:8000"]
    remote = [one for one in planned(remote=True).steps if not one.target.is_local]
    assert [one.name for one in remote] == ["flap identity 10.0.0.8:8000"]


def test_what_belongs_to_somebody_else_is_left_out() -> None:
    """A process of another user, or one that SIGXFSZ would end, is told with the reason."""
    plan = planned(scene_with(f"identity {IDENTITY[0]}", why_not="its process belongs to another user"), every=True)
    assert not [name for name in names(plan) if IDENTITY[0] in name]
    assert dict(plan.left_out)[f"freeze identity {IDENTITY[0]}"] == "its process belongs to another user"
    found = dict(planned(scene_with("agent", takes_full_disk=False)).left_out)
    assert "SIGXFSZ" in found["disk-full agent"]


def test_wipe_and_cut_are_for_realms_of_the_drills_own() -> None:
    """No map of a user is emptied; a wire is cut only with root, or where the drill has laid it."""
    plan = planned()
    assert "wipe atlas 10.0.0.9:80" not in names(plan)
    assert "--own" in dict(plan.left_out)["wipe atlas 10.0.0.9:80"]
    assert "partition agent" not in names(planned(scene_with("agent", hosts=("10.0.0.9",))))
    assert "partition agent" in names(planned(replace(scene_with("agent", hosts=("10.0.0.9",)), root=True)))
    assert {"wipe atlas", "partition agent"} <= set(names(make_plan(planned_own(), Wish())))


@pytest.mark.parametrize("realm", ["production", "prod", "live", "Production"])
def test_production_is_refused(realm: str) -> None:
    """A realm that sounds like production is drilled only when its name was typed."""
    scene = replace(HOST, realm=realm)
    with pytest.raises(ConfigurationError, match="--realm-is-mine"):
        planned(scene)
    with pytest.raises(ConfigurationError):
        planned(scene, mine="staging")
    assert planned(scene, mine=realm).steps


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"seconds": 61.0}, "--seconds"),
        ({"seconds": 0.0}, "--seconds"),
        ({"rate": 1e6}, "--rate"),
        ({"only": ("frezee",)}, "frezee"),
        ({"services": ("idenity",)}, "idenity"),
    ],
)
def test_wrong_wishes_are_refused(wish: dict[str, Any], said: str) -> None:
    """Each names what was asked, before anything is done."""
    with pytest.raises(ConfigurationError, match=said):
        planned(**wish)


def test_a_freeze_ends_before_the_timeout_of_the_service() -> None:
    """Else calls would be given up for another reason than the fault; other faults last as long as was asked."""
    scene = replace(HOST, services={"identity": Served("identity", 2, "/", timeout_ms=3000)})
    plan = planned(scene, seconds=10.0)
    lengths = {one.name: one.seconds for one in plan.steps}
    assert lengths[f"freeze identity {IDENTITY[0]}"] == pytest.approx(2.1)
    assert lengths["freeze agent"] == 10.0


def test_services_that_may_not_be_called_are_left_out() -> None:
    """With the reason; and without any service there is nothing to lose."""
    services = {**HOST.services, "secret": Served("secret", 2, "/", refused="it may be called by vault only")}
    plan = planned(replace(HOST, services=services))
    assert "secret" not in plan.traffic.paths
    assert dict(plan.left_out)["calls to secret"] == "it may be called by vault only"
    with pytest.raises(ConfigurationError, match="nothing to drill"):
        planned(replace(HOST, services={}))


def test_every_fault_has_an_expectation_and_a_place_in_the_reference() -> None:
    """What is done to whom, and what is expected, stands in the reference."""
    text = REFERENCE.read_text()
    for fault, kind in RULES:
        assert fault in FAULTS
        assert re.search(rf"^\| `{fault}` \| {kind} \|", text, re.MULTILINE), (fault, kind)


# -- the verdict -------------------------------------------------------------------------------------------------------


def test_nothing_lost_is_held() -> None:
    """With a word on how long it took until everything was as before."""
    row = judged(step("freeze", "agent"), *steady())
    assert (row.verdict, row.lost_get, row.lost_post, row.recovered_ms, row.advice) == ("held", 0, 0, 1000, "")


def test_one_lost_get_is_a_loss() -> None:
    """Where none is to be lost, with what became of it and what to do."""
    row = judged(step("freeze", "agent"), *steady(), Call(12.0, 12.1, "identity", "GET", "answered 503"))
    assert (row.verdict, row.lost_get) == ("LOST", 1)
    assert row.examples == ("GET identity: answered 503",)
    assert row.advice


def test_what_was_under_way_in_a_killed_instance_may_be_lost_once() -> None:
    """POST: as many as there are that post. GET: none."""
    lost = [Call(11.0, 11.1, "identity", "POST", "answered 502")] * 2
    kill = step("kill", f"identity {IDENTITY[0]}")
    assert judged(kill, *steady(), *lost, posters=2).verdict == "as told"
    assert judged(kill, *steady(), *lost, posters=1).verdict == "LOST"


def test_an_only_instance_is_told_apart() -> None:
    """The advice is a second instance, and not a search for a mistake."""
    services = {"identity": Served("identity", 1, "/")}
    one = planned(replace(HOST, services=services), only=("kill:identity",)).steps[0]
    row = judged(one, *steady(), Call(12.0, 12.1, "identity", "GET", "answered 503"))
    assert row.verdict == "LOST"
    assert "second instance" in row.advice
    assert "the only one" in one.expects


def test_haproxy_may_be_away_for_a_moment() -> None:
    """Its death costs calls until it is back; longer than that is a loss."""
    kill = step("kill", "haproxy")
    refused = Call(10.1, 10.1, "identity", "GET", "ConnectionRefusedError")
    assert judged(kill, *steady(without=(10.0, 12.0)), refused).verdict == "as told"
    row = judged(kill, *steady(without=(10.0, 15.8)), refused)
    assert row.verdict == "LOST"
    assert "identity gave no answer" in row.says


def test_calls_that_wait_for_a_frozen_haproxy_are_no_gap() -> None:
    """The fault itself holds up everybody, as long as it lasts."""
    assert judged(step("freeze", "haproxy"), *steady(without=(10.0, 15.1))).verdict == "held"
    assert judged(step("freeze", "agent"), *steady(without=(10.0, 15.1))).verdict == "LOST"


def test_what_does_not_come_back_is_told() -> None:
    """With what is missing, although no call was lost."""
    row = judged(step("kill", "haproxy"), *steady(), recovered=None)
    assert (row.verdict, row.recovered_ms) == ("not back", None)
    assert row.says == "HAProxy: it does not run"


def test_what_is_taken_out_while_atlas_is_away_is_a_loss() -> None:
    """Although the others answered every call: it may be the last one next time."""
    freeze = step("freeze", "atlas 10.0.0.9:80", scene=scene_with("atlas 10.0.0.9:80", is_local=True, pid=12))
    course = Course(10.0, 15.0, 16.0, 16.0, taken={"identity 10.0.0.8:8000": "It is not in the map."})
    row = judge(freeze, course, tuple(steady()))
    assert row.verdict == "LOST"
    assert row.says == "taken out: identity 10.0.0.8:8000 (It is not in the map)"
    assert judge(step("freeze", "agent"), course, tuple(steady())).verdict == "held"


def test_what_the_guard_holds_is_not_taken_out() -> None:
    """It is called; yet all is as before only when the map has it again."""
    realm = FakeRealm(planned(scene_with("atlas 10.0.0.9:80", is_local=True, pid=12), only=("freeze:atlas",)))
    realm.on_fault = lambda: realm.down.update({"identity 10.0.0.7:8000": "held: it vanished"})
    realm.drill.run()
    (row,) = realm.drill.rows
    assert (row.verdict, row.says) == ("not back", "identity 10.0.0.7:8000: held: it vanished")
    realm = FakeRealm(planned(scene_with("atlas 10.0.0.9:80", is_local=True, pid=12), only=("freeze:atlas",)))
    realm.on_fault = lambda: realm.down.update({"identity 10.0.0.7:8000": "it is not in the map"})
    realm.drill.run()
    assert realm.drill.rows[0].verdict == "LOST"


def test_calls_before_and_after_do_not_count() -> None:
    """A call belongs to the fault in which it began."""
    row = judged(step("freeze", "agent"), *steady(), Call(9.9, 12.0, "identity", "GET", "lost"))
    assert row.verdict == "held"


def test_the_gap_is_that_of_the_worst_service() -> None:
    """A service that gives no answer is not hidden by another one that does."""
    quiet = [Call(10.0, 10.1, "orders", "GET"), Call(10.2, 14.0, "orders", "GET")]
    gap, service = longest_gap([*steady(), *quiet], 10.0, 15.0)
    assert (round(gap, 1), service) == (3.9, "orders")


@pytest.mark.parametrize(
    ("status", "sidecar", "lost"),
    [(200, "", False), (404, "", False), (503, "", True), (404, "unknown", True), (401, "unauthorized", True)],
)
def test_what_counts_as_lost(status: int, sidecar: str, lost: bool) -> None:
    """No answer below 500 of the service itself; every one of the sidecar."""
    assert bool(lost_why(status, sidecar)) is lost


# -- doing it ----------------------------------------------------------------------------------------------------------


def test_each_fault_is_undone_and_recovery_is_waited_for() -> None:
    """One after the other; the realm is as before when the next one begins."""
    realm = FakeRealm(planned(only=("freeze",)))
    realm.drill.run()
    assert realm.held == ["begun", "undone"] * 3
    assert [row.verdict for row in realm.drill.rows] == ["held"] * 3
    assert realm.drill.held
    assert any("3 calls" in line or "calls" in line for line in realm.said)


def test_a_broken_realm_is_not_drilled() -> None:
    """Calls that are lost before anything has happened end it, with an example."""
    realm = FakeRealm(planned(only=("freeze",)))
    realm.lose = "answered 503"
    with pytest.raises(ConfigurationError, match=r"answered 503.*sidecar why identity"):
        realm.drill.run()
    assert realm.held == []


def test_a_drill_that_is_broken_off_has_undone() -> None:
    """Ctrl-C in the middle of a fault: it is undone, and what is known so far can be told."""
    realm = FakeRealm(planned(only=("freeze",)))

    def interrupt() -> None:
        if realm.held.count("begun") == 2:
            raise KeyboardInterrupt

    realm.on_fault = interrupt
    with pytest.raises(KeyboardInterrupt):
        realm.drill.run()
    assert realm.held == ["begun", "undone"] * 2
    assert len(realm.drill.rows) == 1


def test_a_fault_that_cannot_begin_is_told_and_the_rest_goes_on() -> None:
    """It is neither held nor lost, and the drill as a whole has not held."""
    realm = FakeRealm(planned(only=("freeze",)))

    def refuse() -> None:
        if realm.held == ["begun"]:
            raise Unavailable("nobody is there")

    realm.on_fault = refuse
    realm.drill.run()
    assert [row.verdict for row in realm.drill.rows] == ["not done", "held", "held"]
    assert not realm.drill.held


def test_a_realm_that_does_not_recover_is_left_alone() -> None:
    """What is left of the plan is not done to it, and is told."""
    realm = FakeRealm(planned(only=("freeze",)))
    realm.on_fault = lambda: realm.down.update({"HAProxy": "it does not run"})
    realm.drill.run()
    assert [row.verdict for row in realm.drill.rows] == ["not back"]
    assert [what for what, _ in realm.drill.not_done] == ["freeze haproxy", f"freeze identity {IDENTITY[0]}"]


def test_the_whole_is_bounded_in_time() -> None:
    """After --for no fault begins any more."""
    realm = FakeRealm(planned(only=("freeze",), total=6.0))
    realm.drill.run()
    assert len(realm.drill.rows) == 1
    assert len(realm.drill.not_done) == 2


# -- telling it --------------------------------------------------------------------------------------------------------


def test_the_plan_says_what_how_long_and_how_it_is_undone() -> None:
    """For people and for programs the same."""
    plan = planned()
    text = "\n".join(plan_text(plan))
    document = plan_document(plan)
    for one in document["faults"]:
        assert f"{one['fault']} {one['target']}" in text
        assert one["expects"] in text
        assert one["undone"] in text
    assert "GET /healthcheck/ready of identity" in text
    assert "started again by systemd (identity.service)" in text
    assert {one["what"] for one in document["left_out"]} == {what for what, _ in plan.left_out}


def test_the_report_answers_the_question() -> None:
    """Whether the realm survives; which part does not, and what to change."""
    good = judged(step("freeze", "agent"), *steady())
    bad = judged(step("slow", "agent"), *steady(), Call(12.0, 12.1, "identity", "GET", "answered 503"))
    assert answer([good]).startswith("It survives all of it: 1 fault")
    *_, broken_off = report_text([good], complete=False)
    assert broken_off.startswith("It survives all that was done: 1 fault")
    assert report_document([good], [("kill agent", "--for 6 was over")], complete=True)["says"] == broken_off
    text = "\n".join(report_text([good, bad], [("kill agent", "--for 6 was over")]))
    assert "It does not survive 1 of 2 faults: slow agent" in text
    assert bad.advice in text
    assert "Not done: kill agent: --for 6 was over." in text
    document = report_document([good, bad], [], complete=True)
    assert document["held"] is False
    assert [one["verdict"] for one in document["faults"]] == ["held", "LOST"]


# -- looking -----------------------------------------------------------------------------------------------------------


def test_a_waiting_instance_says_why() -> None:
    """What its own host's checks hold against it is told before what the route says."""
    own = {"service": "identity", "address": IDENTITY[0], "state": "recovering", "reason": "must be ready for 8 s"}
    route = {
        "service": "identity",
        "instances": [
            {"address": IDENTITY[0], "standing": "in", "says": ""},
            {"address": IDENTITY[1], "standing": "out", "says": "It was ejected."},
        ],
    }
    assert instances_of(route, {"own": [own]}) == {
        f"identity {IDENTITY[0]}": "recovering: must be ready for 8 s",
        f"identity {IDENTITY[1]}": "It was ejected.",
    }


def test_a_map_from_the_disk_is_not_as_before() -> None:
    """An agent that came back is well again only when Atlas has answered it."""
    status = {
        "proxy": {"running": True, "failure": ""},
        "map": {"from": "disk", "failure": None},
        "lease_failure": None,
    }
    assert conditions_of(status)["the map"]


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("http://a,b:81", [("a", 80), ("b", 81)]),
        ("https://user:secret@a:8443/x", [("a", 8443)]),
        ("http://[::1]:8080", [("::1", 8080)]),
        ("sqlite:///x.db", []),
        ("", []),
    ],
)
def test_replicas_of_atlas_are_known_from_the_url(url: str, hosts: list[tuple[str, int]]) -> None:
    """Host and port of each; none where a store is read."""
    assert atlas_hosts(url) == hosts
