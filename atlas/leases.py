"""Leases: who lives, and what it carries. A renewal is one write to one document; only changes go through the presence log.

`lease/<id>` says {incarnation, ttl_seconds, renewed_at, digest, former, report}; a report is nowhere else. The order of writes carries the guarantees:

  * hold, something changed: document without digest, entry in the log, document with digest. A holder that dies in between
    finds no digest of its own later and says everything again.
  * hold, nothing changed: compare-and-set on the document. It fails when the lease was ended, and then it is opened anew.
  * sweep: the document is removed by compare-and-set first, so that a renewal that comes at the same moment wins; the entry
    that removes the instances is appended only while there is still no document.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from atlas.log import Draft, Head, Log
from atlas.mirror import Mirror
from atlas.model import Edit, Instance, Lease, Report
from atlas.reports import Heard, Renewal, check_report, read_report
from atlas.rules import instances_of_lease
from atlas.stores.store import Changed, Document
from atlas.world import World
from smartrealm.errors import Conflict, Unavailable

PREFIX = "lease/"
GUARDED_SECONDS = 600.0
"""How long the guard holds mass expiry back at most."""

FORMER = 4
"""How many former incarnations a lease document remembers."""


@dataclass(frozen=True, slots=True)
class LeaseDocument:
    """What the document of a lease says."""

    incarnation: str
    ttl_seconds: float
    renewed_at: float
    digest: str = ""
    """Of the instances that were written to the log; empty while they are not."""
    former: tuple[str, ...] = ()
    """Incarnations that came before and are refused from now on."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """What its holder told of itself with this renewal: see `atlas.reports`."""

    def encode(self) -> bytes:
        told: dict[str, Any] = {
            "incarnation": self.incarnation,
            "ttl_seconds": self.ttl_seconds,
            "renewed_at": self.renewed_at,
            "digest": self.digest,
            "former": self.former,
        }
        if self.report:
            told["report"] = dict(self.report)
        return json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, document: Document) -> LeaseDocument:
        try:
            data = json.loads(document.body)
            return cls(
                str(data["incarnation"]),
                float(data["ttl_seconds"]),
                float(data["renewed_at"]),
                data.get("digest", ""),
                tuple(data.get("former", ())),
                dict(data.get("report", {})),
            )
        except (ValueError, KeyError, TypeError):
            raise Unavailable(f"The map is damaged: {document.key} in its store cannot be read.") from None


class Leases:
    """Holds, releases and ends leases in one store."""

    def __init__(self, log: Log, mirror: Mirror, *, now: Callable[[], float], clock: Callable[[], float]) -> None:
        self._log, self._store, self._mirror = log, log.store, mirror
        self._now, self._clock = now, clock
        self._held: dict[str, tuple[Lease, LeaseDocument, str]] = {}
        self.patience = Patience()
        self._heard = Heard(clock, now)
        self._looking = threading.Lock()

    def hold(self, lease: Lease) -> bool:
        """Renew with one write what was held like this before, whatever it reports; open it otherwise. Gives whether the log
        was written."""
        check_report(lease.report)
        known = self._held.get(lease.id)
        if known is not None and replace(known[0], report={}) == replace(lease, report={}):
            try:
                self._remember(lease, replace(known[1], renewed_at=self._now(), report=lease.report), known[2])
                return False
            except Changed:
                pass  # ended by a sweep, renewed through another replica, or taken over: look at what is there
        Lease.from_json(lease.to_json())  # checks it
        digest = digest_of(lease)
        for _ in range(20):
            try:
                return self._open(lease, digest)
            except Changed:
                continue
        raise Conflict(f"The lease {lease.id} is written by several holders at once: each needs an id of its own.")

    def release(self, lease_id: str, incarnation: str) -> None:
        """Remove the lease and what it still carries, unless another incarnation holds it by now."""
        self._held.pop(lease_id, None)
        key = document_key(lease_id)
        document = self._store.get(key)
        if document is not None and LeaseDocument.decode(document).incarnation != incarnation:
            return

        def end(head: Head) -> Draft | None:
            world = self._mirror.take(self._log, head, writing=True)
            lease = world.leases.get(lease_id)
            if lease is None or lease.incarnation != incarnation:
                return None
            return Draft("atlas", "released", tuple(_ending(world, lease_id)))

        self.append(end)
        if document is not None:
            try:
                self._store.delete(key, document.version)
            except Changed:
                pass  # another incarnation opens it at this moment

    def sweep(self) -> list[str]:
        """End the leases that were silent for their whole ttl; gives their ids. Call it every second or so."""
        documents = {_lease_id(key): found for key, found in self._store.get_all(PREFIX).items()}
        world = self._mirror.take(self._log, self._log.read())
        present = {name: (found.version, LeaseDocument.decode(found).ttl_seconds) for name, found in documents.items()}
        for name, lease in world.leases.items():
            present.setdefault(name, ("", lease.ttl_seconds))
        return [name for name in self.patience.look(self._clock(), present) if self._end(name, present[name][0])]

    def documents(self) -> Mapping[str, LeaseDocument]:
        """Every lease document, by the id of its lease."""
        return {_lease_id(key): LeaseDocument.decode(found) for key, found in self._store.get_all(PREFIX).items()}

    def reports(self) -> Mapping[str, Report]:
        """What the holders last told of themselves, by the id of their lease; of those that are overdue nothing."""
        found = {
            _lease_id(key): (document.version, LeaseDocument.decode(document))
            for key, document in self._store.get_all(PREFIX).items()
        }
        reporting = {name: one for name, one in found.items() if one[1].report}
        with self._looking:
            overdue = self._heard.overdue(
                {name: Renewal(version, one.renewed_at, one.ttl_seconds) for name, (version, one) in reporting.items()}
            )
        reports = {}
        for name, (_, one) in reporting.items():
            if name not in overdue:
                report = read_report(name, one.report, at=one.renewed_at, ttl_seconds=one.ttl_seconds)
                if report is not None:
                    reports[name] = report
        return reports

    def restore(self, leases: Mapping[str, Lease]) -> None:
        """Write the documents of imported leases: each has its whole ttl to be renewed at the new place."""
        for name, lease in leases.items():
            found = LeaseDocument(lease.incarnation, lease.ttl_seconds, self._now(), digest_of(lease))
            try:
                self._store.put(document_key(name), found.encode(), None)
            except Changed:
                pass  # its holder was faster

    def append(self, decide: Callable[[Head], Draft | None]) -> None:
        """Append to the presence log and fold it."""
        head, _ = self._log.append(decide)
        self._mirror.take(self._log, head)

    def _open(self, lease: Lease, digest: str) -> bool:
        document = self._store.get(document_key(lease.id))
        found = None if document is None else LeaseDocument.decode(document)
        version = None if document is None else document.version
        former: tuple[str, ...] = ()
        if found is not None:
            if lease.incarnation in found.former:
                raise Conflict(f"The lease {lease.id} is held by a newer incarnation: this one is over.")
            former = found.former
            if found.incarnation != lease.incarnation:
                former = (found.incarnation, *former)[:FORMER]
        new = LeaseDocument(lease.incarnation, lease.ttl_seconds, self._now(), "", former)
        is_news = found is None or (found.incarnation, found.digest) != (lease.incarnation, digest)
        if is_news:
            version = self._store.put(document_key(lease.id), new.encode(), version)
            self.append(lambda head: self._opening(head, lease))
        self._remember(lease, replace(new, digest=digest, report=lease.report), version)
        return is_news

    def _remember(self, lease: Lease, document: LeaseDocument, expected: str | None) -> None:
        version = self._store.put(document_key(lease.id), document.encode(), expected)
        self._held[lease.id] = (lease, document, version)

    def _opening(self, head: Head, lease: Lease) -> Draft:
        """The entry that says everything of a lease. Never nothing: it must come after an ending that is under way."""
        world = self._mirror.take(self._log, head, writing=True)
        known = world.leases.get(lease.id)
        opened_at = known.opened_at if known is not None and known.incarnation == lease.incarnation else self._now()
        told = Lease(lease.id, lease.incarnation, lease.ttl_seconds, (), opened_at)
        wanted = {one.key: replace(one, lease=lease.id) for one in lease.instances}
        carried = {one.key for one in instances_of_lease(world, lease.id)}
        edits = [Edit("lease", lease.id, None, told.to_json())]
        edits += [Edit("instance", key, None, None) for key in sorted(carried - wanted.keys())]
        for key, instance in wanted.items():
            # An address that another lease carried is taken over: who says it last has bound it last.
            if world.instances.get(instance.service, {}).get(instance.address) != instance:
                edits.append(Edit("instance", key, None, instance.to_json()))
        return Draft(lease.id, "opened", tuple(edits))

    def _end(self, lease_id: str, version: str) -> bool:
        key = document_key(lease_id)
        if version:
            try:
                self._store.delete(key, version)
            except Changed:
                return False

        def end(head: Head) -> Draft | None:
            world = self._mirror.take(self._log, head, writing=True)
            if lease_id not in world.leases or self._store.get(key) is not None:
                return None
            return Draft("atlas", "expired", tuple(_ending(world, lease_id)))

        self.append(end)
        return lease_id not in self._mirror.world.leases


@dataclass
class Patience:
    """Decides which leases are overdue, from nothing but what one observer saw: versions and its own clock.

    A lease is overdue when its document stayed the same for its ttl. One look adds at most a third of the ttl to the silence,
    however long ago the last one was, and a pause longer than the ttl begins it anew: so neither a store that was frozen nor an
    observer that has just started takes anybody's time away.
    """

    silent: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By lease: the version last seen, and for how many seconds it has been so."""
    overdue: tuple[str, ...] = ()
    held_back: bool = False
    """More than half of at least three leases are overdue at once: more likely the writing is broken than the writers."""
    _guarded_since: float | None = None
    _last: float | None = None

    def look(self, now: float, present: Mapping[str, tuple[str, float]]) -> tuple[str, ...]:
        """The leases to end, after a look that found these versions and ttls."""
        passed = 0.0 if self._last is None else now - self._last
        silent: dict[str, tuple[str, float]] = {}
        for name, (version, ttl) in present.items():
            known = self.silent.get(name)
            is_same = known is not None and known[0] == version and passed <= ttl
            silent[name] = (version, known[1] + min(passed, ttl / 3) if known is not None and is_same else 0.0)
        self._last, self.silent = now, silent
        self.overdue = tuple(sorted(name for name in silent if silent[name][1] >= present[name][1]))
        self.held_back = self._is_guarded(now, len(present))
        return () if self.held_back else self.overdue

    def _is_guarded(self, now: float, count: int) -> bool:
        if count < 3 or len(self.overdue) * 2 <= count:
            self._guarded_since = None
            return False
        if self._guarded_since is None:
            self._guarded_since = now
        return now - self._guarded_since < GUARDED_SECONDS


