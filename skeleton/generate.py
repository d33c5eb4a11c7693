"""One service out of nothing, as one transaction: planned, built beside the target, proven, and put there by one rename."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from skeleton import repository
from skeleton.atlas import FALLBACK_PORT, Record, Wanted
from skeleton.environment import Installer, Requirements, cache_folder, find_uv
from skeleton.errors import GenerateError, TargetExists, ToolMissing, WrongUse
from skeleton.names import check_components, check_description, check_name, check_owner, check_port, package_of
from skeleton.partial import Partial, sweep
from skeleton.processes import Processes, signals_held
from skeleton.proof import prove
from skeleton.toolkit import Origin, find_origin, requirement, wheel_of

_DEVELOPMENT = "pytest\nruff\n"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first file is written. All values are checked."""

    name: str
    into: Path
    owner: str
    port: int
    components: tuple[str, ...]
    origin: Origin
    uv: Path | None
    offline: bool = False
    verify: bool = True
    description: str = ""
    atlas: bool = False
    """Whether the service is recorded in the map of the realm."""
    takes_port: bool = False
    """Whether the map says which port it has; `port` is then what it has without a map."""

    @property
    def package(self) -> str:
        return package_of(self.name)

    @property
    def target(self) -> Path:
        return self.into / self.name

    @property
    def values(self) -> dict[str, object]:
        """What the template is filled with."""
        return {
            "name": self.name,
            "package": self.package,
            "owner": self.owner,
            "port": str(self.port),
            "management_port": str(self.port + 1000),
            "components": ", ".join(f'"{component}"' for component in self.components),
            "db": "db" in self.components,
            "redis": "redis" in self.components,
            "vendored": not self.origin.is_pinned,
            "toolkit": self.origin.version.partition("+")[0],
            "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "template_version": str(repository.TEMPLATE_VERSION),
        }

    @property
    def runtime(self) -> str:
        return requirement(self.origin, self.components) + "\n"

    @property
    def steps(self) -> tuple[str, ...]:
        """The titles of the steps, in their order."""
        wheel = () if self.origin.is_pinned else ("Wheel of the toolkit",)
        proof = ("Proof: tests, lint, health",) if self.verify else ()
        return (*wheel, "Repository and its lock", "Environment", *proof, "First commit")

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "package": self.package,
            "target": str(self.target),
            "owner": self.owner,
            "description": self.description,
            "port": self.port,
            "atlas": self.atlas,
            "components": list(self.components),
            "toolkit": self.origin.describe(),
            "installer": "uv" if self.uv else "venv and pip",
            "offline": self.offline,
            "verify": self.verify,
            "steps": list(self.steps),
            "files": repository.listed(self.values),
        }


class Progress(Protocol):
    """Who is told how the work goes on."""

    def begin(self, number: int, of: int, title: str) -> None: ...

    def end(self, title: str, seconds: float, note: str) -> None: ...

    def warn(self, text: str) -> None: ...


