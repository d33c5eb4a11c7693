"""A service under a real gunicorn, as a child of the test."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.processes import Child, free_port


class Served:
    """A running service: `get("/path")`, its log, its end."""

    def __init__(self, child: Child, port: int) -> None:
        self.child = child
        self.port = port
        self.base = f"http://127.0.0.1:{port}"

    def get(self, path: str, **options: object) -> requests.Response:
        return requests.get(self.base + path, timeout=10, **options)  # type: ignore[arg-type]

    def post(self, path: str, **options: object) -> requests.Response:
        return requests.post(self.base + path, timeout=10, **options)  # type: ignore[arg-type]

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.base}/healthcheck/ready", timeout=2).status_code == 200
        except requests.RequestException:
            return False


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve(code, SETTING="value")`: write the code of a service to a file and run it under gunicorn."""
    running: list[Served] = []

    def start(code: str, **environ: str) -> Served:
        (tmp_path / "served.py").write_text(textwrap.dedent(code))
        port = free_port()
        env = {**os.environ, "PORT": str(port), "STATE_DIR": str(tmp_path / "state"), "DRAIN_SECONDS": "0", **environ}
        command: list[str | Path] = [
            Path(sys.executable).parent / "gunicorn",
            "-c",
            "python:smartservice.gunicorn",
            "served:app",
        ]
        child = Child(command, output=tmp_path / f"gunicorn-{port}.log", env=env, cwd=tmp_path)
        running.append(Served(child, port))
        child.wait_ready(running[-1].is_ready)
        return running[-1]

    yield start
    for served in running:
        if served.child.process.poll() is None:
            served.child.signal(signal.SIGINT)
    for served in running:
        served.child.stop()
