"""A program that was written against requests does the same with smartclient in its place."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import requests

import smartclient
from tests.live.plain.more_programs import PROGRAMS
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


TOLD_THE_TIMEOUT = ("adapters", "hooks", "patches")
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


@pytest.mark.parametrize(
    "path", ["/slow?before=5", "/slow?between=0.1", "/drip", "/redirect?to=/slow?before=5", "/head"]
)
@pytest.mark.parametrize("way", ["keyword", "block", "session", "prepared"])
def test_a_deadline_ends_a_plain_call_in_time(path: str, way: str, place: Place) -> None:
    """A server that hangs, drips its body or its head, or redirects to one that does, is left within 50 ms of it."""
    url, session = place.here.url(path), smartclient.Session()
    begun = time.monotonic()
    with pytest.raises(smartclient.Timeout) as caught:
        if way == "keyword":
            smartclient.get(url, deadline=0.4)
        elif way == "session":
            session.get(url, deadline=0.4)
        elif way == "prepared":
            session.send(session.prepare_request(smartclient.Request("GET", url)), deadline=0.4)  # type: ignore[call-arg]
        else:
            with smartclient.deadline(0.4):
                session.send(smartclient.Request("GET", url).prepare())
    assert time.monotonic() - begun < 0.45
    assert isinstance(caught.value, smartclient.DeadlineExceeded)
