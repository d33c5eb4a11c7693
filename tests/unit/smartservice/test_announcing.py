"""An instance and the sidecar of its host: the file that announces it, and who registers it in the map."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from atlas.announcement import Announcement, Carrier, announce, names, read
from atlas.directory import Directory
from atlas.model import Instance, Lease
from atlas.world import World
from smartservice.announcing import Announcer, announcement_of, tell_draining, tell_gone
from smartservice.lifecycle import Desk
from smartservice.registration import AWAY_SECONDS, Registration, instance_of
from tests.unit.atlas.scripted import ScriptedDirectory
from tests.unit.smartservice.making import PLACE, Make, make

__all__ = ["make"]

CONFIG: dict[str, Any] = {**PLACE, "HEALTH_PATH": "/healthcheck", "MANAGEMENT_PORT": 9000}


class Side:
    """One worker of an instance on a host whose sidecar meets its services in `folder`."""

    def __init__(self, folder: Path, desk: Desk | None = None) -> None:
        self.folder = folder
        self.desk = desk or Desk()
        self.config = dict(CONFIG)
        self.draining = False
        self.now = 1000.0
        self.world = World()
        self.directory = ScriptedDirectory()
        self.announcer = Announcer(folder, self._announcement, desk=self.desk)
        self.registration = Registration(
            cast(Directory, self.directory),
            self._instance,
            desk=self.desk,
            ttl_seconds=300,
            is_draining=lambda: self.draining,
            announcer=self.announcer,
            world=lambda: self.world,
            clock=lambda: self.now,
        )

    def _announcement(self) -> Announcement:
        return announcement_of(self.config, service="identity", desk=self.desk, draining=self.draining)

    def _instance(self) -> Instance:
        return instance_of(self.config, service="identity", incarnation=self.desk.incarnation, draining=self.draining)

    def told(self) -> Announcement | None:
        """What the file says; None: there is none."""
        found = [read(Path(entry.path)) for entry in names(self.folder / "announce")]
        assert len(found) <= 1
        return found[0] if found else None

    def seen(self, lease: str, incarnation: str | None = None, host: str = "127.0.0.1", heard: bool = True) -> None:
        """The map says that this lease carries the instance."""
        known = Instance("identity", host, 8000, incarnation=incarnation or self.desk.incarnation, lease=lease)
        own = "identity@127.0.0.1:8000"
        leases = {own: Lease(own, self.desk.incarnation)} if heard else {}
        self.world = World(instances={"identity": {known.address: known}}, leases=leases)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A host with a sidecar, whose agent may live or not."""
    (tmp_path / "announce").mkdir()
    return tmp_path


@pytest.fixture
def side(folder: Path) -> Iterator[Side]:
    made = Side(folder)
    yield made
    made.registration.close(stopping=False)


def test_an_instance_says_where_its_readiness_is_asked(side: Side) -> None:
    """Service, address, version, weight, zone, the path of readiness, the port of the management listener, and the process
    whose end is its end."""
    side.announcer.beat()
    told = side.told()
    assert told is not None
    assert told.file_name == "identity@127.0.0.1:8000.json"
    assert (told.version, told.weight, told.zone, told.draining) == ("1.2", 50, "a", False)
    assert (told.health, told.health_port) == ("/healthcheck/ready", 9000)
    assert (told.incarnation, told.pid, told.by) == (side.desk.incarnation, side.desk.pid, "create_app")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"HOST": "0.0.0.0"}, ("", 8000, "/healthcheck/ready", None)),
        ({"HOST": "::1", "HEALTH_PATH": "/health/"}, ("::1", 8000, "/health/ready", None)),
        ({"ADVERTISE_HOST": "web1", "ADVERTISE_PORT": 80, "HEALTH_PATH": ""}, ("web1", 80, "", None)),
        ({"HEALTH_PATH": "", "MANAGEMENT_PORT": 7}, ("127.0.0.1", 8000, "/healthcheck/ready", 7)),
    ],
)
def test_what_an_announcement_says_comes_from_the_settings(
    settings: dict[str, Any], expected: tuple[object, ...]
) -> None:
    """A service that listens on every address leaves its host to the sidecar; without health there is nothing to ask."""
    desk = Desk()
    found = announcement_of({**CONFIG, "MANAGEMENT_PORT": 0, **settings}, service="identity", desk=desk, draining=False)
    found.check()
    assert (found.host, found.port, found.health, found.health_port) == expected


def test_without_a_sidecar_nothing_is_written(tmp_path: Path) -> None:
    """A host without the folder stays without it."""
    side = Side(tmp_path / "sidecar")
    assert not side.announcer.beat()
    assert not (tmp_path / "sidecar").exists()


def test_a_sidecar_that_comes_later_is_told(tmp_path: Path) -> None:
    """The folder is looked for at every beat, and what was lost is written again."""
    side = Side(tmp_path)
    side.announcer.beat()
    with Carrier(tmp_path):
        assert side.announcer.beat()
        assert side.told() is not None
        next((tmp_path / "announce").iterdir()).unlink()
        side.announcer.beat()
        assert side.told() is not None
    assert not side.announcer.beat()


