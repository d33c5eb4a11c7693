"""`atlas roll`: one instance after the other, and nothing is lost or left behind where it stops."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from atlas import Instance, Lease, Ruling, Service
from atlas.server import commanding
from atlas.server.rolling import REASON
from tests.live.atlas_cli.doubles import Restarted, Sidecar
from tests.live.atlas_cli.runs import ANNA, Runs
from tests.live.atlas_cli.test_waiting import begin
from tests.processes import wait_until


class Realm:
    """identity at two addresses of this machine, each with a sidecar on its host."""

    def __init__(self, runs: Runs, stack: ExitStack) -> None:
        self.runs = runs
        runs.map.put_service(Service("identity", port=8010), by=ANNA)
        self.first, self.second = (stack.enter_context(Restarted(runs, host)) for host in ("127.0.0.1", "127.0.0.2"))
        self.sidecar = stack.enter_context(Sidecar(runs, "web-1"))

    @property
    def command(self) -> str:
        return f"echo at $HOST on $PORT; touch {self.runs.folder}/restart-{{instance}}"

    def states(self) -> dict[str, str]:
        places = self.runs.map.world().places("identity", time.time())
        return {place.instance.address: place.state for place in places}


@pytest.fixture
def realm(atlas: Runs) -> Iterator[Realm]:
    """Two instances and a sidecar."""
    with ExitStack() as stack:
        yield Realm(atlas, stack)


def test_all_are_restarted_one_by_one(realm: Realm) -> None:
    """Each is drained everywhere, restarted, awaited until it is ready, and enabled everywhere before the next one."""
    seen: list[set[str]] = []
    text = realm.runs.ok("roll", "identity", "--command", realm.command, "--why", "new settings")
    assert realm.states() == {realm.first.address: "enabled", realm.second.address: "enabled"}
    assert (realm.first.starts, realm.second.starts) == (2, 2)
    for change in reversed(realm.runs.map.history(kind="ruling")):
        draining = {edit.key for edit in change.edits if (edit.after or {}).get("state") == "draining"}
        seen.append(draining)
    one, two = (f"identity/{double.address}" for double in (realm.first, realm.second))
    assert seen == [{one}, set(), {two}, set()]
    assert f"[1/2] {realm.first.address} | at 127.0.0.1 on {realm.first.address.rpartition(':')[2]}" in text
    assert f"[2/2] {realm.second.address} is back as version 1.2 and ready" in text
    assert "2 hosts have no sidecar (127.0.0.1, 127.0.0.2): callers there follow the map themselves" in text
    assert "identity: 2 of 2 instances rolled" in text
    assert "roll@identity" not in realm.runs.map.world().leases


def test_what_does_not_come_back_stops_the_walk(realm: Realm) -> None:
    """Exit code 1: it stays drained, how to enable it is said, the next one is untouched; the next walk begins with it."""
    realm.first.comes_back = False
    words = ("roll", "identity", "--command", realm.command)
    result = realm.runs(*words, "--ready-timeout", "0.2s", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["failed"]["instance"] == realm.first.address
    assert document["untouched"] == [realm.second.address]
    assert "not back and ready within" in result.stderr
    assert f"stays drained; when it is: atlas enable identity {realm.first.address}" in result.stderr
    assert realm.runs.map.world().rulings[f"identity/{realm.first.address}"].state == "draining"
    realm.first.comes_back = True
    realm.first.hold()
    assert "2 of 2 instances rolled" in realm.runs.ok(*words)
    assert set(realm.states().values()) == {"enabled"}


def test_what_was_left_drained_goes_first(realm: Realm) -> None:
    """Whatever its address: the others take calls meanwhile."""
    host, _, port = realm.second.address.partition(":")
    realm.runs.map.rule(Ruling("identity", host, int(port), "draining", reason=f"{REASON} by ben"), by=ANNA)
    steps = realm.runs.json("roll", "identity", "--command", "true", "--dry-run")["steps"]
    assert [step["instance"] for step in steps] == [realm.second.address, realm.first.address]


@pytest.mark.parametrize(
    ("command", "more", "says"),
    [
        ("echo no space left; exit 3", (), "the command ended with 3"),
        ("sleep 60", ("--command-timeout", "0.2s"), "the command was stopped after"),
    ],
)
def test_a_command_that_fails_gives_the_instance_back(
    realm: Realm, command: str, more: tuple[str, ...], says: str
) -> None:
    """It still runs and is ready, so it is enabled again; the output is kept, the other one untouched."""
    result = realm.runs("roll", "identity", "--command", command, *more)
    assert result.exit_code == 1
    assert says in result.stderr
    assert "is ready and enabled again" in result.stderr
    assert f"untouched: {realm.second.address}" in result.stderr
    assert (realm.first.starts, realm.second.starts) == (1, 1)
    assert set(realm.states().values()) == {"enabled"}
    if "its output: " in result.stderr:
        kept = Path(result.stderr.partition("its output: ")[2].partition(")")[0])
        assert kept.read_text() == "no space left\n"
        kept.unlink()


def test_one_that_is_not_ready_is_not_enabled(realm: Realm) -> None:
    """It is in the map again, and answers 503: nobody is sent there."""
    command = f"{realm.command}; while [ -e {realm.runs.folder}/restart-{{instance}} ]; do sleep 0.02; done"
    thread, found = begin(realm.runs, "roll", "identity", "--command", command, "--ready-timeout", "0.3s")
    wait_until(lambda: "draining" in realm.states().values())
    realm.first.ready = False
    thread.join(30)
    (result,) = found
    assert result.exit_code == 1  # type: ignore[attr-defined]
    assert "not ready at /healthcheck/ready" in result.stderr  # type: ignore[attr-defined]
    assert realm.states()[realm.first.address] == "draining"


def test_nothing_is_restarted_before_it_is_drained_everywhere(realm: Realm) -> None:
    """A sidecar that does not follow stops the walk in time, and the instance takes calls as before."""
    realm.sidecar.stops_at = 1
    result = realm.runs("roll", "identity", "--command", realm.command, "--drain-timeout", "0.2s")
    assert result.exit_code == 1
    assert "it was not drained within 0.2 s: web-1 to apply revision 2; " in result.stderr
    assert (realm.first.starts, set(realm.states().values())) == (1, {"enabled"})


def test_the_next_one_waits_until_the_last_one_takes_calls_everywhere(realm: Realm) -> None:
    """Enabled in the map is not enough."""
    realm.sidecar.stops_at = 2  # it goes by the drain, and never by what enables it
    result = realm.runs("roll", "identity", "--no-restart", "--drain-timeout", "1s", "--command", "true")
    assert result.exit_code == 1
    assert "it is enabled, but after 1 s still: web-1 to apply revision 3" in result.stderr
    assert f"untouched: {realm.second.address}" in result.stderr


def test_a_command_that_restarts_nothing_is_noticed(realm: Realm) -> None:
    """The same incarnation is not a restarted one, unless that is what is wanted."""
    words = ("roll", "identity", "--command", "true", "--one", realm.first.address)
    result = realm.runs(*words, "--ready-timeout", "0.1s")
    assert result.exit_code == 1
    assert "it is still the one from before" in result.stderr
    realm.runs.ok(*words, "--no-restart")
    realm.first.has_incarnation = False
    realm.first.hold()
    assert "does not say which start of it this is" in realm.runs.ok(*words)


def test_it_never_begins_when_nobody_else_takes_calls(realm: Realm) -> None:
    """Exit code 4, nothing written; --force insists. One that an operator took out is left alone."""
    host, _, port = realm.second.address.partition(":")
    realm.runs.map.rule(Ruling("identity", host, int(port), "disabled", reason="it burns"), by=ANNA)
    revision = realm.runs.revision
    result = realm.runs("roll", "identity", "--command", realm.command)
    assert result.exit_code == 4
    assert "no other instance that takes calls" in result.stderr
    assert realm.runs.revision == revision
    text = realm.runs.ok("roll", "identity", "--command", realm.command, "--force")
    assert f"leaving {realm.second.address} alone: disabled by anna: it burns" in text
    assert (realm.first.starts, realm.second.starts) == (2, 1)
    assert realm.states()[realm.second.address] == "disabled"


def test_one_that_was_taken_out_is_so_again_afterwards(realm: Realm) -> None:
    """Named with --one it is restarted, and stays as the operator wanted it."""
    host, _, port = realm.second.address.partition(":")
    realm.runs.map.rule(Ruling("identity", host, int(port), "disabled", reason="it burns"), by=ANNA)
    text = realm.runs.ok("roll", "identity", "--command", realm.command, "--one", realm.second.address)
    assert "is taken from the map" not in text  # the other one answers
    ruling = realm.runs.map.world().rulings[f"identity/{realm.second.address}"]
    assert (realm.second.starts, ruling.state, ruling.reason) == (2, "disabled", "it burns")


def test_what_somebody_says_during_the_walk_stays(realm: Realm) -> None:
    """Whoever disables the instance that is restarted at this moment is heard, and so is who takes out one that comes later."""
    folder = realm.runs.folder
    command = f"while [ ! -e {folder}/go ]; do sleep 0.02; done; {realm.command}"
    thread, found = begin(realm.runs, "roll", "identity", "--command", command, "--json", "--force")
    wait_until(lambda: "draining" in realm.states().values())
    for double in (realm.first, realm.second):
        host, _, port = double.address.partition(":")
        realm.runs.map.rule(
            Ruling("identity", host, int(port), "disabled", reason="it burns", author="anna"), by=ANNA, force=True
        )
    (folder / "go").touch()
    thread.join(30)
    (result,) = found
    assert f"{realm.first.address} is disabled by anna: it burns, and stays so" in result.stderr  # type: ignore[attr-defined]
    document = json.loads(result.stdout)  # type: ignore[attr-defined]
    assert [one["address"] for one in document["rolled"]] == [realm.first.address]
    assert document["left"] == [{"instance": realm.second.address, "why": "disabled by anna: it burns"}]
    assert set(realm.states().values()) == {"disabled"}
    assert (realm.first.starts, realm.second.starts) == (2, 1)


def test_one_that_is_gone_when_its_turn_comes_is_told_at_the_end(realm: Realm) -> None:
    """Its host may be dead, and bring the old version back: whoever reads the last line alone knows."""
    folder = realm.runs.folder
    command = f"while [ ! -e {folder}/go ]; do sleep 0.02; done; {realm.command}"
    thread, found = begin(realm.runs, "roll", "identity", "--command", command, "--force")
    wait_until(lambda: "draining" in realm.states().values())
    realm.runs.map.release(f"identity@{realm.second.address}", "i1")
    (folder / "go").touch()
    thread.join(30)
    (result,) = found
    *_, last = result.stdout.splitlines()  # type: ignore[attr-defined]
    assert last.startswith("identity: 1 of 2 instances rolled")
    assert last.endswith(f"; {realm.second.address} was left alone: gone from the map")


def test_a_weight_whose_time_ends_during_the_walk_ends(realm: Realm) -> None:
    """What was said for a while is not made to last by the drain that carried it; a weight that is set meanwhile stays."""
    for double, later, expected in ((realm.first, None, None), (realm.second, 7, 7)):
        host, _, port = double.address.partition(":")
        until = time.time() + 0.2
        realm.runs.map.rule(Ruling("identity", host, int(port), weight=50, expires_at=until), by=ANNA)
        go = realm.runs.folder / f"go-{port}"
        command = f"while [ ! -e {go} ]; do sleep 0.02; done; {realm.command}"
        thread, found = begin(realm.runs, "roll", "identity", "--command", command, "--one", double.address)
        wait_until(lambda address=double.address: realm.states()[address] == "draining", 5)  # type: ignore[misc]
        if later is not None:
            realm.runs.ok("weight", "identity", double.address, str(later))
        wait_until(lambda until=until: time.time() > until, 5)  # type: ignore[misc]
        go.touch()
        thread.join(30)
        known = realm.runs.map.world().rulings.get(f"identity/{double.address}")
        assert (known.weight if known else None) == expected, found
        assert realm.states()[double.address] == "enabled"


def test_others_that_do_not_answer_take_no_calls(realm: Realm) -> None:
    """The map names the instances of a dead host for some seconds more: the last one that lives is not drained then."""
    realm.second.ready = False
    words = ("roll", "identity", "--command", realm.command, "--one", realm.first.address)
    result = realm.runs(*words)
    assert result.exit_code == 1
    assert f"none of the others says that it is ready ({realm.second.address})" in result.stderr
    assert f"{realm.first.address} is not drained" in result.stderr
    assert realm.first.starts == 1
    realm.runs.ok(*words, "--force")


def test_one_that_is_enabled_during_its_drain_is_not_restarted(realm: Realm) -> None:
    """It takes calls again, so the command would cost them: the walk stops there."""
    realm.sidecar.sessions = {f"identity/{realm.first.address}": 1}
    thread, found = begin(realm.runs, "roll", "identity", "--command", realm.command)
    wait_until(lambda: "draining" in realm.states().values())
    realm.runs.ok("enable", "identity", realm.first.address)
    realm.sidecar.sessions = {}
    thread.join(30)
    (result,) = found
    assert result.exit_code == 1  # type: ignore[attr-defined]
    assert "somebody has enabled it meanwhile" in result.stderr  # type: ignore[attr-defined]
    assert (realm.first.starts, set(realm.states().values())) == (1, {"enabled"})


def test_a_second_walk_is_refused(realm: Realm) -> None:
    """As long as the first one lives; what was killed ends by itself."""
    realm.runs.map.hold(Lease("roll@identity", "ben 1234", 15.0))
    result = realm.runs("roll", "identity", "--command", realm.command)
    assert result.exit_code == 4
    assert "is being rolled already, by ben" in result.stderr
    assert (realm.first.starts, realm.second.starts) == (1, 1)
    realm.runs.now = 30
    realm.runs.ok("roll", "identity", "--command", realm.command, "--one", realm.first.address)


def test_a_dry_run_shows_the_way(filled: Runs) -> None:
    """Which instance would be handed to which command; nothing is written, nothing run."""
    revision = filled.revision
    text = filled.ok("roll", "identity", "--command", "ssh {host} restart {service} {port} ${X} {a,b}", "--dry-run")
    assert "[1/2] web-1:8010 would be drained, then: ssh web-1 restart identity 8010 ${X} {a,b}" in text
    steps = filled.json("roll", "identity", "--command", "true", "--dry-run")["steps"]
    assert [step["instance"] for step in steps] == ["web-1:8010", "web-2:8010"]
    assert (filled.revision, set(filled.map.world().leases)) == (revision, {"web-1", "web-2"})


def test_a_service_that_the_command_starts_is_not_waited_for(realm: Realm) -> None:
    """What stays in the background, and goes on writing, holds up nothing and is not ended."""
    pid = realm.runs.folder / "pid"
    command = f"{realm.command}; sleep 30 & echo $! > {pid}"
    begun = time.monotonic()
    realm.runs.ok("roll", "identity", "--command", command, "--one", realm.first.address)
    assert time.monotonic() - begun < 30
    os.kill(int(pid.read_text()), 15)


def test_a_command_that_is_stopped_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """A part of it that survives TERM would restart the instance later, when it takes calls again."""
    pid = tmp_path / "pid"
    deaf = f"sh -c 'trap \"\" TERM; echo $$ > {pid}; while :; do sleep 0.05; done'"
    ran = commanding.run(
        f"{deaf} & wait",
        Instance("identity", "web-1", 8010),
        seconds=0.5,
        say=print,
        environ=os.environ,
        grace=0.2,
    )
    assert ran.code is None
    status = Path(f"/proc/{pid.read_text().strip()}/status")
    wait_until(lambda: not status.exists() or "State:\tZ" in status.read_text(), what="the end of the deaf part")


def test_the_version_stays_out_of_the_command_line(filled: Runs) -> None:
    """It is free text: the command gets it in its environment only."""
    filled.hold("web-1", Instance("identity", "web-1", 8010, version="$(touch /tmp/no)"))
    steps = filled.json("roll", "identity", "--command", "echo {version}", "--dry-run")["steps"]
    assert steps[0]["command"] == "echo {version}"


def test_the_first_word_in_a_realm_is_waited_for_like_any_other(atlas: Runs) -> None:
    """Instances that are in no catalogue yet: the first ruling makes the catalogue, and the map has another epoch from then on."""
    with ExitStack() as stack:
        for host in ("127.0.0.1", "127.0.0.2"):
            stack.enter_context(Restarted(atlas, host))
        stack.enter_context(Sidecar(atlas, "web-1"))
        command = f"touch {atlas.folder}/restart-{{instance}}"
        text = atlas.ok("roll", "identity", "--command", command, "--drain-timeout", "3s")
    assert "identity: 2 of 2 instances rolled" in text
