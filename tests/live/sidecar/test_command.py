"""The command `sidecar` beside a sidecar that really runs, with its HAProxy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Child, accepts, free_port, wait_until

pytestmark = pytest.mark.needs("haproxy")


class Host:
    """One host: a sidecar in a folder of its own, and its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.page = free_port(), free_port()
        self.started = 0
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "SIDECAR_DIR": str(folder / "s"),
            "STATE_DIR": str(folder / "state"),
            "SIDECAR_PORT": str(self.port),
            "SIDECAR_ADMIN_PORT": str(self.page),
            "SIDECAR_CHECK_SECONDS": "0.2",
            "SIDECAR_MAX_CONNECTIONS": "200",
        }

    def start(self) -> Child:
        self.started += 1
        log = self.folder / f"run-{self.started}.log"
        child = Child([*self.words, "run"], output=log, env=self.environ)
        return child.wait_ready(lambda: "takes calls at" in child.text())

    @property
    def words(self) -> list[str]:
        return [sys.executable, "-m", "sidecar.cli"]

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.words, *words], capture_output=True, text=True, env=self.environ, timeout=60, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def call(self, service: str) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", headers={"Smart-Service": service})
        with urllib.request.urlopen(request, timeout=5) as answer:
            text: str = answer.read().decode()
            return text


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("h"))
    try:
        yield made
    finally:
        subprocess.run([*made.words, "stop", "--seconds", "1"], env=made.environ, timeout=60, check=False)


def test_a_program_is_brought_in_looked_at_and_taken_out(host: Host, tmp_path: Path) -> None:
    """From the first line that `run` prints to the end of both: every command that an operator needs in between."""
    (tmp_path / "index.html").write_text("here I am")
    port = free_port()
    server = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with host.start() as agent, Child(server, output=host.folder / "server.log") as program:
        program.wait_ready(lambda: accepts(port))
        assert f"takes calls at http://127.0.0.1:{host.port}; page: http://127.0.0.1:{host.page}/" in agent.text()
        assert host.run("status", "--ready").stdout.startswith("ready: All is well")
        assert host.json("register", "files", str(port), "--health", "/")["state"] == "in the map"
        assert host.call("files") == "here I am"
        assert "takes calls since" in host.run("why", "files", str(port)).stdout
        wait_until(lambda: host.json("status", "files")["rates"], what="rates of HAProxy")
        assert [one["topic"] for one in host.json("check") if one["level"] == "wrong"] == []
        with urllib.request.urlopen(f"http://127.0.0.1:{host.page}/metrics", timeout=5) as answer:
            metrics = answer.read().decode()
        assert "sidecar_exporter_up 1" in metrics
        assert 'haproxy_backend_status{proxy="files"' in metrics
        assert "_spare" not in metrics
        host.run("unregister", "files")
        wait_until(lambda: not host.json("why", "files")["known"], what="the end of the instance")
        assert "The agent (process" in host.run("stop").stdout
        assert agent.process.wait(30) == 0
        assert not accepts(host.port)


def test_an_agent_that_was_killed_is_told_from_a_proxy_that_was(host: Host) -> None:
    """`status` ends with 5 and says that calls go on; `check` finds it, too; the next agent adopts what runs."""
    with host.start() as agent:
        agent.signal(signal.SIGKILL)
        agent.process.wait(30)
        told = host.run("status", code=5).stderr
        assert "goes on with what it knew" in told
        assert accepts(host.port)
        checked = json.loads(host.run("check", "--json", code=1).stdout)
        assert "goes on with what it knew" in next(one["says"] for one in checked if one["topic"] == "agent")
    with host.start():
        status = host.json("status")
        assert status["ready"]
        assert status["proxy"]["uptime_seconds"] >= 0
        assert status["reloads"]["count"] == 0


def test_help_imports_no_command() -> None:
    """Nor HTTP, nor a way to read the map, of which it has the words alone: it is there at once."""
    script = (
        "import sys; from sidecar.cli import sidecar\n"
        "try: sidecar.main(['--help'], prog_name='sidecar')\n"
        "except SystemExit: pass\n"
        "slow = ('sidecar.commands.', 'http.', 'sqlite3', 'atlas.book', 'atlas.client', 'atlas.reader', 'atlas.server')\n"
        "print([name for name in sorted(sys.modules) if name.startswith(slow)], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
