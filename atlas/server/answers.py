"""What readers are told, as bytes: made once for each position and kind of reader, shared by all who wait for it."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from atlas.model import EVERY_SERVICE, Edit
from atlas.world import Delta, Position, World

Values = Mapping[str, Any]

_SHARED = ("service", "ruling", "lease", "instance")
_MOST_KEPT = 512


@dataclass(frozen=True, slots=True)
class Audience:
    """What one kind of reader sees of the map: all of it but tokens, overrides and secrets, and of those what is said here."""

    config: Literal["all", "own", "names", "none"] = "none"
    """Overrides: all; those of `service` and the shared ones; all without their values; none."""
    service: str | None = None
    """Whose secrets are opened (the shared ones too)."""
    tokens: bool = False

    def shown(
        self, kind: str, key: str, after: Values | None, secrets: Mapping[str, Any]
    ) -> tuple[bool, Values | None]:
        """Whether this reader sees it, and as what."""
        if kind == "token":
            return self.tokens, after
        if kind != "override":
            return True, after
        scope = key.partition("/")[0]
        is_own = self.service is not None and scope in (EVERY_SERVICE, self.service)
        if self.config == "none" or (self.config == "own" and not is_own):
            return False, None
        if after is None:
            return True, None
        if self.config == "names":
            return True, _hidden(after)
        if not after.get("secret"):
            return True, after
        if not is_own or key not in secrets:
            return True, _hidden(after)
        return True, {**{name: value for name, value in after.items() if name != "hidden"}, "value": secrets[key]}


class Prepared:
    """The bytes of one answer, plain and compressed."""

    def __init__(self, body: bytes, tag: str = "") -> None:
        self.body = body
        self.tag = tag

    @cached_property
    def zipped(self) -> bytes:
        return gzip.compress(self.body, 2, mtime=0)


class Answers:
    """Makes answers and keeps them while their position is the newest. `secrets(service)` gives opened values by name."""

    def __init__(self, secrets: Callable[[str], Mapping[str, Any]]) -> None:
        self._secrets = secrets
        self._lock = threading.Lock()
        self._kept: dict[tuple[Position | None, Position, Audience | None], Prepared | None] = {}
        self._shared: tuple[Position, str] = (Position(), "")

    def forget(self) -> None:
        """The position has moved on: what was prepared for the one before is not asked for again."""
        with self._lock:
            self._kept.clear()

    def complete(self, world: World, audience: Audience) -> Prepared:
        """The whole world as this audience sees it."""
        key = (None, world.position, audience)
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                found = self._complete(world, audience)
                self._keep(key, found)
            return found

    def delta(
        self, since: Position, position: Position, deltas: Iterable[Delta], audience: Audience
    ) -> Prepared | None:
        """What changed since, as this audience sees it; None when it sees nothing of it."""
        shared = (since, position, None)
        own = (since, position, audience)
        with self._lock:
            for key in (shared, own):
                if key in self._kept:
                    return self._kept[key]
            latest = {(edit.kind, edit.key): edit for delta in deltas for edit in delta.edits}
            is_shared = all(kind in _SHARED for kind, _ in latest)
            found = self._delta(since, position, latest.values(), audience)
            self._keep(shared if is_shared else own, found)
            return found

    def nothing(self, since: Position, position: Position) -> Prepared:
        """Only the position has moved on."""
        return Prepared(_delta_body(since, position, "[]"))

    def _complete(self, world: World, audience: Audience) -> Prepared:
        if self._shared[0] != world.position or not self._shared[1]:
            items = [item for item in world.items() if item[0] in _SHARED]
            self._shared = (world.position, json.dumps(items, separators=(",", ":"))[1:-1])
        secrets = self._opened(audience)
        own = []
        for kind, table in (("override", world.overrides), ("token", world.tokens)):
            for key in sorted(table):
                seen, after = audience.shown(kind, key, table[key].to_json(), secrets)
                if seen:
                    own.append((kind, key, after))
        rest = json.dumps(own, separators=(",", ":"))[1:-1]
        items_text = ",".join(part for part in (self._shared[1], rest) if part)
        body = f'{{"complete":true,"position":"{world.position}","items":[{items_text}]}}\n'
        tag = f"{world.position}-{audience.config}-{audience.service or ''}-{int(audience.tokens)}"
        return Prepared(body.encode(), tag)

    def _delta(self, since: Position, position: Position, edits: Iterable[Edit], audience: Audience) -> Prepared | None:
        secrets: Mapping[str, Any] | None = None
        told = []
        for edit in edits:
            if secrets is None and edit.kind == "override":
                secrets = self._opened(audience)
            seen, after = audience.shown(edit.kind, edit.key, edit.after, secrets or {})
            if seen:
                told.append((edit.kind, edit.key, after))
        if not told:
            return None
        return Prepared(_delta_body(since, position, json.dumps(told, separators=(",", ":"))))

    def _opened(self, audience: Audience) -> Mapping[str, Any]:
        return {} if audience.service is None else self._secrets(audience.service)

    def _keep(self, key: tuple[Position | None, Position, Audience | None], found: Prepared | None) -> None:
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[key] = found


def _hidden(after: Values) -> Values:
    return {**{name: value for name, value in after.items() if name != "value"}, "hidden": True}


def _delta_body(since: Position, position: Position, edits: str) -> bytes:
    return f'{{"complete":false,"since":"{since}","position":"{position}","edits":{edits}}}\n'.encode()
