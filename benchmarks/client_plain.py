"""CPU of a plain URL through smartclient, against requests itself: it has to cost next to nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from unittest import mock

import requests

import smartclient
from benchmarks.measure import Claim, alternate, ratio_claim

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n" + b'{"name":"blue"}'
MOST = 1.05


def run() -> list[Claim]:
    """Sessions and verbs, in a small and in a large environment; about half a minute."""
    claims = []
    with answering() as url:
        for variables in (35, 535):
            with mock.patch.dict(os.environ, environment(variables), clear=True):
                claims.append(claim(f"Session, plain URL, {variables} variables", session_calls, url))
                claims.append(claim(f"verbs, plain URL, {variables} variables", verb_calls, url))
    return claims


def claim(what: str, calls: Callable[[ModuleType, str], Callable[[], None]], url: str) -> Claim:
    """CPU of this process, in many short turns; the server is another process."""
    taken = alternate({"ours": calls(smartclient, url), "requests": calls(requests, url)}, rounds=250)
    return ratio_claim(f"CPU of {what}", most=MOST, ours=taken["ours"], reference=taken["requests"], against="requests")


def session_calls(library: ModuleType, url: str) -> Callable[[], None]:
    """5 calls with one session that keeps its connection."""
    session = library.Session()

    def send() -> None:
        for _ in range(5):
            assert session.get(url, params={"x": "1"}, timeout=5).status_code == 200

    return send


def verb_calls(library: ModuleType, url: str) -> Callable[[], None]:
    """5 calls with the verb of the module."""

    def send() -> None:
        for _ in range(5):
            assert library.get(url, params={"x": "1"}, timeout=5).status_code == 200

    return send


def environment(variables: int) -> dict[str, str]:
    """An environment of so many variables, none of which concerns requests."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, **{f"SOME_SETTING_{number}": "value" for number in range(variables - len(kept))}}


@contextmanager
def answering() -> Iterator[str]:
    """The URL of a child process that answers every request at once."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    child = os.fork()
    if child == 0:
        serve(listener)
    port = listener.getsockname()[1]
    listener.close()
    try:
        yield f"http://127.0.0.1:{port}/teams/7"
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def serve(listener: socket.socket) -> None:
    """Answer until killed: one thread for each connection."""

    def talk(connection: socket.socket) -> None:
        with connection:
            while connection.recv(65536):
                connection.sendall(ANSWER)

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=talk, args=(connection,), daemon=True).start()
