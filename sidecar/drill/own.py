"""A realm of the drill's own: Atlas on SQLite, two hosts with `sidecar up` each, and a small service with an instance on the one
and two on the other, all on loopback addresses and below one folder that is removed at the end.

    sidecar 1 --wire-- Atlas --wire-- sidecar 2        The wires can be cut, and Atlas can be wiped.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from sidecar.control import Control
from sidecar.drill.discovery import Places, find, instances_of_host
from sidecar.drill.journal import SCRATCH, End, Journal, Remove
from sidecar.drill.load import Door
from sidecar.drill.processes import process
from sidecar.drill.relay import Relay
from sidecar.drill.scene import Scene, Served, Target
from sidecar.drill.watch import Watch
from sidecar.settings import Settings
from smartrealm.errors import Unavailable

SERVICE = "drill"
HOSTS = ("127.0.0.1", "127.0.0.2")
INSTANCES = (1, 2)
"""On each host: more than half are not on the one that is looked at, so that it needs its guard."""
BUILD_SECONDS = 60.0
_LOOK_SECONDS = 0.05
_BY = "the drill"


class OwnRealm:
    """Built by `with`; gone after it. What is killed in it is started again."""

    def __init__(
        self,
        journal: Journal,
        *,
        environ: Mapping[str, str],
        haproxy: str = "haproxy",
        seconds: float = 600.0,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._journal, self._environ, self._haproxy, self._seconds, self._say = journal, environ, haproxy, seconds, say
        self._stack = ExitStack()
        self._guard = threading.Lock()
        self._kept: dict[str, tuple[Sequence[str], Mapping[str, str], subprocess.Popen[bytes]]] = {}
        self._over = threading.Event()
        self._hosts: list[Settings] = []
        self._wires: list[Relay] = []
        self.folder = Path()

    def __enter__(self) -> OwnRealm:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        with self._guard:
            self._stack.close()
            for _, _, child in self._kept.values():
                child.wait(5)

    # -- what the drill needs ------------------------------------------------------------------------------------------

    def scene(self) -> Scene:
        """The realm as the drill finds it: everything of the first host, and the instances of both."""
        found = find(self._hosts[0], self.control)
        targets = [
            replace(one, restarted_by=one.restarted_by or _BY)
            for one in (*found.targets, *instances_of_host(self._hosts[1], HOSTS[1]))
        ]
        return replace(found, targets=tuple(targets), own=True)

    @property
    def control(self) -> Control:
        return Control(self._hosts[0].control_socket)

    def watch(self) -> Watch:
        return Watch(self.control, [SERVICE])

    def places(self) -> Places:
        return Places(self._hosts[0])

    def special(self) -> Mapping[str, Callable[[], AbstractContextManager[object]]]:
        """The faults that only a realm with wires of its own can have."""
        return {"partition": self._wires[0].cut, "wipe": self.wiped}

    @contextmanager
    def wiped(self) -> Iterator[None]:
        """The database of Atlas is gone, and Atlas begins with an empty one of another epoch. Meanwhile the other
        host is cut off from it: else it would tell at once what it has. Undone by putting the database back."""
        kept = self.folder / "kept"
        with self._wires[1].cut():
            self._swap(self.folder / "map", kept)
            try:
                yield
            finally:
                self._swap(kept, self.folder / "map")

    def _swap(self, map_: Path, to: Path) -> None:
        """End Atlas, move its database, and start it again on what is at its place then."""
        with self._guard:
            words, environ, child = self._kept.pop("atlas")
            End(child.pid, self._started(child.pid)).run()
            child.wait(5)
            at = self.folder / "map"
            if to == at:
                shutil.rmtree(at, ignore_errors=True)
            os.replace(map_, to)
            at.mkdir(exist_ok=True)
            self._start("atlas", words, environ)
        self._wait_atlas()

    # -- building ------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=SCRATCH))
        self._stack.enter_context(self._journal.holding([Remove(str(self.folder))], self._seconds))
        self._say(f"building a realm in {self.folder}")
        self._port = _free_port()
        (self.folder / "map").mkdir()
        store = f"sqlite:///{self.folder / 'map' / 'atlas.db'}"
        words = [
            *_module("atlas.server.cli"),
            "serve",
            "--atlas",
            store,
            "--host",
            "127.0.0.1",
            "--port",
            str(self._port),
        ]
        with self._guard:
            self._start("atlas", words, self._env("atlas", WORKERS="1", ATLAS_KEYS="", DRAIN_SECONDS="0"))
            for number, address in enumerate(HOSTS, 1):
                self._start_host(number, address)
        threading.Thread(target=self._keep, name="drill-keeper", daemon=True).start()
        self._wait_atlas()
        watch, end = self.watch(), time.monotonic() + BUILD_SECONDS
        while (now := watch.now()) and (len(now) < 4 + sum(INSTANCES) or any(now.values())):
            if time.monotonic() > end:
                told = "; ".join(f"{name}: {why}" for name, why in now.items() if why) or "an instance is missing"
                raise Unavailable(
                    f"The realm of the drill's own did not begin within {BUILD_SECONDS:g} s: {told}{self._logs()}"
                )
            time.sleep(_LOOK_SECONDS)

    def _start_host(self, number: int, address: str) -> None:
        wire = Relay(self._port).start()
        self._wires.append(wire)
        self._stack.callback(wire.close)
        directory = self.folder / f"h{number}"
        told = {
            "SIDECAR_DIR": str(directory),
            "SIDECAR_PORT": str(_free_port()),
            "SIDECAR_ADMIN_PORT": "0",
            "SIDECAR_MAX_CONNECTIONS": "500",
            "SIDECAR_CHECK_SECONDS": "0.5",
            "SIDECAR_HAPROXY": self._haproxy,
            "ATLAS_URL": f"http://127.0.0.1:{wire.port}",
            "ADVERTISE_HOST": address,
        }
        # For the drill Atlas is where it listens, not where the wire to it begins.
        url = f"http://127.0.0.1:{self._port}"
        self._hosts.append(Settings(directory, self.folder / "state", atlas_url=url, host=address))
        self._start(f"sidecar {number}", [*_module("sidecar.cli"), "up"], self._env(f"h{number}-state", **told))
        for _ in range(INSTANCES[number - 1]):
            port = str(_free_port())
            words = [*_module("sidecar.drill.instance"), SERVICE, port, str(directory)]
            self._start(f"instance {port}", words, self._env(f"i{number}-state"))

    def _env(self, state: str, **more: str) -> dict[str, str]:
        kept = {
            name: value
            for name, value in self._environ.items()
            if not name.startswith(("ATLAS", "SIDECAR", "REALM", "PROMETHEUS", "ADVERTISE"))
        }
        return {**kept, "REALM": "local", "STATE_DIR": str(self.folder / state), **more}

    def _start(self, name: str, words: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start a program that is ended with the realm; the guard is held."""
        with (self.folder / f"{name.replace(' ', '-')}.log").open("ab") as log:
            child = subprocess.Popen(
                words,
                env=dict(environ),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._kept[name] = (words, environ, child)
        self._stack.enter_context(self._journal.holding([End(child.pid, self._started(child.pid))], self._seconds))

    def _started(self, pid: int) -> int:
        known = process(pid)
        return known.started if known else 0

    def _keep(self) -> None:
        """Start again what has ended."""
        while not self._over.wait(_LOOK_SECONDS):
            with self._guard:
                for name, (words, environ, child) in tuple(self._kept.items()):
                    if child.poll() is not None and not self._over.is_set():
                        self._start(name, words, environ)

    def _wait_atlas(self) -> None:
        end = time.monotonic() + BUILD_SECONDS
        while True:
            try:
                with urlopen(f"http://127.0.0.1:{self._port}/healthcheck/ready", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (URLError, OSError):
                pass
            if time.monotonic() > end:
                raise Unavailable(
                    f"Atlas of the drill's own realm did not begin within {BUILD_SECONDS:g} s{self._logs()}"
                )
            time.sleep(_LOOK_SECONDS)

    def _logs(self) -> str:
        """The last words of each program, for the one who wonders why it does not begin."""
        told = []
        for log in sorted(self.folder.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            told += [f"\n{log.stem}: {lines[-1]}"] if lines else []
        return "".join(told)


def _module(name: str) -> list[str]:
    return [sys.executable, "-P", "-m", name]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def planned() -> Scene:
    """What the realm will be, for a plan that is shown before it is built."""
    instances = [
        Target(
            "instance",
            f"{SERVICE} on host {number}",
            SERVICE,
            pid=1,
            restarted_by=_BY,
            announced="-",
            takes_full_disk=True,
        )
        for number in range(1, sum(INSTANCES) + 1)
    ]
    return Scene(
        realm="local",
        directory="",
        door=Door(socket="calls.sock"),
        targets=(
            Target("agent", "agent", pid=1, restarted_by="sidecar up", has_children=True, takes_full_disk=True),
            Target("haproxy", "haproxy", pid=1, restarted_by="sidecar up", has_children=True),
            Target("atlas", "atlas", pid=1, restarted_by=_BY, takes_full_disk=True),
            *instances,
        ),
        services={SERVICE: Served(SERVICE, sum(INSTANCES), "/")},
        own=True,
    )
