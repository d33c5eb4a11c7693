"""A real `atlas serve` as a child of a test: gunicorn over a store, on a free port, ended by pid."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.processes import Child, free_port, wait_until

ROOT = Path(__file__).parents[1]
SERVE = "import sys; from atlas.server.serving import run; run(sys.argv[1], '127.0.0.1', int(sys.argv[2]))"


def status_of(url: str) -> int:
    """The status of a GET; 0 when there was no answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _plain_environ(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROMETHEUS", "ATLAS"))}
    own = {"PYTHONPATH": str(ROOT), "STATE_DIR": str(folder / "state"), "WORKERS": "2", "DRAIN_SECONDS": "0"}
    return {**kept, **own}


class ServedAtlas:
    """One replica over a store. `url` is what `atlas.open` takes; `stop`, `kill` and `start` may be called in turn."""

    def __init__(self, folder: Path, store: str, *, port: int | None = None, **settings: object) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._store = store
        self._environ = {**_plain_environ(folder), **{name: str(value) for name, value in settings.items()}}
        self.child: Child | None = None

    def start(self, *, wait: bool = True) -> ServedAtlas:
        """Start it and wait until it is ready."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", SERVE, self._store, str(self.port)]
        log = self._folder / f"atlas-{self.port}.log"
        self.child = Child(command, output=log, env=self._environ, cwd=self._folder)
        if wait:
            self.child.wait_ready(lambda: self.status("/healthcheck/ready") == 200)
        return self

    def status(self, path: str) -> int:
        """The status of a GET; 0 when there was no answer."""
        return status_of(self.url + path)

    def metric(self, name: str) -> float:
        """A number from /metrics, over all workers."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found.group(1)) if found else -1.0

    def wait_followed(self, revision: int) -> None:
        """Wait until each of its workers has read the map up to this revision. The first one is ready before the others."""
        workers = int(self._environ["WORKERS"])
        wait_until(lambda: self.text().count("Booting worker") >= workers, what="all workers")
        time.sleep(1.5)  # two beats: each has told its numbers
        wait_until(lambda: self.metric("atlas_revision_oldest") >= revision, what="the map in all workers")

    def stop(self) -> int:
        """End it as a deployment does."""
        assert self.child is not None
        return self.child.stop(30)

    def kill(self) -> None:
        """End it and its workers without a word."""
        assert self.child is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.process.wait(30)

    def freeze(self) -> None:
        """Stop all its processes where they are: connections are taken, nothing is answered."""
        assert self.child is not None
        os.killpg(self.child.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        assert self.child is not None
        os.killpg(self.child.pid, signal.SIGCONT)

    def text(self) -> str:
        """What it has written."""
        return "" if self.child is None else self.child.text()

    def __enter__(self) -> ServedAtlas:
        return self.start()

    def __exit__(self, *error: object) -> None:
        if self.child is not None:
            self.child.stop(5, how=signal.SIGINT)  # it does not drain first


class ManyMaps:
    """One gunicorn with as many empty maps as are asked for, started with the first; see `tests.many_maps`."""

    def __init__(self, *, keys: str) -> None:
        self._keys = keys
        self._numbers = itertools.count(1)
        self._stack = contextlib.ExitStack()
        self._url = ""

    @contextlib.contextmanager
    def fresh(self, directory: Path) -> Iterator[str]:
        """The URL of a fresh, empty map behind an `atlas serve` over one SQLite file."""
        if not self._url:
            self._start()
        yield f"{self._url}/m{next(self._numbers)}"

    def close(self) -> None:
        """End the server."""
        self._stack.close()
        self._url = ""

    def _start(self) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        environ = {**_plain_environ(folder), "PORT": str(port), "THREADS": "300", "MANY_MAPS": str(folder)}
        environ |= {"ATLAS_KEYS": self._keys, "ATLAS_URL": ""}
        command = [sys.executable, "-m", "gunicorn", "-c", "python:smartservice.gunicorn", "tests.many_maps:app"]
        child = Child(command, output=folder / "log", env=environ, cwd=ROOT)
        self._stack.callback(child.stop, how=signal.SIGINT)  # it does not drain first
        url = f"http://127.0.0.1:{port}"
        child.wait_ready(lambda: status_of(f"{url}/ready/") == 200)
        self._url = url
