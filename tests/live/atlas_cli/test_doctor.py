"""`atlas doctor`: each finding with what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from atlas import Instance, Override, Ruling, Service, World
from atlas.model import Lease, Report, Token
from atlas.server.findings import Facts, findings
from atlas.world import Position
from tests.live.atlas_cli.runs import Runs

NOW = 1_000_000_000.0
SQLITE = {"name": "sqlite", "reads": "linearizable", "wait": "polled", "poll_seconds": 0.05, "survives": "a lot"}
STATUS: dict[str, Any] = {"catalogue": SQLITE, "presence": SQLITE, "leases": [], "secrets": 0}
FACTS = Facts("production", "https://atlas", NOW, World(), STATUS, 0.01)
DISABLED = Ruling("identity", "web-1", 8010, "disabled", at=NOW - 60)
ONE = {"identity": {"web-1:8010": Instance("identity", "web-1", 8010)}}
BROKEN = World(services={"identity": Service("identity", split="many", callers=cast(str, 5))}, instances=ONE)
AT_9 = World(Position("e", 9, 1))
SPLIT = World(services={"identity": Service("identity", split="1.4=5%", callers="odrers")}, instances=ONE)
LATE = {"id": "web-1", "ttl_seconds": 15.0, "renewed_at": NOW - 44, "overdue": True}


@pytest.mark.parametrize(
    ("facts", "level", "says"),
    [
        (replace(FACTS, seconds=2.0), "risky", "2000 ms"),
        (replace(FACTS, url="http://atlas:7070"), "risky", "unencrypted"),
        (FACTS, "risky", "sqlite: reads linearizable, changes polled every 0.05 s; survives a lot"),
        (replace(FACTS, realm="local"), "good", "sqlite: reads linearizable"),
        (replace(FACTS, status={**STATUS, "server": {"store_problem": "no answer"}}), "wrong", "serves from memory"),
        (replace(FACTS, status={**STATUS, "leases": [LATE]}), "wrong", "1 lease overdue: web-1 (44 s)"),
        (replace(FACTS, status={**STATUS, "leases": [LATE], "held_back": True}), "wrong", "none is given up"),
        (replace(FACTS, world=World(instances=ONE, rulings={DISABLED.key: DISABLED})), "wrong", "takes no calls"),
        (
            replace(FACTS, world=World(services={"teams": Service("teams")})),
            "risky",
            "registered, and no instance runs: teams",
        ),
        (
            replace(FACTS, world=World(instances=ONE)),
            "risky",
            "no entry of the service (port, owner, timeout): identity",
        ),
        (
            replace(FACTS, world=BROKEN),
            "wrong",
            "the service identity cannot be used as it is: This is no service: split",
        ),
        (
            replace(FACTS, world=World(overrides={"identiy/A": Override("identiy", "A", 1)})),
            "risky",
            "overrides for services that are not registered: identiy",
        ),
        (
            replace(FACTS, world=World(rulings={DISABLED.key: replace(DISABLED, at=NOW - 30 * 86400)})),
            "risky",
            "identity web-1:8010 is disabled since 30 days, for ever",
        ),
        (FACTS, "risky", "there is no token"),
        (
            replace(FACTS, world=AT_9, reports={"sidecar@a": Report("a", NOW, 9, epoch="e")}),
            "good",
            "1 sidecar, all at",
        ),
        (
            replace(FACTS, world=AT_9, reports={"sidecar@a": Report("a", NOW - 44, 8)}),
            "wrong",
            "a is at revision 8 of 9",
        ),
        (replace(FACTS, world=AT_9, reports={"sidecar@a": Report("a", NOW, 9, epoch="f")}), "wrong", "another map"),
        (
            replace(FACTS, reports={"sidecar@a": Report("a", NOW, holding=3)}),
            "risky",
            "a calls 3 instances that vanished",
        ),
        (
            replace(FACTS, world=World(instances=ONE), reports={"sidecar@a": Report("a", NOW)}),
            "risky",
            "1 host has no sidecar (web-1)",
        ),
        (replace(FACTS, world=SPLIT), "risky", "identity sends 5% of its callers to 1.4"),
        (replace(FACTS, world=SPLIT), "risky", "identity may be called by odrers"),
        (
            replace(FACTS, world=World(tokens={"ab": Token("ab", "reader", "wall", "x", 0.0, NOW - 5)})),
            "risky",
            "token ab of wall has expired",
        ),
        (
            replace(FACTS, world=World(tokens={"ab": Token("ab", "reader", "wall", "x", 0.0, NOW + 86400)})),
            "risky",
            "expires in 24 h",
        ),
        (replace(FACTS, status={**STATUS, "server": {}}), "good", "nobody is asked for a token"),
        (
            replace(FACTS, status={**STATUS, "secrets": 2, "can_open_secrets": False}),
            "wrong",
            "2 secrets cannot be opened",
        ),
        (
            replace(FACTS, world=World(overrides={"*/A": Override("*", "A", 1, at=NOW + 600)})),
            "risky",
            "10 min in the future",
        ),
    ],
)
def test_each_trouble_is_a_finding(facts: Facts, level: str, says: str) -> None:
    """It has its level, says what is, and unless it is good it says what to do."""
    found = next(finding for finding in findings(facts) if says in finding.says)
    assert found.level == level
    assert found.advice or level == "good"


def test_an_expired_token_may_still_be_in_use() -> None:
    """Whoever held it is cut off: the next step is another one of the same kind, and only then to revoke this one."""
    expired = World(tokens={"ab": Token("ab", "host", "web-3", "x", 0.0, NOW - 5)})
    found = next(one for one in findings(replace(FACTS, world=expired)) if "expired" in one.says)
    assert "atlas token create host web-3" in found.advice
    assert "atlas token revoke ab" in found.advice


def test_what_is_wrong_comes_first() -> None:
    """Whoever reads only the first line reads the worst."""
    levels = [finding.level for finding in findings(replace(FACTS, status={**STATUS, "leases": [LATE]}))]
    assert levels == sorted(levels, key=["wrong", "risky", "good"].index)


def test_a_healthy_map_has_nothing_to_do() -> None:
    """Everything good, no advice."""
    token = Token("ab", "operator", "anna", "x")
    world = World(
        services={"identity": Service("identity")},
        instances=ONE,
        tokens={"ab": token},
        leases={"web-1": Lease("web-1", "x")},
    )
    calm = {**SQLITE, "name": "zookeeper"}
    found = findings(replace(FACTS, world=world, status={**STATUS, "catalogue": calm, "presence": calm}))
    assert {finding.level for finding in found} == {"good"}


def test_doctor_over_a_real_map(filled: Runs) -> None:
    """0 when nothing is wrong, 1 when something is; --json for programs."""
    assert filled("doctor").exit_code == 0
    filled.ok("disable", "teams", "web-1:8011", "--force")
    result = filled("doctor")
    assert result.exit_code == 1
    assert result.stdout.startswith("wrong  services")
    assert "-> atlas show teams" in result.stdout


def test_a_map_that_cannot_be_reached_is_a_finding(filled: Runs) -> None:
    """No traceback: what is wrong, and that services go on."""
    result = filled("doctor", "--atlas", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert result.stdout.startswith("wrong  reach")
    assert "127.0.0.1:9" in result.stdout
