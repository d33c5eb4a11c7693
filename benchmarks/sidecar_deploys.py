"""Deploys, crashes, flapping and bad instances behind sidecars: what is lost, and how often the routes change.

Everything is real: a map in SQLite, sidecars with their HAProxys on addresses of the loopback, services under gunicorn, whose
restarts are those of a supervisor. The clients send GET and POST on kept and on fresh connections and repeat nothing.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from atlas.model import Author
from benchmarks.measure import Claim
from tests.balancer import Balancer, Load
from tests.flaps import flapping
from tests.hosts import hosts
from tests.kills import Kills, SmartLoad
from tests.live.instances import Instance as Served
from tests.processes import wait_until
from tests.sidecar_realm import BIN, DoorLoad, SidecarRealm

ROLLS = 12
REFERENCE_STOPS = 4
KILLS = 20
FLAP_SECONDS = float(os.environ.get("SIDECAR_FLAP_SECONDS", "30"))
BY = Author("benchmark")

FAULTY = """
import os, time
from flask import request
from smartservice import create_app

SERVICE_NAME = "{name}"
app = create_app(__name__)

@app.route("/work", methods=["GET", "POST"])
def work():
    bad = os.path.exists("bad")
    return {{"port": app.config["PORT"], "bad": bad}}, 500 if bad else 200