def test_a_file_is_written_when_something_changed(side: Side) -> None:
    """Another weight is told at the next beat; without a change the file stays as it is."""
    side.announcer.beat()
    path = next((side.folder / "announce").iterdir())
    before = path.stat().st_ino
    side.announcer.beat()
    assert path.stat().st_ino == before
    side.config["WEIGHT"] = 7
    side.announcer.beat()
    told = side.told()
    assert told is not None
    assert told.weight == 7


def test_the_master_says_at_once_that_the_instance_drains_and_that_it_is_gone(side: Side) -> None:
    """Both without its workers, and twice does no harm."""
    side.announcer.beat()
    tell_draining(side.desk)
    told = side.told()
    assert told is not None
    assert told.draining
    tell_gone(side.desk)
    tell_gone(side.desk)
    assert side.told() is None


def test_a_worker_that_was_just_writing_does_not_hide_the_drain(side: Side) -> None:
    """A drain that begins while a worker writes another change is in the file when it has written."""
    describe = side.announcer._describe
    answers = iter([False, True])

    def overtaken() -> Announcement:
        side.draining = next(answers, True)
        return describe()

    Announcer(side.folder, overtaken, desk=side.desk).beat()
    told = side.told()
    assert told is not None
    assert told.draining


def test_the_file_of_the_next_master_is_left_alone(side: Side) -> None:
    """After SIGUSR2 two masters have one address: the old one neither drains nor removes nor rewrites what the new one says."""
    side.announcer.beat()
    announce(side.folder, announcement_of(CONFIG, service="identity", desk=(new := Desk()), draining=False))
    side.draining = True
    tell_draining(side.desk)
    side.announcer.beat()
    tell_gone(side.desk)
    told = side.told()
    assert told is not None
    assert (told.incarnation, told.draining) == (new.incarnation, False)


def test_a_folder_that_may_not_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The instance is not carried then, whether an agent lives or not."""
    side = Side(tmp_path)
    with Carrier(tmp_path), caplog.at_level(logging.WARNING, "smartservice"):
        side.config["WEIGHT"] = -1  # no announcement says that
        assert not side.announcer.beat()
        assert not side.announcer.beat()
    assert [record.message for record in caplog.records if "cannot be told" in record.message] != []
    assert len(caplog.records) == 1


def test_a_folder_that_may_not_be_entered_is_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A unit that forgot the group of the sidecar is not in the map: its log says so, and it is announced once it may."""
    side = Side(folder)
    folder.chmod(0)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may enter everything
    try:
        with caplog.at_level(logging.WARNING, "smartservice"):
            assert not side.announcer.beat()
            assert not side.announcer.beat()
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
    assert len(caplog.records) == 1
    assert f"this user may not enter {folder}" in caplog.text
    with Carrier(folder):
        assert side.announcer.beat()


def test_while_the_agent_lives_the_sidecar_registers_the_instance(side: Side) -> None:
    """No lease of its own beside that of the host; one after the agent was away for five seconds."""
    with Carrier(side.folder):
        side.registration.beat()
        assert side.registration.lease() is None
    side.registration.beat()
    side.now += AWAY_SECONDS - 0.1
    assert side.registration.lease() is None
    side.now += 0.2
    lease = side.registration.lease()
    assert lease is not None
    assert lease.id == "identity@127.0.0.1:8000"


def test_a_host_without_an_agent_waits_for_none(side: Side) -> None:
    """An instance that has never seen an agent registers itself at once, as ever."""
    side.registration.start()
    assert side.directory.held.get(timeout=5).id == "identity@127.0.0.1:8000"


def test_its_own_lease_is_given_back_only_when_the_agent_has_taken_over(side: Side) -> None:
    """The address is in the map all the time: as long as the map does not say that the lease of the host carries it, its own
    one is renewed."""
    side.registration.start()
    own = side.directory.held.get(timeout=5)
    with Carrier(side.folder):
        side.registration.beat()
        side.directory.held.get(timeout=5)
        side.seen("sidecar@h1", heard=False)  # late: from before its own lease
        assert side.registration.lease() is not None
        side.seen(own.id)
        assert side.registration.lease() is not None
        side.seen("sidecar@h1", incarnation="another")
        assert side.registration.lease() is not None
        assert side.directory.released.empty()
        side.seen("sidecar@h1")
        side.registration.beat()
        assert side.directory.released.get(timeout=5) == (own.id, own.incarnation)
        side.registration.close(stopping=True)
    assert side.directory.released.empty()


def test_the_sidecar_may_know_its_host_by_another_name(side: Side) -> None:
    """Taken over is this incarnation, whatever address the agent gives to it."""
    side.registration.start()
    own = side.directory.held.get(timeout=5)
    with Carrier(side.folder):
        side.seen("sidecar@h1", host="10.0.0.7")
        side.registration.beat()
        assert side.directory.released.get(timeout=5) == (own.id, own.incarnation)


def test_a_service_announces_itself_without_any_setting(make: Make, tmp_path: Path) -> None:
    """A folder is enough, without a map as well; with TESTING on nothing is written."""
    folder = tmp_path / "sidecar" / "announce"
    folder.mkdir(parents=True)
    make(TESTING=True).register(Desk())
    assert list(folder.iterdir()) == []
    app = make()
    app.register(Desk())
    assert [path.name for path in folder.iterdir()] == [f"{app.service}@127.0.0.1:8000.json"]
