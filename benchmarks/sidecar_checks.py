"""How many checks an instance gets in realms of one, two and four hosts: those of its own host's agent, and once a minute one of
each HAProxy.

The instance counts the requests. A check of HAProxy it never sees: HAProxy gives up the connection before it is complete. Where
we may look at the packets of the loopback (root), connections that somebody begins are counted there. The three realms run at
the same time.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from contextlib import ExitStack, suppress
from math import ceil
from pathlib import Path
from threading import Thread

import atlas
from atlas.announcement import Announcement, announce
from atlas.model import Service
from benchmarks.measure import Claim
from benchmarks.realm_of_a_thousand import BY, Door, Town, lacking, scratch
from tests.processes import wait_until

HOSTS = (1, 2, 4)
SECONDS = 61.0
"""A bit more than the time between two checks of one HAProxy."""
_OUTGOING, _EVERY_PROTOCOL, _ATTACH_FILTER = 4, 3, 26
"""Of Linux: packet(7), socket(7)."""
OWN_SECONDS = 1.0
"""Between two checks of its own agent, which spreads them by a twentieth."""


class Counting:
    """An instance that is ready, and counts who asks."""

    def __init__(self) -> None:
        self.requests = 0
        self.begun: int | None = None
        """Connections that were begun; None where that cannot be seen."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()
        with suppress(OSError, AttributeError):
            self._packets = _begun_connections(self.port)
            self.begun = 0
            Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        if self.begun is not None:
            self._packets.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while connection.recv(65_536):
                self.requests += 1
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")

    def _watch(self) -> None:
        with suppress(OSError):
            while True:
                _, (*_, kind, _, _) = self._packets.recvfrom(200)
                if kind != _OUTGOING:  # on the loopback each is seen twice
                    self.begun = (self.begun or 0) + 1


def _begun_connections(port: int) -> socket.socket:
    """A socket that gets the first packet of every connection to this port over IPv4. Raises OSError where that is forbidden."""
    steps = [
        (0x28, 0, 0, 12),  # the protocol ...
        (0x15, 0, 8, 0x0800),  # ... is IPv4
        (0x30, 0, 0, 23),
        (0x15, 0, 6, 6),  # TCP
        (0xB1, 0, 0, 14),  # the length of its header
        (0x48, 0, 0, 16),
        (0x15, 0, 3, port),
        (0x50, 0, 0, 27),
        (0x54, 0, 0, 0x12),
        (0x15, 1, 0, 0x02),  # SYN without ACK
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 200),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packets.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", len(steps), ctypes.addressof(program)))
    packets.bind(("lo", _EVERY_PROTOCOL))
    return packets


def run() -> list[Claim]:
    if lacking():
        return lacking()
    with scratch() as folder, ExitStack() as stack:
        instances = {hosts: _realm(folder / f"r{hosts}", hosts, stack) for hosts in HOSTS}
        time.sleep(3)
        before = {hosts: one.requests for hosts, one in instances.items()}
        begun = {hosts: one.begun for hosts, one in instances.items()}
        time.sleep(SECONDS)
        found = {
            hosts: (one.requests - before[hosts], None if one.begun is None else one.begun - (begun[hosts] or 0))
            for hosts, one in instances.items()
        }
    most = SECONDS / (0.9 * OWN_SECONDS)
    return [
        Claim(
            "checks of one instance by its own agent, and by the HAProxy of each of H hosts",
            f"at most {1 / (0.9 * OWN_SECONDS):.1f} + H/60 a second",
            "; ".join(f"H = {hosts}: {_told(*counted)}" for hosts, counted in found.items()),
            f"in {SECONDS:.0f} s; checks by every host once a second: H a second",
            all(
                requests <= most and (begun is None or begun <= requests + ceil(hosts * SECONDS / 60))
                for hosts, (requests, begun) in found.items()
            ),
        )
    ]


def _told(requests: int, begun: int | None) -> str:
    return f"{requests} + {'(not seen)' if begun is None else begun - requests}"


def _realm(folder: Path, hosts: int, stack: ExitStack) -> Counting:
    """So many sidecars over one map; the first of them carries the instance."""
    folder.mkdir()
    counting = Counting()
    stack.callback(counting.close)
    url = f"sqlite:///{folder}/map.db"
    with atlas.open(url) as directory:
        directory.put_service(Service("counting"), by=BY)
    town = stack.enter_context(Town(folder, url))
    for number in range(hosts):
        town.sidecar(f"h{number}", f"127.0.0.{number + 1}").start_sidecar()
    announce(town.hosts[0].directory, Announcement("counting", counting.port, host="127.0.0.1", health="/"))
    for host in town.hosts:
        door = Door(host)
        wait_until(lambda door=door: door.call("counting")[0] == 200, what=f"the call from {host.name}")  # type: ignore[misc]
        door.close()
    return counting
