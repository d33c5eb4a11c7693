"""`make demo` does what the README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
@pytest.mark.needs("haproxy")
def test_the_demo_runs_to_its_end(tmp_path: Path) -> None:
    """Two services: one calls the other, both follow the map, one is replaced; then on three hosts with sidecars they are rolled,
    one is killed, and Atlas is killed. No call is lost, nothing is left behind. A bare Debian will do, which has no `kill`."""
    into, programs = tmp_path / "into", tmp_path / "bin"
    into.mkdir()
    programs.mkdir()
    for folder in reversed(os.get_exec_path()):
        for program in Path(folder).glob("*"):
            (programs / program.name).unlink(missing_ok=True)
            (programs / program.name).symlink_to(program)
    (programs / "kill").unlink(missing_ok=True)
    shown = subprocess.run(
        [sys.executable, "-m", "scripts.demo", "--into", into],
        env={**os.environ, "PATH": str(programs)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    answered = re.findall(r"calls answered: (\d+), lost: 0", shown.stdout)
    assert len(answered) == 4
    assert min(map(int, answered)) > 20
    assert "hello: 3 of 3 instances rolled" in shown.stdout
    assert '{"welcome":"Good evening, Ada!"}' in shown.stdout
    assert "2 services, 2 instances (2 enabled)" in shown.stdout
    assert list(into.iterdir()) == []
