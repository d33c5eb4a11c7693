"""A realm of several hosts on one machine: an Atlas, and on each host a sidecar with its HAProxy, and services under gunicorn.

with hosts() as network, SidecarRealm(folder, network, atlas_url) as realm:
    h1, h2 = realm.host("h1"), realm.host("h2")
    h1.start_sidecar()
    h1.start_service("identity", CODE)
    with h1.load("identity") as load: ...
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import atlas
from tests.hosts import Host, Network
from tests.processes import Child, free_port, wait_until

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

WORKER = """
import os, time
from flask import request
from smartservice import create_app

SERVICE_NAME = "{name}"
app = create_app(__name__)

@app.route("/work", methods=["GET", "POST"])
def work():
    time.sleep(float(request.args.get("seconds", 0)))
    return {{"service": "{name}", "port": app.config["PORT"], "release": app.config["RELEASE"], "id": request.args.get("id")}}
"""
"""A service whose answers name it."""


class UnixHTTPConnection(http.client.HTTPConnection):
    """HTTP over a unix socket: the door of a host that has a network of its own."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class SidecarHost:
    """One host of the realm."""

    def __init__(self, realm: SidecarRealm, host: Host) -> None:
        self.realm, self.host = realm, host
        self.name, self.address = host.name, host.address
        self.folder = realm.folder / host.name
        self.directory = self.folder / "s"
        self.folder.mkdir(parents=True)
        self.port, self.admin_port = free_port(), free_port()
        self.agent: Child | None = None
        self.services: dict[str, list[Child]] = {}
        self._number = 0

    def environ(self, **more: object) -> dict[str, str]:
        """The environment of every program on this host."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ATLAS", "SIDECAR"))}
        own = {
            "PYTHONPATH": str(ROOT),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "REALM": "testing",
            "ATLAS_URL": self.realm.atlas_url,
            "SIDECAR_DIR": self.directory,
            "STATE_DIR": self.folder / "state",
            "ADVERTISE_HOST": self.address,
            **more,
        }
        return {**kept, **{name: str(value) for name, value in own.items()}}

    def start_sidecar(self, *options: str, wait: bool = True, **environ: object) -> Child:
        """Start the agent; it starts its HAProxy when none runs."""
        ports = ["--port", str(self.port), "--admin-port", str(self.admin_port)]
        self.agent = self.host.run(
            [str(BIN / "sidecar"), "run", *ports, *options],
            output=self.folder / "sidecar.log",
            env=self.environ(**environ),
            cwd=self.folder,
        )
        if wait:
            self.agent.wait_ready(lambda: self.ask("/healthcheck/ready")[0] == 200)
        return self.agent

    def start_service(
        self, name: str, code: str = WORKER, *, port: int = 0, wait: bool = True, **environ: object
    ) -> Child:
        """Start one instance under gunicorn; `port` of its Child is where it listens."""
        self._number += 1
        folder = self.folder / f"{name}-{self._number}"
        folder.mkdir()
        (folder / f"{name}_app.py").write_text(
            textwrap.dedent(code).replace("{name}", name).replace("{{", "{").replace("}}", "}")
        )
        port = port or free_port()
        settings = {"HOST": self.address, "PORT": port, "WORKERS": 1, "STATE_DIR": folder / "state", **environ}
        command = [str(BIN / "gunicorn"), "-c", "python:smartservice.gunicorn", f"{name}_app:app"]
        child = self.host.run(command, output=folder / "log", env=self.environ(**settings), cwd=folder)
        self.services.setdefault(name, []).append(child)
        self.realm.addresses[child.pid] = f"{self.address}:{port}"
        self.realm.children.append(child)
        if wait:
            child.wait_ready(lambda: self.realm.is_called(name, f"{self.address}:{port}"))
        return child

    def ask(self, path: str) -> tuple[int, Any]:
        """A question to the agent, over its socket; (0, None) when it does not answer."""
        connection = UnixHTTPConnection(self.directory / "agent.sock", timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, json.loads(body) if "json" in (answer.getheader("Content-Type") or "") else body
        except (OSError, http.client.HTTPException, ValueError):
            return 0, None
        finally:
            connection.close()

    def door(self, timeout: float = 10.0) -> http.client.HTTPConnection:
        """A connection to the sidecar's HAProxy, as a program on this host would have it."""
        return UnixHTTPConnection(self.directory / "calls.sock", timeout)

    def call(self, service: str, path: str = "/work", method: str = "GET", **headers: str) -> tuple[int, bytes]:
        """One call through the sidecar, repeated by nobody."""
        connection = self.door()
        try:
            connection.request(method, path, headers={"Smart-Service": service, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def proxy_pids(self) -> list[int]:
        """The processes of this host's HAProxy, the master first."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if str(self.directory / "haproxy.cfg").encode() in words:
                    found.append(int(entry.name))
        return sorted(found)

    def kill_proxy(self) -> None:
        """End HAProxy, master and workers, without a word."""
        for pid in self.proxy_pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill(self) -> None:
        """The host loses its power: everything on it ends at once."""
        if self.agent is not None:
            self.agent.stop(how=signal.SIGKILL)
        self.kill_proxy()
        for children in self.services.values():
            for child in children:
                child.stop(how=signal.SIGKILL)

    def stop(self) -> None:
        if self.agent is not None:
            self.agent.stop()
        self.kill_proxy()


class SidecarRealm:
    """All of it; ends everything at the end."""

    def __init__(self, folder: Path, network: Network, atlas_url: str) -> None:
        self.folder, self.network, self.atlas_url = folder, network, atlas_url
        self.hosts: list[SidecarHost] = []
        self.children: list[Child] = []
        self.addresses: dict[int, str] = {}
        self.directory: atlas.Directory | None = None

    def host(self, name: str) -> SidecarHost:
        made = SidecarHost(self, self.network.host(name))
        self.hosts.append(made)
        return made

    def is_called(self, service: str, address: str) -> bool:
        """Whether every sidecar calls this instance."""
        return all(self.standing(host, service, address) in ("in", "backup") for host in self.hosts if host.agent)

    def standing(self, host: SidecarHost, service: str, address: str) -> str:
        """What one sidecar makes of an instance."""
        status, told = host.ask(f"/v1/why/{service}/{address}")
        return str(told.get("standing", "")) if status == 200 else ""

    def wait_called(self, service: str, address: str, seconds: float = 10.0) -> None:
        wait_until(lambda: self.is_called(service, address), seconds, what=f"{service} at {address} in every sidecar")

    def __enter__(self) -> SidecarRealm:
        return self

    def __exit__(self, *error: object) -> None:
        for host in self.hosts:
            host.stop()
        for child in self.children:
            child.stop(5, how=signal.SIGKILL)


class DoorLoad:
    """Clients of one host that call a service through its sidecar, on kept and on fresh connections, and repeat nothing.

    A request is lost when it has no answer 200. `sent` and `lost` are by method.
    """

    def __init__(
        self, host: SidecarHost, service: str, *, pause: float = 0.01, threads: int = 1, path: str = "/work"
    ) -> None:
        self.good: Counter[str] = Counter()
        self.ports: Counter[object] = Counter()
        self.lost: list[str] = []
        self._host, self._service, self._pause, self._path = host, service, pause, path
        self._stop = threading.Event()
        kinds = [(method, kept) for method in ("GET", "POST") for kept in (False, True)] * threads
        self._threads = [threading.Thread(target=self._send, args=kind, daemon=True) for kind in kinds]

    @property
    def total(self) -> int:
        return sum(self.good.values())

    def lost_of(self, method: str) -> list[str]:
        return [one for one in self.lost if f" {method} " in one]

    def wait_for(self, more: int, seconds: float = 20.0) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.total + more
        wait_until(lambda: self.total >= wanted, seconds, what=f"{more} more answers")

    def __enter__(self) -> DoorLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15)

    def _send(self, method: str, kept: bool) -> None:
        connection = self._host.door()
        headers = {"Smart-Service": self._service, "Smart-Caller": "load"}
        while not self._stop.is_set():
            began = time.time()
            try:
                connection.request(method, self._path, body=b"x" * 100 if method == "POST" else None, headers=headers)
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 200:
                    self.good[method] += 1
                    self.ports[json.loads(body).get("port") if body[:1] == b"{" else None] += 1
                else:
                    self.lost.append(f"{began:.3f} {method} kept={kept} {answer.status} {body[:200]!r}")
                if answer.will_close or not kept:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{began:.3f} {method} kept={kept} {type(error).__name__} {error}")
                connection.close()
            self._stop.wait(self._pause)
        connection.close()


def within(seconds: float, happened: Callable[[], object]) -> float:
    """How long it took until it happened; fails the test after `seconds`."""
    began = time.monotonic()
    wait_until(happened, seconds)
    return time.monotonic() - began