def document_key(lease_id: str) -> str:
    """The key of the document of a lease; what a key may not hold is written as `_5b_`."""
    return PREFIX + re.sub(r"[^A-Za-z0-9.:@-]", lambda found: f"_{ord(found[0]):02x}_", lease_id)


def digest_of(lease: Lease) -> str:
    """Of what it carries: equal means that nothing needs to be written to the log."""
    told: list[Any] = sorted((replace(one, lease="") for one in lease.instances), key=lambda one: one.key)
    text = json.dumps([lease.ttl_seconds, [one.to_json() for one in told]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_instances(world: World) -> Mapping[str, Lease]:
    """The leases of a World with the instances that they carry."""
    carried: dict[str, list[Instance]] = {name: [] for name in world.leases}
    for places in world.instances.values():
        for instance in places.values():
            carried.setdefault(instance.lease, []).append(instance)
    return {name: replace(lease, instances=tuple(carried[name])) for name, lease in world.leases.items()}


def _lease_id(key: str) -> str:
    return re.sub(r"_([0-9a-f]{2})_", lambda found: chr(int(found[1], 16)), key.removeprefix(PREFIX))


def _ending(world: World, lease_id: str) -> Iterator[Edit]:
    yield Edit("lease", lease_id, None, None)
    for instance in instances_of_lease(world, lease_id):
        yield Edit("instance", instance.key, None, None)
