"""`atlas export` and `import`: the whole map with its history, from one store to another."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, TextIO

import click

from atlas.server.terminal import Session, reads, writes
from atlas.server.wording import count
from smartrealm.errors import ValidationFailed

_EVERY_SECONDS = 1.0


@click.command("export", short_help="Write the whole map to a file.")
@click.argument("file", default="-", metavar="[FILE]")
@reads
def export(session: Session, file: str) -> None:
    """Write the whole map with its history to FILE or stdout, one JSON object a line. Secrets stay encrypted.

    A FILE appears whole or not at all.
    """
    progress = Progress(session, "exported")
    with ExitStack() as stack:
        out = _target(stack, file)
        for record in progress.over(session.directory.export()):
            out.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
        out.flush()
    progress.end(f"to {file}" if file != "-" else "")
    if session.as_json and file != "-":
        session.give({"records": progress.number, "file": file})


def _target(stack: ExitStack, file: str) -> TextIO:
    if file == "-":
        return sys.stdout
    return stack.enter_context(click.open_file(file, "w", encoding="utf-8", atomic=True))  # type: ignore[return-value]


@click.command("import", short_help="Fill an empty map from a file.")
@click.argument("file", default="-", metavar="[FILE]")
@writes
def import_(session: Session, file: str) -> None:
    """Fill an empty map with what `atlas export` wrote, from FILE or stdin: same revisions, same history.

    --dry-run fills a map of its own with it, which is thrown away: what it accepts, the real one does.
    """
    progress = Progress(session, "imported")
    with ExitStack() as stack:
        source = sys.stdin if file == "-" else stack.enter_context(_open(file))
        revision = session.to_fill().import_(progress.over(_records(source, file)))
    progress.end()
    session.done(f"{count(progress.number, 'record')} imported", revision, records=progress.number)


def _open(file: str) -> TextIO:
    return open(file, encoding="utf-8")


def _records(lines: Iterable[str], file: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            told = "stdin" if file == "-" else file
            raise ValidationFailed(f"Line {number} of {told} is no JSON object: is it what atlas export wrote?")
        yield record


class Progress:
    """Counts records on stderr while they pass, on a terminal only; the end is always told."""

    def __init__(self, session: Session, verb: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.number = 0
        self._session = session
        self._verb = verb
        self._clock = clock
        self._told = clock()

    def over(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for record in records:
            yield record
            self.number += 1
            if self._clock() - self._told >= _EVERY_SECONDS:
                self._told = self._clock()
                self._session.note(f"{self._verb} {self.number} records so far")

    def end(self, where: str = "") -> None:
        self._session.note(f"{self._verb} {count(self.number, 'record')} {where}".rstrip())
