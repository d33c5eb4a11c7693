"""An `atlas serve` as a child of the test, over a map in a SQLite file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import requests

import atlas
from atlas import Directory
from tests.processes import Child, free_port

PROGRAM = Path(sys.executable).parent / "atlas"


class AtlasServer:
    """It can be stopped and started again on the same port; `map` is the store itself, beside it."""

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'realm.db'}"
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_")}
        self.environ = {
            **kept,
            "STATE_DIR": str(folder / "state"),
            "ATLAS_AUTHOR": "anna",
            "DRAIN_SECONDS": "0",
            "WORKERS": "1",
            **(environ or {}),
        }
        self.map: Directory = atlas.open(self.url, environ=self.environ)
        self._child: Child | None = None

    def start(self) -> AtlasServer:
        command: list[str | Path] = [PROGRAM, "serve", "--atlas", self.url, "--port", str(self.port)]
        self._child = Child(command, output=self.folder / "serve.log", env=self.environ, cwd=self.folder)
        self._child.wait_ready(self.is_ready)
        return self

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.base}/healthcheck/ready", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()

    def close(self) -> None:
        if self._child is not None:
            self._child.stop(how=signal.SIGINT)  # it does not drain first
        self.map.close()
