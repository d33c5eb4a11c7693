"""Instances that are killed without a word while they are called: what was lost, and what was in flight there.

kills = Kills(realm)
kills.begin()
with kills.loads():
    kills.kill_one()
kills.lost("GET"), kills.elsewhere(kills.lost("POST"))
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.processes import Child, wait_until
from tests.sidecar_realm import DoorLoad, SidecarHost, SidecarRealm

NOTES = """
import os, time
from flask import request
from smartservice import create_app

SERVICE_NAME = "{name}"
app = create_app(__name__)
notes = os.open("notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

@app.route("/work", methods=["GET", "POST"])
def work():
    number = request.headers["X-Request-ID"]
    os.write(notes, f"+ {{number}}\\n".encode())
    time.sleep(float(request.args.get("seconds", 0)))
    os.write(notes, f"- {{number}}\\n".encode())
    return {{"port": app.config["PORT"]}}
"""
"""A service that notes which request it has begun, and which it has ended."""


class Kills:
    """Three instances on the hosts of a realm, of which one after the other is killed and replaced at another port."""

    def __init__(self, realm: SidecarRealm) -> None:
        self._realm = realm
        self._running: list[tuple[SidecarHost, Child]] = []
        self._loads: list[DoorLoad] = []
        self._begun: set[str] = set()
        self._ended: dict[int, float] = {}
        """When nobody listened there any more, by port."""
        self.in_flight = 0
        """How many requests the killed ones had begun, and not ended."""

    def begin(self) -> None:
        """Start three instances, and wait until every host calls them."""
        hosts = self._realm.hosts
        for number in range(3):
            self._start(hosts[number % len(hosts)])
        for _, child in self._running:
            self._realm.wait_called("identity", self._realm.addresses[child.pid])

    @contextmanager
    def loads(self, path: str = "/work?seconds=0.02") -> Iterator[None]:
        """GET and POST from every host."""
        with ExitStack() as stack:
            self._loads = [stack.enter_context(DoorLoad(host, "identity", path=path)) for host in self._realm.hosts]
            for load in self._loads:
                load.wait_for(50)
            yield
            for load in self._loads:
                load.wait_for(50)

    def kill_one(self) -> None:
        """End all the processes of the oldest instance at once; another one takes its place."""
        host, child = self._running.pop(0)
        port = int(self._realm.addresses[child.pid].rpartition(":")[2])
        os.killpg(child.pid, signal.SIGKILL)
        wait_until(lambda: not _listens(host.address, port), what="the end of its processes")
        self._ended[port] = time.time()
        child.process.wait(30)
        for load in self._loads:
            load.wait_for(20)
        time.sleep(0.1)
        self._count(child)
        started = self._start(host)
        self._realm.wait_called("identity", self._realm.addresses[started.pid])

    def lost(self, method: str) -> list[str]:
        return [told for load in self._loads for told in load.lost_of(method)]

    def good(self, method: str) -> int:
        return sum(load.good[method] for load in self._loads)

    def begun(self, lost: Sequence[str]) -> list[str]:
        """Those of the lost requests that a killed instance was working on."""
        return [told for told in lost if told.split()[-1] in self._begun]

    def elsewhere(self, lost: Sequence[str]) -> list[str]:
        """Those that were not in flight to an instance when it was killed: sent when it was no more, or long before."""
        waiting = [told for told in lost if told not in self.begun(lost)]
        return [told for told in waiting if not any(0 <= end - _sent_at(told) < 1 for end in self._ended.values())]

    def _start(self, host: SidecarHost) -> Child:
        child = host.start_service("identity", NOTES, wait=False)
        self._running.append((host, child))
        return child

    def _count(self, child: Child) -> None:
        lines = Path(child.output).with_name("notes").read_text().splitlines()
        ended = {line[2:] for line in lines if line[0] == "-"}
        begun = {line[2:] for line in lines if line[0] == "+"} - ended
        self._begun |= begun
        self.in_flight += len(begun)


_SMART = """
import json, signal, threading, time
import smartclient
ended, good, lost = threading.Event(), [], []
signal.signal(signal.SIGTERM, lambda *_: ended.set())
def work():
    while not ended.is_set():
        try:
            answer = smartclient.get("service://identity/work?seconds=0.02")
            (good if answer.status_code == 200 else lost).append(answer.status_code)
        except Exception as error:
            lost.append(repr(error))
        time.sleep(0.02)
threads = [threading.Thread(target=work) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps({"good": len(good), "lost": lost}))
"""


class SmartLoad:
    """A program of one host that calls `identity` as services do: with smartclient, which finds the sidecar by itself."""

    def __init__(self, host: SidecarHost) -> None:
        self._host = host
        self._child: Child | None = None

    def __enter__(self) -> SmartLoad:
        environ = self._host.environ(SERVICE_NAME="load")
        output = self._host.folder / "smart.log"
        self._child = self._host.host.run([sys.executable, "-c", _SMART], output=output, env=environ)
        return self

    def end(self) -> tuple[int, int]:
        """How many calls were answered, and how many were lost."""
        assert self._child is not None
        self._child.signal(signal.SIGTERM)
        self._child.process.wait(30)
        told = json.loads(self._child.text().splitlines()[-1])
        if told["lost"]:
            print(*told["lost"], sep="\n")
        return told["good"], len(told["lost"])

    def __exit__(self, *error: object) -> None:
        if self._child is not None:
            self._child.stop(0.1)


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0


def _sent_at(told: str) -> float:
    return float(told.split()[0])
