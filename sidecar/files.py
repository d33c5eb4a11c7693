"""HAProxy's file and maps on disk: tried before they are in place, written whole or not at all, a while after each change."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidecar.render import Files
from sidecar.settings import Settings
from smartrealm.errors import ConfigurationError, SmartError, Unavailable

_CHECK_SECONDS = 60.0

FILE_SECONDS = 0.5
"""How long after a change the file is written, so that many changes are one write."""

AGAIN_SECONDS = 5.0
"""Until it is tried again to write a file that could not be written."""

LOOK_SECONDS = 0.05
"""How often it is looked whether a write has ended that another one waits for."""

_log = logging.getLogger("sidecar")

Work = Callable[[], object]
Begin = Callable[[Callable[[], float]], "Future[float]"]
"""Runs something in another thread, one after the other."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in HAProxy's files that HAProxy does not take."""

    backend: str
    """In which backend it stands; empty: in none."""
    says: str
    """HAProxy's words."""

    def __str__(self) -> str:
        return f"backend {self.backend}: {self.says}" if self.backend else self.says


def write_files(files: Files, settings: Settings) -> tuple[str, ...]:
    """See `Proxy.write`."""
    changed = {path: text for path, text in _paths(files, settings).items() if _read(path) != text}
    beside: dict[Path, Path] = {}
    try:
        settings.proxy_maps.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, text in changed.items():
            beside[path] = path.with_name(f".{path.name}.new")
            _write_whole(beside[path], text)
        for path, fresh in beside.items():
            _keep_previous(path)
            fresh.rename(path)
    except OSError as error:
        for fresh in beside.values():
            with suppress(OSError):
                fresh.unlink()
        raise Unavailable(
            f"HAProxy's files in {settings.directory} could not be written ({error.strerror or error}): "
            "HAProxy goes on with what it has, and a reload would load what was there before. Make room."
        ) from error
    return tuple(str(path.relative_to(settings.directory)) for path in changed)


def check_files(files: Files, settings: Settings) -> tuple[Problem, ...]:
    """See `Proxy.check`."""
    try:
        return _check_copy(files, settings)
    except OSError as error:
        raise Unavailable(
            f"HAProxy's file cannot be tried in {_scratch(settings)} ({error.strerror or error}): nothing was changed; "
            "make room there."
        ) from error


