"""The traffic of a drill, at a door behind which some calls wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sidecar.drill.load import MOST_WAITING, Door, Load, Traffic
from tests.processes import wait_until


class Frozen:
    """A service of which every `one_of` calls one waits until `goes_on`."""

    def __init__(self, one_of: int) -> None:
        self.goes_on = threading.Event()
        self.waiting = 0
        self.asked = 0
        guard = threading.Lock()
        frozen = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with guard:
                    frozen.asked += 1
                    waits = frozen.asked % one_of == 0
                    frozen.waiting += waits
                if waits:
                    frozen.goes_on.wait()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self.server = Server(("127.0.0.1", 0), Handler)

    @contextmanager
    def called(self, *services: str) -> Iterator[Load]:
        thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        thread.start()
        try:
            traffic = Traffic(dict.fromkeys(services, "/"))
            with Load(Door(port=self.server.server_address[1]), traffic) as load:
                yield load
                self.goes_on.set()
                wait_until(lambda: all(not call.lost for call in load.calls) and len(load.calls) >= self.waiting)
        finally:
            self.goes_on.set()
            self.server.shutdown()
            thread.join()
            self.server.server_close()


def test_calls_that_wait_at_one_instance_keep_nobody_from_asking_the_others() -> None:
    """Else a frozen one of three would look as if the whole service gave no answer, for as long as it lasts."""
    frozen = Frozen(one_of=3)
    with frozen.called("identity") as load:
        wait_until(lambda: len(load.calls) > 50, 60, what="fifty answers")
        assert frozen.waiting > 10


def test_what_waits_is_bounded() -> None:
    """A frozen HAProxy answers nobody: it is not flooded meanwhile."""
    frozen = Frozen(one_of=1)
    with frozen.called(*(f"s{number}" for number in range(16))) as load:
        wait_until(lambda: frozen.waiting >= MOST_WAITING, 60, what="all that may wait")
        assert load.calls == []
        assert not threading.Event().wait(1.5)  # three more times that a successor would have begun
        assert frozen.waiting <= MOST_WAITING
