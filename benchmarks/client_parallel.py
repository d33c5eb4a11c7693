"""Calls side by side: ten of 50 ms at once, and two hundred of 50 ms, fifty at a time, against requests-futures."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests_futures.sessions import FuturesSession  # type: ignore[import-untyped]

import smartclient
from benchmarks.measure import Claim, alternate
from smartrealm import CallContext, current_call
from smartrealm.headers import enter_call, leave_call

ANSWER_SECONDS = 0.05


def run() -> list[Claim]:
    """The claims; about ten seconds."""
    with slow_server() as url:
        return [ten_at_once(), *two_hundred(url)]


def ten_at_once() -> Claim:
    """Ten calls that each wait 50 ms, from the call of gather to its results."""
    calls: list[Callable[[], None]] = [lambda: time.sleep(ANSWER_SECONDS)] * 10
    taken = []
    for _ in range(10):
        begun = time.perf_counter()
        smartclient.gather(calls)
        taken.append(time.perf_counter() - begun)
    middle = statistics.median(taken) * 1000
    return Claim("10 x 50 ms in parallel", "at most 65 ms", f"{middle:.1f} ms", "529 ms one by one", middle <= 65)


def two_hundred(url: str) -> list[Claim]:
    """The same requests to the same server through sessions with equal connection pools."""
    session, futures = requests.Session(), FuturesSession(max_workers=50)
    for one in (session, futures):
        one.mount("http://", HTTPAdapter(pool_maxsize=50))
    seen: set[str] = set()

    def ask() -> None:
        call = current_call()
        seen.add("" if call is None else call.request_id)
        session.get(url)

    def ours() -> None:
        smartclient.gather([ask] * 200, limit=50)

    def theirs() -> None:
        for future in [futures.get(url) for _ in range(200)]:
            future.result()

    token = enter_call(CallContext("benchmark"))
    try:
        taken = alternate({"ours": ours, "theirs": theirs}, rounds=7, clock=time.perf_counter)
    finally:
        leave_call(token)
        futures.close()
        session.close()
    ratio = taken["ours"] / taken["theirs"]
    against = "requests-futures, which loses the context"
    return [
        Claim("200 calls of 50 ms, 50 at a time", "at most 1.1x", f"{ratio:.2f}x", against, ratio <= 1.1),
        Claim(
            "context in each of them",
            "kept",
            "kept" if seen == {"benchmark"} else "lost",
            against,
            seen == {"benchmark"},
        ),
    ]


@contextmanager
def slow_server() -> Iterator[str]:
    """A server that answers after 50 ms, as many at once as come."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(ANSWER_SECONDS)
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
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
