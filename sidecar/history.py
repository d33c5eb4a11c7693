"""One service from plan to plan: what it was, what vanished from it and came back, and what follows from that now.

The order in which the rules act is that of `advance`; the rules themselves are in `rules`, `damping` and `guard`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from atlas.model import Instance, Ruling, Service, is_time
from atlas.world import World
from sidecar.damping import Flaps
from sidecar.guard import WINDOW_SECONDS, Held, Watch
from sidecar.model import Decision, Guard, Route
from sidecar.rules import Candidate, State, arrange, judge, ruling_in_force
from sidecar.usable import Terms, instances_of, read_terms

_SOON = 0.01
"""Seconds until it is looked again whether a ruling has ended, when the two clocks do not agree."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What is the same for every service of one plan."""

    world: World
    now: float
    """By the monotonic clock."""
    today: float
    """Time of day."""
    zone: str
    unready: frozenset[tuple[str, str]]
    resolve: Callable[[str, str], str | None]
    """The address of a host name, asked for a service."""
    is_taken: Callable[[str, str], bool]
    """Whether an address (of a service) has become that of another service."""


@dataclass(slots=True)
class History:
    """What is remembered of one service, and what was decided last."""

    name: str
    entry: Service | None = None
    entry_epoch: str = ""
    """Of the map that gave the entry."""
    epoch: str = ""
    """Of the map as it was last."""
    terms: Terms | None = None
    """The last ones that could be used."""
    usable: Service | None = None
    """The entry that gave them."""
    instances: Mapping[str, Instance] = field(default_factory=dict)
    rulings: Mapping[str, Ruling] = field(default_factory=dict)
    states: Mapping[str, State] = field(default_factory=dict)
    watch: Watch = field(default_factory=Watch)
    flaps: dict[str, Flaps] = field(default_factory=dict)
    seen: bool = False
    """Whether it was planned before."""
    route: Route | None = None
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    guard: Guard | None = None
    trouble: str | None = None
    """Why its entry cannot be used."""
    again_at: float | None = None

    def advance(self, moment: Moment) -> None:
        """Bring everything that was decided in line with this moment."""
        world, name = moment.world, self.name
        present = instances_of(world.instances.get(name))
        found = {
            address: self._judged(address, present[address], self._ruling(address, world), moment)
            for address in present
        }
        states = self._follow(present, found, moment)
        candidates = [*found.values(), *self._held(moment)]
        rulings = ((address, self._ruling(address, world)) for address in present)
        self.rulings = {address: ruling for address, ruling in rulings if ruling is not None}
        self.instances, self.states, self.epoch, self.seen = present, states, world.position.epoch, True
        self._read_entry(world, bool(candidates))
        self._decide(sorted(candidates, key=lambda one: one.address), present, moment)
        self.guard = self.watch.describe(name)
        self.flaps = {address: flaps for address, flaps in self.flaps.items() if not flaps.is_over(moment.now)}
        self.again_at = self._next_time(candidates, moment)

    def give_up(self, world: World, trouble: str, today: float) -> None:
        """Something unforeseen went wrong: what was routed last stays, and every instance is named."""
        self.trouble = trouble
        present = instances_of(world.instances.get(self.name))
        told = f"The service cannot be planned: {trouble}."
        self.decisions = {
            address: self.decisions.get(address) or Decision(address, "quarantined", "invalid", told, today)
            for address in (*present, *(held for held in self.watch.held if held not in present))
        }
        self.again_at = None

    @property
    def is_gone(self) -> bool:
        """Whether there is nothing to say of it."""
        return self.route is None and not self.decisions and self.trouble is None

    def is_over(self, now: float) -> bool:
        """Whether nothing in its past counts for what comes next, or it is there again."""
        return not self.is_gone or (
            all(flaps.is_over(now) for flaps in self.flaps.values())
            and all(now - loss.at >= WINDOW_SECONDS for loss in self.watch.losses)
        )

    def knows(self, address: str) -> bool:
        """Whether this address was one of its instances lately."""
        return address in self.instances or address in self.watch.held or address in self.flaps

    # Who is there

    def _judged(self, address: str, instance: Instance, ruling: Ruling | None, moment: Moment) -> Candidate:
        return judge(
            self.name,
            address,
            instance,
            ruling,
            unready=(self.name, address) in moment.unready,
            resolve=lambda host: moment.resolve(self.name, host),
            today=moment.today,
        )

    def _ruling(self, address: str, world: World) -> Ruling | None:
        return world.rulings.get(f"{self.name}/{address}")

    def _follow(self, present: Mapping[str, Instance], found: dict[str, Candidate], moment: Moment) -> dict[str, State]:
        """Damping and the guard: notice who came and who left. Gives the state of each that is present."""
        now, watch = moment.now, self.watch
        watch.returned(present)
        for address in present:
            if address in self.flaps and address not in self.instances:
                flaps = self.flaps[address]
                self.flaps[address] = flaps.came(now) if self.seen else flaps.begun_anew(now)
        watch.make_room([address for address in (*watch.held, *watch.let_go) if moment.is_taken(self.name, address)])
        lost, restless = self._left(present, moment)
        waiting = [address for address, one in found.items() if one.state == "able" and self._waits(address, now)]
        left = sum(one.state == "able" for one in found.values()) - len(waiting)
        if waiting:
            self._damp(found, waiting, left, now)
        for address, held in restless.items():
            watch.hold(address, held)
        if lost:
            before = sum(state == "able" for state in self.states.values())
            watch.lose(lost, before=before, left=left, now=now)
        if watch.held:
            self._review_held(sum(one.state == "able" for one in found.values()), moment)
        self._accept(moment.world.services.get(self.name))
        return {address: one.state for address, one in found.items()}

    def _waits(self, address: str, now: float) -> bool:
        return address in self.flaps and self.flaps[address].waits(now)

    def _damp(self, found: Mapping[str, Candidate], waiting: list[str], steady: int, now: float) -> None:
        """Keep out those that came and went too often. Never more of them than there are steady ones: a service is not emptied,
        nor left to a few, because its instances or the map are restless; then they are called on, there or not."""
        restless = sum(flaps.is_restless(now) for flaps in self.flaps.values())
        for address in waiting:
            one, flaps = found[address], self.flaps[address]
            one.reason = "damping"
            if restless <= steady:
                one.state, one.standing, one.says = "damped", "out", f"{flaps.says()}."
            else:
                one.standing, one.says = (
                    "held",
                    f"{flaps.says()}; it is called all the same, since too few others are there.",
                )

    def _review_held(self, left: int, moment: Moment) -> None:
        """Follow the operator's word on those that are held, and let go who does not answer."""
        watch = self.watch
        watch.refresh_rulings(lambda address: self._ruling(address, moment.world), moment.world.position.epoch)
        watch.release_silent(left, moment.now)

    def _accept(self, entry: Service | None) -> None:
        if isinstance(entry, Service) and is_time(entry.loss_accepted_at):
            self.watch.follow_acceptance(entry.loss_accepted_at, first=not self.seen)

    def _left(self, present: Mapping[str, Instance], moment: Moment) -> tuple[dict[str, Held], dict[str, Held]]:
        """Who vanished without having drained, of those who took calls: steady ones, and ones that come and go. Whose address
        is another service's from now on has moved, and is neither."""
        lost: dict[str, Held] = {}
        restless: dict[str, Held] = {}
        for address, instance in self.instances.items():
            if address in present:
                continue
            state = self.states.get(address)
            ruling = ruling_in_force(self._ruling(address, moment.world), moment.today)
            allowed = state == "draining" or (ruling is not None and ruling.state != "enabled")
            if allowed or moment.is_taken(self.name, address):  # moved to another service, or its service was renamed
                if address in self.flaps:
                    self.flaps[address] = self.flaps[address].parted(moment.now)
                continue
            flaps = self.flaps.get(address, Flaps())
            if state == "able":
                before = self.decisions.get(address)
                held = Held(instance, self.rulings.get(address), moment.today, self.epoch)
                (restless if before is not None and before.reason == "damping" else lost)[address] = held
            self.flaps[address] = flaps.left(moment.now)
        return lost, restless

    def _held(self, moment: Moment) -> list[Candidate]:
        """Those that are gone from the map and called all the same, under the same rules as the others."""
        found = []
        for address, held in self.watch.held.items():
            one = self._judged(address, held.instance, held.ruling, moment)
            if one.state == "able":
                one.standing, one.reason = "held", "guard"
                one.says = "It vanished from the map without having drained, with too many others; it is called on."
            found.append(one)
        return found

    # What follows

    def _read_entry(self, world: World, is_there: bool) -> None:
        """What the catalogue says of the service. It stays in force without an entry while instances are there (or held), unless
        the same map takes it back: a map that was emptied has said nothing."""
        entry = world.services.get(self.name)
        if entry is not None:
            self.entry, self.entry_epoch = entry, world.position.epoch
        elif not is_there or (self.entry_epoch == world.position.epoch and not self.watch.held):
            self.entry = None
        terms = read_terms(self.name, self.entry)
        if isinstance(terms, Terms):
            self.terms, self.usable, self.trouble = terms, self.entry, None
        else:
            self.trouble = f"{terms}; what was known before stays in force" if self.terms else terms
        if self.entry is None and not is_there:
            self.terms = None

    def _decide(self, candidates: list[Candidate], present: Mapping[str, Instance], moment: Moment) -> None:
        route = None
        if self.terms is None:
            for one in candidates:
                one.standing, one.reason = "quarantined", "invalid"
                one.says = f"The service cannot be routed: {self.trouble}."
        else:
            route = arrange(self.name, self.terms, candidates, moment.zone)
        if self.route is None or route != self.route:
            self.route = route
        decisions = {one.address: self._decision(one, moment) for one in candidates}
        if decisions != self.decisions:
            self.decisions = decisions

    def _decision(self, one: Candidate, moment: Moment) -> Decision:
        """What became of one. It was decided when it was decided first."""
        before = self.decisions.get(one.address)
        revision = moment.world.position.revision if one.reason in ("ruling", "version") else 0
        since = moment.today
        held = self.watch.held.get(one.address)
        if before is not None and before.standing == one.standing and before.reason == one.reason:
            since = before.since
            if before.says == one.says:
                revision = before.revision
        elif held is not None and one.reason == "guard":
            since = held.since
        instance = one.instance
        if one.state == "invalid":
            return Decision(one.address, one.standing, one.reason, one.says, since, revision)
        return Decision(
            one.address,
            one.standing,
            one.reason,
            one.says,
            since,
            revision,
            one.weight,
            instance.version,
            instance.zone,
        )

    def _next_time(self, candidates: list[Candidate], moment: Moment) -> float | None:
        """When, by the monotonic clock, time alone changes what was decided."""
        times = [moment.now + max(_SOON, one.ends_at - moment.today) for one in candidates if one.ends_at is not None]
        times += [self.flaps[one.address].until for one in candidates if one.reason == "damping"]
        return min(times, default=None)
