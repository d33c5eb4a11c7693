"""A program of its own that answers on some ports and announces them: `python small_app.py DIRECTORY PORT ...`.

It answers 503 while there is a file `DIRECTORY/unready`; APP_HOST: another address than its host's. SIGTERM makes it drain for a moment and leave.
"""

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


def main() -> None:
    directory, ports = Path(sys.argv[1]), [int(word) for word in sys.argv[2:]]
    host = os.environ.get("APP_HOST", "")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if (directory / "unready").exists() else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in the threads, too: it is waited for below
    for port in ports:
        server = ThreadingHTTPServer((host or "127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    told = [Announcement("identity", port, host, pid=os.getpid(), incarnation=str(os.getpid())) for port in ports]
    for one in told:
        announce(directory, one)
    signal.sigwait({signal.SIGTERM})
    for one in told:
        announce(directory, replace(one, draining=True))
    time.sleep(0.5)
    for one in told:
        withdraw(directory, one)


if __name__ == "__main__":
    main()
