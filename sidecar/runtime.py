"""HAProxy's runtime socket: changes go in and each answer is checked, what HAProxy knows comes out.

A batch of commands goes over a connection of its own, in interactive mode, one command a line, many lines ahead of the answers:
only there does every answer of every version end alike (before 3.0 some answers lack the empty line that ends the others).

A reload puts a new worker in the place of the old one, which goes on answering those connections that are open. What is
told to the old worker is lost. So a Runtime remembers which worker it has read, and speaks to no other until it reads again.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.diff import Command
from sidecar.layout import NEWER
from sidecar.model import Condition, Server, State
from sidecar.servers import is_backup
from smartrealm.errors import Unavailable

LONGEST_COMMAND = 8_000
"""In bytes. HAProxy drops a line that is longer than its buffer (16 KB), and before 3.0 without a word."""
_AHEAD = 8_000
"""How many bytes of commands are on their way before their answers are read: less than what both buffers hold."""
_PROMPT = b"\n> "
_TOKEN = re.compile(r"\b[0-9a-fA-F]{32,}\b")
_IN_MAINTENANCE = 0x01 | 0x02 | 0x04 | 0x20  # forced, inherited, from the file, by name resolution
_IN_DRAIN = 0x08 | 0x10
_READ = ("be_name", "srv_name", "srv_addr", "srv_op_state", "srv_admin_state", "srv_uweight", "srv_port")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command that HAProxy did not carry out."""

    about: str
    """The service that it was for."""
    command: str
    """Without secrets."""
    says: str
    """HAProxy's answer, its first line."""

    def __str__(self) -> str:
        return f"{self.about or 'HAProxy'}: {self.command!r} was refused: {self.says or '(no answer)'}"


