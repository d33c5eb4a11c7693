"""CPU of one call by name, everything switched on, against requests.Session on the same URL, and what the parts cost.

The server is a process of its own; CPU is that of the calling process alone. The environment holds 35 and 535 variables, since
requests reads all of it for every call.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests

import smartclient
from benchmarks.measure import Claim, alternate, ratio_claim
from smartclient.budget import Budget
from smartclient.runtime import Mesh, Options
from smartrealm.headers import CallContext, enter_call, leave_call
from tests.faults import FaultServer, answer, world_of

CALLS = 200
BODY = b'{"teams": ["accounts", "billing"], "total": 2}'


def run() -> list[Claim]:
    """Both environments, then the budget."""
    claims = []
    with _server_process() as port, tempfile.TemporaryDirectory() as folder:
        for count, most in ((35, 0.85), (535, 0.35)):
            with _environment(count):
                taken = alternate({"ours": _ours(port, folder), "requests": _reference(port)}, rounds=7)
            what = f"CPU of a service call, all features on, {count} environment variables"
            claims.append(
                ratio_claim(
                    what, most=most, ours=taken["ours"], reference=taken["requests"], against="requests.Session.get"
                )
            )
        claims.append(_budget(folder))
    return claims


def _ours(port: int, folder: str) -> Callable[[], None]:
    known = world_of([f"127.0.0.1:{port}"])
    session = smartclient.Session(mesh=Mesh(Options(caller="orders", state_dir=folder + "/state"), world=lambda: known))
    context = CallContext(
        "abc", deadline=time.monotonic() + 3600, traceparent=f"00-{'a' * 32}-{'b' * 16}-01", tags={"tenant": "x"}
    )

    def send() -> None:
        token = enter_call(context)
        for _ in range(CALLS):
            session.get("service://identity/teams?page=1").json()
        leave_call(token)

    return send


def _reference(port: int) -> Callable[[], None]:
    session = requests.Session()

    def send() -> None:
        for _ in range(CALLS):
            session.get(f"http://127.0.0.1:{port}/teams?page=1", timeout=10).json()

    return send


def _budget(folder: str) -> Claim:
    bucket = Budget(folder + "/bucket", "testing").bucket("identity")

    def spend() -> None:
        for _ in range(2000):
            bucket.take()

    seconds = alternate({"take": spend}, rounds=5)["take"] / 2000
    return Claim(
        "one operation on the retry budget that all workers of a host share", "at most 15 us", f"{seconds * 1e6:.1f} us",
        "noisy machine; the memory-mapped file was measured at 3.5 to 9 us", seconds < 15e-6,
    )  # fmt: skip


@contextmanager
def _environment(count: int) -> Iterator[None]:
    """Exactly so many environment variables, none of them about proxies."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update({name: before[name] for name in ("PATH", "HOME") if name in before})
    os.environ.update({f"SETTING_NUMBER_{number}": "value" for number in range(count - len(os.environ))})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _server_process() -> Iterator[int]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        server = FaultServer(lambda seen: answer(body=BODY, headers=["Server: bench", "Cache-Control: no-store"]))
        server.seen = _Forgetting()
        os.write(writing, str(server.port).encode())
        signal.pause()
        os._exit(0)
    try:
        yield int(os.read(reading, 10))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


class _Forgetting(list):  # type: ignore[type-arg]
    def append(self, item: object) -> None:
        pass
