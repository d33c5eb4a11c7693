"""Reads the head of an answer, into pairs."""

from __future__ import annotations

import http.client
from typing import Any

_LONGEST_LINE = 65536
_MOST_HEADERS = 200


class Head(http.client.HTTPResponse):
    """The same answers as http.client reads, without its detour through the parser for mails."""

    pairs: list[tuple[str, str]]

    def begin(self) -> None:
        version, status, reason = self._read_status()  # type: ignore[attr-defined]
        while 100 <= status < 200 and status != 101:
            read_pairs(self.fp)
            version, status, reason = self._read_status()  # type: ignore[attr-defined]
        self.code = self.status = status
        self.reason = reason.strip()
        self.version = 10 if version.startswith("HTTP/1.0") else 11
        self.pairs = read_pairs(self.fp)
        message = self.headers = self.msg = http.client.HTTPMessage()
        named: dict[str, str] = {}
        for name, value in self.pairs:
            message.set_raw(name, value)
            named[name.lower()] = value
        self.chunked = named.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        connection = named.get("connection", "").lower()
        self.will_close = "close" in connection if self.version == 11 else "keep-alive" not in connection
        self.length = None if self.chunked else _length(named.get("content-length"))
        if status in (204, 304) or self._method == "HEAD":  # type: ignore[attr-defined]
            self.length = 0
        if self.length is None and not self.chunked:
            self.will_close = True


def _length(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def read_pairs(stream: Any) -> list[tuple[str, str]]:
    """The header lines of an answer as pairs."""
    pairs: list[tuple[str, str]] = []
    while True:
        line = stream.readline(_LONGEST_LINE + 1)
        if len(line) > _LONGEST_LINE:
            raise http.client.LineTooLong("header line")
        if line in (b"\r\n", b"\n"):
            return pairs
        if not line:
            raise http.client.IncompleteRead(b"")
        if len(pairs) >= _MOST_HEADERS:
            raise http.client.HTTPException(f"more than {_MOST_HEADERS} header lines")
        text = line.decode("latin-1").rstrip("\r\n")
        if text[0] in " \t" and pairs:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]} {text.strip()}")
            continue
        name, colon, value = text.partition(":")
        if not colon or not name or name != name.strip():
            raise http.client.HTTPException(f"not a header line: {text[:80]!r}")
        pairs.append((name, value.strip(" \t")))
