"""A gunicorn instance as a child of a test, with the framework's settings."""

from __future__ import annotations

import http.client
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.processes import Child, free_port, wait_until

ROOT = Path(__file__).parents[2]
CONFIGURATION = """
from smartservice.gunicorn import settings
globals().update(settings({config!r}, {app!r}))
"""


class Instance:
    """One service under gunicorn on a free port, ended with the `with` block."""

    def __init__(
        self,
        folder: Path,
        *,
        smart: bool = False,
        name: str = "instance",
        management: bool = False,
        port: int | None = None,
        ready: str = "/healthcheck/ready",
        more: str = "",
        conf: str | None = None,
        by_module: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> None:
        app = "tests.live.smart_app:make_app()" if smart else "tests.live.plain_app:make_app()"
        config = "tests.live.smart_app" if smart else None
        self.port = port or free_port()
        self.management = free_port() if management else 0
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gunicorn.conf.py").write_text(CONFIGURATION.format(config=config, app=app) + more)
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PROMETHEUS", "GUNICORN"))}
        env |= {"PORT": str(self.port), "MANAGEMENT_PORT": str(self.management), "PYTHONPATH": str(ROOT)}
        env |= {key: str(value) for key, value in (variables or {}).items()}
        # By `python -m gunicorn` as in the units of generated services, else by the script as in their images.
        program = [sys.executable, "-m", "gunicorn"] if by_module else [str(Path(sys.executable).with_name("gunicorn"))]
        command = [*program, "-c", conf or "gunicorn.conf.py"]
        command += [app] if conf else []
        self.child = Child(command, output=folder / f"{name}.log", env=env, cwd=folder)
        if ready:
            self.child.wait_ready(lambda: self.status(ready) == 200)

    def get(self, path: str, *, port: int | None = None, timeout: float = 10.0) -> tuple[int, str]:
        """Status and body of a GET on a fresh connection."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def status(self, path: str, *, port: int | None = None, timeout: float = 10.0) -> int:
        """The status of a GET; 0 when there was no answer."""
        try:
            return self.get(path, port=port, timeout=timeout)[0]
        except (OSError, http.client.HTTPException):
            return 0

    def metrics(self, *, port: int | None = None) -> dict[str, float]:
        """The metrics by their name with labels, as in the text format."""
        body = self.get("/metrics", port=port)[1]
        found = re.findall(r"^([^#\s]\S*(?: \S+)*?) (\S+)$", body, re.MULTILINE)
        return {name: float(value) for name, value in found}

    def occupy(self, threads: int, *, seconds: float) -> None:
        """Send requests of `seconds` until this many threads, all of them, are busy. Needs a management port.

        Some wait in one worker's queue while another still has a thread free, so it may take more requests than threads.
        """

        def is_full() -> bool:
            metrics = self.metrics(port=self.management)
            busy = next(value for name, value in metrics.items() if name.endswith("requests_in_flight"))
            if busy < threads:
                for _ in range(threads):
                    threading.Thread(target=self.status, args=(f"/sleep/{seconds:.1f}",), daemon=True).start()
                time.sleep(1.2)  # two beats
            return busy >= threads

        wait_until(is_full, what="every thread busy")

    def __enter__(self) -> Instance:
        return self

    def __exit__(self, *error: object) -> None:
        self.child.stop(5, how=signal.SIGINT)  # it does not drain first
