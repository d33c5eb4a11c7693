"""The instances of a host, with real processes: killed, frozen, drained, and an agent that is exchanged."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import atlas
from atlas.announcement import Carrier, is_carried
from atlas.directory import Directory
from atlas.keeper import Keeper
from atlas.model import Author, Instance, Report
from sidecar.lease import HostLease, lease
from sidecar.local import Local
from sidecar.settings import Settings
from tests.atlas_server import ServedAtlas
from tests.processes import Child, free_port, wait_until

APP = Path(__file__).with_name("small_app.py")


def app(directory: Path, count: int = 1, host: str = "") -> Child:
    """A program with this many instances; `host`: at another address than this host's."""
    ports = [str(free_port()) for _ in range(count)]
    env = {**os.environ, "APP_HOST": host}
    return Child([sys.executable, APP, directory, *ports], output=directory / f"app{ports[0]}.log", env=env)


def standing(local: Local, draining: bool = False) -> int:
    return sum(one.draining == draining for one in local.instances())


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = Local(Settings(tmp_path, tmp_path / "state", check_seconds=0.25))
    with Carrier(tmp_path):
        yield made.start()
    made.close()


def test_a_killed_process_is_out_at_once(tmp_path: Path, local: Local) -> None:
    """The kernel says that it has ended; no check is waited for."""
    with app(tmp_path, 3) as child:
        wait_until(lambda: standing(local) == 3)
        child.signal(signal.SIGKILL)
        wait_until(lambda: standing(local, draining=True) == 3, what="the end of three")
    assert {one.reason for one in local.own_instances()} == {"its process has ended; the port refused the connection"}


def test_a_frozen_instance_is_out_and_holds_up_no_other(tmp_path: Path, local: Local) -> None:
    """It accepts connections and says nothing: the others are asked as often as before."""
    with app(tmp_path, 2) as frozen, app(tmp_path) as well:
        wait_until(lambda: standing(local) == 3)
        frozen.signal(signal.SIGSTOP)
        wait_until(lambda: standing(local, draining=True) == 2)
        before = {one.address: one.checks for one in local.own_instances() if one.state == "ready"}
        began = time.monotonic()
        wait_until(lambda: any(one.checks >= before.get(one.address, 1e9) + 4 for one in local.own_instances()))
        assert time.monotonic() - began < 10  # 1 on an idle machine; behind the frozen ones it would be 20
        assert len(before) == 1
        frozen.signal(signal.SIGCONT)
        wait_until(lambda: standing(local) == 3)
        assert well.process.poll() is None


def test_a_drain_is_seen_at_once_and_the_end_is_no_surprise(tmp_path: Path, local: Local) -> None:
    """From TERM to `draining` in a fifth of a second or so; then the instance leaves, and nothing is left of it."""
    with app(tmp_path) as child:
        wait_until(lambda: standing(local) == 1)
        child.signal(signal.SIGTERM)
        wait_until(lambda: standing(local, draining=True) == 1, what="the drain")
        assert child.process.wait(30) == 0
    wait_until(lambda: local.instances() == ())
    assert local.own_instances() == []


def test_readiness_is_followed(tmp_path: Path, local: Local) -> None:
    """503 takes it out after two answers; it is back after it was ready for a while."""
    with app(tmp_path):
        wait_until(lambda: standing(local) == 1)
        (tmp_path / "unready").touch()
        wait_until(lambda: standing(local, draining=True) == 1)
        assert [one.reason for one in local.own_instances()] == ["answered 503"]
        (tmp_path / "unready").unlink()
        wait_until(lambda: standing(local) == 1)


class Agent:
    """As much of an agent as holds a lease."""

    def __init__(self, directory: Directory, settings: Settings, inherited: list[Instance]) -> None:
        incarnation = os.urandom(4).hex()
        self.local = Local(settings, on_change=lambda: self.keeper.refresh())
        self.local.inherit(inherited)
        self.keeper = Keeper(directory, lambda: lease(settings, self.local, incarnation))
        self.local.start()
        self.keeper.start()

    def wait_held(self) -> None:
        wait_until(lambda: self.keeper.held is not None)

    def close(self, *, leave: bool = False) -> None:
        self.local.close()
        self.keeper.close(release=leave)


