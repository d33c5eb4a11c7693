"""Several hosts on one machine: network namespaces where the machine allows them, loopback addresses otherwise.

with hosts() as network:
    first = network.host("h1")
    child = first.run(["haproxy", ...], output=folder / "log")     # its loopback is its own
    first.cut()                                                    # nobody reaches it, and it reaches nobody
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.processes import Child

_NUMBERS = itertools.count(1)


class Host:
    """One host: an address, and programs that run there."""

    def __init__(self, name: str, address: str, *, namespace: str = "", plug: tuple[str, str] = ("", "")) -> None:
        self.name = name
        self.address = address
        self._namespace = namespace
        self._plug = plug
        """The namespace of the switch, and our interface there."""

    @property
    def is_apart(self) -> bool:
        """Whether it has a network of its own: its ports are free, and it can be cut off."""
        return bool(self._namespace)

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """The command that runs another one on this host."""
        there = ["ip", "netns", "exec", self._namespace] if self._namespace else []
        return [*there, *(str(part) for part in command)]

    def run(
        self,
        command: Sequence[str | Path],
        *,
        output: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Child:
        """Start a program on this host; its pid is the child's."""
        return Child(self.command(command), output=output, env=env, cwd=cwd)

    def ask(self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, seconds: float = 60) -> str:
        """What a program on this host prints. Raises when it fails."""
        done = subprocess.run(
            self.command(command), env=env, capture_output=True, text=True, timeout=seconds, check=False
        )
        if done.returncode:
            raise AssertionError(
                f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def cut(self) -> None:
        """Pull the cable: packets are lost, nothing is refused."""
        self._link("down")

    def join(self) -> None:
        """Plug it in again."""
        self._link("up")

    def _link(self, to: str) -> None:
        switch, interface = self._plug
        _ip("-n", switch, "link", "set", interface, to)

    def __repr__(self) -> str:
        return f"<Host {self.name} at {self.address}>"


class Network:
    """Makes hosts that reach each other, and nobody else when they are namespaces."""

    def __init__(self, *, apart: bool) -> None:
        self.apart = apart
        self._prefix = f"ss{os.getpid()}-{next(_NUMBERS)}-"
        self._made: list[str] = []
        self._count = itertools.count(1)
        if apart:
            self._namespace("switch")
            _ip("-n", self._switch, "link", "add", "name", "switch", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "switch", "up")

    def host(self, name: str) -> Host:
        number = next(self._count)
        if not self.apart:
            return Host(name, f"127.0.1.{number}")
        namespace = self._namespace(name)
        plug, address = f"plug{number}", f"10.77.0.{number}"
        _ip(
            "link",
            "add",
            "name",
            "net0",
            "netns",
            namespace,
            "type",
            "veth",
            "peer",
            "name",
            plug,
            "netns",
            self._switch,
        )
        _ip("-n", self._switch, "link", "set", plug, "master", "switch", "up")
        _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "net0")
        _ip("-n", namespace, "link", "set", "net0", "up")
        return Host(name, address, namespace=namespace, plug=(self._switch, plug))

    def close(self) -> None:
        for namespace in reversed(self._made):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)

    @property
    def _switch(self) -> str:
        return f"{self._prefix}switch"

    def _namespace(self, name: str) -> str:
        namespace = f"{self._prefix}{name}"
        _ip("netns", "add", namespace)
        self._made.append(namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        return namespace


def can_be_apart() -> bool:
    """Whether this machine lets us make network namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"ss{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode == 0
    if made:
        bridge = ["ip", "-n", name, "link", "add", "name", "bridge0", "type", "bridge"]
        made = subprocess.run(bridge, check=False, capture_output=True).returncode == 0
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return made


@contextmanager
def hosts(*, apart: bool | None = None) -> Iterator[Network]:
    """A network for the length of a test."""
    network = Network(apart=can_be_apart() if apart is None else apart)
    try:
        yield network
    finally:
        network.close()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"ip {' '.join(words)}: {done.stderr.strip()}")
