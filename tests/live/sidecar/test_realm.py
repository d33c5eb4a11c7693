"""A small realm: Atlas twice over ZooKeeper, three hosts with a sidecar each, two services with three instances each, a program
that is no Python, and a steady load. Whatever happens to it, no request is lost."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.hosts import hosts
from tests.processes import Child, free_port, wait_until
from tests.servers import require
from tests.sidecar_realm import BIN, AtlasHost, DoorLoad, SidecarHost, SidecarRealm

pytestmark = [pytest.mark.needs("haproxy"), pytest.mark.needs("java"), pytest.mark.needs("zookeeper")]


class Town:
    """The realm of this file."""

    def __init__(self, realm: SidecarRealm, atlas: AtlasHost) -> None:
        self.realm, self.atlas = realm, atlas
        self.hosts: list[SidecarHost] = []
        self.identity: list[Child] = []
        self.orders: list[Child] = []

    def build(self) -> Town:
        for name in ("identity", "orders", "plain"):
            self.atlas.command("service", "add", name, "--owner", "town")
        self.hosts = [self.realm.host(f"h{number}") for number in (1, 2, 3)]
        for host in self.hosts:
            host.start_sidecar()
        for host in self.hosts:
            for name, table in (("identity", self.identity), ("orders", self.orders)):
                table.append(host.start_service(name, supervised=True, wait=False, DRAIN_SECONDS="0.5"))
        for child in (*self.identity, *self.orders):
            service = "identity" if child in self.identity else "orders"
            self.realm.wait_called(service, self.realm.addresses[child.pid])
        return self

    def address(self, child: Child) -> str:
        return self.realm.addresses[child.pid]


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with TemporaryDirectory(prefix="t") as folder, hosts() as network:
        atlas = AtlasHost(Path(folder) / "atlas", network.host("atlas"))
        try:
            atlas.start()
            with SidecarRealm(Path(folder), network, atlas.url, tokens=atlas.token) as realm:
                yield Town(realm, atlas).build()
        finally:
            atlas.kill()


def test_every_host_calls_every_instance(town: Town) -> None:
    """From each host calls by name reach each of the three instances, and none is refused."""
    for host in town.hosts:
        with DoorLoad(host, "identity", pause=0) as load:
            load.wait_for(60)
        assert load.lost == []
        assert len(load.ports) == 3


def test_a_program_that_is_no_python_takes_part(town: Town) -> None:
    """Any program that speaks HTTP is registered with one command, called by name from everywhere, and leaves with another."""
    host, caller = town.hosts[0], town.hosts[2]
    port = free_port()
    config = host.folder / "plain.cfg"
    config.write_text(
        f"defaults\n mode http\n timeout client 5s\nfrontend plain\n bind {host.address}:{port}\n"
        ' http-request return status 200 content-type text/plain string "no python here"\n'
    )
    program = host.host.run([require("haproxy"), "-f", str(config)], output=host.folder / "plain.log")
    town.realm.children.append(program)
    words = [str(BIN / "sidecar"), "register", "plain", str(port), "--health", "/well"]
    host.host.ask(words, env=host.environ())
    town.realm.wait_called("plain", f"{host.address}:{port}")
    assert caller.call("plain") == (200, b"no python here")

    host.host.ask([str(BIN / "sidecar"), "unregister", "plain", str(port)], env=host.environ())
    wait_until(lambda: caller.call("plain")[0] in (404, 503), what="the program out of the map")
    program.stop()


def test_a_rolling_deploy_loses_nothing(town: Town) -> None:
    """`atlas roll` takes one instance after the other through a restart, while GET and POST from every host are all answered."""
    before = {child.pid: _incarnation(town, child) for child in town.identity}
    restart = "kill $(cat " + str(town.realm.folder) + "/h*/identity-{port}.pid)"
    with DoorLoad(town.hosts[0], "identity") as first, DoorLoad(town.hosts[1], "identity") as second:
        told = town.atlas.command("roll", "identity", "--command", restart, "--why", "a new release", seconds=110)
        first.wait_for(20)
    assert first.lost + second.lost == [], told
    assert first.good["GET"] > 20
    assert first.good["POST"] > 20
    for child in town.identity:
        assert _incarnation(town, child) != before[child.pid], told


def test_a_drain_that_waits_returns_when_every_sidecar_has_let_go(town: Town) -> None:
    """When `atlas drain --wait` returns no sidecar sends anything there any more, and a call that was under way has ended."""
    address = town.address(town.identity[1])
    with DoorLoad(town.hosts[0], "identity", path="/work?seconds=0.3", threads=2) as load:
        load.wait_for(20)
        town.atlas.command("drain", address, "--wait")
        seen = load.ports[int(address.rpartition(":")[2])]
        load.wait_for(20)
    assert load.lost == []
    # An answer that was on its way when the command ended may still be counted; a new call may not.
    assert load.ports[int(address.rpartition(":")[2])] <= seen + 1
    town.atlas.command("enable", "identity", address)
    town.realm.wait_called("identity", address)


def test_atlas_and_its_store_may_die(town: Town) -> None:
    """With both replicas and ZooKeeper killed, and one agent and one HAProxy restarted meanwhile, no call is lost; afterwards
    the map is followed again."""
    second = town.hosts[1]
    with DoorLoad(town.hosts[0], "identity") as load:
        load.wait_for(50)
        town.atlas.kill()
        load.wait_for(50)
        assert second.agent is not None
        second.agent.stop(how=signal.SIGKILL)
        second.start_sidecar(wait=False)
        wait_until(lambda: second.ask("/healthcheck/live")[0] == 200, what="the agent without Atlas")
        second.kill_proxy()
        wait_until(lambda: _answers(second), what="HAProxy of the second host")
        load.wait_for(50)
        with DoorLoad(second, "identity") as other:
            other.wait_for(100)
        town.atlas.start()
        for host in town.hosts:
            wait_until(partial(_follows, host), what="Atlas followed again")
    assert load.lost == []
    assert other.lost == []


def test_an_instance_that_flaps_is_left_out(town: Town) -> None:
    """An instance whose readiness comes and goes each second changes the routes at most six times, and nothing is reloaded."""
    child = town.identity[2]
    host = town.hosts[2]
    master = int((host.folder / f"identity-{town.address(child).rpartition(':')[2]}.pid").read_text())
    caller = town.hosts[0]
    reloads = caller.ask("/v1/status")[1]["reloads"]["count"]
    standings = [town.realm.standing(caller, "identity", town.address(child))]
    end = time.monotonic() + 4
    with DoorLoad(caller, "orders") as load:
        while time.monotonic() < end:
            for number in (signal.SIGSTOP, signal.SIGCONT):
                _signal_group(master, number)
                until = time.monotonic() + 0.5
                while time.monotonic() < until:
                    now = town.realm.standing(caller, "identity", town.address(child))
                    if now and now != standings[-1]:
                        standings.append(now)
                    time.sleep(0.02)
    assert len(standings) - 1 <= 6, standings
    assert caller.ask("/v1/status")[1]["reloads"]["count"] == reloads
    assert load.lost == []
    wait_until(lambda: town.realm.is_called("identity", town.address(child)), 60, what="the instance taken back")


CALLS = """
import json, sys, threading, time
import smartclient
good, lost, end = [], [], time.monotonic() + float(sys.argv[1])
def work():
    while time.monotonic() < end:
        try:
            good.append(smartclient.get("service://orders/work", deadline=8).status_code)
        except Exception as error:
            lost.append(repr(error))
        time.sleep(0.01)
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
print("begun", flush=True)
[thread.join() for thread in threads]
print(json.dumps({"good": good.count(200), "lost": lost + [status for status in good if status != 200]}))
"""


def test_a_host_that_dies_takes_no_get_with_it(town: Town) -> None:
    """When a host loses its power, no GET that a service sends with smartclient is lost: not even those that were under way."""
    first, last = town.hosts[0], town.hosts[2]
    calls = first.host.run(
        [sys.executable, "-c", CALLS, "6"], output=first.folder / "calls.log", env=first.environ(SERVICE_NAME="load")
    )
    with calls.wait_ready(lambda: "begun" in calls.text()):
        time.sleep(1)
        last.kill()
        if last.host.is_apart:
            last.host.cut()
        wait_until(lambda: "good" in calls.text(), 60, what="the end of the calls")
    told = json.loads(calls.text().splitlines()[-1])
    assert told["lost"] == []
    assert told["good"] > 50


def _follows(host: SidecarHost) -> bool:
    return host.ask("/v1/status")[1]["map"]["failure"] is None


def _answers(host: SidecarHost) -> bool:
    try:
        return host.call("identity")[0] == 200
    except OSError:
        return False


def _incarnation(town: Town, child: Child) -> str:
    found = json.loads(town.atlas.command("show", "identity", "--json"))["instances"]
    return next(str(one["incarnation"]) for one in found if one["address"] == town.address(child))


def _signal_group(pid: int, number: int) -> None:
    """To a gunicorn master and its workers."""
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, IndexError):
            continue
        if entry.name == str(pid) or (len(stat) > 1 and stat[1] == str(pid)):
            os.kill(int(entry.name), number)
