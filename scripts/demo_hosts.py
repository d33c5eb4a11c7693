"""The second half of the demo: the same two services on three hosts, each with a sidecar, and what happens to hosts.

The hosts are loopback addresses of this machine; everything else is as in production: `atlas serve`, on each host an agent and
its HAProxy, services under gunicorn that are started again when they end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import requests

BIN = Path(sys.executable).parent


class Hosts:
    """Three hosts, a server for the map, and a steady load. `end` ends all of it."""

    def __init__(self, folder: Path, environment: Mapping[str, str], free_port: Callable[[], int]) -> None:
        self._folder = folder
        self._free_port = free_port
        # Not below the folder of the demo: the path of a unix socket has at most 107 bytes.
        self._short = Path(tempfile.mkdtemp(prefix="demo-"))
        self._running: list[subprocess.Popen[bytes]] = []
        self._ending = threading.Event()
        self.atlas_port = free_port()
        self.environment = {
            **environment,
            "ATLAS_URL": f"http://127.0.0.1:{self.atlas_port}",
            "DRAIN_SECONDS": "1",
            "WORKERS": "1",
        }
        self.names = ("h1", "h2", "h3")
        self.ports = {name: free_port() for name in self.names}
        self.pages = {name: free_port() for name in self.names}
        self.atlas: subprocess.Popen[bytes] | None = None

    def environment_of(self, host: str) -> dict[str, str]:
        """The variables of every program on a host."""
        return {
            **self.environment,
            "SIDECAR_DIR": str(self._short / host),
            "SIDECAR_PORT": str(self.ports[host]),
            "SIDECAR_ADMIN_PORT": str(self.pages[host]),
            "STATE_DIR": str(self._folder / host),
            "ADVERTISE_HOST": f"127.0.1.{self.names.index(host) + 1}",
        }

    def start(self) -> None:
        """Start the map's server, and a sidecar on each host."""
        store = self.environment["DEMO_MAP"]
        words: list[str | Path] = [BIN / "atlas", "serve", "--atlas", store, "--port", str(self.atlas_port)]
        self.atlas = self._begin(words, "atlas.log", {**self.environment, "STATE_DIR": str(self._folder / "atlas")})
        wait(lambda: answers(f"http://127.0.0.1:{self.atlas_port}/healthcheck/ready"), "the server of the map")
        for host in self.names:
            self._begin([BIN / "sidecar", "up"], f"sidecar-{host}.log", self.environment_of(host))
        for host in self.names:
            wait(partial(answers, f"http://127.0.0.1:{self.pages[host]}/healthcheck/ready"), f"the sidecar of {host}")

    def start_service(self, name: str, host: str) -> str:
        """Start an instance, again and again should it end; gives its address."""
        port = self._free_port()
        environment = self.environment_of(host)
        environment |= {
            "HOST": environment["ADVERTISE_HOST"],
            "PORT": str(port),
            "STATE_DIR": str(self._folder / f"{name}-{port}"),
        }
        gunicorn = self._folder.parent / name / ".venv/bin/gunicorn"
        words = [
            "sh",
            "-c",
            f"trap exit TERM; while :; do {gunicorn} --pid {self.pid_file(name, port)} & wait; wait; done",
        ]
        self._begin(words, f"{name}-{port}.log", environment, cwd=self._folder.parent / name)
        return f"{environment['ADVERTISE_HOST']}:{port}"

    def wait_called(self, name: str, address: str) -> None:
        """Return when every sidecar sends calls to this instance."""
        wait(lambda: self.is_called(name, address), f"{name} at {address} in every sidecar", 60)

    def pid_file(self, name: str, port: object) -> Path:
        return self._folder / f"{name}-{port}.pid"

    def is_called(self, name: str, address: str) -> bool:
        """Whether every sidecar sends calls to this instance."""
        for page in self.pages.values():
            told = get_json(f"http://127.0.0.1:{page}/v1/why/{name}/{address}")
            found = told.get("instances") or [{}]
            if found[0].get("standing") != "in":
                return False
        return True

    def kill(self, name: str, address: str) -> None:
        """End an instance without a word."""
        _kill(int(self.pid_file(name, address.rpartition(":")[2]).read_text()))

    def kill_atlas(self) -> None:
        """End the server of the map without a word. Its worker, too: alone it would answer on for as long as somebody waits."""
        assert self.atlas is not None
        _kill(self.atlas.pid)

    def end(self) -> None:
        self._ending.set()
        for process in reversed(self._running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for file in self._folder.glob("*.pid"):
            _signal(int(file.read_text()), signal.SIGINT)
        for process in self._running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._short, ignore_errors=True)

    def _begin(
        self, words: Sequence[str | Path], log: str, environment: Mapping[str, str], cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        self._folder.mkdir(exist_ok=True)
        with (self._folder / log).open("w") as output:
            process = subprocess.Popen(
                [str(word) for word in words], env=dict(environment), cwd=cwd, stdout=output, stderr=output
            )
        self._running.append(process)
        return process


class Calls:
    """Callers on one host who read from a service through its sidecar, as any program in any language could, and repeat
    nothing."""

    def __init__(self, port: int, service: str, path: str) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self._url = f"http://127.0.0.1:{port}{path}"
        self._service = service
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(4)]

    def __enter__(self) -> Calls:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        time.sleep(0.5)
        self._done.set()
        for thread in self._threads:
            thread.join()
        print(f"  calls answered: {self.answered}, lost: {len(self.lost)}")

    def _call(self) -> None:
        with requests.Session() as session:
            while not self._done.is_set():
                try:
                    answer = session.get(self._url, headers={"Smart-Service": self._service}, timeout=10)
                    if answer.status_code == 200:
                        self.answered += 1
                    else:
                        self.lost.append(f"{answer.status_code} {answer.text[:200]}")
                except requests.RequestException as error:
                    self.lost.append(str(error))


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


def get_json(url: str) -> dict[str, Any]:
    try:
        return dict(requests.get(url, timeout=2).json())
    except (requests.RequestException, ValueError):
        return {}


def wait(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)


def _kill(pid: int) -> None:
    for one in (*_children(pid), pid):
        _signal(one, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(one) for one in listed.read_text().split()] if listed.exists() else []
