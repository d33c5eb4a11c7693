"""The record of a new service in the map of its realm, and the port that it has there.

The map is asked through the command `atlas` of this installation, as a child: nothing of the toolkit is imported here. It is
begun early and waited for when the port is needed. A record that this run has made is taken back unless it is kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skeleton.processes import Failed, Processes, Running, clean_environment, signals_held

FALLBACK_PORT = 8000
"""The port of a service for which no map is asked."""

COMMAND = (sys.executable, "-P", "-m", "atlas.server.cli")
_SECONDS = 10.0


def is_there_a_map(environ: Mapping[str, str]) -> bool:
    """Whether there is one to ask. An empty ATLAS_URL says that there is none; the local realm has one by itself."""
    return environ.get("ATLAS_URL") is None or environ["ATLAS_URL"].strip() != ""


@dataclass(frozen=True)
class Wanted:
    """What is to be recorded."""

    name: str
    owner: str
    description: str
    repository: Path
    port: int | None = None
    """None: one that is free."""


@dataclass(frozen=True)
class Answer:
    """What the map said: the port of the service, and whether this run has made its record."""

    port: int
    made: bool = False
    recorded: bool = False
    warnings: tuple[str, ...] = ()


class Record:
    """The record of one run: `begin`, `answer` when the port is needed, `keep` at the end; else `take_back` undoes it."""

    def __init__(
        self,
        wanted: Wanted,
        environ: Mapping[str, str],
        *,
        dry_run: bool = False,
        command: Sequence[str] = COMMAND,
        seconds: float = _SECONDS,
    ) -> None:
        self._wanted = wanted
        self._env = clean_environment(environ)
        self._dry_run = dry_run
        self._command = command
        self._seconds = seconds
        self._processes = Processes()
        self._running: Running | None = None
        self._answer: Answer | None = None
        self._kept = dry_run

    def begin(self) -> Record:
        """Ask for the record. Returns at once."""
        wanted = self._wanted
        words = ["claim", wanted.name, "--owner", wanted.owner, "--repository", str(wanted.repository)]
        words += ["--description", wanted.description] if wanted.description else []
        words += ["--port", str(wanted.port)] if wanted.port is not None else []
        words += ["--dry-run"] if self._dry_run else []
        with signals_held():  # Else one could come when the child is there and we do not know it yet.
            self._running = self._start(*words, why="generated")
        return self

    def answer(self) -> Answer:
        """What the map says; waits for it. Never fails: without a map there is the usual port, and a warning."""
        if self._answer is None:
            assert self._running is not None
            try:
                document = _document(self._running.wait(self._seconds))
                self._answer = self._understood(document)
            except (Failed, ValueError, KeyError, TypeError) as error:
                self._answer = self._without_a_map(error)
        return self._answer

    def keep(self) -> None:
        """The service is there, so its record stays."""
        self._kept = True

    def take_back(self) -> str:
        """Remove the record if this run has made it and it is not kept. Gives a sentence when that could not be done."""
        try:
            if self._kept or self._running is None or not self.answer().made:
                return ""
            self._start("remove", self._wanted.name, why="its generation failed").wait(self._seconds)
        except Failed as failed:
            return (
                f"{self._wanted.name} is still in the map of the realm ({_reason(failed)}); "
                f"take it out with: atlas service remove {self._wanted.name}"
            )
        finally:
            self._processes.end_all()
        return ""

    def _start(self, *words: str, why: str) -> Running:
        command = [*self._command, "service", *words, "--json", "--why", why]
        return self._processes.start(command, cwd=Path.cwd(), env=self._env, name="atlas")

    def _understood(self, document: Mapping[str, Any]) -> Answer:
        wanted, made, port = self._wanted, bool(document["made"]), int(document["service"]["port"])
        warnings = []
        if not made and wanted.port in (None, port):
            warnings.append(f"{wanted.name} is in the map of the realm already, with port {port}, which it keeps.")
        elif not made:
            warnings.append(
                f"{wanted.name} is in the map of the realm already, with port {port}; change it there with: "
                f"atlas service change {wanted.name} --port {wanted.port}"
            )
        if document["clashes"]:
            warnings.append(f"port {port} clashes in this realm with {', '.join(map(str, document['clashes']))}.")
        return Answer(wanted.port or port, made, True, tuple(warnings))

    def _without_a_map(self, error: Exception) -> Answer:
        port = self._wanted.port or FALLBACK_PORT
        taken = "" if self._wanted.port else f"its port is {port} and "
        warning = (
            f"the map of the realm could not be asked ({_reason(error)}), so {taken}{self._wanted.name} is probably not "
            f"recorded; do it with: atlas service add {self._wanted.name} --port {port}"
        )
        return Answer(port, warnings=(warning,))


def _document(output: str) -> dict[str, Any]:
    """The JSON document in what the command wrote."""
    begin = output.find("{")
    found, _ = json.JSONDecoder().raw_decode(output, begin if begin >= 0 else 0)
    return dict(found)


def _reason(error: Exception) -> str:
    """Why the command failed, on one line."""
    if not isinstance(error, Failed):
        return "its answer could not be understood"
    try:
        told = str(_document(error.output[error.output.rindex('{"error"') :])["error"]["message"])
    except (ValueError, KeyError, TypeError):
        told = ": ".join([error.what, *error.output.strip().splitlines()[-1:]])
    return " ".join(told.split()).rstrip(".")
