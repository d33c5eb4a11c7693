"""The servers of Atlas's stores as children: ZooKeeper, etcd, a DynamoDB that runs here, Consul where it is installed.

Each keeps what was written when it is killed and started again, on the same port.
"""

from __future__ import annotations

import itertools
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.processes import Child, accepts, free_port
from tests.servers import directory, require


class StoreServer:
    """A server that can be frozen, killed and started again. `url(name)` is a place of its own for each name."""

    def __init__(
        self, name: str, port: int, command: Sequence[object], ready: Callable[[], object], root: Path, url: str
    ) -> None:
        self.name = name
        self.port = port
        self._command = [str(part) for part in command]
        self._ready = ready
        self._root = root
        self._url = url
        self.child = self._begin()

    def _begin(self) -> Child:
        return Child(self._command, output=self._root / "log", cwd=self._root)

    def wait_ready(self) -> StoreServer:
        self.child.wait_ready(self._ready)
        return self

    def url(self, name: str) -> str:
        """The URL of a place that nobody else has; nothing is in it when `name` is new."""
        return self._url.format(port=self.port, name=name)

    def freeze(self) -> None:
        """Stop it in mid-breath: it keeps its connections and says nothing."""
        self.child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.child.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a crash would. What it acknowledged is kept."""
        if self.child.process.poll() is None:
            self.child.signal(signal.SIGKILL)
        self.child.stop()

    def start(self) -> None:
        """Start it again, with what it kept, and wait until it answers."""
        self.child = self._begin()
        self.wait_ready()


@contextmanager
def _running(server: StoreServer) -> Iterator[StoreServer]:
    try:
        yield server.wait_ready()
    finally:
        server.kill()


@contextmanager
def zookeeper_server() -> Iterator[StoreServer]:
    """A running ZooKeeper server of its own; never the one that the machine may run."""
    with directory() as root:
        port = free_port()
        command = zookeeper_command(root, port)
        url = "zookeeper://127.0.0.1:{port}/{name}"
        with _running(
            StoreServer("zookeeper", port, command, lambda: "Mode:" in ask_zookeeper(port, "srvr"), root, url)
        ) as server:
            yield server


def zookeeper_command(root: Path, port: int, address: str = "127.0.0.1") -> list[str | Path]:
    """How a ZooKeeper server is run that keeps what it is told below `root`; writes its settings there."""
    java, jar = require("java"), require("zookeeper")
    settings = {
        "tickTime": 500, "minSessionTimeout": 1000, "maxSessionTimeout": 60000, "dataDir": root / "data",
        "clientPort": port, "clientPortAddress": address, "admin.enableServer": "false", "maxClientCnxns": 0,
        "4lw.commands.whitelist": "srvr,wchs",
    }  # fmt: skip
    (root / "zoo.cfg").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    # Debian's jar names what it needs, and its directory holds everybody's; elsewhere the directory is ZooKeeper's own.
    return [
        java, "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dzookeeper.forceSync=no",
        "-cp", str(jar) if jar.parent == Path("/usr/share/java") else f"{jar.parent}/*",
        "org.apache.zookeeper.server.ZooKeeperServerMain", root / "zoo.cfg",
    ]  # fmt: skip


def ask_zookeeper(port: int, word: str) -> str:
    """What a ZooKeeper server says to one of its four-letter words; "" while it cannot be reached."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(word.encode())
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
            return b"".join(parts).decode()
    except OSError:
        return ""


@contextmanager
def etcd_server(*more: str) -> Iterator[StoreServer]:
    """A running etcd server, with more options."""
    with etcd_cluster(1, *more) as (server,):
        yield server


