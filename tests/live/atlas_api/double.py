"""A map in memory, for tests of the server around it: its news, its outages and its writes are what the test says."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from atlas.model import Author, Change, Edit, Lease, Override, Report, Ruling, Service, Token
from atlas.world import TABLES, Delta, Position, World
from smartrealm.errors import Unavailable

CATALOGUE = ("service", "override", "ruling", "token")


class MapDouble:
    """Behaves as the Book does towards the server. `away` makes every question fail; `writes` are the calls that change."""

    def __init__(self) -> None:
        self.now = World(Position("e1", 1, 1))
        self.deltas: list[Delta] = []
        self.away: str | None = None
        self.opened: dict[str, Any] = {}
        self.writes: list[tuple[Any, ...]] = []
        made = Edit("service", "web", None, {"name": "web"})
        self.changes = [Change(2, 5.0, "anna", "why not", (made,), "c1")]
        self.asked = 0
        self.swept = threading.Event()
        self.closed = False
        self.news = threading.Condition()

    def change(self, *values: Any, remove: Iterable[tuple[str, str]] = ()) -> Position:
        """Put these services, instances, overrides, rulings, tokens or leases into the map, all at once."""
        edits = [Edit(_kind(value), _key(value), None, value.to_json()) for value in values]  # type: ignore[arg-type]
        edits += [Edit(kind, key, None, None) for kind, key in remove]  # type: ignore[arg-type]
        with self.news:
            here = self.now.position
            catalogue = any(edit.kind in CATALOGUE for edit in edits)
            presence = any(edit.kind not in CATALOGUE for edit in edits)
            there = Position(here.epoch, here.revision + catalogue, here.presence + presence)
            delta = Delta(here, there, tuple(edits))
            self.deltas.append(delta)
            self.now = self.now.apply(delta)
            self.news.notify_all()
            return there

    def begin_anew(self, epoch: str) -> None:
        """The map is another one now: imported, or put back."""
        with self.news:
            self.now = World(Position(epoch, 1, 1), self.now.services)
            self.deltas.clear()
            self.news.notify_all()

    def token(self, role: str, subject: str, *, expires_at: float | None = None) -> str:
        """A token that this map knows."""
        text = f"token-of-{role}-{subject}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.change(Token(f"id-{role}-{subject}", role, subject, digest, expires_at=expires_at))  # type: ignore[arg-type]
        return text

    # -- what the server asks ------------------------------------------------------------------------------------------

    def world(self) -> World:
        self._ask()
        return self.now

    def wait(self, position: Position, seconds: float) -> World | Delta | None:
        self._ask()
        with self.news:
            if not self.news.wait_for(lambda: self.now.position != position or self.away or self.closed, seconds):
                return None
            self._ask()
            if self.closed:
                return None
            for delta in self.deltas:
                if delta.since == position:
                    return delta
            return self.now

    def secrets(self, service: str) -> Mapping[str, Any]:
        return {name: value for name, value in self.opened.items() if name.partition("/")[0] in ("*", service)}

    def sweep(self) -> list[str]:
        self._ask()
        self.swept.set()
        return []

    def history(self, **wanted: Any) -> list[Change]:
        return self.changes

    def put_service(self, service: Service, *, by: Author) -> int:
        return self._wrote("put_service", service, by)

    def change_service(self, name: str, fields: Mapping[str, Any], *, by: Author) -> int:
        return self._wrote("change_service", name, fields, by)

    def remove_service(self, name: str, *, by: Author, force: bool = False) -> int:
        return self._wrote("remove_service", name, by, force)

    def claim_port(self, service: Service, *, by: Author, ports: Iterable[int] = range(8000, 9000)) -> Service:
        self._wrote("claim_port", service, by, list(ports))
        return service

    def set_override(self, scope: str, key: str, value: Any, *, by: Author, secret: bool = False) -> int:
        return self._wrote("set_override", scope, key, value, by, secret)

    def unset_override(self, scope: str, key: str, *, by: Author) -> int:
        return self._wrote("unset_override", scope, key, by)

    def rule(self, ruling: Ruling, *, by: Author, force: bool = False) -> int:
        return self._wrote("rule", ruling, by, force)

    def rollback(self, revision: int, *, by: Author, kind: Any = None, key: str | None = None) -> int:
        return self._wrote("rollback", revision, by, kind, key)

    def hold(self, lease: Lease) -> None:
        self._wrote("hold", lease)

    def release(self, lease_id: str, incarnation: str) -> None:
        self._wrote("release", lease_id, incarnation)

    def reports(self) -> Mapping[str, Report]:
        self._ask()
        return {"sidecar@host-1": Report("host-1", 5.0, revision=2, sessions={"web/host-1:8000": 3})}

    def create_token(
        self, role: str, subject: str, *, by: Author, expires_at: float | None = None
    ) -> tuple[str, Token]:
        self._wrote("create_token", role, subject, by, expires_at)
        digest = hashlib.sha256(b"the new token").hexdigest()
        return "the new token", Token("t1", role, subject, digest, 1.0, expires_at)  # type: ignore[arg-type]

    def revoke_token(self, token_id: str, *, by: Author) -> int:
        return self._wrote("revoke_token", token_id, by)

    def export(self) -> Iterator[Mapping[str, Any]]:
        self._ask()
        yield {"format": 1}
        yield {"kind": "service", "name": "web"}

    def import_(self, records: Iterable[Mapping[str, Any]]) -> int:
        return self._wrote("import_", list(records))

    def status(self) -> Mapping[str, Any]:
        self._ask()
        return {"store": {"name": "double"}}

    def close(self) -> None:
        with self.news:
            self.closed = True
            self.news.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self) -> None:
        self.asked += 1
        if self.away is not None:
            raise Unavailable(self.away)

    def _wrote(self, *what: Any) -> int:
        self._ask()
        self.writes.append(what)
        return 7


def secret(scope: str, key: str) -> Override:
    """A secret as a map shows it to those who may not see it."""
    return Override(scope, key, None, secret=True, hidden=True, author="anna", revision=2)


def wait_until(condition: Any, seconds: float = 3.0) -> None:
    """Return as soon as the condition is true; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.002)


def _kind(value: Any) -> str:
    return type(value).__name__.lower()


def _key(value: Any) -> str:
    kind = _kind(value)
    if kind == "service":
        return str(value.name)
    if kind == "override":
        return str(value.name)
    if kind in ("ruling", "instance"):
        return str(value.key)
    assert kind in TABLES
    return str(value.id)
