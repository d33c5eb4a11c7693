"""Programs that use libraries which are built on requests, and uploads that fail."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import responses
import vcr
from requests_futures.sessions import FuturesSession

from tests.live.plain.more_programs import PROGRAMS as PROGRAMS
from tests.live.plain.observing import Place, attempt
from tests.live.plain.programs import program
from tests.processes import free_port


@program
def uploads_that_fail(lib: ModuleType, place: Place) -> object:
    """A generator that raises, a server that closes in the middle, a refused connection."""

    def breaking() -> Iterator[bytes]:
        yield b"one"
        raise RuntimeError("no more")

    return [
        attempt(lib.post, place.here.url(), data=breaking()),
        attempt(lib.post, place.here.url("/close"), data=b"x" * 100),
        type(attempt(lib.post, f"http://127.0.0.1:{free_port()}/", data=b"x")),
    ]


@program
def responses_library(lib: ModuleType, place: Place) -> object:
    """`responses` answers verbs and sessions, refuses what it does not know, and counts."""
    with responses.RequestsMock() as mocked:
        mocked.get("http://somewhere.example/a", json={"a": 1}, headers={"X": "1"})
        mocked.post("http://somewhere.example/b", status=503)
        mocked.get("http://somewhere.example/c", body=lib.ConnectionError("planned"))
        answers = [
            lib.get("http://somewhere.example/a", params={"p": "1"}),
            lib.Session().post("http://somewhere.example/b", json={"b": 2}),
            attempt(lib.get, "http://somewhere.example/c"),
            attempt(lib.get, "http://somewhere.example/unknown"),
        ]
        return [answers, [call.request for call in mocked.calls]]


@program
def vcr_library(lib: ModuleType, place: Place) -> object:
    """vcrpy records a call and plays it back without the server."""
    with tempfile.TemporaryDirectory() as folder:
        cassette = str(Path(folder, "cassette.yaml"))
        answers: list[Any] = []
        for _ in range(2):
            with vcr.use_cassette(cassette) as tape:
                answers += [
                    lib.get(place.here.url("/text?type=text/plain")),
                    lib.Session().get(place.here.url("/redirect")),
                ]
                answers.append(tape.play_count)
        return answers


@program
def futures_library(lib: ModuleType, place: Place) -> object:
    """requests-futures runs over a session of ours."""
    with FuturesSession(session=lib.Session(), max_workers=2) as futures:
        pending = [futures.get(place.here.url(f"/text?codec={codec}")) for codec in ("utf-8", "latin1")]
        answers = [each.result() for each in pending]
    place.here.seen.sort(key=lambda seen: seen.line)
    return answers
