"""A drill cuts a host off with routes of its own, and takes away these alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.hosts import can_be_apart

CUTS = """
import subprocess
from sidecar.drill.faults import blackholed
from smartrealm.errors import Unavailable

def routes():
    return subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout.split("\\n")[:-1]

subprocess.run(["ip", "route", "add", "blackhole", "192.0.2.1"], check=True)
mine = routes()
with blackholed(["192.0.2.2"]):
    assert len(routes()) == 2, routes()
assert routes() == mine, routes()
try:
    with blackholed(["192.0.2.2", "192.0.2.1"]):
        raise SystemExit("it began")
except Unavailable as error:
    assert "192.0.2.1: RTNETLINK answers: File exists" in error.message, error.message
assert routes() == mine, routes()
"""


@pytest.mark.skipif(not can_be_apart(), reason="needs root and network namespaces")
def test_a_route_that_the_host_has_itself_stays() -> None:
    """Also when a drill wants to cut off that very address: it does not begin, and undoes only what it has done."""
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", CUTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
