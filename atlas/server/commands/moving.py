"""`atlas export` and `import`: the whole map with its history, from one store to another."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

from atlas.server.terminal import Session, reads, writes
from smartrealm.errors import ValidationFailed
from smartrealm.wording import count

_EVERY_SECONDS = 1.0


@click.command("export", short_help="Write the whole map to a file.")
@click.argument("file", default="-", metavar="[FILE]")
@reads
def export(session: Session, file: str) -> None:
    """Write the whole map with its history to FILE or stdout, one JSON object a line. Secrets stay encrypted.

    A FILE appears whole or not at all.
    """
    progress = Progress(session, "exported")
    with _target(file) as out:
        for record in progress.over(session.directory.export()):
            out.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
        out.flush()
    progress.end(f"to {file}" if file != "-" else "")
    if session.as_json and file != "-":
        session.give({"records": progress.number, "file": file})


@contextmanager
def _target(file: str) -> Iterator[TextIO]:
    """stdout, or a file that takes the place of the one before when everything is in it; readable by its owner alone."""
    if file == "-":
        yield sys.stdout
        return
    place = Path(file).absolute()
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    except OSError as error:
        raise ValidationFailed(f"{file} cannot be written: {error.strerror}.") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            yield out
        os.replace(temporary, place)
    except BaseException:
        os.unlink(temporary)
        raise


@click.command("import", short_help="Fill an empty map from a file.")
@click.argument("file", default="-", metavar="[FILE]")
@writes
def import_(session: Session, file: str) -> None:
    """Fill an empty map with what `atlas export` wrote, from FILE or stdin: same revisions, same history.

    --dry-run fills a map of its own with it, which is thrown away: what it accepts, the real one does.
    """
    progress = Progress(session, "read" if session.dry_run else "imported")
    with _source(file) as source:
        revision = session.to_fill().import_(progress.over(_records(source, file)))
    progress.end()
    session.done(f"{count(progress.number, 'record')} imported", revision, records=progress.number)


@contextmanager
def _source(file: str) -> Iterator[TextIO]:
    if file == "-":
        yield sys.stdin
        return
    try:
        source = open(file, encoding="utf-8")  # noqa: SIM115 (closed below; only its opening is explained)
    except OSError as error:
        raise ValidationFailed(f"{file} cannot be read: {error.strerror}.") from None
    with source:
        yield source


def _records(lines: Iterable[str], file: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(_decoded(lines), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            told = "stdin" if file == "-" else file
            raise ValidationFailed(f"Line {number} of {told} is no JSON object: is it what atlas export wrote?")
        yield record


def _decoded(lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError:
        raise ValidationFailed("This is no text in UTF-8: is it what atlas export wrote?") from None


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
