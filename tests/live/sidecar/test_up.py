"""`sidecar up` and `sidecar proxy` with a real HAProxy: whoever crashes, calls go on."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import atlas
from atlas.announcement import Announcement, announce, read_sidecar
from atlas.model import Instance, Kind, Service
from atlas.remembered import RememberedWorld
from atlas.world import Position, World
from sidecar.probe import is_listened_on
from tests.processes import Child, accepts, free_port, wait_until

pytestmark = pytest.mark.needs("haproxy")
SIDECAR = Path(sys.executable).with_name("sidecar")


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        time.sleep(float(self.path.partition("?")[2] or 0))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    asked: list[str]

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that HAProxy has ended is no news."""


@pytest.fixture
def server() -> Iterator[_Server]:
    """A program that answers; `/?0.5` after half a second."""
    with _Server(("127.0.0.1", 0), _Answers) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def instance(server: _Server) -> int:
    """Its port."""
    return int(server.server_address[1])


class Host:
    """The folders and the settings of one host, and what runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = folder / "s"
        self.port = free_port()
        self.map = f"sqlite:///{folder / 'map'}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ATLAS", "SIDECAR", "REALM"))}
        self.env = {
            **kept,
            "SIDECAR_DIR": str(self.directory),
            "STATE_DIR": str(folder / "state"),
            "SIDECAR_PORT": str(self.port),
            "SIDECAR_ADMIN_PORT": "0",
            "SIDECAR_MAX_CONNECTIONS": "200",
            "SIDECAR_CHECK_SECONDS": "0.2",
            "ATLAS_URL": self.map,
            "ADVERTISE_HOST": "127.0.0.1",
        }

    def run(self, *words: str, **environ: str) -> Child:
        return Child([SIDECAR, *words], output=self.folder / f"{words[0]}.log", env={**self.env, **environ})

    def ask(self, service: str = "identity", path: str = "/") -> int:
        """The status of one call on a connection of its own; 0 when there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Smart-Service": service})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def agent(self) -> int:
        """The pid of the agent, 0 while there is none."""
        try:
            return int((self.directory / "agent.lock").read_text())
        except (OSError, ValueError):
            return 0

    def haproxy(self) -> int:
        """The pid of HAProxy's master."""
        return int((self.directory / "haproxy.pid").read_text())

    def keep(self, port: int, **environ: str) -> None:
        """Put a map with one instance onto the disk, as an agent of before did."""
        one = Instance("identity", "127.0.0.1", port)
        items: list[tuple[Kind, str, Mapping[str, Any]]] = [
            ("service", "identity", Service("identity").to_json()),
            ("instance", one.key, one.to_json()),
        ]
        url = environ.get("ATLAS_URL", self.map)
        state = Path(self.env["STATE_DIR"]) / "sidecar" / "local"
        RememberedWorld(state, url=url, realm="local").save(World.from_items(Position("e", 1, 1), items))


@pytest.fixture
def host() -> Iterator[Host]:
    """A host with nothing on it; in a short folder, for the sake of the sockets."""
    folder = Path(tempfile.mkdtemp(prefix="up-", dir="/tmp"))
    yield Host(folder)
    shutil.rmtree(folder)


@pytest.fixture
def up(host: Host, instance: int) -> Iterator[Child]:
    """`sidecar up`, with one instance that takes calls."""
    announce(host.directory, Announcement("identity", instance, health=""))
    with host.run("up") as child:
        child.wait_ready(lambda: host.ask() == 200)
        yield child


def test_a_cold_start_serves_without_atlas_and_without_the_agent(host: Host, instance: int) -> None:
    """HAProxy begins with the map that was kept on the disk, within two seconds; a busy machine gets three times that."""
    nowhere = "http://127.0.0.1:1"
    host.keep(instance, ATLAS_URL=nowhere)
    begun = time.monotonic()
    with host.run("proxy", ATLAS_URL=nowhere) as child:
        child.wait_ready(lambda: host.ask() == 200)
        assert time.monotonic() - begun < 6
        assert host.ask("unknown") == 404
        assert "1 services" in child.text()


def test_a_start_with_nothing_kept_says_so_and_answers(host: Host) -> None:
    """There is a HAProxy, which knows no service: 404, not a refused connection."""
    with host.run("proxy", ATLAS_URL="http://127.0.0.1:1") as child:
        child.wait_ready(lambda: host.ask() == 404)
        assert "no map is kept" in child.text()


def test_a_file_that_is_there_is_taken_as_it_is(host: Host, instance: int) -> None:
    """HAProxy comes back with what the agent wrote last, not with the older map of the disk."""
    host.keep(instance)
    with host.run("proxy") as child:
        child.wait_ready(lambda: host.ask() == 200)
    config = host.directory / "haproxy.cfg"
    config.write_text(f"{config.read_text()}# by the agent\n")
    os.utime(host.directory / "haproxy.begun", (0, 0))
    with host.run("proxy") as child:
        child.wait_ready(lambda: host.ask() == 200)
    assert config.read_text().endswith("# by the agent\n")


def test_a_file_that_haproxy_does_not_take_is_made_anew(host: Host, instance: int) -> None:
    """Made for a host that allowed more open files, it would end HAProxy again and again."""
    host.keep(instance)
    with host.run("proxy") as child:
        child.wait_ready(lambda: host.ask() == 200)
    config = host.directory / "haproxy.cfg"
    config.write_text("global\n    no-such-word\n")
    os.utime(host.directory / "haproxy.begun", (0, 0))
    with host.run("proxy") as child:
        assert child.process.wait(60) == 1
    with host.run("proxy") as child:
        child.wait_ready(lambda: host.ask() == 200)


