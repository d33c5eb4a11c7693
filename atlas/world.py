"""The map at one moment, held in memory: immutable, cheap to bring up to date, read from any thread without a lock."""

from __future__ import annotations

import difflib
import fnmatch
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from atlas.model import EVERY_SERVICE, Edit, Instance, Kind, Lease, Override, Ruling, Service, State, Token
from atlas.splits import Share, parse_split, share_for, share_of
from smartrealm.errors import ValidationFailed

_log = logging.getLogger("atlas")


@dataclass(frozen=True, slots=True)
class Position:
    """How far a reader has come: the epoch of the map, and the revisions of its catalogue and of its presence."""

    epoch: str = ""
    revision: int = 0
    presence: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}.{self.revision}.{self.presence}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that `str` gave. Raises ValidationFailed."""
        epoch, *numbers = text.split(".")
        if len(numbers) != 2 or not all(number.isascii() and number.isdecimal() for number in numbers):
            raise ValidationFailed("A position looks like `epoch.revision.presence`: hand back what an answer gave.")
        return cls(epoch, int(numbers[0]), int(numbers[1]))


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed between two positions, in order; the `before` of its edits is not filled."""

    since: Position
    position: Position
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """An instance as a caller sees it: what it says of itself, under the operator's word."""

    instance: Instance
    state: State
    weight: int
    ruling: Ruling | None = None

    @property
    def takes_calls(self) -> bool:
        """Whether new calls may go there."""
        return self.state == "enabled" and self.weight > 0


@dataclass(frozen=True)
class World:
    """Services, places, overrides and leases at one position."""

    position: Position = Position()
    services: Mapping[str, Service] = field(default_factory=dict)
    overrides: Mapping[str, Override] = field(default_factory=dict)
    rulings: Mapping[str, Ruling] = field(default_factory=dict)
    leases: Mapping[str, Lease] = field(default_factory=dict)
    """By id; their `instances` are empty here: see `instances`."""
    instances: Mapping[str, Mapping[str, Instance]] = field(default_factory=dict)
    """By service, then by `host:port`."""
    tokens: Mapping[str, Token] = field(default_factory=dict, repr=False)

    def places(self, service: str, now: float | None = None) -> tuple[Place, ...]:
        """The instances of a service with their effective state; `now` (time of day) ends rulings that have expired."""
        return tuple(self._place(instance, now) for instance in self.instances.get(service, {}).values())

    def callable_places(self, service: str, now: float | None = None, bucket: int | None = None) -> tuple[Place, ...]:
        """Where new calls may go, under the version policy of the service: all versions while no instance fits it.

        With a `bucket` (0 to 9999; see `atlas.splits`) only the side of the service's split that this bucket belongs to: a
        share goes before the policy, the rest is what fits no share, and what fits several belongs to the first. A side on which nobody takes calls is answered by the
        others.
        """
        places = tuple(place for place in self.places(service, now) if place.takes_calls)
        known = self.services.get(service)
        if known is None:
            return places
        shares = _shares_of(known.split) if bucket is not None and known.split else ()
        if bucket is not None and shares:
            side = share_of(shares, bucket)
            on_it = _fitting(places, lambda version: share_for(shares, version) == side)
            return on_it if side is not None and on_it else _by_policy(on_it or places, known)
        return _by_policy(places, known)

    def overrides_of(self, service: str) -> Iterator[Override]:
        """What is set for every service, then what is set for this one."""
        for scope in (EVERY_SERVICE, service):
            yield from (override for override in self.overrides.values() if override.scope == scope)

    def knows(self, service: str) -> bool:
        """Whether it is in the catalogue, or runs without being there."""
        return service in self.services or bool(self.instances.get(service))

    def near(self, service: str) -> list[str]:
        """The names that look most like this one."""
        return difflib.get_close_matches(service, sorted({*self.services, *self.instances}))

    def apply(self, delta: Delta) -> World:
        """This world after the delta. Costs what changed, plus one copy of each table that did."""
        tables: dict[str, dict[str, Any]] = {}
        by_service: dict[str, dict[str, Instance]] = {}
        for edit in delta.edits:
            if edit.kind == "instance":
                self._apply_instance(edit, tables, by_service)
                continue
            if edit.kind not in TABLES:  # of a newer version
                continue
            name = TABLES[edit.kind]
            table = (
                tables.setdefault(name, {}) if name in tables else tables.setdefault(name, dict(getattr(self, name)))
            )
            if edit.after is None:
                table.pop(edit.key, None)
            elif (made := _made(edit)) is not None:
                table[edit.key] = made
        return World(**{**self._tables(), **tables, "position": delta.position})

    def items(self, kinds: Container[Kind] | None = None) -> Iterator[tuple[Kind, str, Mapping[str, Any]]]:
        """Everything in it, or of some kinds, as kind, key and JSON, in a stable order."""
        for kind, name in TABLES.items():
            table = getattr(self, name) if kinds is None or kind in kinds else {}
            for key in sorted(table):
                yield kind, key, table[key].to_json()
        for service in sorted(self.instances) if kinds is None or "instance" in kinds else ():
            for place in sorted(self.instances[service]):
                yield "instance", f"{service}/{place}", self.instances[service][place].to_json()

    @classmethod
    def from_items(cls, position: Position, items: Iterable[tuple[Kind, str, Mapping[str, Any]]]) -> World:
        """The world that holds exactly these."""
        edits = tuple(Edit(kind, key, None, after) for kind, key, after in items)
        return cls().apply(Delta(Position(), position, edits))

    def _place(self, instance: Instance, now: float | None) -> Place:
        ruling = self.rulings.get(instance.key)
        if ruling is not None and now is not None and ruling.expires_at is not None and ruling.expires_at <= now:
            ruling = None
        if ruling is None:
            return Place(instance, "draining" if instance.draining else "enabled", instance.weight)
        state: State = "draining" if instance.draining and ruling.state == "enabled" else ruling.state
        return Place(instance, state, instance.weight if ruling.weight is None else ruling.weight, ruling)

    def _apply_instance(
        self, edit: Edit, tables: dict[str, dict[str, Any]], by_service: dict[str, dict[str, Instance]]
    ) -> None:
        service, _, place = edit.key.partition("/")
        instances = (
            tables.setdefault("instances", {})
            if "instances" in tables
            else tables.setdefault("instances", dict(self.instances))
        )
        inner = by_service.get(service)
        if inner is None:
            inner = by_service[service] = dict(self.instances.get(service, {}))
        if edit.after is None:
            inner.pop(place, None)
        elif (made := _made(edit)) is not None:
            inner[place] = made
        if inner:
            instances[service] = inner
        else:
            instances.pop(service, None)

    def _tables(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*TABLES.values(), "instances")}

    def __repr__(self) -> str:
        count = sum(len(inner) for inner in self.instances.values())
        return f"<World {self.position}: {len(self.services)} services, {count} instances>"


