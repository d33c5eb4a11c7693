"""`sidecar drill` with real processes: a realm of its own, a host that does not survive, and a drill that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sidecar.drill.faults import frozen, full_disk, killed, slowed
from sidecar.drill.instance import main as instance
from sidecar.drill.processes import Process, listeners, process, tree
from tests.processes import Child, accepts, free_port, wait_until

SIDECAR = Path(sys.executable).with_name("sidecar")
COUNTS = "import time\nwhile True: print(time.monotonic(), flush=True); time.sleep(0.01)"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one, for the sake of the sockets."""
    made = Path(tempfile.mkdtemp(prefix="dri-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def environ(folder: Path, **more: object) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ATLAS", "SIDECAR", "REALM"))}
    return {**kept, "STATE_DIR": str(folder / "state"), **{name: str(value) for name, value in more.items()}}


def drill(env: dict[str, str], *words: str, code: int = 0) -> Any:
    """What `sidecar drill --json ...` says."""
    command = [str(SIDECAR), "drill", "--json", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


# -- one by one --------------------------------------------------------------------------------------------------------


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Process]:
    """A process that writes the time into a file, a hundred times a second."""
    with Child([sys.executable, "-c", COUNTS], output=tmp_path / "times") as child:
        child.wait_ready(lambda: len(child.text().splitlines()) > 3)
        known = process(child.pid)
        assert known is not None
        yield known


def _pauses(path: Path) -> int:
    """How often it stood still for longer than a seventh of a second."""
    times = [float(line) for line in path.read_text().splitlines()[:-1]]
    return sum(after - before > 0.15 for before, after in pairwise(times))


def test_a_frozen_process_stands_still_and_goes_on(counting: Process, tmp_path: Path) -> None:
    """It does nothing in the block, and goes on after it."""
    with frozen([counting]):
        wait_until(lambda: counting.is_stopped, what="it is stopped")
        before = (tmp_path / "times").read_text()
        time.sleep(0.1)
        assert (tmp_path / "times").read_text() == before
    wait_until(lambda: (tmp_path / "times").read_text() != before, what="it goes on")


def test_a_slowed_process_takes_longer_and_never_stands_still_for_long(counting: Process, tmp_path: Path) -> None:
    """It is stopped again and again, and runs in between and at the end."""
    with slowed([counting]):
        wait_until(lambda: _pauses(tmp_path / "times") >= 2, what="pauses, and what it does between them")
    wait_until(lambda: not counting.is_stopped, what="it goes on")


def test_a_process_with_a_full_disk_hears_of_it(counting: Process, tmp_path: Path) -> None:
    """Its next write fails; this one does not expect that, and ends."""
    with full_disk([counting]):
        wait_until(lambda: not counting.is_alive, what="it ends")


def test_a_killed_process_is_gone(counting: Process) -> None:
    """Without a word."""
    with killed([counting]):
        wait_until(lambda: not counting.is_alive, what="it ends")


