"""Which instance takes a call when the client chooses itself, and which are left out for a while.

Power of two choices: of two instances drawn by weight the one with the smaller `(calls under way + 1) x latency` takes the
call. A failure counts as a slow answer, so an instance that fails fast attracts nothing. What is remembered fades.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from atlas.world import Place


@dataclass(frozen=True, slots=True)
class Settings:
    """How instances are judged."""

    smoothing: float = 0.2
    """The weight of the newest latency in the average."""
    fade_seconds: float = 5.0
    """In this time the memory of a latency shrinks to 37 %."""
    failure_factor: float = 20.0
    """A failure counts as this many times the usual latency, and as 50 ms at least."""
    warm_up_seconds: float = 20.0
    """A new instance comes to its full share in this time."""
    failures_in_row: int = 5
    failure_rate: float = 0.5
    least_calls: int = 10
    """Of one window, before its failure rate counts."""
    window_seconds: float = 10.0
    eject_seconds: float = 2.0
    longest_eject_seconds: float = 60.0
    most_ejected: float = 0.5
    """The part of the instances that may be left out at once."""


class Member:
    """What is known of one instance. Changed under the lock of its balancer."""

    __slots__ = (
        "address", "born_at", "calls", "ejected_until", "failed_calls", "failures_in_row", "host", "incarnation", "latency",
        "on_probation", "port", "socket_address", "times_ejected", "under_way", "updated_at", "weight", "window_at", "zone",
    )  # fmt: skip

    def __init__(self, place: Place, born_at: float) -> None:
        instance = place.instance
        self.address = instance.address
        self.socket_address = (instance.host, instance.port)
        self.incarnation = instance.incarnation
        self.zone = instance.zone
        self.weight = place.weight
        self.born_at = born_at
        self.under_way = 0
        self.latency = 0.0
        self.updated_at = born_at
        self.failures_in_row = self.calls = self.failed_calls = self.times_ejected = 0
        self.window_at = born_at
        self.ejected_until = -math.inf
        self.on_probation = False

    def __repr__(self) -> str:
        return f"<Member {self.address}: {self.under_way} under way, {self.latency:.4f} s>"


def expected_latency(member: Member, usual: float, now: float, settings: Settings) -> float:
    """The latency to reckon with: what was seen, fading to what is usual in the service."""
    if member.latency <= 0.0:
        return usual
    return usual + (member.latency - usual) * math.exp((member.updated_at - now) / settings.fade_seconds)


def share(member: Member, now: float, settings: Settings) -> float:
    """Its weight, less while it warms up."""
    age = now - member.born_at
    if age >= settings.warm_up_seconds:
        return member.weight
    return member.weight * max(0.1, age / settings.warm_up_seconds)


def is_failing(member: Member, settings: Settings) -> bool:
    """Whether it failed so often that it should be left out."""
    if member.on_probation:
        return member.failures_in_row > 0
    if member.failures_in_row >= settings.failures_in_row:
        return True
    return member.calls >= settings.least_calls and member.failed_calls >= settings.failure_rate * member.calls


def ejection_seconds(times: int, settings: Settings) -> float:
    """How long it is left out the `times`-th time in a row, counted from 1."""
    return min(settings.longest_eject_seconds, settings.eject_seconds * 2.0 ** min(times - 1, 16))


class Balancer:
    """The instances of one service, as this process knows them. Safe from any thread."""

    def __init__(
        self,
        *,
        zone: str = "",
        settings: Settings | None = None,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._zone = zone
        self._settings = settings or Settings()
        self._spread = spread
        self._lock = threading.RLock()  # a lease that is collected as garbage may leave in the middle of anything
        self._members: dict[str, Member] = {}
        self._ready: tuple[Member, ...] = ()
        self._alike = True
        self._review_at = -math.inf
        self._usual = 0.001

    def update(self, places: Iterable[Place], now: float) -> list[tuple[str, int]]:
        """Follow the map; gives the addresses that are gone. What is known of an instance stays until another incarnation is at
        its address."""
        with self._lock:
            first = not self._members
            members = {}
            for place in places:
                known = self._members.get(place.instance.address)
                if known is None or known.incarnation != place.instance.incarnation:
                    known = Member(place, -math.inf if first else now)
                known.weight, known.zone = place.weight, place.instance.zone
                members[known.address] = known
            gone = [known.socket_address for address, known in self._members.items() if address not in members]
            self._members = members
            self._review(now)
            return gone

    def pick(self, now: float, tried: Collection[str] = ()) -> Member | None:
        """The instance for the next attempt, one that is not in `tried` if there is one. Counts it as under way."""
        with self._lock:
            if now >= self._review_at:
                self._review(now)
            ready = self._ready
            if tried:
                ready = tuple(member for member in ready if member.address not in tried) or tuple(
                    member
                    for member in self._members.values()
                    if member.address not in tried and member.ejected_until <= now
                )
            ready = ready or self._ready
            if not ready:
                return None
            member = self._better(ready, now)
            member.under_way += 1
            return member

    def others(self, tried: Collection[str]) -> bool:
        """Whether an instance can be tried that has not been."""
        return any(member.address not in tried for member in self._ready)

    def leave(self, member: Member) -> None:
        """The call is no longer under way there. In a forked child one of the parent is no longer counted."""
        with self._lock:
            member.under_way = max(0, member.under_way - 1)

    def learn(self, member: Member, failed: bool, seconds: float, now: float) -> float | None:
        """Remember how an attempt went. Gives the seconds for which the instance is left out from now on, or None."""
        with self._lock:
            settings = self._settings
            if now - member.window_at > settings.window_seconds:
                member.window_at, member.calls, member.failed_calls = now, 0, 0
            member.calls += 1
            before = expected_latency(member, self._usual, now, settings)
            member.updated_at = now
            if not failed:
                member.failures_in_row = 0
                member.on_probation = False
                member.latency = before + (seconds - before) * settings.smoothing if member.latency else seconds
                self._usual += (seconds - self._usual) * settings.smoothing / max(1, len(self._members))
                return None
            member.failed_calls += 1
            member.failures_in_row += 1
            member.latency = max(before, seconds, settings.failure_factor * self._usual, 0.05)
            return self._eject(member, now) if is_failing(member, settings) else None

    def begin_anew(self) -> None:
        """In a forked child: the calls under way are the parent's."""
        self._lock = threading.RLock()
        for member in self._members.values():
            member.under_way = 0

    @property
    def usual_seconds(self) -> float:
        """The latency that is usual in the service."""
        return self._usual

    @property
    def members(self) -> tuple[Member, ...]:
        """All instances, for metrics and tests."""
        return tuple(self._members.values())

    def _eject(self, member: Member, now: float) -> float | None:
        if member.ejected_until > now:
            return None
        settings = self._settings
        out = sum(other.ejected_until > now for other in self._members.values())
        if out + 1 > settings.most_ejected * len(self._members):
            return None
        if now - member.ejected_until > settings.longest_eject_seconds:
            member.times_ejected = 0
        member.times_ejected += 1
        seconds = ejection_seconds(member.times_ejected, settings)
        member.ejected_until = now + seconds
        member.on_probation = True
        member.failures_in_row = member.calls = member.failed_calls = 0
        self._review(now)
        return seconds

    def _review(self, now: float) -> None:
        """Who may be drawn, until something changes."""
        members = tuple(self._members.values())
        ready = tuple(member for member in members if member.ejected_until <= now) or members
        if self._zone:
            near = tuple(member for member in ready if member.zone == self._zone)
            if near and 2 * len(near) >= sum(member.zone == self._zone for member in members):
                ready = near
        changes = [member.ejected_until for member in members if member.ejected_until > now]
        warming = any(now - member.born_at < self._settings.warm_up_seconds for member in ready)
        self._review_at = min([now + 1.0] * warming + changes, default=math.inf)
        self._ready = ready
        self._alike = not warming and len({member.weight for member in ready}) <= 1

    def _better(self, ready: tuple[Member, ...], now: float) -> Member:
        count = len(ready)
        if count == 1:
            return ready[0]
        spread = self._spread
        one = self._draw(ready, now)
        other = self._draw(ready, now)
        if one is other:
            others = ready[: (at := ready.index(one))] + ready[at + 1 :]
            other = others[int(spread() * (count - 1))] if self._alike else self._draw(others, now)
        return one if self._cost(one, now) <= self._cost(other, now) else other

    def _draw(self, ready: tuple[Member, ...], now: float) -> Member:
        """One of them, by weight."""
        spread, count = self._spread, len(ready)
        if self._alike:
            return ready[int(spread() * count)]
        shares = [share(member, now, self._settings) for member in ready]
        point = spread() * sum(shares)
        for member, part in zip(ready, shares, strict=True):
            point -= part
            if point < 0:
                return member
        return ready[-1]

    def _cost(self, member: Member, now: float) -> float:
        if member.on_probation and member.under_way:
            return math.inf  # one call at a time, until one succeeds
        return (member.under_way + 1) * expected_latency(member, self._usual, now, self._settings)
