"""The instances of this host: who is in the lease, and as what, as files, answers and time go by."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from atlas.announcement import FOLDER, Announcement, announce, own_pid_space, withdraw
from atlas.model import Instance, Lease, Report
from sidecar.checks import Answer, Check
from sidecar.lease import lease
from sidecar.local import LEAVING_SECONDS, Local
from sidecar.resolve import Resolver
from sidecar.settings import Settings

GOOD = Answer(True, "answered 200", 200)
BAD = Answer(False, "answered 503", 503)
REFUSED = Answer(False, "refused the connection", refused=True)

ONE = Announcement("identity", 8000, version="1.4", incarnation="a")
TWO = Announcement("orders", 8001, incarnation="b", health_port=9001, health="/up", zone="west", host="10.0.0.9")


class Host:
    """A host without network: its answers by port, its clock, and what was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / FOLDER).mkdir(parents=True, exist_ok=True)
        self.settings = Settings(directory, directory / "state", host="10.0.0.7", zone="east")
        self.now = 50.0
        self.answers: dict[int, Answer] = {}
        self.asked: list[tuple[str, int, str]] = []
        self.told: list[tuple[Instance, ...]] = []
        self.local = self.agent()

    def check(self, address: str, port: int, path: str, seconds: float) -> Check:
        """One that is answered at once, as this host says."""
        host = self

        class Scripted(Check):
            def start(self) -> Answer | None:
                host.asked.append((self.host, self.port, self.path))
                return host.answers.get(self.port, GOOD)

        return Scripted(address, port, path, seconds)

    def agent(self) -> Local:
        """A new agent on this host."""
        host = self

        def tell() -> None:
            host.told.append(host.local.instances())

        return Local(
            self.settings,
            on_change=tell,
            check=self.check,
            clock=lambda: self.now,
            wall_clock=lambda: 1000.0 + self.now,
            spread=lambda: 0.5,
        )

    def passes(self, seconds: float = 0.0) -> None:
        """Let time go by, in the grain of the agent."""
        end = self.now + seconds
        while True:
            self.local.turn(0)
            if self.now >= end:
                return
            self.now = min(end, self.now + 0.2)

    def carried(self) -> dict[str, str]:
        """What the lease says: by key, `in` or `draining`."""
        return {one.key: "draining" if one.draining else "in" for one in self.local.instances()}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.local.close()


KEY, OTHER = "identity/10.0.0.7:8000", "orders/10.0.0.9:8001"


def test_a_ready_instance_is_in_the_lease_with_what_the_host_adds(host: Host) -> None:
    """Address and zone are the host's where the instance tells none; it is asked where it says."""
    announce(host.directory, ONE)
    announce(host.directory, TWO)
    host.passes()
    assert host.local.instances() == (
        Instance("identity", "10.0.0.7", 8000, "east", "1.4", incarnation="a"),
        Instance("orders", "10.0.0.9", 8001, "west", incarnation="b"),
    )
    assert sorted(host.asked) == [("10.0.0.7", 8000, "/healthcheck/ready"), ("10.0.0.9", 9001, "/up")]
    assert host.told == [host.local.instances()]


def test_an_instance_that_was_never_ready_is_not_in_the_map(host: Host) -> None:
    """It comes in with its first good answer."""
    host.answers[8000] = REFUSED
    announce(host.directory, ONE)
    host.passes(5)
    assert host.carried() == {}
    assert host.local.unready() == {("identity", "10.0.0.7:8000")}
    host.answers[8000] = GOOD
    host.passes(1.2)
    assert host.carried() == {KEY: "in"}
    assert host.local.unready() == frozenset()


def test_an_instance_that_is_not_ready_is_carried_as_draining(host: Host) -> None:
    """Nobody is to call it, and nobody's guard is to miss it."""
    announce(host.directory, ONE)
    host.passes()
    host.answers[8000] = BAD
    host.passes(2.4)
    assert host.carried() == {KEY: "draining"}
    host.answers[8000] = GOOD
    host.passes(5)
    assert host.carried() == {KEY: "in"}
    assert [[one.draining for one in told] for told in host.told] == [[False], [True], [False]]


def test_draining_is_told_with_the_next_look(host: Host) -> None:
    """No check is waited for."""
    announce(host.directory, ONE)
    host.passes()
    announce(host.directory, replace(ONE, draining=True))
    host.passes(0.2)
    assert host.carried() == {KEY: "draining"}
    withdraw(host.directory, ONE)
    host.passes(LEAVING_SECONDS)
    assert host.carried() == {}


