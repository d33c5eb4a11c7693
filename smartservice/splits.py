"""The bucket of a request that brings none: this is the edge of the realm, where it is computed, once.

HAProxy does the same where a request comes to it without a bucket: of the first header that is there, else of the first
cookie, of the bytes as they came; else it is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smartrealm.buckets import BUCKETS, bucket_of


class Edge:
    """Gives buckets to what enters the realm. Quick: it is asked for every request without one."""

    def __init__(
        self,
        *,
        headers: Sequence[str],
        cookies: Sequence[str],
        salt: str,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._variables = tuple("HTTP_" + name.upper().replace("-", "_") for name in headers)
        self._cookies = tuple(cookies)
        self._salt = salt
        self._spread = spread

    def bucket(self, environ: Mapping[str, Any]) -> int:
        """The bucket of a WSGI request, from 0 to 9999: the same for the same user, else for the same session."""
        key = self._key(environ)
        if not key:
            return int(self._spread() * BUCKETS)
        return bucket_of(key.encode("latin-1", "replace"), self._salt)  # WSGI's text holds one byte in each character

    def _key(self, environ: Mapping[str, Any]) -> str:
        for variable in self._variables:
            if found := environ.get(variable):
                return str(found)
        sent = environ.get("HTTP_COOKIE")
        if not sent:
            return ""
        return next((found for name in self._cookies if (found := _cookie(str(sent), name))), "")


def _cookie(sent: str, name: str) -> str:
    """As HAProxy reads it: the last one of this name, and a comma ends it as well. A browser may send several, of several paths."""
    found = ""
    for part in sent.replace(",", ";").split(";"):
        known, sign, value = part.partition("=")
        if sign and known.strip() == name:
            found = value.strip()
    return found
