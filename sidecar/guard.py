"""The guard: what vanishes from the map without having drained is called on, when too much of a service vanishes at once.

Absence of news is no removal, and neither is a map that was emptied. A minority that is lost is let go at once: that is what a
crash looks like. Counted is what took calls; who drained, was disabled or had the weight 0 leaves with its own word or the
operator's. Decided here for one service; times are those of a monotonic clock where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from atlas.model import Instance, Ruling
from sidecar.model import Guard

WINDOW_SECONDS = 30.0
"""Losses within this time count together."""
FRESH_SECONDS = 30.0
"""For so long it counts what a check has found out about an instance that is held."""


@dataclass(frozen=True, slots=True)
class Held:
    """One instance as it was before it vanished."""

    instance: Instance
    ruling: Ruling | None
    since: float
    """Time of day at which it vanished."""
    epoch: str = ""
    """Of the map that gave the ruling."""
    silent_at: float | None = None
    answered_at: float | None = None

    def is_silent(self, now: float) -> bool:
        """Whether a check has found lately that it does not answer."""
        return _is_fresh(self.silent_at, now)

    def answers(self, now: float) -> bool:
        """Whether a check has found lately that it answers."""
        return _is_fresh(self.answered_at, now)


@dataclass(frozen=True, slots=True)
class Loss:
    """What vanished at one moment, and how many took calls before that."""

    at: float
    of: int
    addresses: frozenset[str]


@dataclass(slots=True)
class Watch:
    """What the guard remembers of one service."""

    held: dict[str, Held] = field(default_factory=dict)
    let_go: dict[str, Held] = field(default_factory=dict)
    """Lost within the window, and let go since they were few."""
    losses: list[Loss] = field(default_factory=list)
    of: int = 0
    """How many took calls before what is held was lost."""
    accepted: float = 0.0
    """The newest `loss_accepted_at` that was seen."""

    def returned(self, addresses: Collection[str]) -> None:
        """These are in the map (again)."""
        for table in (self.held, self.let_go):
            for address in [address for address in table if address in addresses]:
                del table[address]
                self._forget(address)

    def lose(self, gone: Mapping[str, Held], *, before: int, left: int, now: float) -> None:
        """These vanished without having drained: `before` took calls until now, and `left` do so still or newly."""
        self.losses = [loss for loss in self.losses if now - loss.at < WINDOW_SECONDS]
        self.losses.append(Loss(now, before, frozenset(gone)))
        self.let_go.update(gone)
        within = frozenset[str]().union(*(loss.addresses for loss in self.losses))
        self.let_go = {address: held for address, held in self.let_go.items() if address in within}
        lost, size = too_many(self.losses, left)
        for address in sorted(lost):
            if address in self.let_go:
                self.held[address] = self.let_go.pop(address)
        self.of = max(self.of, size, len(self.held))

    def hold(self, address: str, held: Held) -> None:
        """Hold this one, whatever the others do."""
        self.held[address] = held
        self.of = max(self.of, len(self.held))

    def follow_acceptance(self, accepted_at: float, *, first: bool) -> None:
        """What the catalogue says of losses that are accepted. A word that is new counts for all that is lost by now, whatever
        the clocks say; one that was there before this sidecar looked (`first`) counts for what was lost before it."""
        if accepted_at <= self.accepted:
            return
        self.accepted = accepted_at
        self.release([address for address, held in self.held.items() if not first or held.since <= accepted_at])
        self.forgive()

    def release(self, addresses: Iterable[str]) -> tuple[str, ...]:
        """Let these go; gives those that were held."""
        found = tuple(address for address in tuple(addresses) if address in self.held)
        for address in found:
            del self.held[address]
            self._forget(address)
        if not self.held:
            self.of = 0
        return found

    def make_room(self, addresses: Collection[str]) -> None:
        """These addresses are another service's now: who had them is gone for good, and counts no more with what is lost next."""
        self.release(addresses)
        for address in addresses:
            if self.let_go.pop(address, None) is not None:
                self._forget(address)

    def forgive(self) -> None:
        """What was lost so far counts no more for what is lost next."""
        self.losses, self.let_go = [], {}

    def release_silent(self, left: int, now: float) -> tuple[str, ...]:
        """Let go who does not answer, when another does: one in the map that takes calls, or one held that answered."""
        silent = [address for address, held in self.held.items() if held.is_silent(now)]
        if not silent or not (left or any(held.answers(now) for held in self.held.values())):
            return ()
        return self.release(silent)

    def note(self, address: str, *, silent: bool, now: float) -> bool:
        """What a check has found out about one that is held; whether that may change anything."""
        held = self.held.get(address)
        if held is None:
            return False
        self.held[address] = replace(held, silent_at=now if silent else None, answered_at=None if silent else now)
        return any(one.is_silent(now) for one in self.held.values())

    def refresh_rulings(self, ruling_of: Callable[[str], Ruling | None], epoch: str) -> None:
        """Follow the operator's word on those that are held. In another map than the one that gave it, silence takes nothing
        back."""
        for address, held in self.held.items():
            ruling = ruling_of(address)
            if ruling is not held.ruling and (ruling is not None or held.epoch == epoch):
                self.held[address] = replace(held, ruling=ruling, epoch=epoch)

    def describe(self, service: str) -> Guard | None:
        """What is held, for the operator; None when nothing is."""
        if not self.held:
            return None
        addresses = tuple(sorted(self.held))
        of = max(self.of, len(addresses))
        says = (
            f"{len(addresses)} of {of} instances of {service} vanished from the map without having drained; they are called "
            f"on until they come back, do not answer while others do, or the loss is accepted: sidecar accept {service}."
        )
        return Guard(service, min(held.since for held in self.held.values()), len(addresses), of, addresses, says)

    def _forget(self, address: str) -> None:
        self.losses = [
            replace(loss, addresses=loss.addresses - {address}) if address in loss.addresses else loss
            for loss in self.losses
        ]


def too_many(losses: Iterable[Loss], left: int) -> tuple[frozenset[str], int]:
    """Which of these losses are too many together, and how many took calls before them. Empty: none.

    Compared is what was lost with the size before: from the oldest loss on, then from the next one on, and so forth. It is
    too many when more than half is lost, or nobody is left, unless half of the size is there (again, or at other addresses).
    """
    losses = list(losses)
    for first, loss in enumerate(losses):
        lost = frozenset[str]().union(*(later.addresses for later in losses[first:]))
        if lost and 2 * left < loss.of and (2 * len(lost) > loss.of or left == 0):
            return lost, loss.of
    return frozenset(), 0


def _is_fresh(at: float | None, now: float) -> bool:
    return at is not None and now - at <= FRESH_SECONDS
