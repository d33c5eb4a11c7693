"""A program that was written against requests does the same with smartclient in its place."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import requests

import smartclient
from tests.live.plain.library_programs import PROGRAMS
from tests.live.plain.observing import Place, Program, run
from tests.live.plain.server import serving
from tests.live.plain.tls import own_certificate


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The servers that the programs talk to."""
    context, certificate = own_certificate(tmp_path_factory.mktemp("tls"))
    with serving() as here, serving() as there, serving(context, certificate) as safe:
        yield Place(here, there, safe)


@pytest.mark.parametrize("program", PROGRAMS, ids=[program.__name__ for program in PROGRAMS])
def test_a_program_behaves_as_with_requests(program: Program, place: Place) -> None:
    """Its results, exceptions and warnings are the same, and so is every byte that the servers see."""
    expected = run(program, requests, place)
    found = run(program, smartclient, place)
    assert found.result == expected.result
    assert found.seen == expected.seen
    assert found.warnings == expected.warnings


TOLD_THE_TIMEOUT = ("adapters", "hooks", "patches", "responses_library")
"""Programs that look at the `timeout` and `stream` that requests hands to adapters and hooks: a deadline shows there."""
FREE = [program for program in PROGRAMS if program.__name__ not in TOLD_THE_TIMEOUT]


@pytest.mark.parametrize("program", FREE, ids=[program.__name__ for program in FREE])
def test_a_deadline_that_is_far_away_changes_nothing_else(program: Program, place: Place) -> None:
    """Under a deadline a program sees, and the servers see, what they do without one."""
    expected = run(program, requests, place)
    with smartclient.deadline(60):
        found = run(program, smartclient, place)
    assert found.result == expected.result
    assert found.seen == expected.seen
    assert found.warnings == expected.warnings


SECONDS = 0.2


def by_keyword(url: str) -> object:
    """A verb with `deadline=`."""
    return smartclient.get(url, deadline=SECONDS)


def by_session(url: str) -> object:
    """A session's verb with `deadline=`; a timeout beside it."""
    return smartclient.Session().get(url, deadline=SECONDS, timeout=30)


def by_send(url: str) -> object:
    """`Session.send` with `deadline=`."""
    session = smartclient.Session()
    return session.send(session.prepare_request(smartclient.Request("GET", url)), deadline=SECONDS)


def by_block(url: str) -> object:
    """A block with a deadline around plain requests code."""
    with smartclient.deadline(SECONDS):
        return smartclient.Session().send(smartclient.Request("GET", url).prepare())


@pytest.fixture(scope="module")
def black_hole() -> Iterator[int]:
    """A port at which no connection comes about: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as fillers:
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


@pytest.mark.parametrize("way", [by_keyword, by_session, by_send, by_block])
@pytest.mark.parametrize(
    "path", ["/slow?before=3", "/slow?between=0.1", "/drip", "/redirect?to=/slow%3Fbefore=3", "hole"]
)
def test_a_deadline_ends_a_plain_call_in_time(
    path: str, way: Callable[[str], object], place: Place, black_hole: int
) -> None:
    """A server that hangs, drips its body, redirects to one that does, or never accepts is left within 50 ms of it."""
    url = place.here.url(path) if path != "hole" else f"http://127.0.0.1:{black_hole}/"
    taken: list[float] = []
    while not taken or (taken[-1] > SECONDS + 0.05 and len(taken) < 4):  # a busy machine may take its time, not always
        begun = time.monotonic()
        with pytest.raises(smartclient.DeadlineExceeded) as caught:
            way(url)
        taken.append(time.monotonic() - begun)
        assert isinstance(caught.value, requests.Timeout)
    assert SECONDS - 0.01 < min(taken) < SECONDS + 0.25
