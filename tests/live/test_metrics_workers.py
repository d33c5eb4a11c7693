"""The numbers of one instance with several workers, some of which come and go."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.live.instances import Instance
from tests.processes import wait_until

WORK = 'http_requests_total{method="GET",route="/work",status="200"}'


def test_totals_equal_what_was_sent_with_four_workers_that_are_recycled(tmp_path: Path) -> None:
    """Ours and the service's own counters count each request once, never go back, and leave few files."""
    variables = {"WORKERS": 4, "THREADS": 2, "WORKER_MAX_REQUESTS": 20, "DRAIN_SECONDS": 0}
    with Instance(tmp_path, management=True, variables=variables) as instance:
        sent, last = 0, 0.0
        with ThreadPoolExecutor(8) as clients:
            for _ in range(6):
                assert set(clients.map(instance.status, ["/work"] * 50)) == {200}
                sent += 50
                seen = instance.metrics()
                assert seen[WORK] == sent
                assert seen["birthdays_total"] == sent
                assert seen[WORK] >= last
                last = seen[WORK]
        assert instance.child.text().count("Autorestarting worker") >= 8
        body = instance.get("/metrics", port=instance.management)[1]
        assert f"{WORK} {float(sent)}" in body
        assert len(files(instance)) < 30


def test_what_a_killed_worker_counted_is_kept(tmp_path: Path) -> None:
    """A worker that is killed outright has lost nothing of what it counted."""
    with Instance(tmp_path, variables={"WORKERS": 2, "DRAIN_SECONDS": 0}) as instance:
        for _ in range(20):
            instance.get("/work")
        os.kill(int(instance.get("/pid")[1]), signal.SIGKILL)
        wait_until(lambda: instance.child.text().count("Booting worker") == 3)
        assert instance.metrics()[WORK] == 20


def test_the_directory_goes_with_the_instance(tmp_path: Path) -> None:
    """Nothing is left behind after a stop."""
    with Instance(tmp_path, variables={"DRAIN_SECONDS": 0}) as instance:
        instance.get("/work")
        folder = directory(instance)
        assert folder.is_dir()
        instance.child.signal(signal.SIGTERM)
        instance.child.process.wait(30)
        assert not folder.exists()


def directory(instance: Instance) -> Path:
    """Where this instance's processes keep their numbers."""
    pid = instance.get("/pid")[1]
    links = [Path(f"/proc/{pid}/fd", name.name) for name in Path(f"/proc/{pid}/fd").iterdir()]
    targets = [link.readlink() for link in links if link.is_symlink()]
    return next(target.parent for target in targets if target.suffix == ".cells")


def files(instance: Instance) -> list[Path]:
    return list(directory(instance).iterdir())
