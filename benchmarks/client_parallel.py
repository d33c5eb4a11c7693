"""Calls side by side: ten of 50 ms at once, and two hundred of 50 ms, fifty at a time, against requests-futures."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from requests.adapters import HTTPAdapter
from requests_futures.sessions import FuturesSession

import smartclient
from atlas import Delta, Edit, Instance, Position, World
from benchmarks.measure import Claim, alternate
from smartclient import Mesh, runtime
from smartrealm import CallContext
from smartrealm.headers import REQUEST_ID, enter_call, leave_call

ANSWER_SECONDS = 0.05


def run() -> list[Claim]:
    """The claims; about ten seconds."""
    with slow_server() as (port, seen):
        instance = Instance("identity", "127.0.0.1", port)
        edit = Edit("instance", instance.key, None, instance.to_json())
        world = World().apply(Delta(Position(), Position("benchmark", 1), (edit,)))
        mesh = Mesh(world=lambda: world)
        call, entered = enter_call(CallContext("benchmark")), runtime.enter(mesh)
        try:
            return [ten_at_once(), *two_hundred(port, seen)]
        finally:
            runtime.leave(entered)
            leave_call(call)
            mesh.close()


def ten_at_once() -> Claim:
    """Ten calls that are each answered after 50 ms, from the call of gather to its results."""
    taken = []
    for _ in range(11):
        begun = time.perf_counter()
        smartclient.gather([("GET", "service://identity/")] * 10)
        taken.append(time.perf_counter() - begun)
    middle = statistics.median(taken[1:]) * 1000
    return Claim("10 x 50 ms in parallel", "at most 65 ms", f"{middle:.1f} ms", "529 ms one by one", middle <= 65)


def two_hundred(port: int, seen: set[str | None]) -> list[Claim]:
    """The same requests to the same server, by name here and by URL there."""
    futures = FuturesSession(max_workers=50)
    futures.mount("http://", HTTPAdapter(pool_maxsize=50))

    def ours() -> None:
        smartclient.gather([("GET", "service://identity/")] * 200, limit=50)

    def theirs() -> None:
        for future in [futures.get(f"http://127.0.0.1:{port}/") for _ in range(200)]:
            future.result()

    try:
        taken = alternate({"ours": ours, "theirs": theirs}, rounds=7, clock=time.perf_counter)
        seen.clear()
        ours()
    finally:
        futures.close()
    ratio, kept = taken["ours"] / taken["theirs"], seen == {"benchmark"}
    against = "requests-futures, which loses the context"
    return [
        Claim("200 calls of 50 ms, 50 at a time", "at most 1.1x", f"{ratio:.2f}x", against, ratio <= 1.1),
        Claim("context in each of them", "kept", "kept" if kept else "lost", against, kept),
    ]


@contextmanager
def slow_server() -> Iterator[tuple[int, set[str | None]]]:
    """A server that answers after 50 ms, as many at once as come: its port, and the request ids that it has seen."""
    seen: set[str | None] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(ANSWER_SECONDS)
            seen.add(self.headers.get(REQUEST_ID))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        server.server_close()
