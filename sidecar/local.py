"""The instances of this host: who announces itself, whether each is ready, and what the lease of the host says of them.

    announce/*.json --Folder--> Announced --checks--> Readiness --> instances() for the lease
                                                                └─> own_instances() for the operator

One thread does it all: it looks into the folder several times a second, and asks each instance once in `check_seconds`
through a selector, so that one that hangs holds up no other.
"""

from __future__ import annotations

import logging
import os
import random
import select
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

from atlas.announcement import is_gone, own_pid_space
from atlas.model import Instance
from sidecar.announced import Announced, Folder
from sidecar.checks import Answer, Check
from sidecar.facts import OwnInstance
from sidecar.readiness import Phase, Readiness
from sidecar.resolve import Resolver
from sidecar.settings import Settings
from sidecar.usable import literal

POLL_SECONDS = 0.15
"""Between two looks into the folder, and the grain of the checks: waking up is what costs most."""

LEAVING_SECONDS = 2.0
"""So long an instance that was withdrawn without having drained is in the map as draining: the others let go of it, and
their guards miss nobody."""

NAME_SECONDS = 1.0
"""So long a name may take until it has an address."""

MEMORY_SECONDS = 600.0
"""So long it is remembered what is held against an instance that was withdrawn."""

_log = logging.getLogger("sidecar")


@dataclass(slots=True, eq=False)
class _Known:
    """What is followed of one announced instance."""

    announced: Announced
    readiness: Readiness
    due: float
    check: Check | None = None
    answer: Answer | None = None
    checks: int = 0
    unknown_since: float | None = None
    """Since when its host is a name without an address."""
    process: int | None = None
    """A descriptor that becomes readable when its process ends."""


