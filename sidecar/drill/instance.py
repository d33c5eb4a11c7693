"""`python -m sidecar.drill.instance SERVICE PORT DIRECTORY`: a small service for the realm of a drill. It answers every GET and
POST, announces itself to the sidecar, and drains when it is told to stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from atlas.announcement import Announcement, announce, withdraw

DRAIN_SECONDS = 0.5


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = self.server.body  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    body = b""

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that went away is no news."""


def main(service: str, port: int, directory: Path) -> None:
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with _Server(("127.0.0.1", port), _Answers) as server:
        server.body = str(port).encode()
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        one = Announcement(
            service, port, host="127.0.0.1", health="/", incarnation=os.urandom(8).hex(), pid=os.getpid()
        )
        announce(directory, one)
        over.wait()
        announce(directory, replace(one, draining=True))
        time.sleep(DRAIN_SECONDS)
        withdraw(directory, one)
        server.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
