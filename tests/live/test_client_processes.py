"""What smartclient does as a process begins and ends."""

from __future__ import annotations

import os
import subprocess
import sys

FIRST_INSIDE = """
import responses
with responses.RequestsMock() as mocked:
    mocked.get("service://identity/teams", json=1)
    import smartclient
    from smartclient import runtime
    runtime.enter(runtime.Mesh())
    assert smartclient.get("service://identity/teams").json() == 1
try:
    smartclient.get("service://identity/teams")
except smartclient.NoInstances:
    print("network again")
"""


def test_a_library_may_be_first() -> None:
    """It does not matter that smartclient is first imported while a library stands in for the network."""
    ran = subprocess.run([sys.executable, "-c", FIRST_INSIDE], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("network again\n", "")


def test_nothing_hangs_at_exit() -> None:
    """A process ends while calls are under way."""
    code = "import threading, smartclient.parallel as p\nfor _ in range(3): p.start(threading.Event().wait)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, env={**os.environ, "PYTHONPATH": "."})


def test_the_modules_are_there_by_name() -> None:
    """`import smartclient` is enough for `smartclient.testing` and `smartclient.recorder`."""
    code = "import smartclient; print(smartclient.testing.mock.__name__, smartclient.recorder.cassette.__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "mock cassette\n"