class Local:
    """Follows the announced instances of this host. Reading is safe from any thread and takes no lock; `on_change` is
    called in the thread of the checks. `turn` is one pass, for those who have a thread of their own."""

    def __init__(
        self,
        settings: Settings,
        *,
        on_change: Callable[[], object] | None = None,
        resolver: Resolver | None = None,
        check: Callable[[str, int, str, float], Check] = Check,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self.on_change = on_change
        self._resolver = resolver or Resolver()
        self._owns_resolver = resolver is None
        self._check = check
        self._clock = clock
        self._wall_clock = wall_clock
        self._spread = spread
        self._folder = Folder(settings.announcements, host=settings.host, zone=settings.zone)
        self._known: dict[str, _Known] = {}
        self._inherited: dict[str, Instance] = {}
        self._leaving: dict[str, tuple[Instance, float]] = {}
        self._remembered: dict[str, tuple[int, float]] = {}
        self._instances: tuple[Instance, ...] = ()
        self._unready: frozenset[tuple[str, str]] = frozenset()
        self._dirty = True
        self._seconds = min(0.8 * settings.check_seconds, 2.0)
        self._next_poll = 0.0
        self._began_at: float | None = None
        self.settled = False
        """Whether each instance that was there at the start has been asked. Before that the lease of the host must not be
        renewed."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._poll = select.poll()
        self._watched: dict[int, _Known] = {}

    # -- reading -------------------------------------------------------------------------------------------------------

    def instances(self) -> tuple[Instance, ...]:
        """What the lease of this host carries: those that are ready, and as draining those that nobody is to call any
        more."""
        return self._instances

    def unready(self) -> frozenset[tuple[str, str]]:
        """The announced instances that take no calls now, as service and `host:port`."""
        return self._unready

    def problems(self) -> Mapping[str, str]:
        """By path: why a file is not used."""
        return self._folder.problems

    def own_instances(self) -> list[OwnInstance]:
        """Every announced instance, by service and address."""
        now, wall = self._clock(), self._wall_clock()
        found = [_told(one, wall - now) for one in tuple(self._known.values())]
        for instance, until in tuple(self._leaving.values()):
            if not any(one.service == instance.service and one.address == instance.address for one in found):
                since = wall - now + until - LEAVING_SECONDS
                found.append(OwnInstance(instance.service, instance.address, "leaving", "was withdrawn", since))
        return sorted(found, key=lambda one: (one.service, one.address))

    # -- running -------------------------------------------------------------------------------------------------------

    def inherit(self, instances: Iterable[Instance]) -> None:
        """What the map says that this host carries, from before this agent began: nobody leaves the map because the
        agent was restarted. Before `start`."""
        self._inherited = {one.key: replace(one, lease="") for one in instances}

    def start(self) -> Local:
        """Follow the instances in a thread of its own. Idempotent."""
        if self._thread is None and not self._stop.is_set():
            self._thread = threading.Thread(target=self._run, name="sidecar-local", daemon=True)
            self._thread.start()
        return self

    def close(self) -> None:
        """Follow no more; what was found stays readable."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)
        for one in self._known.values():
            self._forget(one)
        if self._owns_resolver:
            self._resolver.close()

    def turn(self, longest: float = POLL_SECONDS) -> None:
        """Look into the folder if it is time, begin the checks that are due, and take what has arrived within `longest`
        seconds."""
        now = self._clock()
        if self._began_at is None:
            self._began_at = now
        if now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            if (wanted := self._folder.look()) is not None:
                self._arrange(wanted)
            self._pass()
        now = self._clock()
        for one in self._known.values():
            if one.check is None and now >= one.due:
                self._ask(one, now)
        self._take(longest)
        if self._dirty or not self.settled:
            self._show()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.turn()
            except Exception:
                _log.exception("the instances of this host could not be followed, trying again")
                self._stop.wait(1.0)

    # -- the folder ----------------------------------------------------------------------------------------------------

    def _arrange(self, wanted: Mapping[str, Announced]) -> None:
        """Follow what is announced now."""
        self._dirty = True
        for key in self._known.keys() - wanted.keys():
            self._withdrawn(key)
        for key, announced in wanted.items():
            if key in self._known:
                self._changed(self._known[key], announced)
            else:
                self._arrived(key, announced)
        for key in self._inherited.keys() - wanted.keys():
            self._leaving[key] = (self._inherited[key], self._clock() + LEAVING_SECONDS)
        self._inherited = {}

    def _arrived(self, key: str, announced: Announced) -> None:
        now = self._clock()
        remembered, _ = self._remembered.pop(key, (0, 0.0))
        one = self._known[key] = _Known(announced, Readiness(self._clock, since=now, losses=remembered), due=now)
        if (before := self._inherited.get(key)) is not None:
            same = before.incarnation == announced.instance.incarnation
            one.readiness.inherits(draining=before.draining or not same)
        if announced.announcement.draining:
            one.readiness.drains()
        self._watch(one)

    def _changed(self, one: _Known, announced: Announced) -> None:
        before, told = one.announced.announcement, announced.announcement
        one.announced = announced
        if before == told:
            return
        is_new = before.incarnation != told.incarnation
        if is_new or (before.draining and not told.draining):
            self._drop_check(one)  # what it finds is about the time before
            one.readiness.begins()
            one.due = self._clock()
        if told.draining:
            one.readiness.drains()
        if before.draining != told.draining:
            _log.info("%s %s", one.announced.instance.key, "drains" if told.draining else "drains no more")
        if is_new or (before.pid, before.pid_space) != (told.pid, told.pid_space):
            one.readiness.gone_since = None
            self._unwatch(one)
            self._watch(one)

    def _withdrawn(self, key: str) -> None:
        one, now = self._known.pop(key), self._clock()
        self._forget(one)
        readiness = one.readiness
        if readiness.losses:
            self._remembered[key] = (readiness.losses, now + MEMORY_SECONDS)
        if readiness.phase == "ready":
            _log.warning("%s is announced no more, and had not drained", key)
        else:
            _log.info("%s is announced no more", key)
        if readiness.phase not in ("starting", "gone"):
            # Those that the map has shown as draining for a while have nothing to wait for.
            began = now if readiness.phase == "ready" else readiness.since
            self._leaving[key] = (one.announced.instance, began + LEAVING_SECONDS)

    # -- the checks ----------------------------------------------------------------------------------------------------

    def _ask(self, one: _Known, now: float) -> None:
        one.due = now + self._interval(one)
        told, instance = one.announced.announcement, one.announced.instance
        if one.readiness.gone_since is None and one.process is None and is_gone(told, self._pid_space):
            one.readiness.gone()
        host = literal(instance.host) or self._resolver.resolve(instance.host)
        if host is None:
            one.unknown_since = now if one.unknown_since is None else one.unknown_since
            if now - one.unknown_since < NAME_SECONDS:
                one.due = now + POLL_SECONDS  # it is looked up at this moment
            else:
                self._answered(one, Answer(False, f"has a name that cannot be looked up: {instance.host}"))
            return
        one.unknown_since = None
        check = self._check(host, told.health_port or told.port, told.health, self._seconds)
        answer = check.start()
        if answer is not None:
            self._answered(one, answer)
            return
        one.check = check
        self._register(check.fileno(), one, select.POLLOUT if check.writes else select.POLLIN)

    def _interval(self, one: _Known) -> float:
        """Until the next check: a bit more or less than usual, so that those of many instances spread."""
        share = 0.5 + self._spread() if one.readiness.is_suspect else 0.95 + self._spread() / 10
        return self.settings.check_seconds * share

    def _take(self, longest: float) -> None:
        """Wait for what comes next, at most `longest`, and take it."""
        now = self._clock()
        deadlines = [one.check.deadline for one in self._known.values() if one.check is not None]
        left = max(0.0, min([longest, *(moment - now for moment in (self._next_poll, *deadlines))]))
        for descriptor, _ in self._poll.poll(left * 1000):
            one = self._watched.get(descriptor)
            if one is None:
                continue
            if descriptor == one.process:
                self._ended(one)
            elif one.check is not None:
                self._advance(one, descriptor)
        now = self._clock()
        for one in self._known.values():
            if one.check is not None and now >= one.check.deadline:
                self._unregister(one.check.fileno())
                self._answered(one, one.check.expire())

    def _advance(self, one: _Known, descriptor: int) -> None:
        assert one.check is not None
        answer = one.check.advance()
        if answer is None:
            self._poll.modify(descriptor, select.POLLOUT if one.check.writes else select.POLLIN)
            return
        self._unregister(descriptor)
        self._answered(one, answer)

    def _answered(self, one: _Known, answer: Answer) -> None:
        one.check, one.answer = None, answer
        one.checks += 1
        before = one.readiness.phase
        one.readiness.answered(answer)
        self._note(one, before)
        if one.readiness.gone_since is not None and one.readiness.phase == "ready":
            # Workers that have lost their master answer for a moment longer.
            one.due = min(one.due, self._clock() + self.settings.check_seconds / 5)

    # -- processes -----------------------------------------------------------------------------------------------------

    def _watch(self, one: _Known) -> None:
        """Hear of the end of its process at once, where the kernel and its pid allow it; else it is looked for with
        each check."""
        told = one.announced.announcement
        gone = is_gone(told, self._pid_space)
        if gone:
            one.readiness.gone()
        if gone is not False or told.pid is None:
            return
        with suppress(AttributeError, OSError):
            one.process = os.pidfd_open(told.pid)
            self._register(one.process, one, select.POLLIN)

    def _ended(self, one: _Known) -> None:
        self._unwatch(one)
        one.readiness.gone()
        if one.check is None:
            one.due = self._clock()

    def _unwatch(self, one: _Known) -> None:
        if one.process is not None:
            self._unregister(one.process)
            os.close(one.process)
            one.process = None

    def _forget(self, one: _Known) -> None:
        self._unwatch(one)
        self._drop_check(one)

    def _drop_check(self, one: _Known) -> None:
        if one.check is not None:
            self._unregister(one.check.fileno())
            one.check.close()
            one.check = None

    @cached_property
    def _pid_space(self) -> str:
        return own_pid_space()

    def _register(self, descriptor: int, one: _Known, event: int) -> None:
        self._watched[descriptor] = one
        self._poll.register(descriptor, event)

    def _unregister(self, descriptor: int) -> None:
        if self._watched.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    # -- what others see -----------------------------------------------------------------------------------------------

    def _pass(self) -> None:
        """Let time alone do what it does."""
        now = self._clock()
        for table in (self._leaving, self._remembered):
            for key in [key for key, (_, until) in table.items() if until <= now]:
                del table[key]
                self._dirty = True
        for one in self._known.values():
            before = one.readiness.phase
            one.readiness.passes()
            self._note(one, before)
            is_dead = one.readiness.phase == "gone" and one.readiness.gone_since is not None
            if is_dead and self._folder.remove(one.announced):
                _log.warning("%s was removed: its process has ended without taking it away", one.announced.path)

    def _note(self, one: _Known, before: Phase) -> None:
        after = one.readiness.phase
        if after != before:
            self._dirty = True
            level = logging.WARNING if before == "ready" and after != "draining" else logging.INFO
            reason = one.readiness.reason
            why = "" if reason in ("", f"is {after}") else f": {reason}"
            _log.log(level, "%s is %s%s", one.announced.instance.key, after, why)

    def _show(self) -> None:
        now = self._clock()
        carried = dict(self._inherited)
        for key, (instance, _) in self._leaving.items():
            carried[key] = replace(instance, draining=True)
        unready = set()
        for key, one in self._known.items():
            instance, phase = one.announced.instance, one.readiness.phase
            if phase not in ("starting", "gone"):
                carried[key] = replace(instance, draining=phase != "ready")
            if phase != "ready":
                unready.add((instance.service, instance.address))
        before, was_settled = self._instances, self.settled
        self._instances = tuple(carried[key] for key in sorted(carried))
        self._unready = frozenset(unready)
        self._dirty = False
        if not was_settled:
            waited = 0.0 if self._began_at is None else now - self._began_at
            if waited >= 2 * self.settings.check_seconds or all(one.answer for one in self._known.values()):
                self.settled = True
        if self.settled and (not was_settled or self._instances != before):
            self._tell()

    def _tell(self) -> None:
        if self.on_change is not None:
            try:
                self.on_change()
            except Exception:
                _log.exception("what follows the instances of this host could not take a change")


def _told(one: _Known, to_wall: float) -> OwnInstance:
    readiness, instance = one.readiness, one.announced.instance
    return OwnInstance(
        instance.service,
        instance.address,
        readiness.phase,
        readiness.reason,
        readiness.since + to_wall,
        one.checks,
    )
