"""Waiting until a change is in force everywhere: every sidecar has applied it, and no call to what it takes out is under way.

Nothing is waited for by time: what the sidecars report is read again and again, and what they say decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from atlas.reports import host_of, is_sidecar
from atlas.server import standing
from atlas.server.sidecars import Awaited, look
from atlas.server.terminal import Session
from atlas.world import World
from smartrealm.errors import NotFound, Unavailable
from smartrealm.wording import count, plain, span

FIRST_PAUSE_SECONDS, POLL_SECONDS = 0.02, 0.1
"""Between two looks at the reports: doubling, since most sidecars follow at once."""
TOLD_EVERY_SECONDS = 0.3
"""Until the first line of progress, and between two of them at least."""

_STATUS_EVERY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Waited:
    """How a wait ended."""

    awaited: Awaited
    seconds: float
    in_time: bool
    away: str = ""
    """Why Atlas could not be asked at the end."""

    def missing(self) -> str:
        """Who or what was missing when the time was over."""
        return f"Atlas could not be asked ({self.away})" if self.away else self.awaited.told()


class Waiting:
    """Waits with one session. `say` is given each line of progress."""

    def __init__(self, session: Session, say: Callable[[str], None] | None = None) -> None:
        self._session = session
        self._say = session.note if say is None else say
        self._leases: tuple[str, ...] = ()
        self._overdue: Collection[str] = ()
        self._asked_at: float | None = None
        self._told: tuple[str, float] = ("", 0.0)
        self._told_overdue: set[str] = set()

    def until(self, world: World, revision: int, instances: Collection[str], seconds: float) -> Waited:
        """Wait until every sidecar has applied the revision and has no call under way to these instances.

        `world`: the map, for its epoch and its leases. A sidecar whose lease is overdue is not awaited.
        """
        begun = self._session.timer()
        self._told = ("", begun)
        self._leases = tuple(name for name in world.leases if is_sidecar(name))
        awaited, away = Awaited(revision, behind=tuple(map(host_of, self._leases))), ""
        pause = FIRST_PAUSE_SECONDS
        while True:
            passed = self._session.timer() - begun
            try:
                awaited, away = self._look(world, revision, instances), ""
                if awaited.is_over:
                    return Waited(awaited, passed, True)
            except Unavailable as error:
                away = plain(error.message)
            if passed >= seconds:
                return Waited(awaited, passed, False, away)
            self._progress(f"Atlas is away: {away}" if away else f"waiting for {awaited.told()}")
            took = (
                self._session.timer() - begun - passed
            )  # of many sidecars it takes a while: half of the time is theirs
            self._session.sleep(min(max(pause, took), max(seconds - passed, 0.001)))
            pause = min(POLL_SECONDS, 2 * pause)

    def _look(self, world: World, revision: int, instances: Collection[str]) -> Awaited:
        directory = self._session.directory
        if not world.position.revision:
            # A catalogue has its epoch from its first write, which may be the one that is waited for.
            world = directory.world()
        try:
            reports = directory.reports()
        except NotFound:
            raise Unavailable(
                "this Atlas is older than the sidecars: it knows no reports. Bring it up to date."
            ) from None
        if any(lease not in reports for lease in self._leases):
            self._look_at_leases()
        awaited = look(
            reports,
            revision=revision,
            epoch=world.position.epoch,
            instances=instances,
            leases=self._leases,
            overdue=self._overdue,
        )
        for host in awaited.overdue:
            if host not in self._told_overdue:
                self._told_overdue.add(host)
                self._say(
                    f"not waiting for the sidecar of {plain(host)}: its lease is overdue. If its HAProxy still runs, it goes by what it knew"
                )
        return awaited

    def _look_at_leases(self) -> None:
        """Which leases are there still, and which of them are overdue; once a second, since it costs more."""
        now = self._session.timer()
        if self._asked_at is not None and now - self._asked_at < _STATUS_EVERY_SECONDS:
            return
        self._asked_at = now
        status = self._session.directory.status()
        if "leases" in status:
            self._leases = tuple(str(one["id"]) for one in status["leases"] if is_sidecar(str(one["id"])))
            self._overdue = standing.overdue_of(status, self._session.clock())

    def _progress(self, line: str) -> None:
        last, at = self._told
        now = self._session.timer()
        if line != last and now - at >= TOLD_EVERY_SECONDS:
            self._told = (line, now)
            self._say(line)


def limit_text(seconds: float) -> str:
    """A time that was given as a limit."""
    return f"{seconds:g} s" if seconds < 10 else span(seconds)


def no_sidecars(realm: str) -> str:
    """What it means that nobody reports."""
    return (
        f"no sidecar in realm {realm}: callers follow the map themselves and go by it within a second or so; "
        "whether their calls under way have ended is not known here"
    )


def uncovered(world: World, hosts: Iterable[str]) -> tuple[str, ...]:
    """Hosts on which something runs, and no sidecar: callers there go by the map themselves."""
    covered = set(hosts)
    return tuple(
        sorted({one.host for inner in world.instances.values() for one in inner.values() if one.host not in covered})
    )


def told_uncovered(hosts: Collection[str]) -> str:
    """The same in words; empty for none."""
    if not hosts:
        return ""
    listed = ", ".join(plain(host) for host in sorted(hosts)[:8]) + (" ..." if len(hosts) > 8 else "")
    are = "has" if len(hosts) == 1 else "have"
    return f"{count(len(hosts), 'host')} {are} no sidecar ({listed}): callers there follow the map themselves, their calls are not counted"
