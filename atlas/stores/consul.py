"""Consul's key/value store, by plain HTTP: `consul://host/prefix`.

    consul://:token@127.0.0.1:8500/atlas/production?tls=true&ca=/etc/ssl/consul-ca.pem&dc=eu

The token comes from the URL or from CONSUL_HTTP_TOKEN; it needs `key_prefix "<prefix>/" { policy = "write" }`. Usually the
host is the agent of this machine; several are asked one after the other.

A version is the ModifyIndex, which Consul never gives twice. Writes are transactions of one operation: only their answer tells
the index of what was written. Consul keeps the index when a body is written again unchanged, so each write also carries a
random number in the flags of the entry.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from atlas.stores.address import Address
from atlas.stores.http import Answer, Endpoints
from atlas.stores.store import ANY, LARGEST_BODY, AnyVersion, Changed, Document, Guarantees, Refused
from smartrealm.errors import Unavailable
from smartrealm.redaction import redact_text

_LONGEST_WAIT = 300.0
"""Seconds that one blocking query asks for; Consul takes at most ten minutes and adds up to a sixteenth."""

_STALE = "index is stale"
"""What a transaction says when the comparison of an index failed."""

_EXAMPLE = "consul://127.0.0.1:8500/atlas"
_OPTIONS = ("tls", "ca", "dc", "timeout_seconds")


class ConsulStore:
    """Documents in Consul. Keys are those of the documents behind the prefix, readable with `consul kv get`."""

    guarantees = Guarantees(
        name="consul",
        reads="linearizable",
        wait="pushed",
        survives="the loss of fewer than half of its servers",
    )

    def __init__(
        self,
        address: Address,
        *,
        token: str = "",
        timeout_seconds: float = 3.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.timeout_seconds = address.seconds("timeout_seconds", timeout_seconds)
        self._prefix = f"{address.path or 'atlas'}/"
        token = address.password or token
        self._headers = {"Content-Type": "application/json", **({"X-Consul-Token": token} if token else {})}
        self._place = {"dc": address.options["dc"]} if address.options.get("dc") else {}
        self._endpoints = Endpoints(address, clock=clock)
        self._sleep = sleep
        self._clock = clock

    @classmethod
    def from_url(cls, url: str, environ: Mapping[str, str] | None = None) -> ConsulStore:
        """The store behind a URL; nothing is connected. Raises ConfigurationError."""
        environ = os.environ if environ is None else environ
        address = Address.of(url, port=8500, options=_OPTIONS, example=_EXAMPLE)
        return cls(address, token=environ.get("CONSUL_HTTP_TOKEN", ""))

    def __repr__(self) -> str:
        return f"ConsulStore({self.address.shown})"

    def get(self, key: str) -> Document | None:
        """The document, or None when there is none."""
        return self._read(key, {"consistent": ""}, self.timeout_seconds)[0]

    def get_all(self, prefix: str) -> Mapping[str, Document]:
        """Every document below a prefix, in one answer."""
        target = self._target(prefix, {"recurse": "true", "consistent": ""})
        answer = self._ask("GET", target, None, self.timeout_seconds, again=True)
        found = [] if answer.status == 404 else [self._document(entry) for entry in self._json(answer)]
        # Consul may keep a folder (a key that ends in a slash) that somebody made by hand: it is no document.
        return {document.key: document for document in found if document.key != prefix}

    def put(self, key: str, body: bytes, expected: str | AnyVersion | None) -> str:
        """Write one document; raises Changed when it is at another version than expected."""
        if len(body) > LARGEST_BODY:
            raise ValueError(f"{key} has {len(body)} bytes; a store takes {LARGEST_BODY}")
        operation: dict[str, Any] = {"Verb": "set", "Value": b64encode(body).decode(), "Flags": secrets.randbits(52)}
        if not isinstance(expected, AnyVersion):
            if expected is not None and not _is_index(expected):
                raise Changed(key)
            operation.update(Verb="cas", Index=int(expected or 0))
        return str(self._write(key, operation)[0]["KV"]["ModifyIndex"])

    def delete(self, key: str, expected: str | AnyVersion = ANY) -> None:
        """Remove one document; raises Changed when it is at another version than expected."""
        if isinstance(expected, AnyVersion):
            self._write(key, {"Verb": "delete"})
            return
        try:
            self._write(key, {"Verb": "delete-cas", "Index": int(expected) if _is_index(expected) else 2**62})
        except Changed:
            if self.get(key) is not None:
                raise

    def wait(self, key: str, seen: str | None, seconds: float) -> Document | None:
        """The document as soon as its version is not `seen`, told by a blocking query; None after `seconds`, or when it is closed."""
        end = self._clock() + seconds
        index = 0
        closed = self._endpoints.closed
        while closed == self._endpoints.closed:
            left = min(end - self._clock(), _LONGEST_WAIT)
            begun = self._clock()
            document, told = self._wait_once(key, index, left)
            if document is not None and document.version != seen:
                return document
            if end - self._clock() <= 0:
                return None
            # An index that goes backwards (a restored snapshot) or is no index: begin again with a read.
            index = told if told >= index and told > 0 else 0
            if index == 0 or self._clock() - begun < 0.01:
                self._sleep(min(random.uniform(0.02, 0.1), max(0.0, end - self._clock())))
        return None

    def close(self) -> None:
        """Close the idle connections."""
        self._endpoints.close()

    # -- asking --------------------------------------------------------------------------------------------------------

    def _wait_once(self, key: str, index: int, left: float) -> tuple[Document | None, int]:
        """Read at once with index 0; else as soon as it may have changed, or after `left` seconds."""
        if index == 0 or left <= 0:
            return self._read(key, {"consistent": ""}, self.timeout_seconds)
        # Consul adds up to a sixteenth to what it is asked for, so that not all clients come back together.
        query = {"index": str(index), "wait": f"{max(1, int(left * 16 / 17 * 1000))}ms"}
        try:
            return self._read(key, query, left + 0.5, again=False)
        except Unavailable:
            return None, 0  # the read that begins anew tells whether another agent can be asked

    def _read(
        self, key: str, query: Mapping[str, str], seconds: float, *, again: bool = True
    ) -> tuple[Document | None, int]:
        """A document and the index to wait from."""
        answer = self._ask("GET", self._target(key, query), None, seconds, again=again)
        told = answer.headers.get("x-consul-index", "")
        index = int(told) if _is_index(told) else 0
        return None if answer.status == 404 else self._document(self._json(answer)[0]), index

    def _write(self, key: str, operation: Mapping[str, Any]) -> Any:
        """Carry out one operation; gives its results. Raises Changed when its index did not fit."""
        body = json.dumps([{"KV": {"Key": self._prefix + key, **operation}}]).encode()
        query = f"?{urlencode(self._place)}" if self._place else ""
        answer = self._ask("PUT", f"/v1/txn{query}", body, self.timeout_seconds)
        told = self._json(answer)
        if answer.status == 409:
            what = "; ".join(str(error.get("What", "")) for error in told.get("Errors") or [])
            if _STALE in what:
                raise Changed(key)
            raise Refused(f"{self.address.shown} refuses: {redact_text(what[:300])}.")
        return told.get("Results") or []

    def _ask(self, method: str, target: str, body: bytes | None, seconds: float, *, again: bool = False) -> Answer:
        answer = self._endpoints.ask(method, target, body, self._headers, seconds=seconds, again=again)
        if answer.status in (200, 404, 409):
            return answer
        reason = redact_text(answer.body[:200].decode(errors="replace").strip()) or "no reason"
        hint = " (check the token: CONSUL_HTTP_TOKEN or the URL)" if answer.status in (401, 403) else ""
        kind = Refused if 400 <= answer.status < 500 else Unavailable
        raise kind(f"{self.address.shown} refuses: it answered {answer.status}, {reason}{hint}.")

    def _target(self, key: str, query: Mapping[str, str]) -> str:
        return f"/v1/kv/{quote(self._prefix + key)}?{urlencode({**self._place, **query})}"

    def _document(self, entry: Mapping[str, Any]) -> Document:
        key = str(entry["Key"]).removeprefix(self._prefix)
        return Document(key, b64decode(entry["Value"] or ""), str(entry["ModifyIndex"]))

    def _json(self, answer: Answer) -> Any:
        try:
            return json.loads(answer.body)
        except ValueError as error:
            raise Unavailable(f"{self.address.shown} does not speak Consul's HTTP API.") from error


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) > 0
