"""How soon readers of one `atlas serve` hear of a change: a thousand at once, and the workers of twenty instances.

One server with two workers over SQLite. The thousand are raw sockets in one selector loop in a process of their own, parked
in a long-poll each, as so many processes on so many hosts would be; they follow until they have heard of everything, so
that a lost change shows. The forty are `HttpDirectory` in threads of this process. Times run from before the write is sent to
when the reader has the change; the machine shares its cores among the server, the readers and the writer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from atlas.client import HttpDirectory
from atlas.model import Author, Service
from atlas.reader import Reader
from benchmarks.measure import Claim
from tests.atlas_server import ROOT, ServedAtlas
from tests.processes import wait_until

READERS = 1000
WORKERS = 40
CHANGES = 25
BY = Author("benchmark")


def run() -> list[Claim]:
    """A thousand readers and one change, three times; forty readers and twenty-five overrides."""
    with tempfile.TemporaryDirectory() as folder:
        with ServedAtlas(Path(folder, "many"), f"sqlite:///{folder}/many.db") as served:
            slowest, lost = _thousand(served)
        with ServedAtlas(Path(folder, "forty"), f"sqlite:///{folder}/forty.db") as served:
            p99 = _forty(served)
    return [
        Claim(
            f"{READERS} long-polling readers of one Atlas told of one change",
            "all within 1 s, nothing lost",
            f"the last one after {slowest:.2f} s, {lost} lost",
            "median of 3 changes; two workers",
            slowest <= 1.0 and lost == 0,
        ),
        Claim(
            f"an override heard by {WORKERS} workers over HTTP",
            "p99 at most 1 s",
            f"p99 {p99 * 1000:.0f} ms",
            f"{CHANGES} overrides, one Atlas over SQLite",
            p99 <= 1.0,
        ),
    ]


def _thousand(served: ServedAtlas) -> tuple[float, int]:
    """How long the last of the readers took (the median of three changes), and how many changes somebody missed."""
    names = ["one", "two", "three"]
    with HttpDirectory(served.url) as directory:
        directory.put_service(Service("first"), by=BY)
        position = directory.world().position
        command = [sys.executable, "-m", "tests.many_readers", str(served.port), str(READERS), str(position)]
        readers = subprocess.Popen([*command, ",".join(names)], stdout=subprocess.PIPE, cwd=ROOT)
        assert readers.stdout is not None
        readers.stdout.readline()
        begun = {}
        for name in names:
            wait_until(lambda: served.metric("atlas_readers_waiting") == READERS, 60, what="every reader parked")
            begun[name] = time.monotonic()
            directory.put_service(Service(name), by=BY)
            time.sleep(2)
        told = json.loads(readers.communicate(timeout=60)[0])
    lost = told["mistaken"] + sum(READERS - len(told["heard"].get(name, ())) for name in names)
    slowest = sorted(max(told["heard"].get(name, [float("inf")])) - begun[name] for name in names)
    return slowest[1], lost


def _forty(served: ServedAtlas) -> float:
    """The 99th percentile of how long an override took to each reader, in seconds."""
    taken: list[float] = []
    with ExitStack() as stack:
        directory = stack.enter_context(HttpDirectory(served.url))
        directory.put_service(Service("web"), by=BY)
        readers = [
            Reader(stack.enter_context(HttpDirectory(served.url, service="web"))).start() for _ in range(WORKERS)
        ]
        for reader in readers:
            stack.callback(reader.close)
        wait_until(lambda: served.metric("atlas_readers_waiting") == WORKERS, 30, what="every reader parked")
        for size in range(CHANGES):
            begun = time.monotonic()
            directory.set_override("web", "PAGE_SIZE", size, by=BY)
            left = readers
            while left:
                heard = [one for one in left if _value(one) == size]
                taken += [time.monotonic() - begun] * len(heard)
                left = [one for one in left if one not in heard]
                time.sleep(0.001)
    return sorted(taken)[int(0.99 * len(taken))]


def _value(reader: Reader) -> object:
    override = reader.world.overrides.get("web/PAGE_SIZE")
    return None if override is None else override.value
