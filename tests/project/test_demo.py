"""`make demo` does what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_demo_runs_to_its_end(tmp_path: Path) -> None:
    """Two services: one calls the other, both follow the map, one is replaced, no call is lost, nothing is left behind."""
    shown = subprocess.run(
        [sys.executable, ROOT / "scripts" / "demo.py", "--into", tmp_path], capture_output=True, text=True, timeout=110
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    answered = re.search(r"calls answered: (\d+), lost: 0", shown.stdout)
    assert answered is not None
    assert int(answered[1]) > 20
    assert '{"welcome":"Good evening, Ada!"}' in shown.stdout
    assert "2 services, 2 instances (2 enabled)" in shown.stdout
    assert list(tmp_path.iterdir()) == []
