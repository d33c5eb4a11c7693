"""A server in a thread that answers with what it was asked."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest


class Echo:
    """The server, its port, and every request that it has seen as (path, headers)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.failures = 0
        """How many of the next requests are answered 503."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.connection.settimeout(5)
                super().handle_one_request()

            def do_GET(self) -> None:
                owner._answer(self)

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self._open = True

    def close(self) -> None:
        """Listen no more."""
        if self._open:
            self._open = False
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        parts = urlsplit(handler.path)
        self.seen.append((parts.path, dict(handler.headers)))
        headers = {"Content-Type": "application/json", "X-Api-Key": "planted-answer-5"}
        told = {
            "method": handler.command,
            "path": parts.path,
            "query": parse_qs(parts.query),
            "body": body.decode(),
            "headers": dict(handler.headers),
            "password": "planted-answer-5",
            "said": f"you sent {handler.headers.get('Authorization')}",
        }
        content = json.dumps(told).encode()
        if parts.path == "/binary":
            content, headers = bytes(range(256)), {"Content-Type": "application/octet-stream"}
        if parts.path == "/gzip":
            content = gzip.compress(content)
            headers["Content-Encoding"] = "gzip"
        if parts.path == "/latin":
            content, headers["Content-Type"] = (
                "grüße, password=planted-answer-5".encode("latin-1"),
                "text/plain; charset=latin-1",
            )
        if parts.path == "/redirect":
            headers["Location"] = f"http://127.0.0.1:{self.port}/teams"
        failing, self.failures = self.failures > 0, max(self.failures - 1, 0)
        handler.send_response(503 if failing else 302 if "Location" in headers else 200)
        for name, value in headers.items():
            handler.send_header(name, value)
        if parts.path == "/cookies":
            handler.send_header("Set-Cookie", "one=planted-answer-5; Path=/")
            handler.send_header("Set-Cookie", "two=planted-answer-5; Path=/")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()
