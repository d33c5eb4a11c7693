"""Starting while the source is away, and being killed while keeping what it said."""

from __future__ import annotations

import http.client
import http.server
import json
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from smartconfig import Override, Overrides, load
from smartconfig.lastgood import LastGood
from tests.processes import Child, free_port


class HttpSource:
    """A source as a program would write it: JSON over HTTP, with no timeout of its own."""

    name = "the map"

    def __init__(self) -> None:
        self.port = 0

    def current(self) -> Overrides:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port)) as connection:
            connection.request("GET", "/")
            with connection.getresponse() as answer:
                if answer.status != 200:
                    raise ConnectionError(f"it answered {answer.status}")
                document = json.load(answer)
        entries = tuple(Override(key, value, scope="") for key, value in document["values"].items())
        return Overrides(document["version"], entries)

    def wait(self, version: str, seconds: float) -> Overrides | None:
        return self.current()


def config() -> ModuleType:
    module = ModuleType("identity.config")
    vars(module).update(PAGE_SIZE=20)
    return module


@contextmanager
def server(status: int, body: bytes) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running.server_port
        running.shutdown()
        thread.join()


@contextmanager
def hanging() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def refusing() -> Iterator[int]:
    yield free_port()


OUTAGES = {
    "refused": (refusing(), "refused"),
    "hanging": (hanging(), "did not answer within 3 s"),
    "500": (server(500, b"oops"), "it answered 500"),
    "garbage": (server(200, b"<html>"), "Expecting value"),
    "another shape": (server(200, b"[]"), "the map"),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_start_survives_every_outage(tmp_path: Path, outage: str) -> None:
    """Refused, hanging, answering 500 or garbage: started within 3 s and a little, on an idle machine, on the last good copy."""
    source = HttpSource()
    with server(200, b'{"version": "v1", "values": {"PAGE_SIZE": 50}}') as source.port:
        load(config(), source=source, environ={}, state_dir=tmp_path)
    away, complaint = OUTAGES[outage]
    with away as source.port:
        begun = time.monotonic()
        settings = load(config(), source=source, environ={}, state_dir=tmp_path)
        taken = time.monotonic() - begun
    assert taken < 10  # three times the promise
    assert settings.snapshot["PAGE_SIZE"] == 50
    assert (settings.status.state, settings.status.version) == ("stale", "v1")
    assert complaint in settings.status.mistakes[0]


WRITER = """
import sys
from pathlib import Path
from smartconfig import Override, Overrides
from smartconfig.lastgood import LastGood

kept = LastGood(Path(sys.argv[1]), realm="local", service="identity", source="the map")
number = 0
while True:
    number += 1
    kept.save(Overrides(f"v{number}", (Override("A", [number] * 5000),)), float(number))
    if number == 1:
        print("ready", flush=True)
"""


def test_a_writer_that_is_killed_leaves_a_whole_copy(tmp_path: Path) -> None:
    """Killed with SIGKILL at 12 random moments while it writes without a pause: the copy is always whole."""
    chance = random.Random(7)
    kept = LastGood(tmp_path, realm="local", service="identity", source="the map")
    for round_number in range(12):
        child = Child([sys.executable, "-c", WRITER, tmp_path], output=tmp_path / f"{round_number}.out")
        with child:
            child.wait_ready(lambda child=child: "ready" in child.text())  # type: ignore[misc]
            time.sleep(chance.uniform(0.0, 0.05))
            child.signal(signal.SIGKILL)
            child.process.wait(30)
        found = kept.load()
        assert found is not None
        number = int(found.overrides.version[1:])
        assert found.overrides.entries[0].value == [number] * 5000
