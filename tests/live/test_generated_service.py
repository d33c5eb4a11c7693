"""The main job: a generated service under gunicorn, on PostgreSQL and Redis, and on the embedded default."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.service_process import Served
from tests.processes import Child, free_port, wait_until

BIN = Path(sys.executable).parent
PLAIN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of a service called hello, with db and redis; its own tests have run green."""
    folder = tmp_path_factory.mktemp("generated")
    subprocess.run(
        [BIN / "generate-service", "hello", "--with", "db,redis", "--into", folder], check=True, capture_output=True
    )
    return folder / "hello"


def serve(service: Path, folder: Path, **environ: str) -> Served:
    """Bring the database up to date and start the service as its systemd unit does."""
    port = free_port()
    env = {**PLAIN, "PORT": str(port), "STATE_DIR": str(folder), "PROBE_INTERVAL": "0.2", **environ}
    subprocess.run(
        [service / ".venv/bin/flask", "db", "upgrade"], cwd=service, env=env, check=True, capture_output=True
    )
    child = Child([service / ".venv/bin/gunicorn"], output=folder / "log", env=env, cwd=service)
    served = Served(child, port)
    child.wait_ready(served.is_ready)
    return served


def use_it(served: Served) -> None:
    """Everything that a caller expects of the example, and what it leaves in health, metrics and log."""
    said = served.post("/greetings", json={"name": "Ada"}, headers={"X-Request-ID": "main-job-1"})
    assert said.status_code == 201
    assert said.json()["message"] == "Hello, Ada!"
    assert said.headers["X-Request-ID"] == "main-job-1"
    assert [one["name"] for one in served.get("/greetings").json()["greetings"]] == ["Ada"]
    refused = served.post("/greetings", json={"name": ""})
    assert refused.status_code == 422
    assert refused.headers["Content-Type"] == "application/problem+json"
    for _ in range(10):
        served.get("/greetings")
    counted = [line for line in served.get("/metrics").text.splitlines() if 'route="/greetings"' in line]
    total = sum(float(line.split()[-1]) for line in counted if line.startswith("http_requests_total"))
    assert total == 13
    wait_until(lambda: "main-job-1" in served.child.text(), what="the access line")


def stop(served: Served) -> None:
    """Readiness turns red, the service answers on, then it ends with exit code 0."""
    served.child.signal(signal.SIGTERM)
    wait_until(lambda: served.get("/healthcheck/ready").status_code == 503, what="readiness turning red")
    assert served.get("/greetings").status_code == 200
    assert served.child.process.wait(30) == 0


@pytest.mark.needs("postgres")
@pytest.mark.needs("redis-server")
def test_on_postgresql_and_redis(hello: Path, tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    """Generated with db and redis, served by two workers on real servers; health names both."""
    served = serve(hello, tmp_path, DATABASE_URL=postgres_url, REDIS_URL=redis_url)
    with served.child:
        use_it(served)
        rows = {row["checker"]: row["passed"] for row in served.get("/healthcheck").json()["results"]}
        assert rows["database"]
        assert rows["redis"]
        stop(served)


def test_on_the_embedded_default(hello: Path, tmp_path: Path) -> None:
    """The same service on a laptop: a SQLite file, no Redis, no other server."""
    served = serve(hello, tmp_path)
    with served.child:
        use_it(served)
        rows = {row["checker"]: row["passed"] for row in served.get("/healthcheck").json()["results"]}
        assert rows["database"]
        assert "redis" not in rows
        stop(served)
