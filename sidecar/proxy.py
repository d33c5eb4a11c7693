"""The HAProxy process of this host: a process of its own, which goes on when the agent ends and is adopted by the next one.

It runs as a master with one worker. The agent speaks to the worker through `haproxy.sock` (see sidecar.runtime) and to the
master through `master.sock`, and knows of neither more than that: who started it does not matter. Under systemd the unit runs
what `command(settings, notify=True)` gives with `Type=notify`; the signals of HAProxy are those of its manual: USR2 to the
master reloads (`ExecReload`), USR1 ends softly, TERM ends at once.

Another HAProxy (a package was upgraded) is used from the next reload on: the master then executes the program of its own path
anew, and hands the open sockets to it. Only another path needs a stop and a start.

A worker that crashes takes its master along (HAProxy's exit-on-failure): whoever sees that it is gone calls `start` again.
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from random import random

from sidecar.files import Problem, alerts, check_files, no_program, problems, write_files
from sidecar.layout import map_file
from sidecar.master import Master, Processes
from sidecar.probe import is_listened_on
from sidecar.render import Files
from sidecar.runtime import Info, Runtime, parse_sessions_of_streams, wait_for
from sidecar.settings import Settings
from smartrealm.errors import ConfigurationError, Unavailable

FIRST_WITH_DYNAMIC_BACKENDS = (3, 4)
_MOST_LOG_BYTES = 1_000_000
_PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "LD_LIBRARY_PATH")
"""What HAProxy gets of the agent's environment, which may hold tokens."""


def command(settings: Settings, *, notify: bool = False) -> list[str]:
    """How HAProxy is run: in the foreground, as a master with a worker; `notify` for systemd's Type=notify."""
    return [
        settings.haproxy,
        "-Ws" if notify else "-W",
        "-f",
        str(settings.proxy_config),
        "-p",
        str(settings.directory / "haproxy.pid"),
        "-S",
        f"{settings.master_socket},mode,600",
    ]


def program_version(program: str) -> str:
    """What `haproxy -v` says: 2.6.12-1+deb12u4. Raises ConfigurationError when there is no such program."""
    try:
        said = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise no_program(program, error) from error
    found = re.search(r"version (\S+)", said)
    if found is None:
        raise ConfigurationError(f"{program} -v does not tell a version of HAProxy: {said[:80]!r}.")
    return found[1]


def version_numbers(version: str) -> tuple[int, ...]:
    """2.6.12-1+deb12u4 as (2, 6, 12)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def descriptors() -> int:
    """How many files a HAProxy that is started here may open, for `render`: it raises its own limit as far as it may; 0 where
    there is no limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20)


class Pace:
    """When the next reload may be: `seconds` after the last one, and a little later than it was wished for, so that not
    every host reloads at the same moment."""

    def __init__(self, seconds: float, random: Callable[[], float] = random) -> None:
        self._seconds = seconds
        self._random = random
        self._last: float | None = None
        self._due: float | None = None

    def due_at(self, now: float) -> float:
        """When the reload that is wished for now (or was before) may be."""
        if self._due is None:
            earliest = now if self._last is None else self._last + self._seconds
            self._due = max(earliest, now + self._random() * self._seconds / 10)
        return self._due

    def done(self, now: float) -> None:
        """It was tried."""
        self._last, self._due = now, None


