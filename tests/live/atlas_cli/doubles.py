"""A sidecar that does nothing but report, and a service that is restarted by a file: for commands that wait for both."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import atlas
from atlas import Instance, Lease
from tests.live.atlas_cli.runs import Runs

PAUSE = 0.02


class Sidecar:
    """Follows the map in a thread and reports what it has applied, with these calls under way. `stops_at`: it applies no revision
    above this one."""

    def __init__(self, runs: Runs, host: str, sessions: Mapping[str, int] | None = None) -> None:
        self.host = host
        self.sessions = dict(sessions or {})
        self.stops_at = 10**9
        self.holding = 0
        self.applied = 0
        self.epoch = ""
        self._map = atlas.open(runs.url, environ=runs.environ)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def lease(self) -> Lease:
        report = {
            "revision": self.applied,
            "epoch": self.epoch,
            "sessions": dict(self.sessions),
            "holding": self.holding,
        }
        return Lease(f"sidecar@{self.host}", "i1", 15.0, report=report)

    def _run(self) -> None:
        while not self._stop.is_set():
            position = self._map.world().position
            self.applied, self.epoch = min(position.revision, self.stops_at), position.epoch
            self._map.hold(self.lease())
            self._stop.wait(PAUSE)

    def __enter__(self) -> Sidecar:
        self._map.hold(self.lease())
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._map.close()


class Restarted:
    """An instance that answers for its readiness, and comes back with another incarnation when its file appears in a folder."""

    def __init__(self, runs: Runs, host: str) -> None:
        self.ready = True
        self.comes_back = True
        self.has_incarnation = True
        self.starts = 1
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if double.ready else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self.address = f"{host}:{self._server.server_address[1]}"
        self._file = runs.folder / f"restart-{self.address}"
        self._map = atlas.open(runs.url, environ=runs.environ)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(PAUSE,)),
            threading.Thread(target=self._run),
        ]

    @property
    def order(self) -> Path:
        """The file that restarts it."""
        return self._file

    def hold(self) -> None:
        host, _, port = self.address.partition(":")
        incarnation = f"start-{self.starts}" if self.has_incarnation else ""
        one = Instance("identity", host, int(port), version=f"1.{self.starts}", incarnation=incarnation)
        self._map.hold(Lease(f"identity@{self.address}", f"i{self.starts}", 15.0, (one,)))

    def _run(self) -> None:
        while not self._stop.wait(PAUSE):
            if self._file.exists():
                self._map.release(f"identity@{self.address}", f"i{self.starts}")
                self.starts += 1
                if self.comes_back:
                    self.hold()
                self._file.unlink()  # last: a command may wait for it

    def __enter__(self) -> Restarted:
        self.hold()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        self._server.server_close()
        self._map.close()
