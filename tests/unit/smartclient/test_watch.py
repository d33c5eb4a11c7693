"""What ends a plain call at its deadline, and what it leaves alone."""

from __future__ import annotations

import gc
import socket
import time
import weakref
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import requests
from requests.adapters import HTTPAdapter

from smartclient.watch import Watch, watched
from tests.faults import FaultServer


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(2)
        yield near, far


def test_whoever_reads_is_woken_when_the_time_is_up(pair: tuple[socket.socket, socket.socket]) -> None:
    """The read ends at the moment that was said, long before its own timeout."""
    begun = time.monotonic()
    with watched(requests.Session(), begun + 0.05) as watch:
        watch.hold(SimpleNamespace(sock=pair[0]))
        assert pair[0].recv(1) == b""
    assert watch.fired
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("ended", ["given back", "at an end"])
def test_a_connection_that_the_call_no_longer_holds_is_left_alone(
    ended: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    """By then it may be another call's."""
    watch, connection = Watch(0.0), SimpleNamespace(sock=pair[0])
    watch.hold(connection)
    if ended == "given back":
        watch.let_go(connection)
    else:
        watch.end()
    watch.fire()
    assert not watch.fired
    pair[1].sendall(b"x")
    assert pair[0].recv(1) == b"x"


def test_connections_are_used_again_and_dropped_sessions_leave_nothing() -> None:
    """A watched call gives its connection back as ever, and no cycle keeps the pools of a session alive."""
    peers = []
    with FaultServer() as server:
        server.greet = lambda: peers.append(1)
        session = requests.Session()
        for _ in range(3):
            with watched(session, time.monotonic() + 5) as watch:
                assert session.get(f"http://{server.address}/").ok
            assert not watch.fired
        assert len(peers) == 1
        adapter = session.get_adapter("http://")
        assert isinstance(adapter, HTTPAdapter)
        pools = [weakref.ref(adapter.poolmanager)]
        gc.disable()
        try:
            session.close()
            del session, adapter
            assert pools[0]() is None
        finally:
            gc.enable()
