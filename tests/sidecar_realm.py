"""A realm of several hosts on one machine: an Atlas, and on each host a sidecar with its HAProxy, and services under gunicorn.

with hosts() as network, SidecarRealm(folder, network, atlas_url) as realm:
    h1, h2 = realm.host("h1"), realm.host("h2")
    h1.start_sidecar()
    h1.start_service("identity", CODE)
    with h1.load("identity") as load: ...
"""

from __future__ import annotations

import http.client
import itertools
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
from functools import partial
from pathlib import Path
from typing import Any

from tests.hosts import Host, Network
from tests.processes import Callers, Child, free_port, wait_until
from tests.store_servers import zookeeper_command

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
            env=self.environ(ATLAS_TOKEN=self.realm.token_for("host", self.address), **environ),
            cwd=self.folder,
        )
        if wait:
            self.agent.wait_ready(lambda: self.ask("/healthcheck/ready")[0] == 200)
        return self.agent

    def start_service(
        self,
        name: str,
        code: str = WORKER,
        *,
        port: int = 0,
        wait: bool = True,
        supervised: bool = False,
        **environ: object,
    ) -> Child:
        """Start one instance under gunicorn; `realm.addresses` knows by its pid where it listens, and `<name>-<port>.pid` in the
        folder of the host holds the pid of its master."""
        self._number += 1
        folder = self.folder / f"{name}-{self._number}"
        folder.mkdir()
        (folder / f"{name}_app.py").write_text(
            textwrap.dedent(code).replace("{name}", name).replace("{{", "{").replace("}}", "}")
        )
        port = port or free_port()
        settings = {
            "HOST": self.address,
            "PORT": port,
            "WORKERS": 1,
            "STATE_DIR": folder / "state",
            "ATLAS_TOKEN": self.realm.token_for("service", name),
            **environ,
        }
        pid_file = self.folder / f"{name}-{port}.pid"
        command = [
            str(BIN / "gunicorn"),
            "-c",
            "python:smartservice.gunicorn",
            "--pid",
            str(pid_file),
            f"{name}_app:app",
        ]
        if supervised:  # as systemd would: started again whenever it ends
            command = ["sh", "-c", f"while :; do {' '.join(command)}; done"]
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


