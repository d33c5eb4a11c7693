"""`atlas watch`: a line for every change as it happens, across an Atlas that is away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from atlas.directory import Directory
from atlas.model import Change, Edit
from atlas.server.terminal import Session
from atlas.server.wording import change_json, edit_json, edit_text, one_line
from atlas.world import Delta, World
from smartrealm.errors import Forbidden, Unavailable
from smartrealm.wording import moment, plain

_PRESENCE = ("instance", "lease")
_PAUSE_SECONDS = 1.0
_PAGE = 100


def follow(
    session: Session, service: str | None, *, sleep: Callable[[float], None] = time.sleep, rounds: int | None = None
) -> None:
    """Print what happens from now on; `rounds` ends it after so many waits."""
    world = session.world
    session.note(f"watching realm {session.realm} from revision {world.position.revision}; Ctrl-C ends it")
    away = False
    while rounds is None or rounds > 0:
        rounds = None if rounds is None else rounds - 1
        try:
            update = session.directory.wait(world.position, 25.0)
            after = _after(world, update)
            told = list(happened(session.directory, world, after, update, session.clock()))
        except Unavailable as error:
            if not away:
                session.note(f"{moment(session.clock(), session.clock())}  the map is away: {plain(error.message)}")
            away = True
            sleep(_PAUSE_SECONDS)
            continue
        if away:
            session.note(f"{moment(session.clock(), session.clock())}  the map is there again")
            away = False
        for line in told:
            if service is None or any(_concerns(edit, service) for edit in line.edits):
                _print(session, line)
        world = after


def _after(world: World, update: World | Delta | None) -> World:
    if update is None:
        return world
    return update if isinstance(update, World) else world.apply(update)


def happened(
    directory: Directory, before: World, after: World, update: World | Delta | None, now: float
) -> Iterator[Change]:
    """What lies between two worlds: changes of the catalogue with their author, presence as changes without one."""
    if update is None or after.position == before.position:
        return
    if after.position.epoch == before.position.epoch:
        catalogue = _changes_since(directory, before.position.revision, after.position.revision)
    else:
        catalogue = None  # Another map, as after an import: only the difference is known.
    edits = list(differences(before, after) if isinstance(update, World) else _with_before(before, update))
    if catalogue is not None:
        yield from catalogue
        edits = [edit for edit in edits if edit.kind in _PRESENCE]
    for edit in edits:
        if edit.kind != "lease":  # Its instances say it.
            yield Change(0, now, "", "", (edit,))


def _changes_since(directory: Directory, seen: int, newest: int) -> list[Change] | None:
    """Every change above `seen`, the oldest first; None when this reader may not see the history."""
    found: list[Change] = []
    before: int | None = newest + 1
    try:
        while newest > seen and (page := directory.history(limit=_PAGE, before=before)):
            fresh = [change for change in page if change.revision > seen]
            found += fresh
            before = page[-1].revision
            if len(fresh) < len(page) or len(page) < _PAGE:
                break
    except Forbidden:
        return None
    return found[::-1]


def _with_before(before: World, delta: Delta) -> Iterator[Edit]:
    for edit in delta.edits:
        yield Edit(edit.kind, edit.key, _find(before, edit), edit.after)


def _find(world: World, edit: Edit) -> Any:
    if edit.kind == "instance":
        service, _, address = edit.key.partition("/")
        found: Any = world.instances.get(service, {}).get(address)
    else:
        found = getattr(world, f"{edit.kind}s").get(edit.key)
    return None if found is None else found.to_json()


def differences(before: World, after: World) -> Iterator[Edit]:
    """The edits that lead from one world to the other."""
    old = {(kind, key): data for kind, key, data in before.items()}
    new = {(kind, key): data for kind, key, data in after.items()}
    for kind, key in sorted({*old, *new}):
        was, is_now = old.get((kind, key)), new.get((kind, key))
        if was != is_now:
            yield Edit(kind, key, was, is_now)


def _concerns(edit: Edit, service: str) -> bool:
    return edit.key == service or edit.key.startswith((f"{service}/", "*/"))


def _print(session: Session, change: Change) -> None:
    if session.as_json:
        document = change_json(change) if change.revision else {"at": change.at, **edit_json(change.edits[0])}
        session.give(document, indent=None)
        return
    when = moment(change.at, session.clock())
    for edit in change.edits:
        who = f"  by {plain(change.author or 'somebody')}" if change.revision else ""
        why = f": {one_line(change.why)}" if change.why else ""
        session.print(f"{when}  {edit_text(edit)}{who}{why}")
