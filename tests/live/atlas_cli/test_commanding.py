"""The command of a rolling restart, where whoever walks is in a hurry."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.processes import Child, wait_until

RUNS = """
import os, sys
from atlas import Instance
from atlas.server import commanding
deaf = f"trap '' TERM; echo $$ > {sys.argv[1]}; while :; do sleep 0.05; done"
commanding.run(deaf, Instance("identity", "web-1", 8010), seconds=600, say=print, environ=os.environ, grace=600)
"""


def test_a_second_ctrl_c_ends_a_deaf_command_at_once(tmp_path: Path) -> None:
    """It is not left to itself: it would restart its instance later, when that takes calls again."""
    pid = tmp_path / "pid"
    with Child([sys.executable, "-c", RUNS, str(pid)], output=tmp_path / "log") as walk:
        wait_until(lambda: pid.exists() and pid.read_text().strip() != "")
        status = Path(f"/proc/{pid.read_text().strip()}/status")

        def is_over() -> bool:
            walk.signal(signal.SIGINT)
            return walk.process.poll() is not None

        wait_until(is_over, what="the end of the walk")
        wait_until(lambda: not status.exists() or "State:\tZ" in status.read_text(), what="the end of the command")