def test_haproxy_learns_no_token(host: Host) -> None:
    """Nothing of the environment reaches it but where programs and files are."""
    with host.run("proxy", ATLAS_TOKEN="correct-horse") as child:
        child.wait_ready(lambda: host.ask() == 404)
        assert b"correct-horse" not in Path(f"/proc/{child.pid}/environ").read_bytes()


def test_a_killed_agent_costs_no_call(host: Host, up: Child) -> None:
    """With calls under way all the time, the agent is killed twice; each is answered, and another agent is there."""
    statuses: list[int] = []
    ended = threading.Event()

    def call() -> None:
        while not ended.is_set():
            statuses.append(host.ask(path="/?0.01"))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            before = host.agent()
            os.kill(before, signal.SIGKILL)
            wait_until(lambda before=before: host.agent() not in (0, before), what="another agent")  # type: ignore[misc]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert len(statuses) > 50
    assert set(statuses) == {200}


def test_a_killed_worker_is_replaced_at_once(host: Host, up: Child) -> None:
    """HAProxy's worker is killed, which ends its master: calls are answered again long before HAProxy is compared next (30 s), and
    the agent lives on."""
    agent, master = host.agent(), host.haproxy()
    (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    begun = time.monotonic()
    wait_until(lambda: host.ask() == 200, what="an answer")
    assert time.monotonic() - begun < 10
    assert host.agent() == agent
    assert host.haproxy() != master


def test_told_to_stop_it_answers_what_it_has(host: Host, up: Child, server: _Server) -> None:
    """A call that was under way at TERM is answered; then everything is gone, with code 0, and the host stays in the map."""
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(host.ask(path="/?1.5")))
    thread.start()
    wait_until(lambda: "/?1.5" in server.asked, what="the call")
    agent, master = host.agent(), host.haproxy()
    up.signal(signal.SIGTERM)
    assert up.process.wait(30) == 0
    thread.join()
    assert answers == [200]
    assert host.ask() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in (agent, master))
    assert _registered(host)


def test_with_leave_the_host_leaves_the_map(host: Host, instance: int) -> None:
    """A pod never comes back: its instances are taken out at once."""
    announce(host.directory, Announcement("identity", instance, health=""))
    with host.run("up", "--leave") as child:
        child.wait_ready(lambda: host.ask() == 200)
        assert _registered(host)
        child.signal(signal.SIGINT)
        assert child.process.wait(30) == 0
    assert not _registered(host)


def test_an_option_counts_for_both(host: Host, instance: int) -> None:
    """`--port` is where HAProxy listens and what the agent tells the services of the host."""
    announce(host.directory, Announcement("identity", instance, health=""))
    before, host.port = host.port, free_port()
    with host.run("up", "--port", str(host.port)) as child:
        child.wait_ready(lambda: host.ask() == 200)
        told = read_sidecar(host.directory)
        assert told is not None
        assert told.url == f"http://127.0.0.1:{host.port}"
        assert not accepts(before)


def test_there_is_one_of_it(host: Host, up: Child) -> None:
    """Neither a second `up` nor another HAProxy begins beside it: both would share a port."""
    for word in ("up", "proxy"):
        second = subprocess.run([SIDECAR, word], env=host.env, capture_output=True, text=True, check=False, timeout=20)
        assert second.returncode == 4, second.stderr
        assert "already" in second.stderr
    assert host.ask() == 200


def test_killed_it_leaves_nothing_behind(host: Host, up: Child) -> None:
    """Without its supervisor neither program goes on: the next `sidecar up` finds the port and the directory free."""
    agent, master = host.agent(), host.haproxy()
    os.kill(up.pid, signal.SIGKILL)
    up.process.wait(30)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (agent, master)), what="the end of both")
    assert not is_listened_on(host.directory / "master.sock")
    with host.run("up") as child:
        child.wait_ready(lambda: host.ask() == 200)


def test_without_the_program_it_ends_and_says_what_to_do(host: Host) -> None:
    """No restart cures a HAProxy that is not installed: code 2, with its name and the way out."""
    with host.run("up", SIDECAR_HAPROXY="/nowhere/haproxy") as child:
        assert child.process.wait(60) == 2
        assert "SIDECAR_HAPROXY" in child.text()


def test_the_first_process_of_a_container_takes_in_orphans(tmp_path: Path) -> None:
    """What a program has left behind becomes its child, as with PID 1, and is no zombie when it ends."""
    script = tmp_path / "first.py"
    script.write_text(
        "import ctypes, sys\n"
        "from sidecar.supervisor import Program, Supervisor, run\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # PR_SET_CHILD_SUBREAPER
        'left = \'import subprocess; subprocess.Popen(["sleep", "0.2"])\'\n'
        "programs = Program('once', (sys.executable, '-c', left)), Program('stays', ('sleep', '60'))\n"
        "sys.exit(run(Supervisor(programs)))\n"
    )
    with Child([sys.executable, script], output=tmp_path / "log") as child:
        child.wait_ready(lambda: child.text().count("once started") >= 3)
        wait_until(lambda: not _zombies(child.pid), what="no zombie")
        child.signal(signal.SIGTERM)
        assert child.process.wait(30) == 0


def _zombies(pid: int) -> list[str]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [child] if state == "Z" else []
    return found


def _registered(host: Host) -> bool:
    with atlas.open(host.map) as directory:
        return bool(directory.world().instances.get("identity"))
