"""The program `atlas` as a process: signals, pipes, prompts, and a server behind it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas import Author, Instance, Lease, Service
from tests.live.atlas_server import PROGRAM, AtlasServer
from tests.processes import free_port, wait_until

ANNA = Author("anna")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AtlasServer]:
    """A map with one service; its server is not started."""
    one = AtlasServer(tmp_path)
    one.map.put_service(Service("identity", owner="accounts"), by=ANNA)
    try:
        yield one
    finally:
        one.close()


def run(server: AtlasServer, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**server.environ, "ATLAS_URL": server.url, **environ}
    return subprocess.run([PROGRAM, *words], env=env, capture_output=True, text=True, timeout=60, check=False)


def test_ctrl_c_is_quiet(server: AtlasServer, tmp_path: Path) -> None:
    """A watch that is interrupted has told what happened, ends with 130 and leaves no traceback."""
    env = {**server.environ, "ATLAS_URL": server.url}
    told = tmp_path / "told"
    with told.open("w") as out:
        child = subprocess.Popen([PROGRAM, "watch"], env=env, stdout=out, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    assert "watching realm local" in child.stderr.readline()
    server.map.set_override("identity", "PAGE_SIZE", 50, by=ANNA)
    wait_until(lambda: "identity PAGE_SIZE = 50  by anna" in told.read_text())
    child.send_signal(signal.SIGINT)
    try:
        _, complaint = child.communicate(timeout=10)
    finally:
        child.kill()
    assert (child.returncode, complaint.strip()) == (130, "")


def test_a_command_that_is_ended_cleans_up(server: AtlasServer, tmp_path: Path) -> None:
    """SIGTERM in the middle of an import from a pipe leaves no temporary map behind."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = {**server.environ, "ATLAS_URL": f"sqlite:///{tmp_path / 'other.db'}", "TMPDIR": str(scratch)}
    with subprocess.Popen([PROGRAM, "import", "--dry-run"], env=env, stdin=subprocess.PIPE) as child:
        wait_until(lambda: list(scratch.glob("atlas-*/rehearsal.db")))
        child.terminate()
        assert child.wait(30) == 143
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("how", ["SIGHUP", "SIGTERM", "a pipe that nobody reads"])
def test_a_roll_that_is_ended_gives_back_what_it_holds(server: AtlasServer, tmp_path: Path, how: str) -> None:
    """Whichever way it is ended: the command goes no further, and the instance that it drained takes calls again."""
    for host in ("web-1", "web-2"):
        server.map.hold(Lease(host, "first", 60.0, (Instance("identity", host, 8010),)))
    env = {**server.environ, "ATLAS_URL": server.url}
    begun, over = tmp_path / "begun", tmp_path / "over"
    command = f"touch {begun}; while :; do echo here; sleep 0.1; done; touch {over}"
    words = [str(PROGRAM), "roll", "identity", "--command", command]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        wait_until(begun.exists)
        if how.startswith("SIG"):
            child.send_signal(getattr(signal, how))
        child.stdout.close()
        assert child.wait(30) in (129, 141, 143)
    assert not over.exists()
    assert not server.map.world().rulings


def test_a_roll_whose_command_cannot_be_started_gives_back_what_it_holds(server: AtlasServer, tmp_path: Path) -> None:
    """As with no space left for its output: it says so, with the exit code of a walk that stopped."""
    for host in ("web-1.example.org", "web-2.example.org"):
        server.map.hold(Lease(host, "first", 60.0, (Instance("identity", host, 8010),)))
    ended = run(server, "roll", "identity", "--command", "{instance}" * 12_000)  # more than 128 KiB with the addresses
    assert ended.returncode == 1, ended.stderr
    assert "the command could not be run: Argument list too long" in ended.stderr
    assert not server.map.world().rulings


def test_a_reader_that_leaves_is_no_error(server: AtlasServer) -> None:
    """`atlas history | head -1` says nothing on stderr, however long the history is."""
    for number in range(300):
        server.map.set_override("identity", "A", f"{number}" * 100, by=ANNA)
    env = {**server.environ, "ATLAS_URL": server.url}
    line = f"{PROGRAM} history --limit 300 | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (141, "")
    assert "301" in ended.stdout


def test_a_secret_from_a_prompt_is_not_shown(server: AtlasServer) -> None:
    """On a terminal it is asked for twice, without an echo, and is in no argument of a process."""
    env = {**server.environ, "ATLAS_URL": server.url}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(PROGRAM, [str(PROGRAM), "set", "identity", "SMTP_PASSWORD", "--secret"], env)
    seen = answer(terminal, b"not shown", b"hunter2\n") + answer(terminal, b"onfirm", b"hunter2\n") + rest(terminal)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0, seen
    assert b"hunter2" not in seen
    assert server.map.world().overrides["identity/SMTP_PASSWORD"].secret


