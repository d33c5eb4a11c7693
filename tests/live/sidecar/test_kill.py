"""Instances that are killed with all their processes, without a word, while two hosts call them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.hosts import hosts
from tests.kills import Kills
from tests.sidecar_realm import SidecarRealm

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
        assert kills.good("GET") > 100
        assert kills.good("POST") > 100
