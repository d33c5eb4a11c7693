"""Asking an instance whether it is ready, at its own address, as its host's sidecar does."""

from __future__ import annotations

import http.client
from typing import Literal

from atlas.model import Instance

Answer = Literal["ready", "not ready", "no answer"]

_SECONDS = 2.0


def ask(instance: Instance, path: str) -> Answer:
    """`ready` for an answer below 400, `not ready` for another one, `no answer` when nobody could be asked from here."""
    connection = http.client.HTTPConnection(instance.host, instance.port, timeout=_SECONDS)
    try:
        connection.request("GET", path, headers={"Connection": "close", "User-Agent": "atlas"})
        return "ready" if connection.getresponse().status < 400 else "not ready"
    except (OSError, http.client.HTTPException, ValueError):
        return "no answer"
    finally:
        connection.close()