KILLS_ITSELF = """
import os, sys
from pathlib import Path
from sidecar.drill.faults import frozen
from sidecar.drill.journal import Journal
from sidecar.drill.processes import process
from sidecar.drill.watchdog import watched
path = Path(sys.argv[1])
with Journal(path) as journal, watched(path), frozen([process(int(sys.argv[2]))], journal):
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_drill_has_frozen_goes_on(counting: Process, tmp_path: Path) -> None:
    """The watchdog undoes what is left, and takes the journal away."""
    path = tmp_path / "drill.journal"
    command = [sys.executable, "-c", KILLS_ITSELF, str(path), str(counting.pid)]
    done = subprocess.run(command, check=False, timeout=30, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_until(lambda: not path.exists() and not counting.is_stopped, what="undone")
    assert counting.is_alive


# -- the drill ---------------------------------------------------------------------------------------------------------


@pytest.mark.needs("haproxy")
def test_a_realm_of_its_own_survives(folder: Path) -> None:
    """It is built, frozen, cut, wiped and killed under load; no call is lost but those of HAProxy's own death, and nothing is
    left of it."""
    wanted = ["freeze:instance", "partition", "wipe", "kill:haproxy", "kill:instance", "flap"]
    words = [word for one in wanted for word in ("--only", one)]
    told = drill(environ(folder, TMPDIR=folder), "--own", "--go", "--seconds", "1", *words)
    assert told["held"], told["says"]
    assert [one["fault"] for one in told["faults"]] == ["partition", "kill", "wipe", "freeze", "kill", "flap"]
    for row in told["faults"]:
        assert row["requests"] > 15, row  # callers that met the frozen instance waited for it
        if row["target"] != "haproxy":
            assert (row["lost_get"], row["verdict"] in ("held", "as told")) == (0, True), row
    # An instance that was killed is not left ejected by HAProxies elsewhere, which look at it again after a minute.
    assert told["faults"][4]["recovered_ms"] < 30_000
    assert list(folder.glob("sidecar-drill-*")) == []
    assert not (folder / "state" / "drill.journal").exists()


@pytest.fixture
def host(folder: Path) -> Iterator[dict[str, str]]:
    """`sidecar up` with one instance of `identity` that nobody starts again; gives the environment of its commands."""
    env = environ(
        folder,
        SIDECAR_DIR=folder / "s",
        SIDECAR_PORT=free_port(),
        SIDECAR_ADMIN_PORT=0,
        SIDECAR_MAX_CONNECTIONS=300,
        SIDECAR_CHECK_SECONDS=0.3,
        ATLAS_URL=f"sqlite:///{folder / 'map'}",
        ADVERTISE_HOST="127.0.0.1",
    )
    port = free_port()
    words = [sys.executable, "-m", instance.__module__, "identity", str(port), str(folder / "s")]
    with (
        Child([SIDECAR, "up"], output=folder / "up.log", env=env) as up,
        Child(words, output=folder / "identity.log", env=env) as served,
    ):
        served.wait_ready(lambda: accepts(port))
        up.wait_ready(lambda: _called(env))
        yield env


def _called(env: dict[str, str]) -> bool:
    words = [str(SIDECAR), "why", "identity", "--json"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode == 0 and '"in"' in done.stdout


@pytest.mark.needs("haproxy")
def test_a_realm_that_does_not_survive_is_told(host: dict[str, str]) -> None:
    """The only instance of a service, which nobody starts again: the plan leaves its death out; told to kill it all the same, the
    drill finds calls lost, says what to change, and ends with 1. What is undone is undone."""
    plan = drill(host)
    assert "kill identity" not in " ".join(f"{one['fault']} {one['target']}" for one in plan["faults"])
    assert any("starts it again" in one["why"] for one in plan["left_out"])
    assert "kill agent" in {f"{one['fault']} {one['target']}" for one in plan["faults"]}

    assert drill(host, "--go", "--seconds", "1", "--only", "flap", "--only", "freeze:agent")["held"]
    (pid,) = listeners(_port(plan))
    told = drill(host, "--go", "--seconds", "1", "--only", "kill:identity", "--restarts", "--recover", "1", code=1)
    (row,) = told["faults"]
    assert row["verdict"] == "LOST"
    assert row["lost_get"] > 0
    assert "second instance" in row["advice"]
    assert not tree(pid)


@pytest.mark.needs("haproxy")
def test_ctrl_c_undoes(host: dict[str, str], tmp_path: Path) -> None:
    """In the middle of a freeze: the instance goes on, the report is given, the journal is gone, the code is 130."""
    (pid,) = listeners(_port(drill(host)))
    served = process(pid)
    assert served is not None
    words = [str(SIDECAR), "drill", "--go", "--seconds", "30", "--only", "freeze:identity"]
    with Child(words, output=tmp_path / "drill.log", env=host) as child:
        child.wait_ready(lambda: served.is_stopped)
        child.signal(signal.SIGINT)
        assert child.process.wait(60) == 130
        assert "Broken off" in child.text()
    assert not served.is_stopped
    assert not (Path(host["SIDECAR_DIR"]) / "drill.journal").exists()


def _port(plan: Any) -> int:
    return int(next(one["target"] for one in plan["faults"] if one["kind"] == "instance").rpartition(":")[2])
