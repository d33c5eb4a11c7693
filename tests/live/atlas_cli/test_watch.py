"""`atlas watch`: a line for every change."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest

import atlas as package
from atlas import Author, Delta, Directory, Instance, Position, World
from atlas.server.terminal import Session, Tools
from atlas.server.watching import follow
from smartrealm.errors import Forbidden, Unavailable
from tests.live.atlas_cli.runs import Runs

BERT = Author("bert", "to see")


class Scripted:
    """A real directory in which something happens before each wait."""

    def __init__(self, real: Directory, *happenings: Callable[[], Any]) -> None:
        self._real = real
        self._happenings = list(happenings)

    def wait(self, position: Position, seconds: float) -> World | Delta | None:
        self._happenings.pop(0)()
        return self._real.wait(position, 0.2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def watch(runs: Runs, *happenings: Callable[[], Any], service: str | None = None, as_json: bool = False) -> list[float]:
    """Follow the map through these happenings; gives the pauses that were made."""
    pauses: list[float] = []
    scripted = cast(Directory, Scripted(runs.map, *happenings))
    tools = Tools(environ=runs.environ, open=lambda url=None, **keywords: scripted)
    with Session(tools, url=None, as_json=as_json) as session:
        follow(session, service, sleep=pauses.append, rounds=len(happenings))
    return pauses


def away() -> None:
    raise Unavailable("the store does not answer")


def test_every_change_is_a_line(filled: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """With who and why for what people do, and without for what comes and goes by itself."""
    watch(
        filled,
        lambda: filled.map.set_override("identity", "PAGE_SIZE", 50, by=BERT),
        lambda: None,
        lambda: filled.hold("web-3", Instance("identity", "web-3", 8010, version="2")),
        lambda: filled.map.release("web-2", "first"),
    )
    lines = [line.partition("  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "identity PAGE_SIZE = 50  by bert: to see",
        "identity web-3:8010 came version 2",
        "identity web-2:8010 left",
    ]


def test_an_object_a_line_for_programs(filled: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line is JSON by itself; secrets are masked."""
    watch(
        filled,
        lambda: filled.map.set_override("identity", "KEY", "hunter2", by=BERT, secret=True),
        lambda: filled.map.release("web-2", "first"),
        as_json=True,
    )
    text = capsys.readouterr().out
    first, second = (json.loads(line) for line in text.splitlines())
    assert (first["author"], first["edits"][0]["key"]) == ("bert", "identity/KEY")
    assert (second["kind"], second["after"]) == ("instance", None)
    assert "hunter2" not in text


def test_only_what_concerns_a_service(filled: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own changes and those for every service."""
    watch(
        filled,
        lambda: filled.map.set_override("teams", "A", 1, by=BERT),
        lambda: filled.map.set_override("*", "B", 2, by=BERT),
        service="identity",
    )
    assert "B = 2" in (text := capsys.readouterr().out)
    assert "A = 1" not in text


def test_a_map_that_is_away_is_waited_for(filled: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """Said once on stderr, and what happened meanwhile is told afterwards, in order."""

    def changed_meanwhile() -> None:
        for number in range(3):
            filled.map.set_override("identity", "A", number, by=BERT)

    pauses = watch(filled, away, away, changed_meanwhile)
    told = capsys.readouterr()
    assert len(pauses) == 2
    assert told.err.count("the map is away: the store does not answer") == 1
    assert "the map is there again" in told.err
    assert [line.split("A = ")[1][0] for line in told.out.splitlines()] == ["0", "1", "2"]


def test_a_reader_who_may_not_see_the_history(filled: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """Sees what changed, without who did it."""

    class Narrow(Scripted):
        def history(self, **which: Any) -> list[Any]:
            raise Forbidden("operators only")

    narrow = cast(Directory, Narrow(filled.map, lambda: filled.map.set_override("identity", "A", 1, by=BERT)))
    tools = Tools(environ=filled.environ, open=lambda url=None, **keywords: narrow)
    with Session(tools, url=None, as_json=False) as session:
        follow(session, None, rounds=1)
    assert capsys.readouterr().out.rstrip().endswith("identity A = 1")


def test_another_map_in_its_place(filled: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """After an import the difference is told, since revisions cannot be compared."""
    other = package.open(f"sqlite:///{filled.folder / 'other.db'}", environ=filled.environ)
    with other:
        other.import_(filled.map.export())
        other.set_override("identity", "A", 1, by=BERT)

        class Moved(Scripted):
            def wait(self, position: Position, seconds: float) -> World | Delta | None:
                return other.world()

        moved = cast(Directory, Moved(filled.map))
        tools = Tools(environ=filled.environ, open=lambda url=None, **keywords: moved)
        with Session(tools, url=None, as_json=False) as session:
            follow(session, None, rounds=1)
    assert [line.partition("  ")[2] for line in capsys.readouterr().out.splitlines()] == ["identity A = 1"]
