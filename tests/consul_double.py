"""A double of the part of Consul's HTTP API that the store uses, for tests of the store's own reading and writing.

It is no Consul: what a real agent does is proven by the contracts, where one is installed. It follows what Consul documents
for KV reads, blocking queries and transactions, and what its state store does with an entry that is written again unchanged.
"""

from __future__ import annotations

import json
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class ConsulDouble:
    """The entries, the index of the last write, and what was asked."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.index = 10
        self.changed = threading.Condition()
        self.asked: list[tuple[str, str, str]] = []
        """(method, target, token) of each request."""
        self.restored = 0
        self.refuses: tuple[int, str] | None = None
        self.port = 0

    def read(self, target: str, query: dict[str, list[str]]) -> tuple[int, int, Any]:
        """(status, X-Consul-Index, body) of a read, which blocks when it has an index."""
        key = unquote(target.removeprefix("/v1/kv/"))
        with self.changed:
            asked = int(query.get("index", ["0"])[0])
            if asked:
                end = time.monotonic() + int(query["wait"][0].removesuffix("ms")) / 1000
                before = self.restored
                while self._index(key) <= asked and self.restored == before and (left := end - time.monotonic()) > 0:
                    self.changed.wait(left)
            if "recurse" in query:
                found = [entry for name, entry in sorted(self.entries.items()) if name.startswith(key)]
            else:
                found = [self.entries[key]] if key in self.entries else []
            return (200 if found else 404, self._index(key), found or None)

    def _index(self, key: str) -> int:
        return int(self.entries[key]["ModifyIndex"]) if key in self.entries else self.index

    def transact(self, operations: list[dict[str, Any]]) -> tuple[int, Any]:
        """(status, body) of a transaction of one operation."""
        operation = operations[0]["KV"]
        key, verb, index = operation["Key"], operation["Verb"], operation.get("Index", 0)
        with self.changed:
            here = self.entries.get(key)
            at = here["ModifyIndex"] if here else 0
            if (verb == "cas" and at != index) or (verb == "delete-cas" and here and at != index):
                what = f'failed to {"set" if verb == "cas" else "delete"} key "{key}", index is stale'
                return 409, {"Results": None, "Errors": [{"OpIndex": 0, "What": what}]}
            if verb.startswith("delete"):
                self.entries.pop(key, None)
                self._count()
                return 200, {"Results": [], "Errors": None}
            entry = {
                "LockIndex": 0,
                "Key": key,
                "Flags": operation.get("Flags", 0),
                "Value": operation["Value"] or None,
            }
            if here and all(here[name] == entry[name] for name in ("Flags", "Value")):
                entry["ModifyIndex"] = at  # an entry that does not change keeps its index
            else:
                self._count()
                entry["ModifyIndex"] = self.index
            self.entries[key] = {**entry, "CreateIndex": here["CreateIndex"] if here else self.index}
            return 200, {"Results": [{"KV": {**self.entries[key], "Value": None}}], "Errors": None}

    def set(self, key: str, body: bytes) -> None:
        """Write an entry, as somebody else would."""
        self.transact([{"KV": {"Verb": "set", "Key": key, "Value": b64encode(body).decode()}}])

    def restore(self) -> None:
        """Go back to low indexes, as with a restored snapshot; queries that block return."""
        with self.changed:
            self.index = 2
            for entry in self.entries.values():
                entry["ModifyIndex"] = 1
            self.restored += 1
            self.changed.notify_all()

    def body(self, key: str) -> bytes:
        return b64decode(self.entries[key]["Value"] or "")

    def _count(self) -> None:
        self.index += 1
        self.changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    double: ConsulDouble

    def do_GET(self) -> None:
        self._answer(b"")

    def do_PUT(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.double.asked.append((self.command, self.path, self.headers.get("X-Consul-Token", "")))
        parts = urlsplit(self.path)
        index = 0
        told: Any
        if self.double.refuses is not None:
            status, told = self.double.refuses
            content = told.encode()
        else:
            if self.command == "GET":
                status, index, told = self.double.read(parts.path, parse_qs(parts.query, keep_blank_values=True))
            else:
                status, told = self.double.transact(json.loads(body))
            content = b"" if told is None else json.dumps(told).encode()
        self.send_response(status)
        if index:
            self.send_header("X-Consul-Index", str(index))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def consul_double() -> Iterator[ConsulDouble]:
    """A double on a free port of 127.0.0.1."""
    double = ConsulDouble()
    handler = type("Handler", (_Handler,), {"double": double})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    double.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
