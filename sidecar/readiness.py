"""Whether one of this host's own instances is to take calls, decided from what its checks find. Pure: the clock is
handed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sidecar.checks import Answer

Phase = Literal["starting", "ready", "not ready", "recovering", "draining", "gone", "leaving"]
"""starting: never ready yet, and not in the map. ready: takes calls. not ready: its checks fail. recovering: they do so
no more, and it waits until that has lasted. draining: it says that it is about to stop. gone: nobody listens, and its
process is over or has not been heard of for long. leaving: it has been withdrawn, and is in the map for a moment so
that everybody lets go of it."""

BAD_IN_ROW = 2
"""So many bad answers one after the other take an instance out; one may be an accident."""

WAITS = (2.0, 8.0, 30.0, 60.0)
"""For how many seconds an instance must be ready before it is taken back: after its first loss, its second ... So one
that flaps without end changes the routing a handful of times, and then once a minute at the most."""

FORGIVEN_SECONDS = 180.0
"""After so many seconds of being ready nothing is held against an instance any more."""

GONE_SECONDS = 30.0
"""So long after its process has ended an instance that said nothing is dropped, and its file removed."""

SILENT_SECONDS = 600.0
"""The same for one whose process is not known, when nobody has listened on its port all the time. Its file stays."""

_JITTER = 0.9
"""Checks do not come exactly on time: so much of a wait counts as all of it."""


@dataclass
class Readiness:
    """What is held of one instance. Not thread-safe."""

    clock: Callable[[], float]
    phase: Phase = "starting"
    reason: str = "has not answered yet"
    since: float = 0.0
    """When the phase began, by the clock."""
    losses: int = 0
    """How often it stopped being ready without having said so."""
    bad: int = 0
    good_since: float | None = None
    refused_since: float | None = None
    gone_since: float | None = None

    @property
    def wait_seconds(self) -> float:
        """For how long it must be ready before it is taken (back)."""
        return WAITS[min(self.losses, len(WAITS)) - 1] if self.losses else 0.0

    @property
    def is_suspect(self) -> bool:
        """Whether something is held against it: then its checks come at random times, so that nothing that flaps in
        step with them looks well."""
        return self.losses > 0

    def answered(self, answer: Answer) -> None:
        """Take what a check found."""
        now = self.clock()
        if not answer.refused:
            self.refused_since = None
        elif self.refused_since is None:
            self.refused_since = now
        if answer.ok and self.gone_since is None:
            self._good(now)
        else:
            self._bad(now, answer)

    def gone(self) -> None:
        """Its process has ended."""
        if self.gone_since is None:
            self.gone_since = self.clock()

    def drains(self) -> None:
        """It says that it is about to stop; nothing is held against it for that."""
        if self.phase != "draining":
            self._become("draining", "says that it drains")

    def begins(self) -> None:
        """It was started anew, or it drains no more: it is in as soon as it is ready, unless it was lost before."""
        self.bad, self.good_since, self.refused_since, self.gone_since = 0, None, None, None
        if self.phase == "ready":
            # A new process on the same port. Where it took the port over from the old one nothing is lost; else the old
            # one was killed, and the next answer says so.
            self.bad = BAD_IN_ROW - 1
        elif self.phase in ("draining", "gone"):
            self._become("starting", "has not answered yet")

    def inherits(self, *, draining: bool) -> None:
        """It was in the map already when this agent began: it stays as it was until its checks say otherwise."""
        if draining:
            self._become("not ready", "has not answered yet")
        else:
            self._become("ready", "was ready when the sidecar began")

    def passes(self) -> None:
        """Let time alone do what it does."""
        now = self.clock()
        if self.phase == "ready" and self.losses and now - self.since >= FORGIVEN_SECONDS:
            self.losses = 0
        if self.phase == "gone":
            return
        if self.gone_since is not None and now - self.gone_since >= GONE_SECONDS:
            self._become("gone", "its process has ended")
        elif self.phase == "starting":
            return  # not in the map, so there is nothing to drop
        elif self.refused_since is not None and now - self.refused_since >= SILENT_SECONDS:
            self._become("gone", f"nobody has listened there for {SILENT_SECONDS:g} s")

    def _good(self, now: float) -> None:
        self.bad = 0
        self.good_since = now if self.good_since is None else self.good_since
        if self.phase in ("ready", "draining"):
            return
        if self.phase == "gone":
            self._become("starting", "answers again")
        if now - self.good_since >= self.wait_seconds * _JITTER:
            self._become("ready", "is ready")
        elif self.phase != "recovering":
            self._become("recovering", f"was lost {_times(self.losses)}, and must be ready for {self.wait_seconds:g} s")

    def _bad(self, now: float, answer: Answer) -> None:
        self.bad += 1
        self.good_since = None
        is_over = answer.refused and self.gone_since is not None
        says = answer.says if self.gone_since is None else f"its process has ended; the port {answer.says}"
        if self.phase in ("starting", "not ready"):
            self.reason = says
        elif self.phase == "recovering":
            self._become("not ready", says)
        elif self.phase == "ready" and (self.bad >= BAD_IN_ROW or is_over):
            self._lose(says)

    def _lose(self, reason: str) -> None:
        self.losses += 1
        self._become("not ready", reason)

    def _become(self, phase: Phase, reason: str) -> None:
        self.phase, self.reason, self.since = phase, reason, self.clock()


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