class Proxy:
    """HAProxy of one directory. Not thread-safe; two agents on one directory do not start two."""

    def __init__(
        self,
        settings: Settings,
        *,
        external: bool = False,
        start_seconds: float = 30.0,
        look_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = random,
    ) -> None:
        self.settings = settings
        self.external = external
        """Somebody else starts and stops it: systemd, a container of its own."""
        self.log = settings.directory / "haproxy.log"
        self._start_seconds = start_seconds
        self._clock = clock
        self._sleep = sleep
        self._pace = Pace(settings.reload_seconds, random)
        self._child: int | None = None
        self._master = Master(settings.master_socket, settings.runtime_socket, clock=clock, sleep=sleep)
        self._look = Runtime(settings.runtime_socket, timeout_seconds=look_seconds)

    def version(self) -> str:
        """The version of the HAProxy that runs; of the program, when none runs."""
        info = self._info()
        return info.version if info is not None else program_version(self.settings.haproxy)

    @property
    def dynamic_backends(self) -> bool:
        """Whether backends can be added while it runs."""
        return version_numbers(self.version()) >= FIRST_WITH_DYNAMIC_BACKENDS

    def worker(self) -> int | None:
        """The pid of the worker that answers and has a master: without one it is about to end. None: HAProxy does not run."""
        self._reap()
        self._trim_log()
        info = self._info() if is_listened_on(self.settings.master_socket) else None
        return None if info is None else info.pid

    def is_running(self) -> bool:
        """Whether it answers."""
        return self.worker() is not None

    def processes(self) -> Processes:
        """The pids of the master and its workers. Raises Unavailable when the master does not answer."""
        return self._master.processes()

    def start(self) -> bool:
        """Start HAProxy with the file as it is written and wait until it answers; False when one runs already, which is
        adopted then.

        It outlives this process. Raises Unavailable with HAProxy's words when it ends at once, when one is alive that does
        not answer, or (external) when whoever should has not started it.
        """
        if self.is_running():
            return False
        with self._locked():
            return self._start()

    def reload_due_in(self) -> float:
        """How many seconds a reload is to wait: at most one in `reload_seconds`. Notes that one is wished for."""
        return max(0.0, self._pace.due_at(self._clock()) - self._clock())

    def reload(self) -> None:
        """Load the written file into a new worker and wait until it answers: no call is lost, the old one ends what it has.

        Raises ConfigurationError with HAProxy's words when it refuses the file: the worker before goes on then.
        """
        try:
            with self._locked():
                self._reload()
        finally:
            self._pace.done(self._clock())

    def sessions(self, servers: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """How many calls each of these servers (backend, name) is busy with, those of old workers included.

        A service may have had another backend in an old worker; there a server is known by its name alone.
        """
        found = self._look.sessions(servers)
        info = self._look.info()
        with suppress(Unavailable):  # a HAProxy without master socket has no old workers that we could ask
            for pid in set(self.processes().old) - {info.pid}:
                of_old = parse_sessions_of_streams(self._master.ask(f"@!{pid} show sess"))
                found = {server: count + of_old.get(server[1], 0) for server, count in found.items()}
        return found

    def write(self, files: Files) -> tuple[str, ...]:
        """Write HAProxy's file and maps where they differ from what is there; gives the names of those that did.

        All or nothing: every file is complete beside its place before the first one takes it. The file before is kept as
        `.previous`. Raises Unavailable when there is no room, and then everything is as before.
        """
        return write_files(files, self.settings)

    def check(self, files: Files) -> tuple[Problem, ...]:
        """What HAProxy finds wrong with files that are not in place yet, each with its backend; empty: nothing."""
        return check_files(files, self.settings)

    def stop(self, seconds: float = 30.0) -> bool:
        """End HAProxy: it takes no new calls and ends what it has, within `seconds`; then it is ended at once. Gives whether
        every call could end."""
        try:
            known = self.processes()
        except Unavailable:
            if self._wait_gone(1.0):  # there is none, or none any more
                self._reap()
                return True
            raise
        softly = True
        for number, patience in ((signal.SIGUSR1, seconds), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
            for pid in (known.master,) if number != signal.SIGKILL else (known.master, known.worker, *known.old):
                with suppress(ProcessLookupError):
                    os.kill(pid or known.master, number)
            if self._wait_gone(patience):
                break
            softly = False
        self._reap()
        return softly

    # How it is done.

    def _start(self) -> bool:
        # Another agent may have been faster; and what is about to end (a master whose worker crashed, a worker whose master was
        # killed) is waited for: a second HAProxy beside it would share its port with it.
        if self._settles(2.0):
            return False
        if self.external:
            patience = min(self._start_seconds, 2.0)
            if wait_for(self._look, _takes_calls, patience, clock=self._clock, sleep=self._sleep) is None:
                raise Unavailable(
                    f"HAProxy does not answer on {self.settings.runtime_socket}, and is started by somebody else: see "
                    f"`systemctl status` of its unit, or start it with: {' '.join(command(self.settings))}"
                )
            return False
        self._sweep()
        begin = self._trim_log()
        self._child = child = self._spawn()
        if wait_for(
            self._look,
            _takes_calls,
            self._start_seconds,
            clock=self._clock,
            sleep=self._sleep,
            gone=lambda: self._reap() is None,
        ):
            self.processes()  # until the master listens too
            return True
        if self._reap() is not None:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            self._child = None
        said = "; ".join(alerts(self._logged_since(begin))) or "it said nothing; the end of its log is in " + str(
            self.log
        )
        raise Unavailable(f"HAProxy did not start: {said}")

    def _spawn(self) -> int:
        """Start the program; not with subprocess, which holds that a child ends before its parent."""
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        words = command(self.settings)
        try:
            return os.posix_spawnp(
                words[0],
                words,
                {name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                file_actions=(
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ),
                setsid=True,  # what ends the agent's group or terminal does not end HAProxy
                setsigmask=(),
                setsigdef=(
                    signal.SIGPIPE,
                    signal.SIGINT,
                    signal.SIGHUP,
                    signal.SIGTERM,
                    signal.SIGUSR1,
                    signal.SIGUSR2,
                ),
            )
        except OSError as error:
            raise no_program(self.settings.haproxy, error) from error
        finally:
            os.close(log)

    def _reload(self) -> None:
        before = self._look.info()
        known = self.processes()
        begin = self._trim_log()
        with self._master.begin("reload") as asked:

            def has_failed() -> bool:
                if "Success=" in asked.said() or not asked.is_over():  # since 2.7 the master answers when it knows
                    return asked.is_over() and "Success=0" in asked.said()
                with suppress(Unavailable):  # 2.6 answers nothing, and executes itself anew meanwhile
                    now = self.processes()
                    return now.reloads > known.reloads and now.failed > 0
                return False

            fresh = wait_for(
                self._look,
                lambda info: info.pid != before.pid and not info.stopping,
                self._start_seconds,
                clock=self._clock,
                sleep=self._sleep,
                gone=has_failed,
            )
            if fresh is None and has_failed():
                raise self._refused(asked.said() or self._logged_since(begin))
        if fresh is None:
            raise Unavailable(
                f"HAProxy was told to reload, and after {self._start_seconds:g} s no new worker answers; see {self.log}."
            )
        # Until the old worker has heard that it is to end, both take connections from the same socket.
        while any(self._look.info().pid != fresh.pid for _ in range(5)):
            self._sleep(0.005)
        with suppress(Unavailable):  # a HAProxy without master socket: its old worker goes by what it knew
            self._master.ask(f"@!{before.pid} add map {map_file('newer')} calls 1")

    def _refused(self, said: str) -> ConfigurationError:
        text = self.settings.proxy_config.read_text(errors="replace")
        found = problems(said, text, str(self.settings.proxy_config))
        return ConfigurationError(
            f"HAProxy refuses {self.settings.proxy_config} and goes on with the file before:",
            [str(problem) for problem in found] or alerts(said) or [f"see {self.log}"],
            backends=tuple(dict.fromkeys(problem.backend for problem in found if problem.backend)),
        )

    def _info(self) -> Info | None:
        try:
            info = self._look.info()
        except Unavailable:
            return None
        return info if _takes_calls(info) else None

    def _settles(self, seconds: float) -> bool:
        """Whether HAProxy runs; waits while it is neither running nor gone. Raises Unavailable when it stays so."""
        end = self._clock() + seconds
        while not self.is_running():
            if not self._is_there():
                return False
            if self._clock() > end:
                sockets = (self.settings.runtime_socket, self.settings.master_socket)
                removed = [path.name for path in sockets if not path.exists()]
                why = f"somebody has removed {' and '.join(removed)}" if removed else "it is frozen or ending"
                raise Unavailable(
                    f"A HAProxy in {self.settings.directory} is alive and does not answer: {why}. "
                    f"Its pid is in {self.settings.directory / 'haproxy.pid'}; end it, and the next one starts by itself."
                )
            self._sleep(0.01)
        return True

    def _is_there(self) -> bool:
        return is_listened_on(self.settings.master_socket) or is_listened_on(self.settings.runtime_socket)

    def _wait_gone(self, seconds: float) -> bool:
        """Whether within this time nobody listens on HAProxy's sockets any more."""
        end = self._clock() + seconds
        while self._is_there():
            if self._clock() > end:
                return False
            self._reap()
            self._sleep(0.01)
        return True

    def _sweep(self) -> None:
        """Remove what dead ones left: the temporary names under which HAProxy binds its sockets."""
        for left in self.settings.directory.glob("*.sock.*"):
            if left.suffix in (".tmp", ".bak") and left.is_socket():
                left.unlink(missing_ok=True)

    def _reap(self) -> int | None:
        """The pid of the master that was started here, while it lives; takes in what is left of it afterwards."""
        if self._child is not None:
            try:
                ended = os.waitpid(self._child, os.WNOHANG)[0] != 0
            except ChildProcessError:  # a supervisor in this process was faster
                ended = True
            if ended:
                self._child = None
        return self._child

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time starts or reloads the HAProxy of this directory."""
        file = os.open(self.settings.directory / "haproxy.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            end = self._clock() + self._start_seconds
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._clock() > end:
                        raise Unavailable(
                            f"Another process has been starting or reloading HAProxy in {self.settings.directory} for "
                            f"{self._start_seconds:g} s; `fuser {self.settings.directory / 'haproxy.lock'}` tells which."
                        ) from None
                    self._sleep(0.02)
            yield
        finally:
            os.close(file)

    def _trim_log(self) -> int:
        """Keep the log below its bound; gives its size. HAProxy goes on writing at its end."""
        try:
            size = self.log.stat().st_size
        except FileNotFoundError:
            return 0
        if size <= _MOST_LOG_BYTES:
            return size
        with suppress(OSError):
            with self.log.open("rb") as log:
                log.seek(-_MOST_LOG_BYTES // 2, os.SEEK_END)
                kept = log.read()
            self.log.with_name("haproxy.log.previous").write_bytes(kept)
        os.truncate(self.log, 0)
        return 0

    def _logged_since(self, begin: int) -> str:
        try:
            with self.log.open("rb") as log:
                log.seek(begin)
                return log.read(200_000).decode(errors="replace")
        except OSError:
            return ""


def _takes_calls(info: Info) -> bool:
    return not info.stopping
