"""What the README shows is what happens."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import requests

from tests.processes import Child, accepts, free_port

README = Path(__file__).parents[2] / "README.md"


def block(language: str, containing: str) -> str:
    """The code block of the README that contains a text."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)
    return next(text for text in found if containing in text)


def test_the_service_in_fifteen_lines_runs(tmp_path: Path) -> None:
    """The example is at most fifteen lines of code, starts with the command shown and gives the answer shown."""
    code = block("python", "create_app")
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 15
    (tmp_path / "hello.py").write_text(code)
    commands = block("console", "hello:app").splitlines()
    serve = shlex.split(next(line for line in commands if "gunicorn" in line).removeprefix("$ "))
    call = next(line for line in commands if "curl" in line)
    answer = commands[commands.index(call) + 1]
    port = free_port()
    env = {**os.environ, "PORT": str(port), "STATE_DIR": str(tmp_path), "DRAIN_SECONDS": "0"}
    command: list[str | Path] = [Path(sys.executable).parent / serve[0], *serve[1:]]
    with Child(command, output=tmp_path / "log", env=env, cwd=tmp_path) as child:
        child.wait_ready(lambda: accepts(port))
        sent = re.search(r"-d '(.*?)'", call)
        assert sent is not None
        reply = requests.post(
            f"http://127.0.0.1:{port}/greetings", data=sent[1], headers={"Content-Type": "application/json"}, timeout=5
        )
        assert reply.text.strip() == answer
        assert requests.get(f"http://127.0.0.1:{port}/healthcheck", timeout=5).json()["status"] == "success"
        assert requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).status_code == 200
        wrong = requests.post(f"http://127.0.0.1:{port}/greetings", json={"nam": "x"}, timeout=5)
        assert wrong.status_code == 422
        assert wrong.json()["errors"][0]["pointer"] == "#/name"


def test_every_make_target_that_is_named_exists() -> None:
    """README and CONTRIBUTING name no verb that make does not know."""
    root = README.parent
    named = set(re.findall(r"make ([a-z-]+)", README.read_text() + (root / "CONTRIBUTING.md").read_text()))
    listed = subprocess.run(["make", "help"], cwd=root, capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"make ([a-z-]+)", listed))
    assert named - known - {"run"} == set()