@dataclass(frozen=True, slots=True)
class Info:
    """Who answers on the runtime socket."""

    pid: int
    version: str
    uptime_seconds: int = 0
    stopping: bool = False
    """An old worker, which ends what it has."""
    connections: int = 0
    description: str = ""
    """What the file that was loaded says of itself."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one worker knew at one moment."""

    pid: int
    state: State
    """Without the servers that are leaving."""
    conditions: Mapping[str, Mapping[str, Condition]] = field(default_factory=dict)
    """By backend, then by server; with those that are leaving."""
    description: str = ""
    """What its file says of itself: see `sidecar.render.fingerprint`."""
    leaving: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The names of the servers in maintenance, by backend: they are deleted once they have no connection."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """How many requests a server or a backend got since its worker began, and how many were repeated after one of them failed."""

    requests: int
    repeated: int


class Runtime:
    """The runtime socket of one HAProxy. Not thread-safe: one thread changes, others make a Runtime of their own to look.

    Everything raises Unavailable when nobody answers, or nobody answers in time; nothing is open between two calls.
    """

    def __init__(self, path: Path, *, timeout_seconds: float = 5.0) -> None:
        self.path = path
        self._timeout = timeout_seconds
        self.worker: int | None = None
        """The pid of the worker that was read last; None: whoever answers will do."""

    def ask(self, text: str) -> str:
        """The answer to one command, without the line breaks at its end."""
        with self._session() as session:
            return session.answers([text])[0]

    def info(self) -> Info:
        """Who answers."""
        with self._session() as session:
            return parse_info(session.answers(["show info"])[0])

    def run(self, commands: Iterable[Command]) -> list[Refusal]:
        """Carry commands out, in their order, and give those that were refused; the others are carried out all the same.

        Raises Unavailable when another worker than the one read last answers, or it was told to stop meanwhile: what was
        said to it is lost then. `read` says what to do again.
        """
        wanted = list(commands)
        sent = [command for command in wanted if _can_be_sent(command.text)]
        if not wanted:
            return []
        with self._session() as session:
            self._check(parse_info(session.answers(["show info"])[0]))
            answers = dict(zip(map(id, sent), session.answers([command.text for command in sent]), strict=True))
            self._check(parse_info(session.answers(["show info"])[0]))
        return [
            Refusal(command.about, without_secrets(command.text), says)
            for command in wanted
            if (says := _complaint(command, answers.get(id(command)))) is not None
        ]

    def read(self, maps: Path) -> Reading:
        """What the worker knows of servers and of the maps in `maps`, as the file names that directory; from here on `run`
        speaks to this worker only."""
        with self._session() as session:
            who, listed, named, servers = session.answers(
                ["show info", "show map", "show backend", "show servers state"]
            )
            # A map goes by the name that the file gives it: its path, or what is relative to the file.
            files = [file for file in map_files(listed) if maps in (file.parent, maps.parent / file.parent)]
            tables = session.answers([f"show map {file}" for file in files])
        info = parse_info(who)
        self.worker = info.pid
        backends, conditions, leaving = parse_servers(servers)
        of_each = {name: backends.get(name, {}) for name in parse_backends(named)}
        entries = {file.stem: parse_map(text) for file, text in zip(files, tables, strict=True)}
        return Reading(info.pid, State(of_each, entries), conditions, info.description, leaving)

    def conditions(self) -> Mapping[str, Mapping[str, Condition]]:
        """How each server is, by backend and name."""
        return parse_servers(self.ask("show servers state"))[1]

    def sessions(self, servers: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """How many calls each of these servers (backend, name) is busy with; 0 for one that HAProxy does not know.

        An open connection that waits for its next call does not count. Asks for the backends concerned only.
        """
        chosen = list(servers)
        backends = list(dict.fromkeys(backend for backend, _ in chosen))
        with self._session() as session:
            tables = session.answers([f"show stat {backend} 4 -1" for backend in backends])
        found: dict[tuple[str, str], int] = {}
        for table in tables:
            found.update(parse_sessions(table))
        return {server: found.get(server, 0) for server in chosen}

    def repeats(self, backends: Sequence[str] | None = None) -> dict[tuple[str, str], Repeats]:
        """The counters of every server of these backends, by backend and name; None: those of the backends themselves."""
        asked = ["show stat -1 2 -1"] if backends is None else [f"show stat {backend} 4 -1" for backend in backends]
        with self._session() as session:
            tables = session.answers(asked)
        found: dict[tuple[str, str], Repeats] = {}
        for table in tables:
            found.update(parse_repeats(table))
        return found

    def delete(self, leaving: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
        """Delete servers that are in maintenance (names by backend); gives those that still have a connection, or are in
        maintenance no more: to be tried again later."""
        chosen = [(backend, name) for backend, names in leaving.items() for name in names]
        if not chosen:
            return {}
        with self._session() as session:
            answers = session.answers([f"del server {backend}/{name}" for backend, name in chosen])
        left: dict[str, tuple[str, ...]] = {}
        for (backend, name), says in zip(chosen, answers, strict=True):
            if says.strip() not in ("Server deleted.", "No such server.", "No such backend."):
                left[backend] = (*left.get(backend, ()), name)
        return left

    def _check(self, info: Info) -> None:
        if self.worker is None:
            self.worker = info.pid
        if info.stopping or info.pid != self.worker:
            raise Unavailable(
                f"HAProxy was reloaded: worker {info.pid} answers on {self.path}, worker {self.worker} was read. "
                "What was told to it is lost: read it again and tell what differs."
            )

    @contextmanager
    def _session(self) -> Iterator[_Session]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(self._timeout)
            try:
                connection.connect(str(self.path))
                session = _Session(connection)
                session.answers(["prompt"])
                yield session
            except TimeoutError as error:
                raise Unavailable(
                    f"HAProxy did not answer on {self.path} within {self._timeout:g} s: it is frozen or overloaded. "
                    "See haproxy.log beside the socket; `sidecar status` tells its pid."
                ) from error
            except OSError as error:
                raise Unavailable(
                    f"HAProxy does not answer on {self.path} ({error.strerror or error}): it is not running, or was "
                    "started with another directory. See haproxy.log beside the socket."
                ) from error


class _Session:
    """One connection in interactive mode."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = bytearray()

    def answers(self, commands: Sequence[str]) -> list[str]:
        """One answer for each command."""
        found: list[str] = []
        first = 0
        while first < len(commands):
            last, size = first, 0
            lines: list[bytes] = []
            while last < len(commands) and (not lines or size < _AHEAD):
                lines.append(commands[last].encode())
                size += len(lines[-1]) + 1
                last += 1
            self._connection.sendall(b"\n".join(lines) + b"\n")
            found += self._receive(last - first)
            first = last
        return found

    def _receive(self, count: int) -> list[str]:
        found: list[str] = []
        searched = begin = 0
        while len(found) < count:
            end = self._left.find(_PROMPT, searched)
            if end >= 0:
                found.append(self._left[begin:end].decode(errors="replace").rstrip("\n"))
                begin = searched = end + len(_PROMPT)
                continue
            searched = max(begin, len(self._left) - len(_PROMPT) + 1)
            more = self._connection.recv(1 << 18)
            if not more:
                raise ConnectionResetError("it closed the connection in the middle of its answers")
            self._left += more
        del self._left[:begin]
        return found


