"""Whole services on a served map: how soon every worker has an override, and what an outage of the map costs.

Twenty instances with two workers each follow one `atlas serve`; every worker writes down when a new snapshot is in force. The
outage takes the map away for a minute from services that call each other all the time.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from atlas import Author
from benchmarks.measure import Claim
from tests.atlas_outage import outage_of
from tests.atlas_server import ServedAtlas
from tests.processes import wait_until
from tests.realm import Realm

INSTANCES = 20
WORKERS = 40
CHANGES = 10
OUTAGE_SECONDS = 60.0

FOLLOWER = """
import json, os, time
from smartservice import create_app

SERVICE_NAME = "follower"
NUMBER: int = 0
app = create_app(__name__)

def changed(old, new):
    with open(os.environ["HEARD"], "a") as file:
        file.write(json.dumps([os.getpid(), new["NUMBER"], time.monotonic()]) + "\\n")

app.settings.on_change(["NUMBER"], changed)
"""


def run() -> list[Claim]:
    """Ten overrides to forty workers, and a map that is away for a minute."""
    with tempfile.TemporaryDirectory() as folder:
        p99, missed = _override(Path(folder))
    claims = [
        Claim(
            f"an override in force in every worker of {INSTANCES} instances",
            "p99 at most 1 s",
            f"p99 {p99 * 1000:.0f} ms, {missed} missed",
            f"{CHANGES} overrides, {WORKERS} gunicorn workers, one Atlas over SQLite",
            p99 <= 1.0 and missed == 0,
        )
    ]
    for how in ("killed", "frozen"):
        with tempfile.TemporaryDirectory() as folder:
            outage = outage_of(Path(folder), OUTAGE_SECONDS, how=how)
        claims.append(
            Claim(
                f"Atlas {how} for {OUTAGE_SECONDS:g} s under services that call each other",
                "0 failed calls; registrations right within 2 s",
                f"{len(outage.failed)} of {outage.answered + len(outage.failed)} failed; right after {outage.right_again_seconds:.1f} s",
                "an instance was started meanwhile; leases of 3 s",
                not outage.failed and outage.right_again_seconds <= 2.0,
            )
        )
    return claims


def _override(folder: Path) -> tuple[float, int]:
    """The 99th percentile of the seconds from a write to a worker's new snapshot, and how many never had it."""
    heard = folder / "heard"
    with ServedAtlas(folder / "atlas", f"sqlite:///{folder}/realm.db") as served:
        realm = Realm(folder, served.url)
        try:
            for _ in range(INSTANCES):
                realm.start("follower", FOLLOWER, HEARD=heard, WORKERS=WORKERS // INSTANCES, THREADS=2)
            wait_until(lambda: len(realm.addresses("follower")) == INSTANCES, 60, what="every instance")
            written: dict[int, float] = {}
            for number in range(1, CHANGES + 1):
                written[number] = time.monotonic()
                realm.directory.set_override("follower", "NUMBER", number, by=Author("benchmark"))
                time.sleep(1.5)
            lines = [json.loads(line) for line in heard.read_text().splitlines()]
        finally:
            realm.close()
    lags = sorted(at - written[number] for _, number, at in lines)
    return lags[int(len(lags) * 0.99)], WORKERS * CHANGES - len({(pid, number) for pid, number, _ in lines})
