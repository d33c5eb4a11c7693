"""How long `generate-service` takes to a proven service: cold, warm and prepared, against venv + pip doing the same.

cold      every cache is empty: uv downloads, the wheel of the toolkit is built
warm      uv's downloads and the wheel are there; the lock is resolved and the environment made anew
prepared  the second service of the day
venv+pip  `python -m venv` + pip doing the same with its own cache warm: resolve the requirements with their hashes, install
          the lock, run the service's tests and lint, ask its health. Still less than the generator does (no repository)
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Claim

_BIN = Path(sys.executable).parent
_ROUNDS = 3
_ASK_HEALTH = "import wsgi; assert wsgi.make_app().test_client().get('/healthcheck').status_code == 200"
_WORDS = ["--with", "db,redis", "--into"]


class _Place:
    """A folder for one measurement after the other, with caches of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.number = 0
        path = f"{_BIN}{os.pathsep}{os.environ['PATH']}"
        unwanted = {"PYTHONDONTWRITEBYTECODE"}
        self.env = {name: value for name, value in os.environ.items() if name not in unwanted}
        self.env.update(PATH=path, XDG_CACHE_HOME=str(self.cache), UV_CACHE_DIR=str(folder / "uv"))
        self.env.update(STATE_DIR=str(folder / "state"))  # a map of its own

    def generate(self) -> float:
        """Seconds to one proven service."""
        self.number += 1
        command = [str(_BIN / "generate-service"), f"hello-{self.number}", *_WORDS, str(self.folder)]
        return self._timed(command, self.folder)

    def cold(self) -> float:
        for name in ("cache", "uv"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.generate()

    def warm(self) -> float:
        for name in ("locks", "environments"):
            shutil.rmtree(self.cache / "smartservice" / name, ignore_errors=True)
        return self.generate()

    def with_pip(self) -> float:
        """Seconds for an environment of the same lock by venv and pip, and the service's own tests in it."""
        service = self.folder / f"hello-{self.number}"
        venv = self.folder / "venv"
        shutil.rmtree(venv, ignore_errors=True)
        python = str(venv / "bin" / "python")
        pip = [python, "-m", "pip", "install", "--quiet"]
        resolve = [*pip, "--dry-run", "--ignore-installed", "--report", os.devnull, "-r", "requirements-dev.in"]
        return sum(
            self._timed(command, service)
            for command in (
                [sys.executable, "-m", "venv", str(venv)],
                resolve,
                [*pip, "--require-hashes", "--no-deps", "-r", "requirements-dev.txt"],
                [python, "-m", "pytest", "-q"],
                [python, "-m", "ruff", "check", "."],
                [python, "-c", _ASK_HEALTH],
            )
        )

    def _timed(self, command: list[str], cwd: Path) -> float:
        begun = time.monotonic()
        ended = subprocess.run(command, cwd=cwd, env=self.env, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise RuntimeError(f"{command} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        return time.monotonic() - begun


def run() -> list[Claim]:
    taken: dict[str, list[float]] = {"cold": [], "prepared": [], "venv+pip": [], "warm": []}
    with tempfile.TemporaryDirectory(prefix="generate-") as name:
        place = _Place(Path(name))
        taken["cold"].append(place.cold())
        place.with_pip()  # Fills pip's cache.
        for _ in range(_ROUNDS):
            taken["prepared"].append(place.generate())
            taken["warm"].append(place.warm())
            taken["venv+pip"].append(place.with_pip())
    middle = {kind: statistics.median(seconds) for kind, seconds in taken.items()}
    pip = middle["venv+pip"]
    claims = [
        Claim(
            f"generate-service to proven green, {kind} (median of {len(taken[kind])})",
            f"at most {bar} s",
            f"{middle[kind]:.1f} s",
            f"venv + pip: {pip:.1f} s",
            middle[kind] <= bar,
        )
        for kind, bar in (("cold", 10), ("warm", 8), ("prepared", 4))
    ]
    for kind in ("warm", "prepared"):
        what = f"generate-service to proven green, {kind}: faster than venv + pip"
        ratio = pip / middle[kind]
        claims.append(Claim(what, "at least 5x", f"{ratio:.1f}x", "venv + pip, its cache warm", ratio >= 5))
    return claims
