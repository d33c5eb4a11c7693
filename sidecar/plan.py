"""From the map to what is to be routed, and why: the Planner.

It looks at the services of which something changed, and at those that time has changed; the others keep their objects. One
service that cannot be planned is quarantined with its reason, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from atlas.world import World
from sidecar import memory
from sidecar.history import History, Moment
from sidecar.model import Decision, Guard, Plan, Route
from sidecar.usable import instances_of, literal

_FORGET_SECONDS = 60.0

_SET_SECONDS = 1.0
"""By more than this the time of day does not run beside the monotonic clock: somebody has set it."""


class Planner:
    """Turns each World into a Plan. Cheap when little has changed. Not thread-safe: one thread calls it.

    `resolve` gives the address of a host name without waiting, None while there is none; it is never asked for an address.
    """

    def __init__(
        self,
        *,
        zone: str = "",
        resolve: Callable[[str], str | None],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._zone = zone
        self._resolve = resolve
        self._clock = clock
        self._wall_clock = wall_clock
        self.acceptances = 0
        """How often the operator's word has let somebody go."""
        self._world: World | None = None
        self._unready: frozenset[tuple[str, str]] = frozenset()
        self._histories: dict[str, History] = {}
        self._names = _Names(resolve)
        self._due: dict[str, float] = {}
        self._dirty: set[str] = set()
        self._held: dict[str, set[str]] = {}
        self._holders: dict[str, set[str]] = {}
        self._gone: set[str] = set()
        self._forget_at = 0.0
        self._ahead = 0.0
        self._plan = Plan()

    def plan(self, world: World, *, unready: Collection[tuple[str, str]] = ()) -> Plan:
        """What is to be routed in this world, and why. `unready`: (service, address) that this host's checks found not ready.

        Raises nothing because of what a world holds.
        """
        now, today = self._clock(), self._wall_clock()
        refused = frozenset(unready)
        touched = self._touched(world, refused, now) | self._to_end_at_another_moment(world, today - now)
        newcomers = self._newcomers(world, touched)
        moment = Moment(
            world,
            now,
            today,
            self._zone,
            refused,
            self._names.ask,
            lambda name, at: newcomers.get(at, name) != name,
        )
        touched |= {holder for at, name in newcomers.items() for holder in self._holders.get(at, ()) if holder != name}
        self._dirty.clear()
        for name in touched:
            self._advance(name, moment)
        self._world, self._unready = world, refused
        self._forget_gone(now)
        self._plan = self._assembled(world, touched)
        return self._plan

    def silent(self, service: str, address: str) -> None:
        """A held instance does not answer this host's check. It is let go with the next plan, when another one is known to
        answer: one in the map that takes calls, or one of which `answered` told."""
        self._note(service, address, silent=True)

    def answered(self, service: str, address: str) -> None:
        """A held instance answers this host's check: those of its service that do not can be let go."""
        self._note(service, address, silent=False)

    def accept(self, service: str) -> tuple[str, ...]:
        """The operator accepts the loss here. Gives the addresses that are let go, with the next plan."""
        history = self._histories.get(service)
        if history is None:
            return ()
        self._dirty.add(service)
        released = history.watch.release(sorted(history.watch.held))
        history.watch.forgive()
        self.acceptances += bool(released)
        return released

    def remember(self) -> dict[str, Any]:
        """What must survive a restart of the agent, as JSON: what is held, how often who came back, and the addresses of host
        names. Keep it whenever the guards of a plan have changed, and now and then."""
        return memory.to_json(self._histories, self._names.known(), now=self._clock(), today=self._wall_clock())

    def restore(self, data: Any) -> None:
        """Go on from what `remember` gave, before the first plan. What cannot be read is left out."""
        histories, names = memory.from_json(data, now=self._clock(), today=self._wall_clock())
        self._histories.update(histories)
        self._names.restore(names)
        self._dirty.update(histories)

    def with_held(self, world: World) -> World:
        """The map as it is to be kept once somebody was let go: with those that are held on, and without those that are not."""
        instances, services, rulings = dict(world.instances), dict(world.services), dict(world.rulings)
        for name in self._held:
            history = self._histories[name]
            held = history.watch.held
            if not held:
                continue
            instances[name] = {**{at: one.instance for at, one in held.items()}, **instances.get(name, {})}
            if history.usable is not None:
                services.setdefault(name, history.usable)
            for at, one in held.items():
                if one.ruling is not None:
                    rulings.setdefault(f"{name}/{at}", one.ruling)
        return replace(world, instances=instances, services=services, rulings=rulings)

    def without_held(self, kept: World) -> World:
        """A map that was kept, without those that `restore` brought back as held: they have been lost since then, not since now."""
        instances = dict(kept.instances)
        for name, history in self._histories.items():
            if history.watch.held and name in instances:
                known = instances[name].items()
                instances[name] = {at: one for at, one in known if at not in history.watch.held}
        return replace(kept, instances=instances)

    def _note(self, service: str, address: str, *, silent: bool) -> None:
        history = self._histories.get(service)
        if history is not None and history.watch.note(address, silent=silent, now=self._clock()):
            self._dirty.add(service)

    def _touched(self, world: World, unready: frozenset[tuple[str, str]], now: float) -> set[str]:
        """The services of which something may have changed since the last plan."""
        touched = set(self._dirty)
        touched.update(name for name, due in self._due.items() if due <= now)
        touched.update(self._names.changed())
        touched.update(name for name, _ in unready ^ self._unready)
        before = self._world
        if before is None:
            return touched | {*world.services, *world.instances}
        touched.update(_differing(before.services, world.services))
        touched.update(_differing(before.instances, world.instances))
        touched.update(key.partition("/")[0] for key in _differing(before.rulings, world.rulings))
        return touched

    def _to_end_at_another_moment(self, world: World, ahead: float) -> set[str]:
        """The services with rulings that end, when the time of day was set since the last plan."""
        before, self._ahead = self._ahead, ahead
        if abs(ahead - before) <= _SET_SECONDS:
            return set()
        return {key.partition("/")[0] for key, one in world.rulings.items() if getattr(one, "expires_at", None)}

    def _newcomers(self, world: World, touched: set[str]) -> dict[str, str]:
        """The addresses that are new in a service since the last plan, each with that service: whoever vanished from one has
        made room for another."""
        found: dict[str, str] = {}
        if self._world is None:
            return found
        for name in touched:
            history = self._histories.get(name)
            for address in instances_of(world.instances.get(name)):
                if history is None or not history.knows(address):
                    found[address] = name
        return found

    def _advance(self, name: str, moment: Moment) -> None:
        history = self._histories.get(name)
        if history is None:
            history = self._histories[name] = History(name)
        self._names.forget(name)
        held, accepted = len(history.watch.held), history.watch.accepted
        try:
            history.advance(moment)
        except Exception as error:  # one service may not stop the others, whatever is in its entry
            history.give_up(moment.world, f"{type(error).__name__}: {error}"[:200], moment.today)
        self.acceptances += history.watch.accepted != accepted and len(history.watch.held) < held
        self._index_held(name, {*history.watch.held, *history.watch.let_go})
        self._due.pop(name, None)
        if history.again_at is not None:
            self._due[name] = history.again_at
        if history.is_gone:
            self._gone.add(name)

    def _index_held(self, name: str, held: set[str]) -> None:
        """Keep who holds which address, or has let it go lately, so that one that another service gets is found at once."""
        for address in self._held.pop(name, set()) - held:
            self._holders[address].discard(name)
            if not self._holders[address]:
                del self._holders[address]
        for address in held:
            self._holders.setdefault(address, set()).add(name)
        if held:
            self._held[name] = held

    def _forget_gone(self, now: float) -> None:
        """Forget the services that are gone, once nothing in their past counts any more."""
        if now < self._forget_at:
            return
        self._forget_at = now + _FORGET_SECONDS
        for name in [name for name in self._gone if self._histories[name].is_over(now)]:
            self._gone.discard(name)
            if self._histories[name].is_gone:
                del self._histories[name]

    def _assembled(self, world: World, touched: set[str]) -> Plan:
        last = self._plan
        if not touched:
            again_at = self._again_at()
            if (world.position, again_at) == (last.position, last.again_at):
                return last
            return Plan(world.position, last.routes, last.decisions, last.guards, last.quarantined, again_at)
        routes: dict[str, Route] = dict(last.routes)
        decisions: dict[str, Mapping[str, Decision]] = dict(last.decisions)
        guards: dict[str, Guard] = dict(last.guards)
        quarantined: dict[str, str] = dict(last.quarantined)
        for name in touched:
            history = self._histories.get(name) or History(name)
            _put(routes, name, history.route)
            _put(decisions, name, history.decisions or None)
            _put(guards, name, history.guard)
            _put(quarantined, name, history.trouble)
        return Plan(world.position, routes, decisions, guards, quarantined, self._again_at())

    def _again_at(self) -> float | None:
        return min(self._due.values(), default=None)

    def __repr__(self) -> str:
        return f"<Planner of {len(self._histories)} services at {self._plan.position}>"


