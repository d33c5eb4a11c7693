"""A service, its sidecar, the map, the other host's sidecar, a caller: nothing is configured, and the parts fit together."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import atlas
from tests.hosts import hosts
from tests.processes import Child, wait_until
from tests.sidecar_realm import DoorLoad, SidecarHost, SidecarRealm

pytestmark = pytest.mark.needs("haproxy")

FRONT = """
import smartclient
from flask import request
from smartservice import create_app

SERVICE_NAME = "{name}"
app = create_app(__name__)

@app.route("/work", methods=["GET", "POST"])
def work():
    answer = smartclient.request(request.method, "service://identity/work")
    answer.raise_for_status()
    return {{"port": answer.json()["port"], "through": answer.attempts[-1].instance, "bucket": answer.request.headers["Smart-Bucket"]}}
"""
"""Calls `identity` for everybody who calls it."""


class Place:
    """Two hosts with a sidecar each: `identity` runs on both, `front` calls it from the first."""

    def __init__(self, realm: SidecarRealm) -> None:
        self.realm = realm
        self.near, self.far = realm.host("a"), realm.host("b")
        for host in (self.near, self.far):
            host.start_sidecar()
        self.here = self.near.start_service("identity", wait=False)
        self.there = self.far.start_service("identity", wait=False)
        self.front = self.near.start_service("front", FRONT, wait=False, DRAIN_SECONDS=0)
        for name, child in (("identity", self.here), ("identity", self.there), ("front", self.front)):
            realm.wait_called(name, realm.addresses[child.pid])

    def lease_of(self, child: Child) -> str:
        """Whose lease carries an instance; empty: it is not in the map."""
        with atlas.open(self.realm.atlas_url) as directory:
            found = directory.world().instances.get("identity", {}).get(self.realm.addresses[child.pid])
        return found.lease if found else ""


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with (
        TemporaryDirectory(prefix="c") as folder,
        hosts() as network,
        SidecarRealm(Path(folder), network, f"sqlite:///{folder}/map.db") as realm,
    ):
        yield Place(realm)


def answer_of(host: SidecarHost) -> str:
    status, body = host.call("front")
    assert status == 200, body
    return body.decode()


def test_a_service_calls_through_the_sidecar_of_its_host_without_being_told(place: Place) -> None:
    """No SIDECAR_URL, no REGISTER: the folder of the host is enough for both."""
    wait_until(lambda: f":{place.near.port}" in answer_of(place.near), what="a call through the sidecar")
    for child in (place.here, place.there):
        assert place.lease_of(child).startswith("sidecar@")


def test_a_drain_reaches_every_caller_at_once_and_loses_nothing(place: Place) -> None:
    """SIGTERM: file, agent, map and the HAProxy of the other host; new calls stop while the instance still serves."""
    gone = int(place.realm.addresses[place.there.pid].rpartition(":")[2])
    with DoorLoad(place.near, "identity", pause=0.002) as direct, DoorLoad(place.near, "front") as load:
        load.wait_for(50)
        assert gone in direct.ports
        place.there.signal(signal.SIGTERM)
        begun = time.monotonic()
        wait_until(
            lambda: place.realm.standing(place.near, "identity", place.realm.addresses[place.there.pid]) == "draining",
            what="the drain at the other host",
        )
        seconds = time.monotonic() - begun
        direct.wait_for(10)
        before = direct.ports[gone]
        direct.wait_for(100)
        assert place.there.process.poll() is None  # it serves on
        place.there.process.wait(60)
        load.wait_for(20)
    assert seconds < 5  # 0.1 on an idle machine
    assert direct.ports[gone] - before <= 4  # of each client the call that was under way
    assert load.lost + direct.lost == []


def test_while_the_agent_is_away_the_instance_stays_in_the_map(place: Place) -> None:
    """It takes its place there itself after some seconds, calls go on, and it gives it back to the next agent."""
    assert place.near.agent is not None
    with DoorLoad(place.near, "front") as load:
        place.near.agent.stop(how=signal.SIGKILL)
        place.near.agent = None
        wait_until(lambda: place.lease_of(place.here).startswith("identity@"), what="its own lease")
        place.near.start_sidecar()
        wait_until(lambda: place.lease_of(place.here).startswith("sidecar@"), what="the lease of the host")
        with atlas.open(place.realm.atlas_url) as directory:
            wait_until(lambda: not [one for one in directory.world().leases if one.startswith("identity@")])
        load.wait_for(20)
    assert load.lost == []


SCRIPT = """
import time, smartclient
last, end = "", time.monotonic() + 30
while time.monotonic() < end:
    method = "get"
    try:
        answer = smartclient.request(method, "service://identity/work")
        answer.raise_for_status()
        way = "sidecar" if answer.attempts[-1].instance.endswith(":%s") else "direct"
    except smartclient.RequestException as error:
        way = f"lost {error}"
    if way != last:
        print(way, flush=True)
        last = way
    time.sleep(0.002)
"""
"""Any program of the host: it says by which way its calls go, whenever that changes."""


def test_calls_go_around_a_haproxy_that_is_gone(place: Place) -> None:
    """A script that has the map goes by it as soon as HAProxy takes no connections, and returns when the agent has started
    another one; it was configured for neither."""
    output = place.near.folder / "script.log"
    command = [sys.executable, "-c", SCRIPT % place.near.port]
    script = place.near.host.run(command, output=output, env=place.near.environ(), cwd=place.near.folder)

    def ways() -> list[str]:
        return [line for line in output.read_text().splitlines() if not line.startswith("the sidecar at")]

    try:
        wait_until(lambda: ways() == ["sidecar"], what="calls through the sidecar")
        place.near.kill_proxy()
        wait_until(lambda: ways() == ["sidecar", "direct", "sidecar"], what="calls the way around and back")
        assert output.read_text().count("takes no connections") == 1
    finally:
        script.stop(how=signal.SIGKILL)
