"""etcd over its v3 JSON gateway, by plain HTTP: `etcd://a,b,c/prefix`.

    etcd://user:password@a:2379,b:2379,c:2379/atlas/production?tls=true&ca=/etc/ssl/etcd-ca.pem

The user needs the role to read and write the range of the prefix. A version is the `mod_revision` of the key, which etcd
never gives twice. Compare-and-set is a transaction on it; a wait is a watch that begins at the revision of a read before it,
so that nothing can fall between the two.
"""

from __future__ import annotations

import json
import random
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any

from atlas.stores.address import Address
from atlas.stores.http import Answer, Endpoints
from atlas.stores.store import ANY, AnyVersion, Changed, Document, Guarantees, Refused
from smartrealm.errors import Unavailable
from smartrealm.redaction import redact_text

_PAGE = 100
"""Documents in one answer of `get_all`: at most 25 MB."""

_WITH_LEADER = {"Grpc-Metadata-hasleader": "true"}
"""Asks a server to end a watch when it is cut off from the majority, instead of keeping quiet."""

_EXAMPLE = "etcd://host:2379,host:2379/atlas"


class EtcdStore:
    """Documents in etcd, from version 3.4 on. Keys are those of the documents behind the prefix, readable with etcdctl."""

    guarantees = Guarantees(
        name="etcd",
        reads="linearizable",
        wait="pushed",
        survives="the loss of fewer than half of its servers",
    )

    def __init__(
        self,
        address: Address,
        *,
        timeout_seconds: float = 3.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.timeout_seconds = address.seconds("timeout_seconds", timeout_seconds)
        self._prefix = f"{address.path or 'atlas'}/"
        self._endpoints = Endpoints(address, clock=clock)
        self._sleep = sleep
        self._clock = clock
        self._token = ""

    @classmethod
    def from_url(cls, url: str) -> EtcdStore:
        """The store behind a URL; nothing is connected. Raises ConfigurationError."""
        return cls(Address.of(url, port=2379, options=("tls", "ca", "timeout_seconds"), example=_EXAMPLE))

    def __repr__(self) -> str:
        return f"EtcdStore({self.address.shown})"

    def get(self, key: str) -> Document | None:
        """The document, or None when there is none."""
        return self._read(key)[0]

    def get_all(self, prefix: str) -> Mapping[str, Document]:
        """Every document below a prefix, read in pages."""
        found: dict[str, Document] = {}
        begin, end = (self._prefix + prefix).encode(), _after(self._prefix + prefix)
        while True:
            answer = self._ask("kv/range", {"key": _text(begin), "range_end": _text(end), "limit": _PAGE}, again=True)
            pairs = answer.get("kvs", [])
            for pair in pairs:
                document = self._document(pair)
                found[document.key] = document
            if not answer.get("more") or not pairs:
                return found
            begin = b64decode(pairs[-1]["key"]) + b"\0"

    def put(self, key: str, body: bytes, expected: str | AnyVersion | None) -> str:
        """Write one document in a transaction; raises Changed when it is at another version than expected."""
        name = _text(self._prefix + key)
        request: dict[str, Any] = {"success": [{"request_put": {"key": name, "value": _text(body)}}]}
        if not isinstance(expected, AnyVersion):
            request["compare"] = [_at_version(name, expected)]
        answer = self._ask("kv/txn", request)
        if not answer.get("succeeded"):
            raise Changed(key)
        return str(answer["header"]["revision"])

    def delete(self, key: str, expected: str | AnyVersion = ANY) -> None:
        """Remove one document; raises Changed when it is at another version than expected."""
        name = _text(self._prefix + key)
        request: dict[str, Any] = {"success": [{"request_delete_range": {"key": name}}]}
        if not isinstance(expected, AnyVersion):
            request["compare"] = [_at_version(name, expected)]
            request["failure"] = [{"request_range": {"key": name, "keys_only": True}}]
        answer = self._ask("kv/txn", request)
        if not answer.get("succeeded") and answer["responses"][0]["response_range"].get("kvs"):
            raise Changed(key)

    def wait(self, key: str, seen: str | None, seconds: float) -> Document | None:
        """The document as soon as its version is not `seen`, told by a watch; None after `seconds`, or when it is closed."""
        end = self._clock() + seconds
        pause = 0.0
        closed = self._endpoints.closed
        while closed == self._endpoints.closed:
            document, revision = self._read(key)
            if document is not None and document.version != seen:
                return document
            if (left := end - self._clock() - pause) <= 0:
                return None
            self._sleep(pause)
            begun = self._clock()
            document = self._watch(key, revision + 1, left, end)
            if document is not None:
                return document
            # A watch that was refused or broke at once is not begun again and again without a pause.
            pause = random.uniform(0.02, 0.2) if self._clock() - begun < 0.2 else 0.0
        return None

    def close(self) -> None:
        """Close the idle connections."""
        self._endpoints.close()

    def _read(self, key: str) -> tuple[Document | None, int]:
        """A document and the revision of the whole store at which it was read."""
        answer = self._ask("kv/range", {"key": _text(self._prefix + key)}, again=True)
        pairs = answer.get("kvs", [])
        return self._document(pairs[0]) if pairs else None, int(answer["header"]["revision"])

    def _watch(self, key: str, revision: int, seconds: float, end: float) -> Document | None:
        """The first document that is written from `revision` on; None when the watch ends in any other way.

        It ends at `end`, and when the server goes, refuses it (a token that ran out) or has compacted that revision away:
        then whoever waits reads again.
        """
        request = {"create_request": {"key": _text(self._prefix + key), "start_revision": str(revision)}}
        opening = min(seconds, self.timeout_seconds)
        try:
            with self._endpoints.stream(
                "POST", "/v3/watch", json.dumps(request).encode(), {**self._headers(), **_WITH_LEADER}, seconds=opening
            ) as (status, next_line):
                while status == 200 and (line := next_line(end - self._clock())):
                    told = json.loads(line).get("result", {})
                    if told.get("canceled") or not told:
                        return None
                    written = [event["kv"] for event in told.get("events", []) if event.get("type", "PUT") == "PUT"]
                    if written:
                        return self._document(written[-1])
        except (TimeoutError, ValueError, Unavailable):
            return None
        return None

    def _document(self, pair: Mapping[str, Any]) -> Document:
        key = b64decode(pair["key"]).decode().removeprefix(self._prefix)
        return Document(key, b64decode(pair.get("value", "")), str(pair["mod_revision"]))

    def _ask(self, what: str, request: Mapping[str, Any], *, again: bool = False) -> Any:
        """The answer of the gateway as JSON; a token that ran out is renewed, once."""
        end = self._clock() + self.timeout_seconds
        body = json.dumps(request).encode()
        fresh = self._log_in(end) if self.address.user and not self._token else False
        answer = self._send(what, body, end, again)
        if self.address.user and not fresh and _is_token_old(answer):
            self._log_in(end)
            answer = self._send(what, body, end, again)
        if answer.status != 200:
            kind = Refused if 400 <= answer.status < 500 else Unavailable
            raise kind(f"{self.address.shown} refuses: {_complaint(answer)}.")
        return self._json(answer)

    def _send(self, what: str, body: bytes, end: float, again: bool, token: str | None = None) -> Answer:
        seconds = max(0.001, end - self._clock())
        return self._endpoints.ask("POST", f"/v3/{what}", body, self._headers(token), seconds=seconds, again=again)

    def _log_in(self, end: float) -> bool:
        who = {"name": self.address.user, "password": self.address.password}
        answer = self._send("auth/authenticate", json.dumps(who).encode(), end, True, token="")
        if answer.status != 200:
            raise Unavailable(
                f"{self.address.shown} does not let {self.address.user!r} in: {_complaint(answer)}. "
                "Check the user and the password in the URL."
            )
        self._token = str(self._json(answer)["token"])
        return True

    def _headers(self, token: str | None = None) -> Mapping[str, str]:
        headers = {"Content-Type": "application/json"}
        token = self._token if token is None else token
        return {**headers, "Authorization": token} if token else headers

    def _json(self, answer: Answer) -> Any:
        try:
            return json.loads(answer.body)
        except ValueError as error:
            raise Unavailable(f"{self.address.shown} does not speak the JSON gateway of etcd 3.4 or newer.") from error


def _text(value: str | bytes) -> str:
    return b64encode(value.encode() if isinstance(value, str) else value).decode()


def _after(prefix: str) -> bytes:
    """The end of the range of all keys that begin with a prefix, which ends in a slash."""
    return prefix[:-1].encode() + bytes([ord(prefix[-1]) + 1])


def _at_version(name: str, expected: str | None) -> Mapping[str, Any]:
    revision = expected if expected and expected.isdecimal() else "-1" if expected else "0"
    return {"key": name, "target": "MOD", "result": "EQUAL", "mod_revision": revision}


def _is_token_old(answer: Answer) -> bool:
    """Whether the token is not known any more, or was given before users or roles were changed."""
    return answer.status == 401 or (answer.status == 400 and b"revision of auth store is old" in answer.body)


def _complaint(answer: Answer) -> str:
    """What the gateway says is wrong, in one line."""
    try:
        told = json.loads(answer.body)
        text = str(told.get("message") or told.get("error") or "")
    except (ValueError, AttributeError):
        text = ""
    return redact_text(text[:200].strip().rstrip(".")) or f"it answered {answer.status}"
