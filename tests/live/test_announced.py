"""An instance under gunicorn and the sidecar of its host: announced, drained at once, carried by one lease or the other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import atlas
from atlas.announcement import Announcement, Carrier, read
from atlas.directory import Directory
from atlas.model import Instance as Known, Lease
from smartrealm.errors import SmartError
from tests.live.instances import Instance
from tests.processes import wait_until

DRAIN = {"DRAIN_SECONDS": 60, "GRACEFUL_SECONDS": 60, "WORKERS": 2, "THREADS": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where this host's services meet their sidecar."""
    (tmp_path / "sidecar" / "announce").mkdir(parents=True)
    return tmp_path / "sidecar"


def told(folder: Path) -> Announcement | None:
    """What the one instance announces now."""
    found = list((folder / "announce").glob("*.json"))
    assert len(found) <= 1
    try:
        return read(found[0]) if found else None
    except (FileNotFoundError, SmartError):
        return None


def test_an_instance_says_that_it_drains_before_anything_else(folder: Path, tmp_path: Path) -> None:
    """The file says so within a tenth of a second of SIGTERM, while requests are served on; it is gone with the last worker."""
    variables = {**DRAIN, "SIDECAR_DIR": folder}
    with Instance(tmp_path / "one", smart=True, management=True, variables=variables) as instance:
        wait_until(lambda: told(folder) is not None, what="the announcement")
        found = told(folder)
        assert found is not None
        assert (found.port, found.health_port, found.draining) == (instance.port, instance.management, False)
        assert found.pid == instance.child.process.pid
        begun = time.monotonic()
        instance.child.signal(signal.SIGTERM)
        wait_until(lambda: (now := told(folder)) is not None and now.draining, what="the drain")
        assert time.monotonic() - begun < 2  # 0.02 on an idle machine
        assert instance.status("/work") == 200
        instance.child.signal(signal.SIGTERM)
        instance.child.process.wait(30)
        assert told(folder) is None
        assert "sidecar of this host" not in instance.child.text()


def test_a_worker_that_is_killed_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """The announcement is the instance's, whoever of its workers wrote it; a lost one is written again by another worker."""
    variables = {**DRAIN, "DRAIN_SECONDS": 0, "SIDECAR_DIR": folder}
    with Instance(tmp_path / "one", smart=True, variables=variables) as instance:
        wait_until(lambda: told(folder) is not None, what="the announcement")
        first = told(folder)
        children = Path(f"/proc/{instance.child.process.pid}/task/{instance.child.process.pid}/children").read_text()
        for pid in children.split():
            os.kill(int(pid), signal.SIGKILL)
        next((folder / "announce").glob("*.json")).unlink()
        wait_until(lambda: told(folder) is not None, what="the announcement of a new worker")
        assert told(folder) == first
        instance.child.signal(signal.SIGINT)
        instance.child.process.wait(30)
        assert told(folder) is None


class Watching:
    """Looks all the time who carries an address."""

    def __init__(self, directory: Directory) -> None:
        self.leases: list[str] = []
        self._directory = directory
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            known = [one for places in self._directory.world().instances.values() for one in places.values()]
            lease = known[0].lease if known else "nobody"
            if not self.leases or self.leases[-1] != lease:
                self.leases.append(lease)

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    with atlas.open(f"sqlite:///{tmp_path}/map.db") as opened:
        yield opened


def test_the_lease_goes_from_the_agent_to_the_instance_and_back_without_a_gap(
    folder: Path, tmp_path: Path, directory: Directory
) -> None:
    """The address is in the map all the time: with the host's lease while its agent lives, with its own some seconds after the
    agent has gone, and with the host's again."""
    carrier = Carrier(folder).take()
    variables = {**DRAIN, "DRAIN_SECONDS": 0, "SIDECAR_DIR": folder, "ATLAS_URL": f"sqlite:///{tmp_path}/map.db"}
    with Instance(tmp_path / "one", smart=True, variables=variables) as instance:
        wait_until(lambda: told(folder) is not None, what="the announcement")
        found = told(folder)
        assert found is not None
        known: Known = found.instance(host="127.0.0.1")
        own = f"{known.service}@{known.address}"
        held = Lease("sidecar@h1", "agent", ttl_seconds=60, instances=(known,))
        directory.hold(held)
        with Watching(directory) as watching:
            wait_until(lambda: watching.leases == ["sidecar@h1"], what="the host's lease")
            carrier.close()
            wait_until(lambda: watching.leases[-1] == own, what="its own lease")
            carrier.take()
            directory.hold(Lease("sidecar@h1", "agent-2", ttl_seconds=60, instances=(known,)))
            wait_until(lambda: own not in directory.world().leases, what="the end of its own lease")
        assert watching.leases == ["sidecar@h1", own, "sidecar@h1"]
        instance.child.signal(signal.SIGTERM)
        instance.child.process.wait(30)
    carrier.close()


def test_an_instance_that_never_registers_by_itself_announces_itself_all_the_same(
    folder: Path, tmp_path: Path, directory: Directory
) -> None:
    """REGISTER=false is about the map, and no sidecar has to live."""
    variables = {**DRAIN, "REGISTER": "false", "SIDECAR_DIR": folder, "ATLAS_URL": f"sqlite:///{tmp_path}/map.db"}
    with Instance(tmp_path / "one", smart=True, variables=variables):
        wait_until(lambda: told(folder) is not None, what="the announcement")
        assert directory.world().instances == {}
