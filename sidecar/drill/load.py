"""The traffic of a drill: calls through the sidecar's door, on kept and on fresh connections, repeated by nobody."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from smartrealm.headers import SIDECAR_TOKEN

TIMEOUT_SECONDS = 15.0
MOST_LANES = 48
LOST_PAUSE_SECONDS = 0.02
WAITS_SECONDS = 0.5
"""A call that waits for so long gets a successor: what waits at a frozen instance keeps nobody from asking the others."""
MOST_WAITING = 100
"""Calls under way with which no more successors begin."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where a sidecar takes calls: a unix socket, or a loopback port."""

    socket: str = ""
    port: int = 0

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        return (
            _Unix(self.socket, timeout) if self.socket else http.client.HTTPConnection("127.0.0.1", self.port, timeout)
        )

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else f"http://127.0.0.1:{self.port}"


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True)
class Call:
    """What became of one call. Times are those of the monotonic clock."""

    began: float
    ended: float
    service: str
    method: str
    lost: str = ""
    """Why it counts as lost: no answer, one of 5xx, or one of the sidecar itself; empty: it was answered."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent."""

    paths: Mapping[str, str]
    """By service: what is asked for."""
    post: str = ""
    """What is posted to, at each service; empty: nothing is posted."""
    rate: float = 100.0
    """Calls per second, all services together."""
    token: str = ""
    caller: str = "drill"

    def __repr__(self) -> str:
        return f"<Traffic of {self.rate:g} calls/s to {len(self.paths)} services>"


def lost_why(status: int, said_by_sidecar: str) -> str:
    """Why an answer counts as none; empty when it counts. What a service itself answers below 500 is its business."""
    if status >= 500:
        return f"answered {status}"
    if said_by_sidecar:
        return f"answered {status} by the sidecar ({said_by_sidecar})"
    return ""


@dataclass(slots=True)
class _Lane:
    """Calls of one kind, one after the other. The sender of one that waits for long is relieved, and ends with that call."""

    number: int
    service: str
    method: str
    kept: bool
    sender: object = None


class Load:
    """Sends traffic while the block runs. `calls` holds what became of each; read it from any thread."""

    def __init__(
        self,
        door: Door,
        traffic: Traffic,
        *,
        clock: Callable[[], float] = time.monotonic,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self.calls: list[Call] = []
        self._door, self._traffic, self._clock, self._timeout = door, traffic, clock, timeout
        self._over = threading.Event()
        self._lanes = [_Lane(number, *kind) for number, kind in enumerate(_kinds(traffic))]
        self._pause = len(self._lanes) / traffic.rate
        self._under_way: dict[object, float] = {}

    def __enter__(self) -> Load:
        for lane in self._lanes:
            self._begin(lane, self._pause * lane.number / len(self._lanes))
        threading.Thread(target=self._relieve, name="drill-relief", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        end = time.monotonic() + 0.5
        while self._under_way and time.monotonic() < end:
            time.sleep(LOST_PAUSE_SECONDS)

    @property
    def posters(self) -> int:
        """How many calls may be under way that are not to be repeated."""
        return sum(1 for lane in self._lanes if lane.method == "POST")

    def oldest(self) -> float:
        """When the oldest call began that is still under way; the clock's now when none is."""
        return min(tuple(self._under_way.values()), default=self._clock())

    def _begin(self, lane: _Lane, after: float = 0.0) -> None:
        lane.sender = sender = object()
        threading.Thread(target=self._send, args=(lane, sender, after), name="drill-load", daemon=True).start()

    def _relieve(self) -> None:
        """Let another one go on where a call waits."""
        while not self._over.wait(WAITS_SECONDS / 5):
            room = MOST_WAITING - len(self._under_way)
            for lane in self._lanes:
                began = self._under_way.get(lane.sender)
                if room > 0 and began is not None and self._clock() - began > WAITS_SECONDS:
                    self._begin(lane)
                    room -= 1

    def _send(self, lane: _Lane, sender: object, after: float) -> None:
        connection = self._door.connection(self._timeout)
        headers = {"Smart-Service": lane.service, "Smart-Caller": self._traffic.caller}
        if self._traffic.token:
            headers[SIDECAR_TOKEN] = self._traffic.token
        path = self._traffic.post if lane.method == "POST" else self._traffic.paths[lane.service]
        self._over.wait(after)
        while lane.sender is sender and not self._over.is_set():
            began = self._under_way[sender] = self._clock()
            lost = ""
            try:
                connection.request(lane.method, path, body=b"drill" if lane.method == "POST" else None, headers=headers)
                answer = connection.getresponse()
                answer.read()
                lost = lost_why(answer.status, answer.getheader("Smart-Service") or "")
                if answer.will_close or not lane.kept:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                lost = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                connection.close()
            ended = self._clock()
            self.calls.append(Call(began, ended, lane.service, lane.method, lost))
            self._under_way.pop(sender, None)
            self._over.wait(max(LOST_PAUSE_SECONDS if lost else 0.0, self._pause - (ended - began)))
        connection.close()


def _kinds(traffic: Traffic) -> Sequence[tuple[str, str, bool]]:
    """Which lanes there are: for each service some on kept and some on fresh connections, all in all not too many."""
    services = sorted(traffic.paths)
    each = max(2, min(4, MOST_LANES // max(1, len(services) * (2 if traffic.post else 1))))
    return [
        (service, method, number % 2 == 0)
        for service in services
        for method in (("GET", "POST") if traffic.post else ("GET",))
        for number in range(each)
    ]