def test_who_goes_is_in_the_log(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Each return stands behind its leave; one without a drain before it is a warning."""
    caplog.set_level("INFO", "sidecar")
    announce(host.directory, ONE)
    host.passes(1)
    announce(host.directory, replace(ONE, draining=True))
    host.passes(1)
    announce(host.directory, ONE)
    host.passes(1)
    withdraw(host.directory, ONE)
    host.passes(1)
    told = [(one.levelname, one.getMessage()) for one in caplog.records]
    assert told == [
        ("INFO", "identity/10.0.0.7:8000 is ready"),
        ("INFO", "identity/10.0.0.7:8000 drains"),
        ("INFO", "identity/10.0.0.7:8000 drains no more"),
        ("INFO", "identity/10.0.0.7:8000 is ready"),
        ("WARNING", "identity/10.0.0.7:8000 is announced no more, and had not drained"),
    ]


def test_one_that_leaves_without_draining_drains_for_a_moment(host: Host) -> None:
    """Others let go of it before it is gone."""
    announce(host.directory, ONE)
    host.passes()
    withdraw(host.directory, ONE)
    host.passes(0.2)
    assert host.carried() == {KEY: "draining"}
    assert [(one.address, one.state) for one in host.local.own_instances()] == [("10.0.0.7:8000", "leaving")]
    host.passes(LEAVING_SECONDS + 0.2)
    assert host.carried() == {}
    assert host.local.own_instances() == []


def test_the_file_of_a_dead_process_is_removed(host: Host) -> None:
    """An instance that was killed drains, is dropped after half a minute, and its file with it."""
    path = announce(host.directory, replace(ONE, pid=2**30, pid_space=own_pid_space()))
    host.answers[8000] = REFUSED
    host.local.inherit([Instance("identity", "10.0.0.7", 8000, "east", "1.4", incarnation="a")])
    host.passes()
    assert host.carried() == {KEY: "draining"}
    host.passes(29)
    assert path.exists()
    host.passes(2)
    assert not path.exists()
    assert host.carried() == {}


def test_what_a_stranger_answers_on_the_port_of_the_dead_counts_for_nothing(host: Host) -> None:
    """After a reboot another service may listen where the old file points."""
    announce(host.directory, replace(ONE, pid=1, pid_space="earlier boot:1"))
    host.passes(10)
    assert host.carried() == {}


def test_the_name_of_a_bad_file_writes_no_line_of_the_log(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever may announce may choose a name with a line break: what is logged of it stays one line."""
    (host.settings.announcements / "x\nERROR sidecar: all is lost.json").write_text("{}")
    host.passes()
    (line,) = [record.getMessage() for record in caplog.records if "is not used" in record.getMessage()]
    assert "\n" not in line


def test_a_bad_file_harms_no_other(host: Host) -> None:
    """It is reported with its path and the reason, until it is put right."""
    announce(host.directory, ONE)
    bad = host.directory / FOLDER / "bad.json"
    bad.write_text("{")
    (host.directory / FOLDER / ".half.json").write_text("{")
    (host.directory / FOLDER / "notes.txt").write_text("no")
    host.passes()
    assert host.carried() == {KEY: "in"}
    assert list(host.local.problems()) == [str(bad)]
    bad.write_text('{"format": 1, "service": "orders", "port": 8001}')
    host.passes(0.2)
    assert host.local.problems() == {}
    assert len(host.carried()) == 2


def test_a_file_that_is_damaged_later_keeps_its_instance(host: Host) -> None:
    """It may be half written: what it said before is in force."""
    path = announce(host.directory, ONE)
    host.passes()
    path.write_text("")
    host.passes(3)
    assert host.carried() == {KEY: "in"}
    assert list(host.local.problems()) == [str(path)]


def test_a_folder_that_is_gone_removes_nobody(host: Host) -> None:
    """Absence of news is never a removal."""
    path = announce(host.directory, ONE)
    host.passes()
    path.parent.rename(host.directory / "elsewhere")
    host.passes(3)
    assert host.carried() == {KEY: "in"}
    assert list(host.local.problems()) == [str(path.parent)]
    (host.directory / "elsewhere").rename(path.parent)
    host.passes(1)
    assert (host.carried(), host.local.problems()) == ({KEY: "in"}, {})


def test_of_two_files_for_one_instance_the_newer_counts(host: Host) -> None:
    """The older one is reported, and counts again when the newer one goes."""
    old = announce(host.directory, ONE)
    os.utime(old, (1, 1))
    new = announce(host.directory, replace(ONE, host="10.0.0.7", version="1.5"))
    host.passes()
    assert [one.version for one in host.local.instances()] == ["1.5"]
    assert host.local.problems() == {str(old): f"{new.name} announces the same instance, and is newer."}
    new.unlink()
    host.passes(0.2)
    assert [one.version for one in host.local.instances()] == ["1.4"]
    assert host.local.problems() == {}


def test_weight_and_version_are_told_at_once(host: Host) -> None:
    """They change without a restart, and without a question."""
    announce(host.directory, ONE)
    host.passes()
    announce(host.directory, replace(ONE, weight=5))
    host.passes(0.2)
    assert [(one.weight, one.draining) for one in host.local.instances()] == [(5, False)]


def test_an_instance_is_asked_at_the_rate_of_its_own_agent(host: Host) -> None:
    """Once a second, whatever it answers."""
    announce(host.directory, ONE)
    host.passes(20)
    assert 18 <= len(host.asked) <= 22
    host.answers[8000] = BAD
    host.passes(20)
    assert 36 <= len(host.asked) <= 44


def inherited(*announcements: Announcement) -> list[Instance]:
    return [replace(one.instance(host="10.0.0.7", zone="east"), lease="sidecar@10.0.0.7") for one in announcements]


def test_a_restart_of_the_agent_changes_nothing(host: Host) -> None:
    """What was in stays in while it answers, and until it has not answered twice."""
    announce(host.directory, ONE)
    announce(host.directory, TWO)
    host.answers[9001] = BAD
    host.local.inherit(inherited(ONE, TWO))
    host.passes()
    assert host.carried() == {KEY: "in", OTHER: "in"}
    host.passes(1.2)
    assert host.carried() == {KEY: "in", OTHER: "draining"}


def test_those_who_left_while_the_agent_was_away_drain_first(host: Host) -> None:
    """Also where nothing is announced any more, and also when the one that is there now is another."""
    announce(host.directory, replace(TWO, incarnation="later"))
    host.answers[9001] = REFUSED
    host.local.inherit(inherited(ONE, TWO))
    host.passes()
    assert host.carried() == {KEY: "draining", OTHER: "draining"}
    host.passes(LEAVING_SECONDS + 0.2)
    assert host.carried() == {OTHER: "draining"}
    host.answers[9001] = GOOD
    host.passes(1.2)
    assert host.carried() == {OTHER: "in"}


def test_without_the_folder_a_new_agent_carries_what_the_map_says(tmp_path: Path) -> None:
    """It knows nothing better."""
    host = Host(tmp_path)
    (tmp_path / FOLDER).rmdir()
    host.local.inherit(inherited(ONE))
    host.passes(5)
    assert host.carried() == {KEY: "in"}


class Silent(Check):
    """Never answers, and opens nothing."""

    def start(self) -> Answer | None:
        return super().start() if self.path == "never" else None

    @property
    def deadline(self) -> float:
        return float("inf")

    def fileno(self) -> int:
        return 0


def test_there_is_no_lease_before_everybody_was_asked(tmp_path: Path) -> None:
    """A lease without an instance that has not answered yet would take it out of the map; one that hangs is waited for
    two rounds."""
    host = Host(tmp_path)
    announce(tmp_path, ONE)
    local = Local(host.settings, check=Silent, clock=lambda: host.now)
    local.turn(0)
    assert lease(host.settings, local, "x") is None
    host.now += 2.1
    local.turn(0)
    found = lease(host.settings, local, "x", lambda: Report("10.0.0.7", 5.0, revision=3))
    assert found == Lease("sidecar@10.0.0.7", "x", 15.0, report={"host": "10.0.0.7", "at": 5.0, "revision": 3})


def test_a_host_without_instances_has_a_lease(host: Host) -> None:
    """It says that the sidecar is there, and what it has applied."""
    host.passes()
    found = lease(host.settings, host.local, "x")
    assert found is not None
    assert found.instances == ()


def test_the_standing_says_why_and_since_when(host: Host) -> None:
    """For `sidecar status` and `sidecar why`."""
    announce(host.directory, ONE)
    host.passes()
    host.answers[8000] = BAD
    host.passes(4)
    (one,) = host.local.own_instances()
    assert (one.state, one.reason, one.checks) == ("not ready", "answered 503", len(host.asked))
    assert 1051.0 < one.since < 1053.0


def test_a_name_is_looked_up_beside_the_checks(tmp_path: Path) -> None:
    """It is given a second, without a bad answer; then the instance is not ready, for that reason."""
    host = Host(tmp_path)
    announce(tmp_path, replace(ONE, host="somewhere"))
    known: list[str] = []
    resolver = Resolver(look_up=lambda name: known, clock=lambda: host.now, threads=0)
    local = Local(host.settings, resolver=resolver, check=host.check, clock=lambda: host.now)
    local.turn(0)
    assert [(one.reason, one.checks) for one in local.own_instances()] == [("has not answered yet", 0)]
    host.now += 1.1
    local.turn(0)
    assert [one.reason for one in local.own_instances()] == ["has a name that cannot be looked up: somewhere"]
    known.append("10.0.0.8")
    host.now += 1.1
    resolver.turn()
    local.turn(0)
    assert [one.state for one in local.own_instances()] == ["ready"]
    assert host.asked == [("10.0.0.8", 8000, "/healthcheck/ready")]


def test_a_listener_that_fails_harms_nobody(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """What follows the instances may raise what it will."""

    def fails() -> Sequence[int]:
        raise ZeroDivisionError

    host.local.on_change = fails
    announce(host.directory, ONE)
    host.passes()
    assert host.carried() == {KEY: "in"}
    assert "could not take a change" in caplog.text
