"""The proof that a new service works: its own tests, its lint and its health, all three at once."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from skeleton.errors import NotProven
from skeleton.processes import Failed, Processes, Running, bare_environment

_SECONDS = 120.0
_KEEP = "run it again with --no-verify to keep the repository and look"


def prove(
    folder: Path, scratch: Path, *, components: tuple[str, ...], processes: Processes, environ: Mapping[str, str]
) -> None:
    """Return when tests, lint and health are green; NotProven at the first that is red. Leaves nothing in `folder`."""
    scratch.mkdir()
    python = folder / ".venv" / "bin" / "python"
    port = free_port()
    env = bare_environment(
        environ,
        PYTHONDONTWRITEBYTECODE="1",
        TMPDIR=str(scratch),
        XDG_STATE_HOME=str(scratch),
        XDG_RUNTIME_DIR=str(scratch),
        XDG_CACHE_HOME=str(scratch),
    )
    served = {**env, "HOST": "127.0.0.1", "PORT": str(port), "WORKERS": "1", "MANAGEMENT_PORT": "0"}
    if "db" in components:
        served["DATABASE_URL"] = f"sqlite:///{scratch}/health.sqlite3"
    server = processes.start([python, "-m", "gunicorn", "-c", "gunicorn.conf.py"], cwd=folder, env=served)
    tests = processes.start([python, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=folder, env=env)
    ruff = folder / ".venv" / "bin" / "ruff"
    lint = [
        processes.start([ruff, "check", "--no-cache", "."], cwd=folder, env=env, name="ruff check"),
        processes.start([ruff, "format", "--no-cache", "--check", "."], cwd=folder, env=env, name="ruff format"),
    ]
    try:
        _wait_healthy(server, port)
        server.end()
        _wait("lint is", lint, processes)
        _wait("own tests are", [tests], processes)
    finally:
        for running in (server, tests, *lint):
            if running.process.poll() is None:
                running.end()


def _wait(what: str, programs: list[Running], processes: Processes) -> None:
    try:
        processes.wait_all(programs, _SECONDS)
    except Failed as failed:
        raise NotProven(f"The new service's {what} red ({failed.what}); {_KEEP}.", output=failed.output) from failed


def _wait_healthy(server: Running, port: int) -> None:
    """Until GET /healthcheck answers 200 from a server that really runs."""
    until = time.monotonic() + _SECONDS / 4
    answer = "no answer"
    while time.monotonic() < until:
        if server.process.poll() is not None:
            raise NotProven(f"The new service does not start; {_KEEP}.", output=server.last_lines())
        status, body = _get(port, "/healthcheck")
        if status == 200:
            return
        answer = f"{status} {body}" if status else answer
        time.sleep(0.01)
    raise NotProven(
        f"The new service's health is red: GET /healthcheck gave {answer[:500]}; {_KEEP}.", output=server.last_lines()
    )


def _get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