def test_an_agent_is_exchanged_without_a_gap_in_the_map(tmp_path: Path) -> None:
    """Three agents one after the other: nobody who reads the map ever misses an instance, or sees one drain. Only one
    that leaves for good takes them along."""
    settings = Settings(tmp_path, tmp_path / "state", ttl_seconds=3.0)
    (tmp_path / "announce").mkdir()
    directory = atlas.open(f"sqlite:///{tmp_path}/map.db")
    seen: list[tuple[int, int]] = []
    stop = threading.Event()

    def look() -> None:
        reader = atlas.open(f"sqlite:///{tmp_path}/map.db")
        while not stop.is_set():
            found = reader.world().instances.get("identity", {}).values()
            seen.append((len(found), sum(one.draining for one in found)))
            stop.wait(0.01)
        reader.close()

    with app(tmp_path, 3):
        agent = Agent(directory, settings, [])
        wait_until(lambda: len(directory.world().instances.get("identity", {})) == 3)
        watcher = threading.Thread(target=look)
        watcher.start()
        for _ in range(3):
            agent.close()
            agent = Agent(directory, settings, list(directory.world().instances["identity"].values()))
            agent.wait_held()
        wait_until(lambda: len(seen) > 20)
        stop.set()
        watcher.join()
        agent.close(leave=True)
    assert set(seen) == {(3, 0)}
    assert directory.world().instances.get("identity", {}) == {}
    directory.close()


def test_an_instance_at_another_address_takes_no_other_out_of_the_map(tmp_path: Path) -> None:
    """The token of a host speaks for its own address: whoever announces another one is left out alone, with the reason."""
    store = f"sqlite:///{tmp_path / 'map.db'}"
    with atlas.open(store) as operator:
        token, _ = operator.create_token("host", "127.0.0.1", by=Author("anna"))
    settings = Settings(tmp_path, tmp_path / "state", check_seconds=0.25)
    local = Local(settings)
    with (
        ServedAtlas(tmp_path / "atlas", store, REALM="staging") as server,
        atlas.open(server.url, token=token) as directory,
        Carrier(tmp_path),
        app(tmp_path),
    ):
        held = HostLease(settings, directory, local, lambda: Report("127.0.0.1", time.time()))
        with app(tmp_path, host="127.0.0.2"):
            local.start()
            wait_until(lambda: standing(local) == 2)
            held.start()
            wait_until(lambda: bool(held.left_out), what="the reason")
            (own,) = directory.world().instances["identity"].values()
        assert own.host == "127.0.0.1"
        ((name, reason),) = held.left_out.items()
        assert name.startswith("identity@127.0.0.2:")
        assert "needs the role operator, service for identity or host for 127.0.0.2" in reason
        wait_until(lambda: len(local.instances()) == 1, what="the end of the other one")
        held.refresh()
        wait_until(lambda: not held.left_out)
        assert held.failure is None
        held.close(leave=True)
        local.close()


def test_the_lock_of_an_agent_ends_with_it(tmp_path: Path) -> None:
    """Also when it is killed: those it carried know that they are on their own."""
    code = "import sys, time, pathlib; from atlas.announcement import Carrier\n"
    code += "carrier = Carrier(pathlib.Path(sys.argv[1])).take(); time.sleep(60)"
    with Child([sys.executable, "-c", code, tmp_path], output=tmp_path / "agent.log") as child:
        child.wait_ready(lambda: is_carried(tmp_path))
        child.signal(signal.SIGKILL)
        wait_until(lambda: not is_carried(tmp_path))


def test_following_ten_instances_costs_next_to_nothing(tmp_path: Path) -> None:
    """Less than 1 % of a core, with one check of each in a second (twice that is allowed here, beside other tests)."""
    local = Local(Settings(tmp_path, tmp_path / "state"))
    (tmp_path / "announce").mkdir()
    with app(tmp_path, 10):
        local.start()
        wait_until(lambda: standing(local) == 10)
        began, used = time.monotonic(), time.process_time() - time.thread_time()  # without what this thread uses
        wait_until(lambda: all(one.checks >= 3 for one in local.own_instances()))
        share = (time.process_time() - time.thread_time() - used) / (time.monotonic() - began)
    local.close()
    assert share < 0.02
