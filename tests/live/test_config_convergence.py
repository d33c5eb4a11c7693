"""Real processes that follow one file of overrides while it changes."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from tests.processes import Child, wait_until

POLL_SECONDS = 0.1
UPDATES = 200
WORKERS = 4

WORKER = """
import json, sys, threading, time, types
from smartconfig import FileSource, load

config = types.ModuleType("live.config")
config.NUMBER, config.TWIN, config.WROTE_AT, config.STOP = 0, 0, 0.0, False
settings = load(config, source=FileSource(sys.argv[1], poll_seconds=float(sys.argv[2])), environ={}, keep=False)
lags, calls, torn, requests, stop = [], [], [], [0, 0, 0], threading.Event()

def changed(old, new):
    lags.append(time.time() - new["WROTE_AT"])
    calls.append(new.version)
    if new["STOP"]:
        stop.set()

def serve(number):
    while not stop.is_set():
        token = settings.pin()
        seen = set()
        for _ in range(20):
            seen.add((settings.pinned().version, settings.pinned()["NUMBER"], settings.pinned()["TWIN"]))
            time.sleep(0.0005)
        settings.unpin(token)
        newest = settings.snapshot
        if len(seen) > 1 or any(one != other for _, one, other in seen) or newest["NUMBER"] != newest["TWIN"]:
            torn.append(sorted(seen))
        requests[number] += 1

settings.on_change("NUMBER", changed)
settings.start()
readers = [threading.Thread(target=serve, args=(number,)) for number in range(3)]
for reader in readers:
    reader.start()
print("ready", flush=True)
for reader in readers:
    reader.join()
settings.close()
print(json.dumps({"version": settings.snapshot.version, "lag": max(lags), "calls": len(calls),
                  "twice": len(calls) - len(set(calls)), "torn": torn, "requests": min(requests)}))
"""


def write(path: Path, number: int, stop: bool = False) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"NUMBER": number, "TWIN": number, "WROTE_AT": time.time(), "STOP": stop}))
    os.replace(temporary, path)


def test_all_processes_converge_and_no_request_sees_two_versions(tmp_path: Path) -> None:
    """200 updates under reading load in 4 processes: every request sees one version, each callback runs once for a
    version, and every process has the newest one within the poll and a second."""
    path = tmp_path / "overrides.json"
    write(path, 0)
    command: list[str | Path] = [sys.executable, "-c", WORKER, path, str(POLL_SECONDS)]
    children = [Child(command, output=tmp_path / f"{number}.out") for number in range(WORKERS)]
    try:
        for child in children:
            child.wait_ready(lambda child=child: "ready" in child.text())  # type: ignore[misc]
        for number in range(1, UPDATES + 1):
            write(path, number, stop=number == UPDATES)
            time.sleep(0.02)
        for child in children:
            wait_until(lambda child=child: child.process.poll() is not None)  # type: ignore[misc]
        results = [json.loads(child.text().splitlines()[-1]) for child in children]
    finally:
        for child in children:
            child.stop()
    assert len({result["version"] for result in results}) == 1
    for result in results:
        assert result["torn"] == []
        assert result["twice"] == 0
        assert result["calls"] >= 5
        assert result["requests"] >= 5
        assert result["lag"] <= POLL_SECONDS + 4  # a second on an idle machine
