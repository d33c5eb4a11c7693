"""The locked requirements and the environment of a new service: by uv, or by venv and pip where uv is missing.

Both are made in the cache and then put into the repository, so the second service of a day costs hard links only:

    $XDG_CACHE_HOME/smartservice/wheels/<version>     the wheel of a toolkit that runs from a checkout
                                 locks/<key>          the last lock for these requirements (used by --offline)
                                 environments/<key>   a finished environment for this lock, Python and platform
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import cache_from_source
from pathlib import Path

from skeleton import indexes, locks
from skeleton.errors import InstallFailed, ToolMissing
from skeleton.partial import Partial, remove, sweep
from skeleton.processes import Failed, Processes, Running, clean_environment

Command = Sequence[str | Path]

OLDEST_PYTHON = "3.11"
LOCKS = ("requirements.txt", "requirements-dev.txt")
_FRESH_SECONDS = 600.0
"""A lock younger than this is taken again: uv and pip believe an index's answer for as long."""
_PATIENCE_SECONDS = 15.0
"""For an answer that would make a lock wider, but is not needed here."""
_RESOLVING = "Resolving the requirements"
_KEEP_SECONDS = 30 * 86400
_KEEP_MOST = 8
_NEVER_IMPORTED = (
    *("/pygments/lexers/", "/pygments/styles/", "/sqlalchemy/dialects/mysql/", "/sqlalchemy/dialects/oracle/"),
    *("/sqlalchemy/dialects/mssql/", "/sqlalchemy/testing/", "/alembic/testing/", "/pydantic/v1/", "/tests/"),
    *("/pip/", "/setuptools/", "/skeleton/", "/redis/asyncio/", "/sqlalchemy/ext/asyncio/", "/sqlalchemy/ext/mypy/"),
    *("/gunicorn/asgi/", "/gunicorn/dirty/", "/gunicorn/http2/", "/webob/", "/pydantic/mypy", "/urllib3/contrib/"),
    *("/cffi/", "/pycparser/", "/cryptography/", "/urllib3/http2/", "/atlas/server/", "/atlas/stores/zookeeper.py"),
    *("/atlas/stores/dynamodb.py", "/atlas/stores/etcd.py", "/atlas/stores/consul.py", "/smartclient/consumer.py"),
)


@dataclass(frozen=True)
class Requirements:
    """What is asked for, and the wheel that is carried along. `texts` are files by name, like the locks made of them."""

    runtime: str
    development: str
    wheel: Path | None = None

    @property
    def head(self) -> str:
        return "--find-links vendor\n" if self.wheel else ""

    def texts(self) -> dict[str, str]:
        return {
            "requirements.in": f"{self.head}{self.runtime}",
            "requirements-dev.in": f"-r requirements.in\n{self.development}",
        }