def _check_copy(files: Files, settings: Settings) -> tuple[Problem, ...]:
    with tempfile.TemporaryDirectory(prefix="haproxy-check-", dir=_scratch(settings)) as directory:
        config = Path(directory) / settings.proxy_config.name
        maps = Path(directory) / settings.proxy_maps.name
        maps.mkdir()
        config.write_text(files.config)  # it names its maps relative to itself
        for name, entries in files.maps.items():
            (maps / f"{name}.map").write_text(entries)
        try:
            done = subprocess.run(
                [settings.haproxy, "-c", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_CHECK_SECONDS,
                cwd=directory,
                check=False,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise no_program(settings.haproxy, error) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigurationError(
                f"HAProxy's files could not be checked with {settings.haproxy!r} -c: {error}"
            ) from error
        if done.returncode == 0:
            return ()
        found = problems(done.stderr, files.config, str(config))
    return found or (Problem("", "; ".join(alerts(done.stderr)) or f"haproxy -c ended with {done.returncode}"),)


def _scratch(settings: Settings) -> Path | None:
    """Where files may be tried: beside HAProxy's own, since in a container with a read-only root there is no other place; None
    (the system's) for whoever may not write there."""
    return settings.directory if os.access(settings.directory, os.W_OK | os.X_OK) else None


def no_program(program: str, error: BaseException) -> ConfigurationError:
    """What to say where HAProxy cannot be run, and what to do."""
    return ConfigurationError(
        f"HAProxy cannot be run as {program!r} ({error}): install it (Debian: apt-get install haproxy), or say where it is "
        "with --haproxy or SIDECAR_HAPROXY."
    )


def alerts(said: str) -> list[str]:
    """What HAProxy said as an alert, without the time and pid before it."""
    return [
        found[1].strip()
        for line in said.split("\n")
        if (found := re.match(r"\[ALERT\]\s+(?:\S+\s+)?\(\d+\)\s*:\s*(.*)", line))
    ]


def problems(said: str, text: str, name: str) -> tuple[Problem, ...]:
    """What HAProxy said of the file `name` with this text, each with the backend in which its line stands."""
    lines = text.split("\n")
    found: list[Problem] = []
    for alert in alerts(said):
        if re.search(r"Error\(s\) found in configuration file|Fatal errors found|Error reading configuration", alert):
            continue  # the summary of the others
        where = re.search(rf"\[{re.escape(name)}:(\d+)\]", alert)
        named = re.search(r"(?:backend|proxy) '([^']+)'|'server ([^'/]+)/", alert)
        backend = _section(lines, int(where[1])) if where else ""
        if not backend and named:
            backend = named[1] or named[2]
        says = re.sub(rf"^config : |parsing |\[{re.escape(name)}:\d+\]\s*:\s*", "", alert).strip()
        found.append(Problem(backend, says))
    return tuple(found)


def _section(lines: list[str], number: int) -> str:
    """The name of the backend in which a line (counted from 1) stands; empty when it stands in none."""
    for line in reversed(lines[:number]):
        words = line.split()
        if words and not line[0].isspace() and not line.startswith("#"):
            return words[1] if words[0] == "backend" and len(words) > 1 else ""
    return ""


def _paths(files: Files, settings: Settings) -> Mapping[Path, str]:
    # The maps first: a file that names a map which is not there is refused.
    maps = {settings.proxy_maps / f"{name}.map": text for name, text in files.maps.items()}
    return {**maps, settings.proxy_config: files.config}


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return None


def _write_whole(path: Path, text: str) -> None:
    """Write a file and wait until it is on the disk: HAProxy may be started with it after a loss of power."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(file, "w", encoding="utf-8") as writer:
        writer.write(text)
        writer.flush()
        os.fsync(writer.fileno())


def _keep_previous(path: Path) -> None:
    """Give the file that is replaced another name beside its own, which it keeps until the next one takes it."""
    kept = path.with_name(f"{path.name}.previous")
    with suppress(OSError):  # it is a help for the operator: without hard links there is none
        kept.unlink(missing_ok=True)
        os.link(path, kept)


class Filing:
    """Writes when it is time. The next change does not wait for that: a thousand services take a tenth of a second to write,
    and a busy disk may take as long as it likes. For one thread; `begin` runs the writing in another.
    """

    def __init__(self, *, clock: Callable[[], float], begin: Begin | None = None) -> None:
        self.failure = ""
        """Why the file could not be written; empty: it was."""
        self._clock = clock
        self._begin = begin or ThreadPoolExecutor(1, "sidecar-files").submit
        self._seconds = FILE_SECONDS
        self._due_at: float | None = None
        self._running: Future[float] | None = None

    @property
    def next_at(self) -> float | None:
        """When there is something to do."""
        if self._due_at is None or self._running is None:
            return self._due_at
        return max(self._due_at, self._clock() + LOOK_SECONDS)

    def changed(self) -> None:
        """The file is to be written soon."""
        self._due_at = self._due_at or self._clock() + self._seconds

    def begin_when_due(self, write: Callable[[], Work]) -> None:
        """Begin what `write()` gives, when it is time and nothing else is being written."""
        if self._running is not None:
            if not self._running.done():
                return
            self._end()
        if self._due_at is not None and self._clock() >= self._due_at:
            self._due_at = None
            work = write()
            self._running = self._begin(lambda: self._do(work))

    def settle(self) -> None:
        """Wait until nothing is being written, and forget what was to be: the caller writes the file himself."""
        if self._running is not None:
            self._end()
        self._due_at = None

    def _do(self, work: Work) -> float:
        """Write, in the other thread; gives when it is to be tried again, 0 when it need not be."""
        began = self._clock()
        try:
            work()
        except Exception as error:
            self.failure = error.message if isinstance(error, SmartError) else f"{type(error).__name__}: {error}"
            _log.error("HAProxy's file could not be written, trying again: %s", self.failure)
            return self._clock() + AGAIN_SECONDS
        self.failure = ""
        # At most a twentieth of the time goes into it.
        self._seconds = max(FILE_SECONDS, 20 * (self._clock() - began))
        return 0.0

    def _end(self) -> None:
        assert self._running is not None
        again_at, self._running = self._running.result(), None
        if again_at:
            self._due_at = again_at
