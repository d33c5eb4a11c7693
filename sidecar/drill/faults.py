"""The faults, each a context manager: it begins with the block and has been undone when the block ends.

    with frozen(tree(pid)): ...
    with full_disk(tree(pid)): ...

With a Journal what is to be undone is on disk before it is done. Whoever needs no more than a fault in a test hands in none.
What is killed stays dead: somebody else starts it again.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sidecar.drill.journal import ROUTE_PROTOCOL, Continue, Holding, NoJournal, Undrain, Unlimit, Unroute
from sidecar.drill.processes import Process, ignores
from smartrealm.errors import ConfigurationError, Conflict, SmartError, Unavailable

if TYPE_CHECKING:
    from atlas.directory import Directory

MARGIN_SECONDS = 10.0
"""So long after its bound a fault is undone by the watchdog, should the drill not have done it."""

SLOW_PERIOD_SECONDS = 0.25
SLOW_STOPPED = 0.8


@contextmanager
def frozen(processes: Sequence[Process], journal: Holding | None = None, *, seconds: float = 60.0) -> Iterator[None]:
    """Stop processes with SIGSTOP: their sockets stay open and connections are accepted by the kernel, and nobody answers.
    A host that swaps, a virtual machine that is moved, a stop-the-world pause look like this.

    Undone with SIGCONT. A correct system asks elsewhere after a moment and counts nobody dead too soon; what was asked of the
    frozen one is answered when it goes on, or given up at the caller's deadline.
    """
    undos = [Continue(one.pid, one.started) for one in processes]
    with (journal or NoJournal()).holding(undos, seconds + MARGIN_SECONDS):
        for one in processes:
            one.send(signal.SIGSTOP)
        yield


@contextmanager
def slowed(
    processes: Sequence[Process],
    journal: Holding | None = None,
    *,
    seconds: float = 60.0,
    stopped: float = SLOW_STOPPED,
    period: float = SLOW_PERIOD_SECONDS,
) -> Iterator[None]:
    """Stop processes for most of the time (80 % of each quarter of a second) with SIGSTOP and SIGCONT: each answer takes
    longer, none is missing. A host whose processors are taken by somebody else looks like this.

    Undone with SIGCONT. A correct system loses no call and ejects nobody for being slow within the deadline.
    """
    undos = [Continue(one.pid, one.started) for one in processes]

    def brake(over: threading.Event) -> None:
        while not over.is_set():
            for one in processes:
                one.send(signal.SIGSTOP)
            over.wait(period * stopped)
            for one in processes:
                one.send(signal.SIGCONT)
            over.wait(period * (1 - stopped))

    with (journal or NoJournal()).holding(undos, seconds + MARGIN_SECONDS), _beside(brake):
        yield


@contextmanager
def killed(processes: Sequence[Process], number: int = signal.SIGKILL) -> Iterator[None]:
    """End processes without a word: SIGKILL, parents first, so that none starts another one. The kernel closes their
    connections. Out of memory and a pulled plug look like this.

    Nothing is undone: whoever supervises them starts them again. A correct system answers every GET, and loses of the rest
    what was being worked on there.
    """
    for one in processes:
        one.send(number)
    yield


@contextmanager
def crashed(processes: Sequence[Process], number: int = signal.SIGSEGV) -> Iterator[None]:
    """Let processes end as by a mistake in memory: SIGSEGV, with a core dump where the system makes some. Unlike `killed` it
    reaches one process of several: a worker, whose master lives.

    Nothing is undone: their master or their supervisor starts another. A correct system behaves as with `killed`.
    """
    with killed(processes, number):
        yield


@contextmanager
def full_disk(processes: Sequence[Process], journal: Holding | None = None, *, seconds: float = 60.0) -> Iterator[None]:
    """Let every write of processes to a file fail: the soft limit RLIMIT_FSIZE is 0 (prlimit(2)), so that a write gives EFBIG
    where a full disk gives ENOSPC. Sockets and pipes are not touched, nor is what is on the disk. Only for processes that
    ignore or catch SIGXFSZ, as Python does; it would end others. Raises ConfigurationError for one of these.

    Undone by setting the limit that was there. A correct program says what it could not write, goes on serving, and writes
    it later.
    """
    undos = []
    for one in processes:
        if not ignores(one.pid, signal.SIGXFSZ):
            raise ConfigurationError(
                f"Process {one.pid} does not ignore SIGXFSZ, which would end it: it cannot be shown a full disk this way."
            )
        soft, hard = resource.prlimit(one.pid, resource.RLIMIT_FSIZE)
        undos.append(Unlimit(one.pid, one.started, soft, hard))
    with (journal or NoJournal()).holding(undos, seconds + MARGIN_SECONDS):
        for undo in undos:
            with suppress(ProcessLookupError):
                resource.prlimit(undo.pid, resource.RLIMIT_FSIZE, (0, undo.hard))
        yield


@contextmanager
def flapping(
    path: Path, journal: Holding | None = None, *, seconds: float = 60.0, period: float = 1.0
) -> Iterator[None]:
    """Let an instance say that it drains, and that it does not, once a second: its announcement is written anew, as the
    instance itself does before it stops. The instance serves on.

    Undone by writing the announcement with `draining: false`, unless the instance has been started anew since. A correct
    system follows without losing a call and without loading HAProxy anew.
    """
    from atlas.announcement import announce, read

    before = read(path)
    if before.draining:
        raise Unavailable(f"{path.name} drains already.")

    def flap(over: threading.Event) -> None:
        draining = False
        while not over.is_set():
            draining = not draining
            with suppress(SmartError, OSError):
                now = read(path)
                if now.incarnation == before.incarnation:
                    announce(path.parent.parent, replace(now, draining=draining))
            over.wait(period / 2)

    undo = Undrain(str(path), before.incarnation)
    with (journal or NoJournal()).holding([undo], seconds + MARGIN_SECONDS), _beside(flap):
        yield


@contextmanager
def blackholed(addresses: Sequence[str], journal: Holding | None = None, *, seconds: float = 60.0) -> Iterator[None]:
    """Cut this host off from addresses of other hosts: a blackhole route for each (`ip route add blackhole`). What is sent
    there is dropped. Needs root, and is felt by every process of this host. For loopback addresses it does nothing.

    Undone by removing these routes, and no other. A correct sidecar serves from the map that it has, and takes nothing out of it.
    """
    if os.geteuid() != 0:
        raise ConfigurationError("A blackhole route needs root.")
    undos = [Unroute(address) for address in addresses]
    with (journal or NoJournal()).holding(undos, seconds + MARGIN_SECONDS):
        for address in addresses:
            words = ["ip", "route", "add", "blackhole", address, "proto", ROUTE_PROTOCOL]
            said = subprocess.run(words, capture_output=True, text=True, check=False)
            if said.returncode:
                raise Unavailable(f"ip route add blackhole {address}: {said.stderr.strip()}")
        yield


@contextmanager
def ruled(
    directory: Directory, service: str, address: str, *, seconds: float = 60.0, period: float = 1.0
) -> Iterator[None]:
    """Let an instance on any host leave and come back once a second by the operator's word in Atlas (`atlas drain`, `atlas
    enable`). No signal is sent, and the instance notices nothing. Raises Conflict where there is a word on it already.

    Undone by enabling it; each word also ends by itself, shortly after the fault. A correct system follows without losing a
    call.
    """
    from atlas.model import Author, Ruling

    host, _, port = address.rpartition(":")
    known = directory.world().rulings.get(f"{service}/{address}")
    if known is not None and (known.state != "enabled" or known.weight is not None):
        raise Conflict(f"An operator has ruled on {service} {address} already ({known.state}): it is left alone.")
    author = Author("sidecar drill", why="a drill")

    def rule(state: Literal["enabled", "draining"]) -> None:
        until = time.time() + seconds + MARGIN_SECONDS if state == "draining" else None
        one = Ruling(service, host.strip("[]"), int(port), state, reason="a drill", expires_at=until)
        directory.rule(one, by=author)

    def flap(over: threading.Event) -> None:
        while not over.wait(period / 2):
            with suppress(SmartError):
                rule("enabled")
            if not over.wait(period / 2):
                with suppress(SmartError):
                    rule("draining")

    rule("draining")  # raises where the token does not allow it, before anything has begun
    try:
        with _beside(flap):
            yield
    finally:
        rule("enabled")


@contextmanager
def _beside(work: Callable[[threading.Event], object]) -> Iterator[None]:
    """Have something done while the block runs; it ends when it finds the event set."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), name="drill-fault", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5)