"""
"""A service that fails while there is a file named bad, and whose health knows nothing of it."""


def run() -> list[Claim]:
    return [deploy(), *kill(), *flap(), *bad()]


@contextmanager
def realm(*names: str, **environ: object) -> Iterator[tuple[SidecarRealm, Path]]:
    """Hosts with a sidecar each."""
    with (
        tempfile.TemporaryDirectory(prefix="sd", ignore_cleanup_errors=True) as folder,
        hosts(apart=False) as network,
        SidecarRealm(Path(folder), network, f"sqlite:///{folder}/map.db") as made,
    ):
        for name in names:
            made.host(name).start_sidecar(**environ)  # type: ignore[arg-type]
        yield made, Path(folder)


# -- a deploy ----------------------------------------------------------------------------------------------------------


def deploy() -> Claim:
    """Twelve rolls of three instances, each on a host of its own, called from all three hosts."""
    with realm("a", "b", "c") as (town, _), ExitStack() as stack:
        started = [host.start_service("identity", supervised=True, wait=False, DRAIN_SECONDS=1) for host in town.hosts]
        for child in started:
            town.wait_called("identity", town.addresses[child.pid], 30)
        loads = [stack.enter_context(DoorLoad(host, "identity", path="/work?seconds=0.01")) for host in town.hosts]
        restart = "kill $(cat " + str(town.folder) + "/*/identity-{port}.pid)"
        begun = time.monotonic()
        for _ in range(ROLLS):
            words = [str(BIN / "atlas"), "roll", "identity", "--command", restart, "--why", "a new release"]
            town.hosts[0].host.ask(words, env=town.hosts[0].environ(), seconds=180)
        seconds = (time.monotonic() - begun) / ROLLS / len(started)
        for load in loads:
            load.wait_for(20)
        stack.close()
        lost = _lost(loads)
        good = {method: sum(load.good[method] for load in loads) for method in ("GET", "POST")}
    stops = _stops_without()
    return Claim(
        f"requests lost in {ROLLS} rolling deploys of 3 instances, DRAIN_SECONDS=1, {seconds:.1f} s for each instance",
        "0",
        f"{len(lost)} of {good['GET']} GET and {good['POST']} POST",
        f"behind a prober, TERM without a drain: {min(stops)} to {max(stops)} each stop",
        not lost,
    )


def _stops_without() -> list[int]:
    """What each stop loses without a sidecar and without a drain, behind a balancer that probes."""
    settings = {"WORKERS": 1, "DRAIN_SECONDS": 0}
    lost = []
    with tempfile.TemporaryDirectory() as name, Served(Path(name, "steady"), smart=True, variables=settings) as steady:
        port = 0
        for number in range(REFERENCE_STOPS):
            with Served(Path(name, str(number)), smart=True, port=port or None, variables=settings) as stopped:
                port = stopped.port
                with Balancer([steady.port, port]) as balancer:
                    wait_until(lambda: len(balancer.up) == 2)
                    with Load(balancer.port, pause=0.001) as load:
                        time.sleep(0.3)
                        stopped.child.signal(signal.SIGTERM)
                        stopped.child.process.wait(30)
                        wait_until(lambda: balancer.up == [steady.port])
                        time.sleep(0.1)
                lost.append(len(load.lost))
    return lost


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def kill() -> list[Claim]:
    """Twenty times an instance is killed with all its processes, and another one started at another port."""
    with realm("a", "b") as (town, _), ExitStack() as stack:
        kills = Kills(town)
        kills.begin()
        smart = [stack.enter_context(SmartLoad(host)) for host in town.hosts]
        with kills.loads():
            for _ in range(KILLS):
                kills.kill_one()
        good, missed = (sum(counts) for counts in zip(*(load.end() for load in smart), strict=True))
    gets, posts = kills.lost("GET"), kills.lost("POST")
    elsewhere = kills.elsewhere([*gets, *posts])
    for told in (*(one for one in gets), *elsewhere):
        print(told)
    halves = [told for told in gets if "IncompleteRead" in told]
    return [
        Claim(
            f"GET lost in {KILLS} kills -9, by services (smartclient)",
            "0",
            f"{missed} of {good}",
            "",
            not missed and good > 0,
        ),
        Claim(
            f"GET lost in {KILLS} kills -9, by clients that repeat nothing",
            "0",
            f"{len(gets) - len(halves)} of {kills.good('GET')}",
            f"answers of which one half had been sent: {len(halves)}",
            len(gets) == len(halves),
        ),
        Claim(
            f"POST lost in {KILLS} kills -9, by clients that repeat nothing",
            "those in flight there",
            f"{len(posts)} of {kills.good('POST')}; {len(elsewhere)} were not in flight there",
            f"{len(kills.begun(posts))} were begun, the others waited there; requests of all kinds begun there: {kills.in_flight}",
            not elsewhere,
        ),
    ]


# -- flapping ----------------------------------------------------------------------------------------------------------


def flap() -> list[Claim]:
    """An announced instance whose readiness changes each second, and one that comes into the map and leaves it each second."""
    found = flapping(FLAP_SECONDS)
    rest = f"{found.reloads} reloads, {len(found.lost)} lost"
    times = {"readiness": (found.readiness, int(FLAP_SECONDS)), "presence in the map": (found.map, found.flaps)}
    return [
        Claim(
            f"routing changes while an instance flaps at 1 Hz for {FLAP_SECONDS:.0f} s: its {how}",
            "at most 6, 0 reloads",
            f"{changes}, {rest}",
            f"it changed {flaps} times",
            changes <= 6 and not found.reloads and not found.lost,
        )
        for how, (changes, flaps) in times.items()
    ]


# -- a bad instance ----------------------------------------------------------------------------------------------------


def bad() -> list[Claim]:
    """One of three instances answers 500 to everything while its health says 200; then it is mended."""
    with realm("a", "b") as (town, _), ExitStack() as stack:
        near, far = town.hosts
        started = [host.start_service("identity", FAULTY, wait=False) for host in (near, near, far)]
        for child in started:
            town.wait_called("identity", town.addresses[child.pid], 30)
        mark = near.folder / "identity-1" / "bad"
        port = int(town.addresses[started[0].pid].rpartition(":")[2])
        loads = [stack.enter_context(DoorLoad(host, "identity", pause=0.01, threads=2)) for host in town.hosts]
        for load in loads:
            load.wait_for(100)
        began = time.time()
        mark.touch()
        time.sleep(7)  # it is tried again after five seconds
        first = [[at for at in _times(load) if at < began + 4] for load in loads]
        tries = [[at for at in _times(load) if at >= began + 4] for load in loads]
        mark.unlink()
        mended = time.monotonic()
        before = [load.ports[port] for load in loads]
        wait_until(lambda: all(load.ports[port] > n for load, n in zip(loads, before, strict=True)), 70)
        back = time.monotonic() - mended
        stack.close()
    seconds = max((times[-1] - began for times in first if times), default=0.0)
    answers = max(map(len, first))
    return [
        Claim(
            "a bad instance under load, whose health is good: until it is out, at the worse of two hosts",
            "0.5 s, 10 bad answers",
            f"{seconds:.2f} s, {answers} bad answers",
            f"{max(map(len, tries))} more when it was tried after 5 s; back {back:.1f} s after it was mended",
            0 < answers <= 10 and seconds <= 0.5,
        )
    ]


def _times(load: DoorLoad) -> list[float]:
    return sorted(float(told.split()[0]) for told in load.lost)


def _lost(loads: list[DoorLoad]) -> list[str]:
    """What was lost, the first ones printed for whoever has to find out why."""
    lost = [told for load in loads for told in load.lost]
    for told in lost[:20]:
        print(told)
    return lost


if __name__ == "__main__":
    for claim in run():
        print(claim)
