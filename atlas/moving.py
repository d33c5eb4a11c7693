"""Moving a map: everything in it as JSON objects, one a line, and back into an empty one. Nothing is lost on the way.

{"atlas": "export", "format": 1, "revision": 812, "exported_at": ...}     the first
{"change": {"revision": 1, "at": ..., "author": ..., "why": ..., "id": ..., "edits": [[kind, key, before, after], ...]}}
{"lease": {"id": ..., "incarnation": ..., "ttl_seconds": ..., "opened_at": ..., "instances": [...]}}
{"end": 815}                                                               the last: how many came before it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from atlas.leases import Leases, with_instances
from atlas.log import Draft, change_json, read_change
from atlas.mirror import KINDS, Mirror, items_of
from atlas.model import Author, Change, Edit, Kind, Lease, Override, Ruling, Service, Token, is_text, is_time, is_whole
from atlas.rules import check_author, check_value
from atlas.secrets import is_sealed
from atlas.world import Delta, Position, World
from smartrealm.errors import ValidationFailed

FORMAT = 1


def export(mirror: Mirror, now: Callable[[], float]) -> Iterator[Mapping[str, Any]]:
    """Everything, as it is at the moment of the first record."""
    mirror.refresh()
    state = mirror.state
    yield {"atlas": "export", "format": FORMAT, "revision": state.catalogue.revision, "exported_at": now()}
    count = 1
    for change in mirror.catalogue.forwards(state.catalogue):
        yield {"change": change_json(change)}
        count += 1
    for _, lease in sorted(with_instances(state.world).items()):
        yield {"lease": lease.to_json()}
        count += 1
    yield {"end": count}


def import_(records: Iterable[Mapping[str, Any]], mirror: Mirror, leases: Leases) -> int:
    """Fill an empty map. Raises Conflict when it is not empty, ValidationFailed for records that `export` did not write."""
    mirror.refresh()
    if mirror.state.catalogue.revision:
        # Said before anything is read; `fill` says it again of what came in between.
        mirror.catalogue.fill((), tuple)
    folding = _Folding(iter(records))
    head = mirror.catalogue.fill(folding.changes(), lambda: items_of(folding.world, "catalogue"))
    mirror.take(mirror.catalogue, head)
    if folding.leases:
        leases.append(lambda head: _presence(mirror.take(mirror.presence, head, writing=True), folding.leases))
        leases.restore(folding.leases)  # last: a document says that its instances are in the log
    return head.revision


class _Folding:
    """Reads records, checks them and folds them, one pass."""

    def __init__(self, records: Iterator[Mapping[str, Any]]) -> None:
        self._records = records
        self.world = World()
        self.leases: dict[str, Lease] = {}

    def changes(self) -> Iterator[Change]:
        header = next(self._records, None)
        if not isinstance(header, Mapping) or header.get("atlas") != "export":
            raise ValidationFailed(
                "This is no export of a map: its first record is a header that `atlas export` wrote."
            )
        if header.get("format") != FORMAT:
            raise ValidationFailed(f"This export has the format {header.get('format')!r}; this version reads {FORMAT}.")
        count, revision = 1, 0
        for record in self._records:
            if isinstance(record, Mapping) and "end" in record:
                if record["end"] != count or revision != header.get("revision"):
                    raise ValidationFailed("Records are missing in this export: it says so itself at its end.")
                if next(self._records, None) is not None:
                    raise ValidationFailed("There is something behind the end of this export: import one at a time.")
                return
            count += 1
            try:
                if "change" in record:
                    change = self._folded(read_change(record["change"]), revision + 1)
                else:
                    lease = Lease.from_json(record["lease"])
                    carried = tuple(replace(one, lease=lease.id) for one in lease.instances)
                    self.leases[lease.id] = replace(lease, instances=carried, report={})
                    continue
            except ValidationFailed as error:
                raise ValidationFailed(f"Record {count} of this export: {error.message}", errors=error.errors) from None
            except (KeyError, TypeError, AttributeError, ValueError):
                raise ValidationFailed(f"Record {count} of this export cannot be read.") from None
            yield change
            revision = change.revision
        raise ValidationFailed("This export is cut off: the record that ends it is missing.")

    def _folded(self, change: Change, expected: int) -> Change:
        if change.revision != expected or not is_whole(change.revision, 1):
            raise ValidationFailed(f"Revision {expected} is missing in this export.")
        if not is_time(change.at) or not is_text(change.id, 200):
            raise ValidationFailed(f"Revision {expected} does not say when it was made, or has no id.")
        check_author(Author(change.author, change.why))
        for edit in change.edits:
            if edit.kind not in KINDS["catalogue"]:
                raise ValidationFailed(f"Revision {expected} changes a {edit.kind}: no history has that.")
            for data in (edit.before, edit.after):
                if data is not None:
                    _check(edit.kind, edit.key, data)
        self.world = self.world.apply(Delta(Position(), Position(), change.edits))
        return change


_VALUES: Mapping[Kind, Any] = {"service": Service, "override": Override, "ruling": Ruling, "token": Token}


def _check(kind: Kind, key: str, data: Mapping[str, Any]) -> None:
    """What a person wrote into an export is looked at as if it came through the interface."""
    value = _VALUES[kind](**data)  # strictly: a field that is not known is a mistake here
    value.check()
    own = {"service": "name", "override": "name", "ruling": "key", "token": "id"}[kind]
    if getattr(value, own) != key:
        raise ValidationFailed(f"What stands at the {kind} {key!r} says that it is {getattr(value, own)!r}.")
    if isinstance(value, Override) and value.secret:
        if not is_sealed(value.value):
            raise ValidationFailed(f"The secret {value.name} is not sealed: set it after the import instead.")
    elif isinstance(value, Override):
        check_value(value.name, value.value)
        if value.hidden:
            raise ValidationFailed(f"The value of {value.name} is hidden: this is no export of an operator.")


def _presence(world: World, leases: Mapping[str, Lease]) -> Draft:
    edits = []
    for name, lease in leases.items():
        if name not in world.leases:
            edits.append(Edit("lease", name, None, {**lease.to_json(), "instances": []}))
            edits.extend(Edit("instance", one.key, None, one.to_json()) for one in lease.instances)
    return Draft("atlas", "imported", tuple(edits))