def _made(edit: Edit) -> Any:
    """What an entry says; None for one that says nothing that can be read. It costs nobody but itself: what was known of it
    before stays, and the others go on."""
    try:
        return PARSERS[edit.kind](edit.after)
    except (TypeError, AttributeError, ValueError, ValidationFailed) as error:
        _tell(edit.kind, edit.key[:100], str(error)[:200])
        return None


@lru_cache(maxsize=1024)
def _tell(kind: str, key: str, says: str) -> None:
    _log.error("the entry of the %s %r cannot be read, and what was known of it goes on: %s", kind, key, says)


def _by_policy(places: tuple[Place, ...], service: Service) -> tuple[Place, ...]:
    """The places that the version policy names; all of them while it names none."""
    policy = service.version_policy
    if policy in ("", "any"):
        return places
    return _fitting(places, lambda version: fnmatch.fnmatchcase(version, policy)) or places


def _fitting(places: tuple[Place, ...], fits: Callable[[str], bool]) -> tuple[Place, ...]:
    return tuple(place for place in places if fits(place.instance.version))


@lru_cache(maxsize=1024)
def _shares_of(split: str) -> tuple[Share, ...]:
    """The shares of a split; none of one that cannot be read: its callers are called all the same."""
    try:
        return parse_split(split)
    except ValidationFailed:
        return ()


TABLES: Mapping[Kind, str] = {
    "service": "services",
    "override": "overrides",
    "ruling": "rulings",
    "token": "tokens",
    "lease": "leases",
}
"""Which table of the world holds which kind."""


def _reads(kind: type[Any]) -> Callable[[Mapping[str, Any]], Any]:
    """Makes a value of JSON that the map itself has written (checked when it went in). A field that is not known comes from a
    newer version, and is left out: one that cannot read it is not to stand still."""
    known = frozenset(one.name for one in fields(kind))

    def read(data: Mapping[str, Any]) -> Any:
        try:
            return kind(**data)
        except TypeError:
            return kind(**{name: value for name, value in data.items() if name in known})

    return read


PARSERS: Mapping[Kind, Any] = {
    "service": _reads(Service),
    "override": _reads(Override),
    "ruling": _reads(Ruling),
    "token": _reads(Token),
    "lease": Lease.from_json,
    "instance": _reads(Instance),
}
"""What makes a value of the JSON in the map."""
