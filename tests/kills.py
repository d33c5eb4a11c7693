"""Instances that are killed without a word while they are called: what was lost, and what was in flight there.

kills = Kills(realm)
kills.begin()
with kills.loads():
    kills.kill_one()
kills.lost("GET"), kills.elsewhere(kills.lost("POST"))
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.processes import Child
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
        self.in_flight = 0
        """How many requests the killed ones had begun, and not ended."""

    def begin(self) -> None:
        """Start three instances, and wait until every host calls them."""
        hosts = self._realm.hosts
        for number in range(3):
            self._start(hosts[number % len(hosts)])
        for _, child in self._running:
            self._realm.wait_called("identity", self._realm.addresses[child.pid], 30)

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
        child.stop(how=signal.SIGKILL)
        for load in self._loads:
            load.wait_for(20)
        time.sleep(0.1)
        self._count(child)
        started = self._start(host)
        self._realm.wait_called("identity", self._realm.addresses[started.pid], 30)

    def lost(self, method: str) -> list[str]:
        return [told for load in self._loads for told in load.lost_of(method)]

    def good(self, method: str) -> int:
        return sum(load.good[method] for load in self._loads)

    def elsewhere(self, lost: Sequence[str]) -> list[str]:
        """Those of the lost requests that no killed instance had begun."""
        return [told for told in lost if told.split()[-1] not in self._begun]

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