@dataclass
class Installer:
    """Makes locks and environments. `uv` is the program, or None for venv and pip."""

    processes: Processes
    environ: Mapping[str, str]
    cache: Path
    uv: Path | None
    python: Path = field(default_factory=lambda: Path(sys.executable))
    offline: bool = False

    def __post_init__(self) -> None:
        pip = indexes.pip_settings(self.environ)
        more = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "SOURCE_DATE_EPOCH": "315532800"}
        self._env = clean_environment(self.environ, **more)
        self._no_index: list[str] = ["--no-index"] if indexes.uses_no_index(pip) else []
        if self.uv:
            self._env.update(indexes.uv_variables(self.environ, pip), UV_NO_PROGRESS="1", NO_COLOR="1")
            self._env.pop("UV_COMPILE_BYTECODE", None)
            if not _uv_credentials(self._env).exists():  # uv would make a folder for them under HOME.
                self._env["UV_CREDENTIALS_DIR"] = str(self.cache / "credentials")

    @property
    def name(self) -> str:
        return "uv" if self.uv else "venv and pip"

    # -- the steps ---------------------------------------------------------------------------------------------

    def build_wheel(self, checkout: Path, into: Path) -> None:
        """Build a wheel of a checkout; its folder is written to."""
        if self.uv:
            command: Command = [self.uv, "build", "--wheel", "--quiet", *self._offline(), "--python", self.python]
            command = [*command, "--out-dir", into, checkout]
        else:
            command = [self.python, "-m", "pip", "wheel", "--quiet", "--no-deps", *self._offline()]
            command = [*command, "--wheel-dir", into, checkout]
        self._run(command, cwd=checkout, what="Building a wheel of the toolkit")

    def lock(self, wanted: Requirements, meanwhile: Callable[[], None] = lambda: None) -> dict[str, str]:
        """requirements.txt and requirements-dev.txt: every version pinned, every file with its hash, no index named.

        `meanwhile()` is called once, while the indexes are being asked where that takes time.
        """
        asked = (json.dumps(wanted.texts()), _digest(wanted.wheel), self.name, self._indexes())
        shelf = self.cache / "locks" / _key(*asked)
        if self.offline or _age(shelf / LOCKS[-1]) < _FRESH_SECONDS:
            meanwhile()
            return self._kept_lock(shelf)
        shelf.parent.mkdir(parents=True, exist_ok=True)
        with Partial(shelf.parent, "lock") as partial:
            _lay_out(partial.tree, wanted)
            if self.uv:
                self._lock_with_uv(partial.tree, meanwhile)
            else:
                meanwhile()
                self._lock_with_pip(partial.tree)
            made = {}
            for name in LOCKS:
                path = partial.tree / name
                made[name] = locks.head(name, universal=bool(self.uv)) + wanted.head + path.read_text()
                path.write_text(made[name])
            remove(shelf)
            try:
                partial.put(shelf)
            except FileExistsError:
                pass  # Another run has just put the same there.
        return made

    def environment(self, lock: str, wanted: Requirements, target: Path, final: Path) -> bool:
        """Put a finished environment for this lock at `target`, to work at `final`; whether a prepared one was used."""
        shelf = self.cache / "environments" / self._environment_key(lock)
        if _copy_environment(shelf, target, final):
            return True
        remove(target)
        remove(shelf)
        shelf.parent.mkdir(parents=True, exist_ok=True)
        with Partial(shelf.parent, "environment") as partial:
            _lay_out(partial.path / "wanted", wanted)
            (partial.path / "wanted" / "requirements-dev.txt").write_text(lock)
            venv = partial.tree / "venv"
            self._install(partial.path / "wanted", venv)
            _take_bytecode(venv, shelf.parent)
            self._compile(venv, partial.path)
            manifest = {"built_at": str(venv), "files": _listing(venv), "python": sys.version}
            (partial.tree / "manifest.json").write_text(json.dumps(manifest))
            try:
                partial.put(shelf)
            except FileExistsError:
                pass
        if not _copy_environment(shelf, target, final):
            raise InstallFailed(f"The environment prepared in {shelf} is not whole; run the command again.")
        return False

    def tidy(self) -> None:
        """Remove what dead runs left in the cache, and environments that nobody used for a month."""
        for folder in ("wheels", "locks", "environments"):
            sweep(self.cache / folder)
            shelves = [path for path in (self.cache / folder).glob("*") if path.is_dir() and path.name[0] != "."]
            by_use = sorted(shelves, key=lambda path: path.stat().st_mtime, reverse=True)
            for number, path in enumerate(by_use):
                unused_seconds = time.time() - path.stat().st_mtime
                if unused_seconds > (_KEEP_SECONDS if number < _KEEP_MOST else _KEEP_SECONDS / 30):
                    remove(path)

    # -- locks -------------------------------------------------------------------------------------------------

    def _lock_with_uv(self, folder: Path, meanwhile: Callable[[], None]) -> None:
        """Both locks at once, and the second again where it took another version of something than the first."""
        assert self.uv is not None
        command: Command = [self.uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header"]
        command = [*command, "--no-emit-index-url", "--no-emit-find-links", "--python", self.python]
        command = [*command, "--python-version", OLDEST_PYTHON, *self._no_index]
        runtime: Command = [*command, "requirements.in", "--output-file", "requirements.txt"]
        development: Command = [*command, "requirements-dev.in", "--output-file", "requirements-dev.txt"]
        first = self._start_with_first_index(command, folder)
        self._run(runtime, development, cwd=folder, what=_RESOLVING, meanwhile=meanwhile)
        pins, more = (locks.pinned((folder / name).read_text()) for name in LOCKS)
        if not pins <= more:
            self._run([*development, "--constraints", "requirements.txt"], cwd=folder, what=_RESOLVING)
        if first:
            try:
                first.wait(_PATIENCE_SECONDS)
            except Failed:
                return  # What is only in a further index cannot be found in the first one.
            for name in LOCKS:
                path = folder / name
                path.write_text(locks.with_more_hashes(path.read_text(), (folder / "first.txt").read_text()))

    def _start_with_first_index(self, command: Command, folder: Path) -> Running | None:
        """Resolve without the further indexes too, when there are any, for the hashes of the first one's files.

        uv writes the hashes of one index only. A further index is often a mirror with a part of the files, and a lock with
        nothing but those could be installed on machines like this one alone.
        """
        further = {"UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_INDEX_STRATEGY"}
        if not further & set(self._env):
            return None
        env = {name: value for name, value in self._env.items() if name not in further}
        asked: Command = [*command, "requirements-dev.in", "--output-file", "first.txt"]
        try:
            return self.processes.start(asked, cwd=folder, env=env)
        except FileNotFoundError:
            return None  # Told by what must be run.

    def _lock_with_pip(self, folder: Path) -> None:
        command: Command = [self.python, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        more: list[str] = []
        for name in ("requirements", "requirements-dev"):
            report = f"{name}.json"
            asked = ["--requirement", f"{name}.in", *more, "--report", report]
            self._run([*command, *asked], cwd=folder, what=_RESOLVING)
            pins, lock = locks.of_pip_report(json.loads((folder / report).read_text()))
            (folder / f"{name}.pins").write_text(pins)
            (folder / f"{name}.txt").write_text(lock)
            more = ["--constraint", f"{name}.pins"]

    def _indexes(self) -> str:
        """Which indexes are asked, for the key of a lock."""
        wanted = (
            "UV_INDEX",
            "UV_DEFAULT",
            "UV_EXTRA",
            "UV_FIND",
            "UV_NO_INDEX",
            "UV_CONFIG",
            "UV_PRERELEASE",
            "UV_EXCLUDE",
        )
        named = {name: value for name, value in self._env.items() if name.startswith(wanted)}
        pip = indexes.pip_settings(self.environ)
        named.update({name: pip.get(name, "") for name in ("index-url", "extra-index-url", "find-links", "no-index")})
        return json.dumps(named, sort_keys=True)

    def _kept_lock(self, shelf: Path) -> dict[str, str]:
        try:
            kept = {name: (shelf / name).read_text() for name in LOCKS}
        except OSError:
            raise InstallFailed(
                "--offline can repeat only what was generated here before, and nothing like this was: run it once without "
                "--offline."
            ) from None
        os.utime(shelf)
        return kept

    # -- environments ------------------------------------------------------------------------------------------

    def _environment_key(self, lock: str) -> str:
        base = os.path.realpath(self.python)
        return _key(lock, self.name, sys.version, platform.platform(), platform.machine(), base, "1")

    def _install(self, folder: Path, venv: Path) -> None:
        what = "Installing the locked requirements"
        exact = ["--require-hashes", "--no-deps", "--requirement", "requirements-dev.txt"]
        if self.uv:
            make: Command = [self.uv, "venv", "--quiet", "--relocatable", "--python", self.python, venv]
            self._run(make, cwd=folder, what="Making the environment")
            command: Command = [
                self.uv,
                "pip",
                "install",
                "--quiet",
                "--python",
                venv / "bin" / "python",
                *self._offline(),
            ]
            self._run([*command, *self._no_index, *exact], cwd=folder, what=what)
        else:
            if self.offline:
                raise InstallFailed(
                    "--offline without uv works only with a prepared environment, and none fits: run it once without "
                    "--offline, or install uv."
                )
            self._run([self.python, "-m", "venv", venv], cwd=folder, what="Making the environment")
            pip: Command = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile"]
            self._run([*pip, *exact], cwd=folder, what=what)
            for compiled in list(venv.rglob("__pycache__")):  # pip's own, which name the place they were made in.
                remove(compiled)

    def _compile(self, venv: Path, scratch: Path) -> None:
        """Byte-compile what a service and its tests import, on every core: else the first import takes seconds."""
        files = [
            path
            for path in venv.rglob("*.py")
            if not any(part in path.as_posix() for part in _NEVER_IMPORTED)
            and path.stat().st_size
            and not os.path.exists(cache_from_source(str(path)))
        ]
        files.sort(key=lambda path: path.stat().st_size, reverse=True)
        cores = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        portions = [files[number::cores] for number in range(cores)]
        running = []
        for number, portion in enumerate(portions):
            listed = scratch / f"compile-{number}"
            listed.write_text("\n".join(map(str, portion)))
            command: Command = [venv / "bin" / "python", "-I", "-m", "compileall", "-q", "-i", listed]
            command = [*command, "-s", venv, "-p", ".venv"]
            running.append(self.processes.start(command, cwd=scratch, env=self._env, name="compileall"))
        for one in running:
            try:
                one.wait()
            except Failed:
                pass  # A file that is no Python of this version; it is never imported, or its import tells.

    # -- tools -------------------------------------------------------------------------------------------------

    def _offline(self) -> list[str]:
        if not self.offline:
            return self._no_index
        return ["--offline"] if self.uv else ["--no-index"]

    def _run(self, *commands: Command, cwd: Path, what: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Run these at the same time, to their ends."""
        try:
            started = [self.processes.start(command, cwd=cwd, env=self._env) for command in commands]
            meanwhile()
            self.processes.wait_all(started)
        except Failed as failed:
            output = indexes.without_credentials(failed.output)
            hint = "; --offline uses only what is cached" if self.offline else ""
            raise InstallFailed(
                f"{what} failed ({failed.what}): {_why(output)}; see the lines above, and check the network and pip's "
                f"configuration{hint}.",
                output=output,
            ) from failed
        except FileNotFoundError as missing:
            raise ToolMissing(
                f"{missing.filename} is not installed here; install it and run the command again."
            ) from None


def find_uv(environ: Mapping[str, str], python: Path | None = None) -> Path | None:
    """uv beside the running Python, or on PATH."""
    beside = (python or Path(sys.executable)).parent / "uv"
    if beside.is_file():
        return beside
    found = shutil.which("uv", path=environ.get("PATH"))
    return Path(found) if found else None


def _uv_credentials(environ: Mapping[str, str]) -> Path:
    """Where uv keeps the credentials that its user has stored."""
    if environ.get("UV_CREDENTIALS_DIR"):
        return Path(environ["UV_CREDENTIALS_DIR"])
    data = environ.get("XDG_DATA_HOME") or Path(environ.get("HOME") or "~").expanduser() / ".local" / "share"
    return Path(data) / "uv" / "credentials"


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where prepared things are kept."""
    home = environ.get("XDG_CACHE_HOME") or ""
    base = Path(home) if os.path.isabs(home) else Path(environ.get("HOME") or "~").expanduser() / ".cache"
    return base / "smartservice"


def _lay_out(folder: Path, wanted: Requirements) -> None:
    """The requirement files and vendor/, as in the repository: relative paths then mean the same in both."""
    folder.mkdir(exist_ok=True)
    for name, text in wanted.texts().items():
        (folder / name).write_text(text)
    if wanted.wheel:
        (folder / "vendor").mkdir()
        shutil.copyfile(wanted.wheel, folder / "vendor" / wanted.wheel.name)


def _listing(venv: Path) -> dict[str, list[int]]:
    """Size and time of every file, by which a damaged environment is told from a whole one."""
    listed = {}
    for folder, folders, names in os.walk(venv):
        for name in (*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            listed[os.path.relpath(path, venv)] = [status.st_size, status.st_mtime_ns]
    return listed


def _take_bytecode(venv: Path, shelves: Path) -> None:
    """Link the compiled form of every file that a neighbour has too, unchanged, made by the same Python.

    A compiled file names size and time of its source, and Python looks at both, so a wrong one could only be ignored.
    """
    for manifest in shelves.glob("[!.]*/manifest.json"):
        try:
            known = json.loads(manifest.read_text())
            files: dict[str, list[int]] = known["files"]
            if known["python"] != sys.version:
                continue
        except (OSError, ValueError, KeyError):
            continue
        for name, mark in _listing(venv).items():
            compiled = cache_from_source(name) if name.endswith(".py") else ""
            if files.get(name) == mark and compiled in files and not (venv / compiled).exists():
                (venv / compiled).parent.mkdir(exist_ok=True)
                try:
                    os.link(manifest.parent / "venv" / compiled, venv / compiled)
                except OSError:
                    return  # The neighbour was swept, or stands elsewhere: compiling does it.


def _copy_environment(shelf: Path, target: Path, final: Path) -> bool:
    """Hard-link a prepared environment into place; False when there is none or it is not whole.

    Files in bin/ and pyvenv.cfg that say where they were made are written anew for `final`, where they will stand.
    """
    try:
        manifest = json.loads((shelf / "manifest.json").read_text())
        os.utime(shelf)
        files: dict[str, list[int]] = manifest["files"]
        if _listing(shelf / "venv") != files:
            return False
        old, new = manifest["built_at"].encode(), str(final).encode()
        for folder in sorted({os.path.dirname(name) for name in files}):
            os.makedirs(target / folder, exist_ok=True)
        for name in files:
            _place(f"{shelf}/venv/{name}", f"{target}/{name}", old, new)
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return True


def _place(source: str, target: str, old: bytes, new: bytes) -> None:
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return
    folder = os.path.basename(os.path.dirname(source))
    if folder == "bin" or source.endswith("/pyvenv.cfg"):
        with open(source, "rb") as file:
            content = file.read() if os.path.getsize(source) < 100_000 else b""
        if old in content:
            with open(target, "wb") as file:
                file.write(content.replace(old, new))
            shutil.copymode(source, target)
            return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _age(path: Path) -> float:
    """Seconds since a file was written; endless when there is none."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


def _digest(path: Path | None) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _why(output: str) -> str:
    """The line of a tool's output that says most."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if line.lower().startswith("error")), lines[-1] if lines else "no output")
