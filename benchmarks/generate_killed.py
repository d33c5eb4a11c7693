"""`generate-service` killed at 200 random moments: each time the target is absent or complete."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Claim

KILLS = 200
_BIN = Path(sys.executable).parent


def run() -> list[Claim]:
    with tempfile.TemporaryDirectory(prefix="killed-") as name:
        into = Path(name) / "into"
        into.mkdir()
        env = {**os.environ, "XDG_CACHE_HOME": str(Path(name) / "cache"), "STATE_DIR": str(Path(name) / "state")}
        _generate(into, env, "first").wait()
        begun = time.monotonic()
        _generate(into, env, "second").wait()
        whole = time.monotonic() - begun
        wanted = _files(into / "second")
        dice = random.Random()
        right = complete = 0
        for _ in range(KILLS):
            process = _generate(into, env, "hello")
            try:
                process.wait(dice.uniform(0, whole * 1.2))
            except subprocess.TimeoutExpired:
                process.send_signal(dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
                process.wait()
            target = into / "hello"
            if not target.exists():
                right += 1
            elif _files(target) == wanted and _is_clean(target):
                right += 1
                complete += 1
                target.rename(Path(name) / f"done-{complete}")
    what = "generate-service killed at random moments: absent or complete"
    measured = f"{right} of {KILLS} ({complete} complete)"
    return [Claim(what, f"{KILLS} of {KILLS}", measured, "a half-written directory", right == KILLS)]


def _generate(into: Path, env: dict[str, str], name: str) -> subprocess.Popen[bytes]:
    command = [str(_BIN / "generate-service"), name, "--no-verify", "--into", str(into)]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _files(folder: Path) -> int:
    """How many files there are outside of .git, the environment included."""
    return sum(1 for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)


def _is_clean(folder: Path) -> bool:
    said = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, check=False)
    works = subprocess.run([folder / ".venv" / "bin" / "python", "-c", "import flask"], check=False)
    return said.returncode == 0 and not said.stdout and works.returncode == 0
