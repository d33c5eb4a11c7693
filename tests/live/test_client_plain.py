"""A program that was written against requests does the same with smartclient in its place."""

from __future__ import annotations

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