def _can_be_sent(text: str) -> bool:
    # A line break begins another command, "<<" begins a payload, and ";" ends a command for HAProxy.
    return len(text.encode()) <= LONGEST_COMMAND and not any(mark in text for mark in ("\n", "\r", ";", "<<"))


def _complaint(command: Command, answer: str | None) -> str | None:
    """What HAProxy said, when it is not what the command expects; None: it is carried out."""
    if answer is None:
        return f"it was not sent: a command has one line of at most {LONGEST_COMMAND} bytes"
    if fits(answer, command.expects):
        return None
    return without_secrets(answer.strip().split("\n", 1)[0])


def fits(answer: str, expects: str) -> bool:
    """Whether an answer is the expected one: nothing at all, or one whose last line is that."""
    said = answer.strip()
    return said == expects or (expects != "" and said.endswith("\n" + expects))


def without_secrets(text: str) -> str:
    """The text with the fingerprints of tokens masked, and cut."""
    return _TOKEN.sub(lambda found: found[0][:6] + "...", text)[:300]


def parse_info(text: str) -> Info:
    """The answer to `show info`."""
    values = dict(line.partition(": ")[::2] for line in text.split("\n"))
    try:
        return Info(
            pid=int(values["Pid"]),
            version=values.get("Version", ""),
            uptime_seconds=int(values.get("Uptime_sec", 0)),
            stopping=values.get("Stopping", "0").strip() != "0",
            connections=int(values.get("CurrConns", 0)),
            description=values.get("description", ""),
        )
    except (KeyError, ValueError) as error:
        raise Unavailable(f"What answers on the runtime socket is no HAProxy: {text[:80]!r}.") from error


def parse_servers(
    text: str,
) -> tuple[dict[str, dict[str, Server]], dict[str, dict[str, Condition]], dict[str, tuple[str, ...]]]:
    """The answer to `show servers state`: servers by backend and name, the condition of each, and who is leaving."""
    lines = text.split("\n")
    at = _columns(next((line for line in lines if line.startswith("# be_id")), ""), text)
    backends: dict[str, dict[str, Server]] = {}
    conditions: dict[str, dict[str, Condition]] = {}
    leaving: dict[str, tuple[str, ...]] = {}
    least = max(at)
    backend_at, name_at, host_at, operation_at, admin_at, weight_at, port_at = at
    for line in lines:
        cells = line.split(" ")
        if len(cells) <= least or line[0] == "#":
            continue
        backend, name, admin = cells[backend_at], cells[name_at], int(cells[admin_at])
        condition = _condition(admin, cells[operation_at])
        conditions.setdefault(backend, {})[name] = condition
        if condition == "maint":
            leaving[backend] = (*leaving.get(backend, ()), name)
            continue
        port, weight = int(cells[port_at]), int(cells[weight_at])
        backends.setdefault(backend, {})[name] = Server(
            name, cells[host_at], port, weight, is_backup(name), admin & _IN_DRAIN != 0
        )
    return backends, conditions, leaving