class AtlasHost:
    """A host with ZooKeeper and two replicas of `atlas serve` over it, which want tokens."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.host, self.address, self.folder = host, host.address, folder
        folder.mkdir(parents=True)
        self._store_port, self._ports = free_port(), (free_port(), free_port())
        self.store = f"zookeeper://{host.address}:{self._store_port}/realm"
        self.url = "http://" + ",".join(f"{host.address}:{port}" for port in self._ports)
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ATLAS", "SIDECAR"))},
            "PYTHONPATH": str(ROOT),
            "REALM": "testing",
            "ATLAS_KEYS": "",
            "STATE_DIR": str(folder / "state"),
            "WORKERS": "1",
            "DRAIN_SECONDS": "0",
        }
        self.zookeeper: Child | None = None
        self.replicas: list[Child] = []
        self.operator = ""

    def start(self) -> AtlasHost:
        """Start everything and wait until it answers."""
        command = zookeeper_command(self.folder, self._store_port, self.address)
        self.zookeeper = self.host.run(command, output=self.folder / "zookeeper.log", cwd=self.folder)
        self.zookeeper.wait_ready(lambda: "Mode:" in self._ask_zookeeper())
        if not self.operator:
            self.operator = self.token("operator", "operator")
        for port in self._ports:
            command = [str(BIN / "atlas"), "serve", "--atlas", self.store, "--host", self.address, "--port", str(port)]
            log = self.folder / f"atlas-{port}.log"
            self.replicas.append(self.host.run(command, output=log, env=self._environ, cwd=self.folder))
        for child, port in zip(self.replicas[-2:], self._ports, strict=True):
            child.wait_ready(partial(self._is_ready, port))
        return self

    def token(self, role: str, subject: str) -> str:
        """A new token, made straight on the store."""
        words = [str(BIN / "atlas"), "token", "create", role, subject, "--atlas", self.store]
        return self.host.ask(words, env=self._environ).strip()

    def command(self, *words: object, host: Host | None = None, seconds: float = 60) -> str:
        """What `atlas ...` prints for the operator."""
        environ = {**self._environ, "ATLAS_URL": self.url, "ATLAS_TOKEN": self.operator}
        return (host or self.host).ask([str(BIN / "atlas"), *map(str, words)], env=environ, seconds=seconds)

    def kill(self) -> None:
        """Atlas and its store end without a word."""
        for child in self.replicas:
            child.stop(how=signal.SIGKILL)
        self.replicas.clear()
        if self.zookeeper is not None:
            self.zookeeper.stop(how=signal.SIGKILL)

    def _ask_zookeeper(self) -> str:
        code = f"import socket; s = socket.create_connection(('{self.address}', {self._store_port}), 1); s.sendall(b'srvr'); print(s.recv(4096).decode())"
        try:
            return self.host.ask([sys.executable, "-c", code])
        except AssertionError:
            return ""

    def _is_ready(self, port: int) -> bool:
        url = f"http://{self.address}:{port}/healthcheck/ready"
        code = f"import urllib.request; print(urllib.request.urlopen('{url}', timeout=2).status)"
        try:
            return self.host.ask([sys.executable, "-c", code]).strip() == "200"
        except AssertionError:
            return False


class SidecarRealm:
    """All of it; ends everything at the end. `tokens` gives the token of a role and subject, where Atlas wants tokens."""

    def __init__(
        self, folder: Path, network: Network, atlas_url: str, *, tokens: Callable[[str, str], str] | None = None
    ) -> None:
        self.folder, self.network, self.atlas_url = folder, network, atlas_url
        self.token = tokens or (lambda role, subject: "")
        self.hosts: list[SidecarHost] = []
        self.children: list[Child] = []
        self.addresses: dict[int, str] = {}
        self._tokens: dict[str, str] = {}

    def token_for(self, role: str, subject: str) -> str:
        """The token of a service or a host, made once."""
        if subject not in self._tokens:
            self._tokens[subject] = self.token(role, subject)
        return self._tokens[subject]

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
        found = told.get("instances", []) if status == 200 else []
        return str(found[0]["standing"]) if found else ""

    def wait_called(self, service: str, address: str, seconds: float = 60.0) -> None:
        wait_until(lambda: self.is_called(service, address), seconds, what=f"{service} at {address} in every sidecar")

    def __enter__(self) -> SidecarRealm:
        return self

    def __exit__(self, *error: object) -> None:
        for host in self.hosts:
            host.stop()
        for child in self.children:
            child.stop(5, how=signal.SIGKILL)


class DoorLoad(Callers):
    """Clients of one host that call a service through its sidecar, on kept and on fresh connections, and repeat nothing.

    A request is lost when it has no answer 200; `lost` begins with the time of day at which it was sent, and ends with its
    X-Request-ID.
    """

    def __init__(
        self, host: SidecarHost, service: str, *, pause: float = 0.01, threads: int = 1, path: str = "/work"
    ) -> None:
        self.good: Counter[str] = Counter()
        self.ports: Counter[object] = Counter()
        self.lost: list[str] = []
        self._host, self._service, self._pause, self._path = host, service, pause, path
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        kinds = [(method, kept) for method in ("GET", "POST") for kept in (False, True)] * threads
        self._threads = [threading.Thread(target=self._send, args=kind, daemon=True) for kind in kinds]

    @property
    def total(self) -> int:
        return sum(self.good.values())

    def lost_of(self, method: str) -> list[str]:
        return [one for one in self.lost if f" {method} " in one]

    def wait_for(self, more: int, seconds: float = 60.0) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.total + more
        wait_until(lambda: self.total >= wanted, seconds, what=f"{more} more answers")

    def _send(self, method: str, kept: bool) -> None:
        connection = self._host.door()
        headers = {"Smart-Service": self._service, "Smart-Caller": "load"}
        while not self._stop.is_set():
            began = time.time()
            headers["X-Request-ID"] = number = f"{self._host.name}-{next(self._numbers)}"
            try:
                connection.request(method, self._path, body=b"x" * 100 if method == "POST" else None, headers=headers)
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 200:
                    self.good[method] += 1
                    self.ports[json.loads(body).get("port") if body[:1] == b"{" else None] += 1
                else:
                    self.lost.append(f"{began:.3f} {method} kept={kept} {answer.status} {body[:200]!r} {number}")
                if answer.will_close or not kept:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{began:.3f} {method} kept={kept} {type(error).__name__} {error} {number}")
                connection.close()
            self._stop.wait(self._pause)
        connection.close()


def within(seconds: float, happened: Callable[[], object]) -> float:
    """How long it took until it happened; fails the test after `seconds`."""
    began = time.monotonic()
    wait_until(happened, seconds)
    return time.monotonic() - began