def answer(terminal: int, question: bytes, reply: bytes) -> bytes:
    seen = b""
    while question not in seen or not seen.rstrip().endswith(b":"):
        seen += os.read(terminal, 1024)
    time.sleep(0.1)  # getpass switches the echo off after it has written the question, and drops what was typed before.
    os.write(terminal, reply)
    return seen


def rest(terminal: int) -> bytes:
    seen = b""
    try:
        while part := os.read(terminal, 1024):
            seen += part
    except OSError:  # The end of a terminal.
        pass
    return seen


def test_the_same_through_a_server(server: AtlasServer) -> None:
    """Every kind of command does over HTTP what it does on a store, dry runs and guards included."""
    server.start()
    url = server.base
    assert run(server, "set", "identity", "PAGE_SIZE", "50", "--why", "slow", ATLAS_URL=url).returncode == 0
    assert "Would be done" in run(server, "set", "identity", "PAGE_SIZE", "70", "--dry-run", ATLAS_URL=url).stdout
    assert run(server, "get", "identity", "PAGE_SIZE", ATLAS_URL=url).stdout == "50\n"
    assert json.loads(run(server, "history", "--json", ATLAS_URL=url).stdout)[0]["author"] == "anna"
    unknown = run(server, "show", "identiy", ATLAS_URL=url, REALM="production")
    assert (unknown.returncode, "in realm local" in unknown.stderr) == (3, True)
    assert "identity PAGE_SIZE unset" in run(server, "rollback", "1", ATLAS_URL=url).stdout
    assert "nobody is asked for a token" in run(server, "doctor", ATLAS_URL=url).stdout
    assert "1 service" in run(server, "ls", ATLAS_URL=url).stdout
    server.stop()
    away = run(server, "ls", ATLAS_URL=url)
    assert away.returncode == 5
    assert away.stderr.startswith("atlas: ")
    assert "Traceback" not in away.stderr


def test_a_map_moves_from_server_to_server(server: AtlasServer, tmp_path: Path) -> None:
    """What export takes from one server, import gives to another one, with the same history."""
    server.map.set_override("identity", "PAGE_SIZE", 50, by=ANNA)
    (tmp_path / "other").mkdir()
    other = AtlasServer(tmp_path / "other")
    try:
        server.start()
        other.start()
        file = str(tmp_path / "realm.jsonl")
        assert run(server, "export", file, ATLAS_URL=server.base).returncode == 0
        assert run(server, "import", file, "--dry-run", ATLAS_URL=other.base).returncode == 0
        moved = run(server, "import", file, ATLAS_URL=other.base)
        assert (moved.returncode, "(revision 2)" in moved.stdout) == (0, True), moved.stderr
        assert run(server, "import", file, ATLAS_URL=other.base).returncode == 4
        assert other.map.history() == server.map.history()
    finally:
        other.close()


def test_tokens_decide_what_a_command_may_do(tmp_path: Path) -> None:
    """Without a token, and with one that is too weak, commands end with 6; a reader can look."""
    server = AtlasServer(tmp_path, {"ATLAS_OPEN": "false"})
    server.map.put_service(Service("identity"), by=ANNA)
    reader = run(server, "token", "create", "reader", "wall").stdout.strip()
    try:
        server.start()
        assert run(server, "ls", ATLAS_URL=server.base).returncode == 6
        assert run(server, "ls", ATLAS_URL=server.base, ATLAS_TOKEN=reader).returncode == 0
        assert run(server, "show", "identity", ATLAS_URL=server.base, ATLAS_TOKEN=reader).returncode == 0
        refused = run(server, "set", "identity", "A", "1", ATLAS_URL=server.base, ATLAS_TOKEN=reader)
        assert refused.returncode == 6
        assert reader not in refused.stderr
    finally:
        server.close()


def test_serve_refuses_to_be_open_to_strangers(server: AtlasServer) -> None:
    """On a public address without tokens it does not start, and says how to make the first one."""
    refused = run(server, "serve", "--host", "0.0.0.0", "--port", str(free_port()))
    assert refused.returncode == 2
    assert "atlas: " in refused.stderr
    assert "token create operator" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_command_starts_light() -> None:
    """Looking at a map loads neither Flask nor an HTTP client, nor any library of a store."""
    heavy = "flask requests sqlalchemy redis kazoo boto3 cryptography gunicorn pydantic"
    code = f"import atlas.server.cli, sys; print(*[one for one in '{heavy}'.split() if one in sys.modules])"
    ended = subprocess.run(
        [PROGRAM.parent / "python", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.strip() == ""
