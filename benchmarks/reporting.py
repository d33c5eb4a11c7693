"""What an error-report endpoint that hangs costs the requests, and how long it holds up the end of the process."""

from __future__ import annotations

import logging
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from benchmarks.measure import Claim, ratio_claim
from smartservice import errors
from smartservice.reporting import BugsnagSink, Reports

_TURNS, _REQUESTS, _CRASH_EVERY = 50, 100, 20


class _Accepting(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def _healthy() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Accepting)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@contextmanager
def _hanging() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _client(reports: Reports) -> FlaskClient:
    app = Flask("bench_reporting")
    app.logger.handlers[:] = [logging.NullHandler()]
    app.logger.propagate = False
    errors.install(app, report=reports.crashed)

    @app.get("/items/<int:number>")
    def work(number: int) -> str:
        time.sleep(0.001)  # a query
        if number % _CRASH_EVERY == 0:
            raise ValueError("crash")
        return "done"

    return app.test_client()


def _p99s(clients: Mapping[str, FlaskClient], settle: Callable[[], object]) -> dict[str, float]:
    """The p99 of each, taken in short turns, so that noise hits all alike and one's sender not the other's requests."""
    taken: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(_TURNS):
        for name, client in clients.items():
            for number in range(_REQUESTS):
                began = time.perf_counter()
                client.get(f"/items/{number}")
                taken[name].append(time.perf_counter() - began)
            settle()
    return {name: statistics.quantiles(times, n=100)[98] for name, times in taken.items()}


_CHILD = """
import sys, time
from smartservice.reporting import BugsnagSink, Reports
reports = Reports(BugsnagSink(lambda: "k" * 32, endpoint=sys.argv[1]))
for number in range(20):
    reports.crashed(ValueError(number))
print(time.time(), flush=True)
"""


_STOCK = """
import sys, time
import bugsnag
bugsnag.configure(api_key="k" * 32, endpoint=sys.argv[1], session_endpoint=sys.argv[1])
for number in range(20):
    bugsnag.notify(ValueError(number))
print(time.time(), flush=True)
"""
_PATIENCE = 8.0


def _seconds_to_exit(program: str, url: str) -> float | None:
    """How long a process lives on after its last line; None when it is still there after _PATIENCE seconds."""
    command = [sys.executable, "-c", program, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        ended = float(child.stdout.readline())
        try:
            child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            return None
        return time.time() - ended


def run() -> list[Claim]:
    """p99 over requests of which one in twenty crashes; then the end of a process with 20 reports queued."""
    with _healthy() as healthy, _hanging() as hanging:
        reports = {
            "healthy": Reports(BugsnagSink(lambda: "k" * 32, endpoint=healthy)),
            "hanging": Reports(BugsnagSink(lambda: "k" * 32, endpoint=hanging)),
        }
        clients = {name: _client(each) for name, each in reports.items()}
        for each in reports.values():
            each.prepare()
        p99 = _p99s(clients, settle=lambda: reports["healthy"].flush(5))
        for each in reports.values():
            each.close()
        exits = [_seconds_to_exit(_CHILD, hanging) for _ in range(3)]
        slowest = max(seconds if seconds is not None else _PATIENCE for seconds in exits)
        stock = _seconds_to_exit(_STOCK, hanging)
    return [
        ratio_claim(
            "p99 of requests while the Bugsnag endpoint hangs",
            most=1.2,
            ours=p99["hanging"],
            reference=p99["healthy"],
            against=f"an endpoint that answers ({p99['healthy'] * 1000:.1f} ms)",
        ),
        Claim(
            "exit while the Bugsnag endpoint hangs",
            "at most 2 s",
            f"{slowest:.2f} s",
            "bugsnag's own delivery: " + (f"not after {_PATIENCE:g} s" if stock is None else f"{stock:.2f} s"),
            slowest <= 2,
        ),
    ]
