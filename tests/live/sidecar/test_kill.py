"""Instances that are killed with all their processes, without a word, while two hosts call them."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.hosts import hosts
from tests.kills import Kills
from tests.processes import wait_until
from tests.sidecar_realm import DoorLoad, SidecarRealm

pytestmark = pytest.mark.needs("haproxy")


def test_a_killed_instance_takes_no_more_along_than_it_was_working_on() -> None:
    """Three times kill -9: no GET is lost, and no POST but those that were on their way there. Only the half of an answer that
    the instance had sent when it died cannot be made good by anybody."""
    with (
        TemporaryDirectory(prefix="k") as folder,
        hosts(apart=False) as network,
        SidecarRealm(Path(folder), network, f"sqlite:///{folder}/map.db") as realm,
    ):
        for name in ("a", "b"):
            realm.host(name).start_sidecar()
        kills = Kills(realm)
        kills.begin()
        with kills.loads():
            for _ in range(3):
                kills.kill_one()
        assert [told for told in kills.lost("GET") if "IncompleteRead" not in told] == []
        assert kills.elsewhere(kills.lost("POST")) == []
        assert kills.good("GET") > 50
        assert kills.good("POST") > 50


def test_a_haproxy_without_its_agent_finds_instances_again_that_are_restarted() -> None:
    """Nobody tells it of drains, and of instances that are back. Both of a service restart, the second when the first is called
    again: no GET is lost, and no call for want of an instance. (A POST that an instance has taken when it closes its door cannot
    be sent again.)"""
    with (
        TemporaryDirectory(prefix="k") as folder,
        hosts(apart=False) as network,
        SidecarRealm(Path(folder), network, f"sqlite:///{folder}/map.db") as realm,
    ):
        steady, orphaned = realm.host("a"), realm.host("b")
        for host in (steady, orphaned):
            host.start_sidecar()
        for _ in range(2):
            steady.start_service("identity", supervised=True, DRAIN_SECONDS="0.5")
        agent, orphaned.agent = orphaned.agent, None
        assert agent is not None
        agent.stop(how=signal.SIGKILL)
        with DoorLoad(orphaned, "identity") as load:
            load.wait_for(50)
            for pid_file in sorted(steady.folder.glob("identity-*.pid")):
                before = pid_file.read_text()
                os.kill(int(before), signal.SIGTERM)
                wait_until(partial(is_replaced, pid_file, before), what="a new process")
                load.ports.clear()
                wait_until(lambda: len(load.ports) == 2, what="calls to both of them")
        assert load.lost_of("GET") == []
        assert [told for told in load.lost if " 503 " in told] == []


def is_replaced(pid_file: Path, before: str) -> bool:
    """Whether another process has written its pid there."""
    return pid_file.exists() and pid_file.read_text() not in ("", before)
