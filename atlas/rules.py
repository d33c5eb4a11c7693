"""What may be changed in the catalogue, and what changes with it: pure functions from a World to the edits.

Each raises NotFound, Conflict or ValidationFailed in words for the one who asked; no edits means that all is so already.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from atlas.model import Author, Change, Edit, Instance, Kind, Override, Ruling, Service, is_text
from atlas.world import TABLES, World
from smartrealm.errors import Conflict, NotFound, ValidationFailed

LARGEST_VALUE = 64 * 1024
"""Bytes of JSON that one setting may have."""

Edits = tuple[Edit, ...]


def put_service(world: World, service: Service) -> Edits:
    """Add it, or change what is known of it."""
    return change(world, "service", service.name, service.to_json())


def change_service(world: World, name: str, fields: Mapping[str, Any]) -> Edits:
    """Change these fields and leave the others; where it is not there, they have their defaults."""
    known = world.services.get(name, Service(name))
    return put_service(world, Service.from_json({**known.to_json(), **fields, "name": name}))


def remove_service(world: World, name: str, *, force: bool) -> Edits:
    """Remove it with its overrides and rulings; not while it has instances, unless forced."""
    if name not in world.services:
        raise unknown_service(world, name)
    count = len(world.instances.get(name, {}))
    if count and not force:
        raise Conflict(
            f"{name} has {count} running instance{'s' * (count > 1)}: stop them first, or insist with --force."
        )
    keys = [("service", name)]
    keys += [("override", key) for key, override in sorted(world.overrides.items()) if override.scope == name]
    keys += [("ruling", key) for key, ruling in sorted(world.rulings.items()) if ruling.service == name]
    return tuple(edit for kind, key in keys for edit in change(world, kind, key, None))  # type: ignore[arg-type]


def claim_port(world: World, service: Service, ports: Iterable[int]) -> Service:
    """The service as it is known, else with the first port that no service has."""
    if service.name in world.services:
        return world.services[service.name]
    taken = {known.port for known in world.services.values()}
    for port in ports:
        if port not in taken:
            return replace(service, port=port)
    raise Conflict(f"Every port that {service.name} may have is taken by another service: offer others.")


def set_override(world: World, override: Override, *, same_value: bool) -> Edits:
    """Set it; `same_value`: whether the value is the one that is there, which only the caller can tell of a secret."""
    known = world.overrides.get(override.name)
    if known is not None and same_value and known.secret == override.secret:
        return ()
    return change(world, "override", override.name, override.to_json())


def unset_override(world: World, scope: str, key: str) -> Edits:
    """Take it away; NotFound when it is not set, with the keys that look like it."""
    if f"{scope}/{key}" in world.overrides:
        return change(world, "override", f"{scope}/{key}", None)
    known = sorted(override.key for override in world.overrides.values() if override.scope == scope)
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    there = f"Did you mean {' or '.join(near)}?" if near else f"Set there: {', '.join(known[:20]) or 'nothing'}."
    raise NotFound(f"{key} is not overridden for {scope}. {there}")


def rule(world: World, ruling: Ruling, *, force: bool) -> Edits:
    """The operator's word; not one that leaves a service without an enabled instance, unless forced."""
    if not world.knows(ruling.service):
        raise unknown_service(world, ruling.service)
    lifted = ruling.state == "enabled" and ruling.weight is None
    edits = change(world, "ruling", ruling.key, None if lifted else ruling.to_json())
    if edits and not force:
        rulings = {key: known for key, known in world.rulings.items() if key != ruling.key}
        after = replace(world, rulings=rulings if lifted else {**rulings, ruling.key: ruling})
        enabled = _enabled(world, ruling.service)
        if enabled and not _enabled(after, ruling.service):
            raise Conflict(
                f"{ruling.key} is the last instance of {ruling.service} that takes calls: enable another one first, "
                "or insist with --force."
            )
    return edits


def rollback(world: World, changes: Iterable[Change], revision: int, *, kind: Kind | None, key: str | None) -> Edits:
    """What puts the catalogue back to `revision`; `changes`: those after it, the newest first. Tokens stay as they are."""
    before: dict[tuple[Kind, str], Mapping[str, Any] | None] = {}
    for one in changes:
        if one.revision <= revision:
            break
        for edit in one.edits:
            if edit.kind != "token" and kind in (None, edit.kind) and key in (None, edit.key):
                before[edit.kind, edit.key] = edit.before
    return tuple(edit for (kind, key), data in sorted(before.items()) for edit in change(world, kind, key, data))


def expired_rulings(world: World, now: float) -> Edits:
    """Away with the rulings whose time is over."""
    over = [key for key, ruling in world.rulings.items() if ruling.expires_at is not None and ruling.expires_at <= now]
    return tuple(edit for key in sorted(over) for edit in change(world, "ruling", key, None))


def change(world: World, kind: Kind, key: str, after: Mapping[str, Any] | None) -> Edits:
    """One edit, or none when it is so already."""
    known = getattr(world, TABLES[kind]).get(key)
    before = None if known is None else known.to_json()
    if _bare(kind, before) == _bare(kind, after):
        return ()
    return (Edit(kind, key, before, after),)


def instances_of_lease(world: World, lease_id: str) -> Iterator[Instance]:
    """The instances that a lease carries now."""
    for places in world.instances.values():
        for instance in places.values():
            if instance.lease == lease_id:
                yield instance


def unknown_service(world: World, name: str) -> NotFound:
    """The error for a service that nobody knows; names those that look like it."""
    near = world.near(name)
    there = f"Did you mean {' or '.join(near)}?" if near else "`atlas ls` shows those that are."
    return NotFound(f"There is no service {name} in this realm. {there}")


def check_author(by: Author) -> None:
    """Whoever changes something has a name."""
    if not is_text(by.name, 200) or not by.name.strip():
        raise ValidationFailed("Who makes this change? An author has a name of at most 200 characters.")
    if not is_text(by.why):
        raise ValidationFailed("The reason of a change is text of at most 2000 characters.")


def check_value(name: str, value: Any) -> Any:
    """A setting has a JSON value of a size that everybody can hold in memory. Gives it as it will be read: a copy, in
    which keys are text and tuples are lists."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size, kept = len(text.encode()), json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise ValidationFailed(
            f"The value of {name} has no JSON form: numbers, text, true, false, null, lists and objects have."
        ) from None
    if size > LARGEST_VALUE:
        raise ValidationFailed(
            f"The value of {name} has {size} bytes; at most {LARGEST_VALUE} are kept. Refer to a file."
        )
    return kept


def _enabled(world: World, service: str) -> bool:
    return any(place.takes_calls for place in world.places(service))


def _bare(kind: Kind, data: Mapping[str, Any] | None) -> str | None:
    """As text, in which 1, 1.0 and true differ; without what tells only who set an override and when."""
    if data is None:
        return None
    told = {
        name: value for name, value in data.items() if kind != "override" or name not in ("author", "at", "revision")
    }
    return json.dumps(told, sort_keys=True)