@contextmanager
def etcd_cluster(size: int, *more: str) -> Iterator[list[StoreServer]]:
    """Running etcd servers that make one cluster."""
    program = require("etcd")
    ports = [(free_port(), free_port()) for _ in range(size)]
    members = ",".join(f"etcd-{number}=http://127.0.0.1:{peers}" for number, (_, peers) in enumerate(ports))
    with ExitStack() as stack:
        servers = []
        for number, (port, peers) in enumerate(ports):
            root = stack.enter_context(directory())
            client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
            options = {
                "--name": f"etcd-{number}", "--data-dir": root / "data", "--initial-cluster": members,
                "--listen-client-urls": client, "--advertise-client-urls": client,
                "--listen-peer-urls": peer, "--initial-advertise-peer-urls": peer,
                "--heartbeat-interval": "50", "--election-timeout": "250", "--log-level": "error",
            }  # fmt: skip
            command = [program, *(part for option in options.items() for part in option), *more]
            url = "etcd://127.0.0.1:{port}/{name}"
            servers.append(StoreServer("etcd", port, command, partial(_answers, f"{client}/health"), root, url))
            stack.callback(servers[-1].kill)
        for server in servers:
            server.wait_ready()
        yield servers


_DYNALITE = """
const [module, port, path] = process.argv.slice(1);
require(module)({path, createTableMs: 0, deleteTableMs: 0, updateTableMs: 0}).listen(Number(port), "127.0.0.1");
"""
"""In place of its command, which in some versions listens on every address whatever it is told."""


@contextmanager
def dynalite_server() -> Iterator[StoreServer]:
    """A running dynalite, which speaks DynamoDB."""
    program = require("dynalite")
    with directory() as root:
        port = free_port()
        command = ["node", "-e", _DYNALITE, program.resolve().parent, port, root / "data"]
        url = "dynamodb://eu-central-1/{name}?endpoint=http://127.0.0.1:{port}&poll_seconds=0.1"
        with _running(StoreServer("dynalite", port, command, lambda: accepts(port), root, url)) as server:
            yield server


@contextmanager
def consul_server() -> Iterator[StoreServer]:
    """A running Consul agent, the only server of its cluster."""
    program = require("consul")
    with directory() as root:
        port = free_port()
        ports = {
            "-http-port": port, "-server-port": free_port(), "-serf-lan-port": free_port(), "-serf-wan-port": -1,
            "-dns-port": -1, "-grpc-port": -1, "-grpc-tls-port": -1,
        }  # fmt: skip
        command = [
            program, "agent", "-server", "-bootstrap-expect=1", "-bind=127.0.0.1", "-client=127.0.0.1",
            f"-data-dir={root / 'data'}", "-log-level=error", *(f"{name}={number}" for name, number in ports.items()),
        ]  # fmt: skip
        url = "consul://127.0.0.1:{port}/{name}"
        ready = lambda: _answers(f"http://127.0.0.1:{port}/v1/kv/ready?consistent", 404)  # noqa: E731
        with _running(StoreServer("consul", port, command, ready, root, url)) as server:
            yield server


def _answers(url: str, status: int = 200) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code == status
    except OSError:
        return False


SERVERS: dict[str, Callable[[], AbstractContextManager[StoreServer]]] = {
    "zookeeper": zookeeper_server,
    "etcd": etcd_server,
    "dynamodb": dynalite_server,
    "consul": consul_server,
}
"""By the scheme of the store's URL."""


class SharedServers:
    """One server of each kind for a whole run, started when it is first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, StoreServer] = {}
        self._stack = ExitStack()
        self._numbers = itertools.count(1)

    def server(self, scheme: str) -> StoreServer:
        """The server of a kind; skips the test by name when its program is missing."""
        if scheme not in self._running:
            self._running[scheme] = self._stack.enter_context(SERVERS[scheme]())
        return self._running[scheme]

    def url(self, scheme: str) -> str:
        """The URL of an empty place that nobody else has. Patient: most tests are not about a busy machine."""
        url = self.server(scheme).url(f"map-{next(self._numbers)}")
        return f"{url}{'&' if '?' in url else '?'}timeout_seconds=10"

    def close(self) -> None:
        """End them all."""
        self._running.clear()
        self._stack.close()


shared = SharedServers()
"""Those of this run; `tests/conftest.py` ends them."""
