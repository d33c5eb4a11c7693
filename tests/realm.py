"""A realm for tests: a map, and services that run in it under gunicorn, each in a folder of its own."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import requests

import atlas
from atlas import Directory
from tests.processes import Child, free_port

IDENTITY = """
from flask import request
from smartservice import create_app

SERVICE_NAME = "identity"
SALUTATION: str = "Hello"
app = create_app(__name__)

@app.get("/teams")
def teams():
    return {
        "salutation": app.config["SALUTATION"],
        "name": request.args["name"],
        "caller": request.headers.get("Smart-Caller"),
        "request": request.headers["X-Request-ID"],
        "milliseconds": int(request.headers["Smart-Deadline"]),
    }
"""

ORDERS = """
import smartclient as requests
from smartservice import create_app

SERVICE_NAME = "orders"
CURRENCY: str = "EUR"
app = create_app(__name__)

@app.get("/orders")
def orders():
    found = requests.get("service://identity/teams", params={"name": "Ada"}, deadline=5).json()
    return {"currency": app.config["CURRENCY"], "identity": found}

@app.get("/nobody")
def nobody():
    return requests.get("service://identiti/teams").json()
"""


class Realm:
    """A map and the services that run in it, each in a folder of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.directory: Directory = atlas.open(url)
        self.running: list[Child] = []
        self.services: dict[str, list[Running]] = {}

    def start(self, name: str, code: str, **variables: object) -> Running:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / f"{name}_app.py").write_text(textwrap.dedent(code))
        port = free_port()
        environ = {
            **os.environ,
            "ATLAS_URL": self.url,
            "REALM": "local",
            "PORT": str(port),
            "STATE_DIR": str(folder / "state"),
            "DRAIN_SECONDS": "0.5",
            "LEASE_SECONDS": "3",
            **{key: str(value) for key, value in variables.items()},
        }
        program = Path(sys.executable).with_name("gunicorn")
        command = [program, "-c", "python:smartservice.gunicorn", f"{name}_app:app"]
        child = Child([str(part) for part in command], output=folder / f"{port}.log", env=environ, cwd=folder)
        self.running.append(child)
        running = Running(child, port)
        self.services.setdefault(name, []).append(running)
        child.wait_ready(running.is_ready)
        return running

    def addresses(self, service: str, state: str = "enabled") -> list[str]:
        return sorted(
            place.instance.address for place in self.directory.world().places(service) if place.state == state
        )

    def close(self) -> None:
        for child in self.running:
            if child.process.poll() is None:
                child.signal(signal.SIGINT)
        for child in self.running:
            child.stop()
        self.directory.close()


class Running:
    """One service that was started."""

    def __init__(self, child: Child, port: int) -> None:
        self.child = child
        self.port = port
        self.address = f"127.0.0.1:{port}"

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(f"http://{self.address}{path}", headers=headers, timeout=10)

    def json(self, path: str, **headers: str) -> Any:
        return self.get(path, **headers).json()

    def is_ready(self) -> bool:
        try:
            return self.get("/healthcheck/ready").status_code == 200
        except requests.RequestException:
            return False