class _Names:
    """The host names that are in use: which address each of them had when it was used, and by which services."""

    def __init__(self, resolve: Callable[[str], str | None]) -> None:
        self._resolve = resolve
        self._answers: dict[str, str | None] = {}
        self._users: dict[str, set[str]] = {}
        self._of: dict[str, set[str]] = {}

    def ask(self, service: str, host: str) -> str | None:
        """The address of a host name; the last one, when there is none any more."""
        answer = self._answers[host] = self._answer(host)
        self._users.setdefault(host, set()).add(service)
        self._of.setdefault(service, set()).add(host)
        return answer

    def changed(self) -> Iterator[str]:
        """The services that use a name of which the address changed."""
        for host, users in self._users.items():
            if users and self._answer(host) != self._answers[host]:
                yield from users

    def forget(self, service: str) -> None:
        """A service is about to be planned anew."""
        for host in self._of.pop(service, ()):
            self._users[host].discard(service)

    def known(self) -> dict[str, str]:
        """What is to be remembered."""
        return {host: answer for host, answer in self._answers.items() if answer and self._users.get(host)}

    def restore(self, answers: Mapping[str, str]) -> None:
        """What was remembered."""
        self._answers.update(answers)

    def _answer(self, host: str) -> str | None:
        try:
            answer = self._resolve(host)
        except Exception:  # as good as no answer: no name may stop the others
            answer = None
        found = literal(answer) if isinstance(answer, str) else None
        return found or self._answers.get(host)


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """The keys under which there is another object than before."""
    if before is after:
        return
    for key, value in after.items():
        if before.get(key) is not value:
            yield key
    if len(before) != len(after) or before.keys() != after.keys():
        yield from before.keys() - after.keys()


def _put(table: dict[str, Any], name: str, value: object) -> None:
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value
