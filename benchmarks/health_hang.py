"""How another route fares while a check hangs for 10 s: a gunicorn worker with eight threads under load and probes."""

from __future__ import annotations

import http.client
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from flask import Flask

from benchmarks.measure import Claim
from healthcheck import Engine
from healthcheck.flask import attach
from tests.processes import Child, accepts, free_port

_SECONDS = 8.0
_CLIENTS = 4
_PROBES = 8


def make_app(scheduled: bool) -> Flask:
    """What gunicorn serves: a route, a route that makes the check hang from now on, and the health of it all."""
    app = Flask("bench")
    hangs = threading.Event()

    def dependency() -> tuple[bool, str]:
        if hangs.is_set():
            time.sleep(10)
        return True, "fine"

    engine = Engine(interval=1.0, timeout=1.0)
    engine.add("dependency", dependency)
    attach(app, engine)
    app.extensions["engine"] = engine  # the engine lives as long as its app
    if scheduled:
        engine.start()

    @app.get("/work")
    def work() -> str:
        return "done"

    @app.post("/hang")
    def hang() -> str:
        hangs.set()
        return "from now on"

    return app


def _ask(port: int, path: str, method: str = "GET") -> float:
    begun = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path)
    connection.getresponse().read()
    connection.close()
    return time.perf_counter() - begun


def _p99_of_work(port: int) -> float:
    """The p99 latency of the route while clients ask for it and as many probes as there are threads ask for the health."""
    until = time.monotonic() + _SECONDS
    taken: list[float] = []

    def client(path: str, into: list[float], pause: float) -> None:
        while time.monotonic() < until:
            into.append(_ask(port, path))
            time.sleep(pause)

    threads = [threading.Thread(target=client, args=("/work", taken, 0.01)) for _ in range(_CLIENTS)]
    threads += [threading.Thread(target=client, args=("/healthcheck/ready", [], 0.1)) for _ in range(_PROBES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.quantiles(taken, n=100)[98]


def _measure(folder: Path, *, scheduled: bool) -> tuple[float, float]:
    port = free_port()
    command = [
        *(sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--workers", "1", "--threads", "8"),
        *("--bind", f"127.0.0.1:{port}", "--no-control-socket", f"benchmarks.health_hang:make_app({scheduled})"),
    ]
    with Child(command, output=folder / f"{scheduled}.log", cwd=Path(__file__).parent.parent) as server:
        server.wait_ready(lambda: accepts(port))
        _ask(port, "/healthcheck/ready")
        healthy = _p99_of_work(port)
        _ask(port, "/hang", "POST")
        return healthy, _p99_of_work(port)


def run() -> list[Claim]:
    """With the background schedule, as create_app has it, and without."""
    claims = []
    for what, scheduled in (("background schedule", True), ("checked on demand", False)):
        with tempfile.TemporaryDirectory() as folder:
            healthy, hung = _measure(Path(folder), scheduled=scheduled)
        claims.append(
            Claim(
                f"p99 of another route while a check hangs, {what}",
                "at most 3x",
                f"{hung / healthy:.2f}x",
                f"its healthy p99 ({healthy * 1000:.0f} ms)",
                hung <= 3 * healthy,
            )
        )
    return claims