def _columns(header: str, text: str) -> list[int]:
    """Where in a line of `show servers state` that stands which is read of it: other versions have other columns."""
    names = header[2:].split()
    try:
        return [names.index(name) for name in _READ]
    except ValueError as error:
        raise Unavailable(f"HAProxy's list of servers cannot be read ({error}): {text[:80]!r}.") from error


def _condition(admin: int, operation: str) -> Condition:
    if admin & _IN_MAINTENANCE:
        return "maint"
    if operation == "0":
        return "down"
    if admin & _IN_DRAIN:
        return "drain"
    # 1: slow start, 2: running, 3: stopping softly, which is what HAProxy calls a drain by weight 0 or by a check.
    return "starting" if operation == "1" else "up"


def parse_backends(text: str) -> list[str]:
    """The answer to `show backend`: one name a line, HAProxy's own (`<...>`) and the way to the next worker left out."""
    names = [name for line in text.split("\n") if (name := line.strip()) and name[0] not in "#<"]
    return [name for name in names if name != NEWER]


def map_files(text: str) -> list[Path]:
    """The files in the answer to `show map`: lines of `id (file) words`."""
    return [Path(found[1]) for found in re.finditer(r"^-?\d+ \(([^)\n]+)\)", text, re.MULTILINE)]


def parse_map(text: str) -> dict[str, str]:
    """The answer to `show map FILE`: lines of `pointer key value`. Of a key that is there twice the first counts, as it
    does for HAProxy."""
    entries: dict[str, str] = {}
    for line in text.split("\n"):
        parts = line.split(" ", 2)
        if len(parts) == 3:
            entries.setdefault(parts[1], parts[2])
    return entries


def parse_sessions(text: str) -> dict[tuple[str, str], int]:
    """The answer to `show stat`: how many calls each server is busy with, by backend and name."""
    lines = text.strip().split("\n")
    columns = lines[0].lstrip("# ").split(",")
    if "scur" not in columns:
        return {}  # HAProxy does not know the backend
    current = columns.index("scur")
    rows = (line.split(",", current + 1) for line in lines[1:])
    return {(cells[0], cells[1]): int(cells[current] or 0) for cells in rows if len(cells) > current}


def parse_repeats(text: str) -> dict[tuple[str, str], Repeats]:
    """The answer to `show stat`: the requests of each server or backend, and those that were repeated."""
    lines = text.strip().split("\n")
    columns = lines[0].lstrip("# ").split(",")
    if "wretr" not in columns:
        return {}  # HAProxy does not know the backend
    total, repeated = columns.index("stot"), columns.index("wretr")
    rows = (line.split(",", repeated + 1) for line in lines[1:])
    return {
        (cells[0], cells[1]): Repeats(int(cells[total] or 0), int(cells[repeated] or 0))
        for cells in rows
        if len(cells) > repeated
    }


def parse_sessions_of_streams(text: str) -> dict[str, int]:
    """The answer to `show sess`: how many calls each server is busy with, by its name alone."""
    found: dict[str, int] = {}
    for match in re.finditer(r"^0x\S+: .*?\bsrv=(\S+)", text, re.MULTILINE):
        found[match[1]] = found.get(match[1], 0) + 1
    return found


def wait_for(
    runtime: Runtime,
    condition: Callable[[Info], bool],
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    gone: Callable[[], bool] = lambda: False,
) -> Info | None:
    """Ask who answers until the condition holds; None when `gone()` or the time is over."""
    end = clock() + seconds
    while True:
        try:
            info = runtime.info()
        except Unavailable:
            pass
        else:
            if condition(info):
                return info
        if gone() or clock() > end:
            return None
        sleep(0.005)
