"""What the attempts of a call say of themselves: who calls, for whom, until when."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from smartrealm import headers as words

if TYPE_CHECKING:
    import requests

    from smartclient.calls import Call
    from smartclient.peers import Peer
    from smartclient.sidecar import Way


class Identity:
    """The headers that say who calls, for whom, and until when."""

    def __init__(self, call: Call, peer: Peer, request: requests.PreparedRequest) -> None:
        self._call = call
        context = call.context
        headers = request.headers
        headers.setdefault(words.REQUEST_ID, call.request_id)
        headers[words.SERVICE] = peer.name
        options = call.mesh.options
        if options.caller:
            headers[words.CALLER] = options.caller
        if call.bucket is not None:
            headers[words.BUCKET] = str(call.bucket)
        if context is not None and context.tags:
            told = [
                f"{name}={quote(value, safe='')}" for name, value in context.tags.items() if _flows(name, options.tags)
            ]
            if told:
                headers.setdefault(words.BAGGAGE, ",".join(told))
        if not call.traced_by_caller and context is not None and context.tracestate:
            headers[words.TRACESTATE] = context.tracestate

    def write(self, request: requests.PreparedRequest, number: int, left: float) -> None:
        """The headers of one attempt; each is a span of its own in the trace."""
        headers = request.headers
        headers[words.ATTEMPT] = str(number)
        headers[words.DEADLINE] = str(max(0, math.floor(left * 1000)))
        if not self._call.traced_by_caller:
            trace, flags = self._call.trace
            headers[words.TRACEPARENT] = f"00-{trace}-{os.urandom(8).hex()}-{flags}"

    def for_way(self, request: requests.PreparedRequest, way: Way | None) -> Mapping[str, Any] | None:
        """What is sent instead of the headers of the request; None: those. The token of the sidecar is not among them: they are
        shown to everybody, and go along when the next attempt takes another way."""
        token = self._call.mesh.options.sidecar_token
        return {**request.headers, words.SIDECAR_TOKEN: token} if way is not None and token else None


def _flows(name: str, allowed: tuple[str, ...]) -> bool:
    return not allowed or name in allowed
