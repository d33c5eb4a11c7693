"""Requests lost when an instance is told to stop behind a load balancer that probes it: ours against plain gunicorn.

The balancer asks every 0.5 s and takes a backend out after 2 bad answers. Two instances serve GET and POST on fresh and on
kept connections; one of them is stopped and started anew, ten times for each worker class. A client never repeats a request.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Claim
from tests.balancer import Balancer, Load
from tests.live.instances import ROOT, Instance
from tests.processes import Child, accepts, free_port, wait_until

RUNS = 10
REFERENCE_RUNS = 2
DRAIN = {"WORKERS": 2, "THREADS": 4, "PROBE_INTERVAL": 0.5, "PROBE_FALL": 2, "GRACEFUL_SECONDS": 5}


def run() -> list[Claim]:
    """Ten stops each of gthread and sync workers, and two of plain gunicorn; both worker classes side by side."""
    kinds = ("gthread", "sync")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        ours = pool.map(lambda kind: _stops(Path(folder, kind), kind, RUNS, plain=False), kinds)
        theirs = pool.map(lambda kind: _stops(Path(folder, f"plain-{kind}"), kind, REFERENCE_RUNS, plain=True), kinds)
        return [
            Claim(
                f"requests lost at SIGTERM behind a prober, {kind}, {RUNS} stops, GET and POST",
                "0",
                f"{sum(lost)} of {sent}",
                f"plain gunicorn: {min(reference)} to {max(reference)} each stop",
                sum(lost) == 0 and sent > 0,
            )
            for kind, (lost, sent), (reference, _) in zip(kinds, ours, theirs, strict=True)
        ]


def _stops(folder: Path, kind: str, runs: int, *, plain: bool) -> tuple[list[int], int]:
    """Lost requests for each stop, and how many were answered in all of them."""
    ports = [free_port(), free_port()]
    lost, sent = [], 0
    with _serving(folder / "steady", ports[1], kind, plain=plain), Balancer(ports) as balancer:
        for number in range(runs):
            with _serving(folder / str(number), ports[0], kind, plain=plain) as stopped:
                wait_until(lambda: len(balancer.up) == 2)
                with Load(balancer.port) as load:
                    time.sleep(0.3)
                    stopped.signal(signal.SIGTERM)
                    stopped.process.wait(30)
                    wait_until(lambda: balancer.up == [ports[1]])
                    time.sleep(0.1)
                lost.append(len(load.lost))
                sent += load.total()
    return lost, sent


@contextmanager
def _serving(folder: Path, port: int, kind: str, *, plain: bool) -> Iterator[Child]:
    if not plain:
        with Instance(folder, port=port, smart=True, variables={**DRAIN, "WORKER_CLASS": kind}) as instance:
            yield instance.child
        return
    folder.mkdir(parents=True)
    command = [str(Path(sys.executable).with_name("gunicorn")), "--pythonpath", str(ROOT), "--no-control-socket"]
    command += ["-b", f"127.0.0.1:{port}", "-w", "2", "-k", kind, "tests.live.plain_app:make_app()"]
    command += ["--threads", "4"] if kind == "gthread" else []
    with Child(command, output=folder / "log", cwd=folder).wait_ready(lambda: accepts(port)) as child:
        yield child


if __name__ == "__main__":
    for claim in run():
        print(claim)