def plan(
    name: str,
    *,
    components: tuple[str, ...] = (),
    owner: str = "unowned",
    description: str = "",
    port: int | None = None,
    into: Path = Path(),
    installer: str = "auto",
    offline: bool = False,
    verify: bool = True,
    atlas: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Plan:
    """Check everything that can be checked without writing anything. Without a port the map gives one, if it is asked."""
    environ = os.environ if environ is None else environ
    name = check_name(name)
    chosen = check_components(components)
    owner, description = check_owner(owner), check_description(description)
    listens_on = check_port(FALLBACK_PORT if port is None else port)
    folder = Path(os.path.abspath(into))
    if not folder.is_dir():
        raise WrongUse(
            f"{folder} is no directory, so nothing can be put into it; make it first, or name another --into."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise WrongUse(f"{folder} cannot be written to by this user; name another directory with --into.")
    if os.path.lexists(folder / name):
        raise _exists(folder / name)
    repository.find_git(environ)
    if importlib.util.find_spec("cookiecutter") is None:
        raise ToolMissing(
            "cookiecutter is not installed here and fills the template; install smartservice[generate] and run this again."
        )
    uv = None if installer == "pip" else find_uv(environ)
    if installer == "uv" and uv is None:
        raise ToolMissing("uv is not installed here; install it, or leave --installer away to use venv and pip.")
    return Plan(
        name,
        folder,
        owner,
        listens_on,
        chosen,
        find_origin(),
        uv,
        offline=offline,
        verify=verify,
        description=description,
        atlas=atlas,
        takes_port=atlas and port is None,
    )


def is_port_taken(port: int) -> bool:
    """Whether something listens on this port of this machine now."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def rehearse(wanted: Plan, environ: Mapping[str, str] | None = None) -> tuple[Plan, tuple[str, ...]]:
    """The plan with the port that it would have, and what would be warned of. Writes nothing."""
    if not wanted.atlas:
        return wanted, ()
    record = _record(wanted, os.environ if environ is None else environ, dry_run=True).begin()
    try:
        answer = record.answer()
    finally:
        with signals_held():
            record.take_back()
    return replace(wanted, port=answer.port), answer.warnings


def _record(wanted: Plan, environ: Mapping[str, str], *, dry_run: bool = False) -> Record:
    port = None if wanted.takes_port else wanted.port
    return Record(Wanted(wanted.name, wanted.owner, wanted.description, wanted.target, port), environ, dry_run=dry_run)


def generate(
    wanted: Plan,
    progress: Progress,
    environ: Mapping[str, str] | None = None,
    *,
    template: Path = repository.TEMPLATE,
) -> Plan:
    """Do what the plan says; gives it with the port that the service has.

    Whatever happens, and whenever, the target is then absent or complete, and the map knows of it only if it is there.
    """
    environ = os.environ if environ is None else environ
    processes = Processes()
    record = _record(wanted, environ) if wanted.atlas else None

    def settled() -> Plan:
        if record is None:
            return wanted
        answer = record.answer()
        for warning in answer.warnings:
            progress.warn(warning)
        return replace(wanted, port=answer.port)

    sweep(wanted.into, wanted.name)
    try:
        with signals_held():
            partial = Partial(wanted.into, wanted.name)
    except OSError as error:
        raise WrongUse(
            f"{wanted.into} cannot be written to ({error.strerror}); name another directory with --into."
        ) from None
    try:
        if record is not None:
            record.begin()
        done = _build(wanted, settled, partial, processes, progress, environ, template)
        with signals_held():
            _put(partial, wanted.target, record)
    except FileExistsError:
        raise _exists(wanted.target) from None
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise GenerateError(
            f"{error.filename or wanted.into} could not be written ({error.strerror}) and nothing was kept; make room "
            f"there, or name another --into."
        ) from error
    finally:
        with signals_held():
            processes.end_all()
            partial.discard()
            left = record.take_back() if record is not None else ""
            if left:
                progress.warn(left)
    return done


def _put(partial: Partial, target: Path, record: Record | None) -> None:
    """Let the service appear. Its record stays, also when somebody else has put the same service there meanwhile."""
    try:
        partial.put(target)
    except FileExistsError:
        if record is not None:
            record.keep()
        raise
    if record is not None:
        record.keep()


def _build(
    wanted: Plan,
    settled: Callable[[], Plan],
    partial: Partial,
    processes: Processes,
    progress: Progress,
    environ: Mapping[str, str],
    template: Path,
) -> Plan:
    steps = _Steps(wanted.steps, progress)
    cache = _usable(cache_folder(environ), partial.path / "cache")
    installer = Installer(processes, environ, cache, wanted.uv, offline=wanted.offline)
    wheel = None
    if not wanted.origin.is_pinned:
        with steps.next():
            wheel = wheel_of(wanted.origin, cache, installer.build_wheel)
    requirements = Requirements(wanted.runtime, _DEVELOPMENT, wheel)
    with steps.next() as note:
        scratch = partial.path / "rendered"
        scratch.mkdir()
        done = [wanted]

        def render() -> None:
            repository.load()  # Takes as long as the map does, so the wait below is short.
            done[0] = settled()
            repository.render(done[0].values, scratch, partial.tree, template)

        locks = installer.lock(requirements, meanwhile=render)
        if wanted.takes_port:
            note.append(f"port {done[0].port}")
        _write(partial.tree, {**requirements.texts(), **locks}, wheel)
    with steps.next() as note:
        venv = partial.tree / ".venv"
        if installer.environment(locks["requirements-dev.txt"], requirements, venv, wanted.target / ".venv"):
            note.append("prepared")
        (venv / "ready").touch()  # What `make setup` looks at.
    if wanted.verify:
        with steps.next():
            prove(
                partial.tree,
                partial.path / "proof",
                components=wanted.components,
                processes=processes,
                environ=environ,
            )
    with steps.next():
        git = repository.find_git(environ)
        repository.first_commit(git, partial.tree, f"{wanted.name}: a new service", processes, environ)
    installer.tidy()
    return done[0]


def _write(folder: Path, texts: Mapping[str, str], wheel: Path | None) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text)
    if wheel:
        (folder / "vendor").mkdir()
        (folder / "vendor" / wheel.name).write_bytes(wheel.read_bytes())


def _usable(cache: Path, otherwise: Path) -> Path:
    """The cache, or a place that goes away with the run where the cache cannot be written."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK | os.X_OK):
            return cache
    except OSError:
        pass
    otherwise.mkdir()
    return otherwise


def _exists(target: Path) -> TargetExists:
    return TargetExists(f"{target} is there already and is never touched; choose another name or another --into.")


class _Steps:
    """Numbers the steps and tells their seconds."""

    def __init__(self, titles: tuple[str, ...], progress: Progress) -> None:
        self._titles = titles
        self._progress = progress
        self._number = 0

    @contextmanager
    def next(self) -> Iterator[list[str]]:
        title = self._titles[self._number]
        self._number += 1
        self._progress.begin(self._number, len(self._titles), title)
        begun = time.monotonic()
        note: list[str] = []
        yield note
        self._progress.end(title, time.monotonic() - begun, ", ".join(note))
