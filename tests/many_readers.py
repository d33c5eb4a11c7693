"""Many readers of one Atlas in one process: raw sockets in one selector loop, run as a program of its own.

python -m tests.many_readers PORT READERS POSITION WANTED: each reader follows the map by long-polls until it has heard of every
service named `WANTED` (comma separated). Prints one JSON object: for each name the moments (monotonic clock, which all
processes of a host share) at which the readers heard of it, and what went wrong.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections import defaultdict


class Reader:
    """One follower of the map over one connection, without threads."""

    def __init__(self, port: int, position: str) -> None:
        self.port = port
        self.position = position
        self.heard: dict[str, float] = {}
        self.mistakes: list[str] = []
        self.buffer = b""
        self.socket = self._connect()

    def _connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def ask(self) -> None:
        target = f"/v1/world?position={self.position}&wait=55"
        self.socket.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())

    def read(self, now: float) -> bool:
        """Take what has come; True when the answer is complete and the next question is asked."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("closed")
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        fields = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:])
        if len(body) < int(fields.get("Content-Length", 0)):
            return False
        self.buffer = b""
        status = int(head.split(b" ", 2)[1])
        if status == 200:
            self._take(json.loads(body), now)
        elif status != 204:
            self.mistakes.append(f"{status}: {body[:200]!r}")
        if fields.get("Connection", "").lower() == "close":
            self.socket.close()
            self.socket = self._connect()
        return True

    def _take(self, update: dict[str, object], now: float) -> None:
        if not update["complete"] and update["since"] != self.position:
            self.mistakes.append(f"asked from {self.position}, told from {update['since']}")
        self.position = str(update["position"])
        for kind, key, _ in update["items"] if update["complete"] else update["edits"]:  # type: ignore[attr-defined]
            if kind == "service":
                self.heard.setdefault(key, now)


def main(port: int, count: int, position: str, wanted: list[str], seconds: float = 40.0) -> None:
    """Run the readers until all have heard of everything, or the time is over."""
    selector = selectors.DefaultSelector()
    readers = [Reader(port, position) for _ in range(count)]
    for reader in readers:
        reader.ask()
        selector.register(reader.socket, selectors.EVENT_READ, reader)
    print("asked", flush=True)
    end = time.monotonic() + seconds
    left = len(readers)
    while left and time.monotonic() < end:
        for key, _ in selector.select(0.5):
            reader = key.data
            if not reader.read(time.monotonic()):
                continue
            if len([name for name in wanted if name in reader.heard]) == len(wanted) or reader.mistakes:
                left -= 1
                selector.unregister(key.fileobj)
                reader.socket.close()
                continue
            if reader.socket is not key.fileobj:
                selector.unregister(key.fileobj)
                selector.register(reader.socket, selectors.EVENT_READ, reader)
            reader.ask()
    moments = defaultdict(list)
    for reader in readers:
        for name, moment in reader.heard.items():
            moments[name].append(moment)
    mistakes = [mistake for reader in readers for mistake in reader.mistakes]
    print(json.dumps({"heard": moments, "mistakes": mistakes[:5], "mistaken": len(mistakes)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4].split(","))
