"""The map over a store: what `atlas.directory` promises, done with two logs, lease documents and rules.

Book ── rules.py     what may be changed, pure
  ├──── log.py       the catalogue (kept for ever) and presence (kept for a while), each a log of changes
  ├──── mirror.py    both folded to a World in memory; waits for news
  ├──── leases.py    who lives: one document for each lease
  ├──── secrets.py   seals values before they reach a log
  └──── moving.py    export and import
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from itertools import islice
from typing import Any, Self

from atlas import moving, rules
from atlas.leases import Leases
from atlas.log import Draft, Head, Log
from atlas.mirror import Mirror, items_of
from atlas.model import (
    EVERY_SERVICE,
    ROLES,
    Author,
    Change,
    Edit,
    Kind,
    Lease,
    Override,
    Report,
    Ruling,
    Service,
    Token,
    is_whole,
)
from atlas.secrets import SecretBox, Unreadable
from atlas.stores.store import Store
from atlas.world import PARSERS, Delta, Position, World
from smartrealm.errors import NotConfigured, NotFound, SmartError, Unavailable, ValidationFailed

_log = logging.getLogger("atlas")


class Book:
    """A `Directory` over one store, or over one for the catalogue and one for presence. Connects when it is first asked."""

    def __init__(
        self,
        catalogue: Store,
        presence: Store | None = None,
        *,
        box: SecretBox | None = None,
        service: str | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._stores = [catalogue] if presence is None or presence is catalogue else [catalogue, presence]
        self._catalogue = Log(catalogue, "catalogue", keeps_history=True, now=now, clock=clock, sleep=sleep)
        self._presence = Log(self._stores[-1], "presence", keeps_history=False, now=now, clock=clock, sleep=sleep)
        self._mirror = Mirror(self._catalogue, self._presence, clock=clock)
        self._leases = Leases(self._presence, self._mirror, now=now, clock=clock)
        self._box = box or SecretBox()
        self._service = service
        self._now = now
        self._opened: tuple[Mapping[str, Override], dict[str, Mapping[str, Any]]] = ({}, {})
        self._warned: set[str] = set()

    # -- reading -------------------------------------------------------------------------------------------------------

    def world(self) -> World:
        """The whole map now, read from the store."""
        return self._shown(self._mirror.refresh())

    def wait(self, position: Position, seconds: float) -> World | Delta | None:
        """What changed since `position`, from memory that two threads keep current while somebody waits."""
        update = self._mirror.wait(position, seconds)
        if isinstance(update, Delta):
            return replace(update, edits=tuple(self._shown_edit(edit) for edit in update.edits))
        return None if update is None else self._shown(update)

    def history(
        self, *, kind: Kind | None = None, key: str | None = None, limit: int = 50, before: int | None = None
    ) -> list[Change]:
        """The changes of the catalogue, the newest first; of each the edits that were asked for."""

        def asked(change: Change) -> Change:
            edits = (edit for edit in change.edits if kind in (None, edit.kind) and key in (None, edit.key))
            return replace(change, edits=tuple(_masked(edit) for edit in edits))

        found = (
            change for change in map(asked, self._catalogue.backwards(self._catalogue.read(), before)) if change.edits
        )
        return list(islice(found, max(limit, 0)))

    def secrets(self, service: str) -> Mapping[str, Any]:
        """The opened secrets of a service and of every service, by `scope/KEY`; from memory."""
        overrides = self._mirror.world.overrides
        if self._opened[0] is not overrides:
            self._opened = (overrides, {})
        opened = self._opened[1]
        if service in opened:
            return opened[service]
        values: dict[str, Any] = {}
        for name, override in overrides.items():
            if override.secret and override.scope in (EVERY_SERVICE, service):
                try:
                    values[name] = self._box.open(name, override.value)
                except Unreadable:
                    self._warn(name)
        opened[service] = values
        return values

    # -- the catalogue -------------------------------------------------------------------------------------------------

    def put_service(self, service: Service, *, by: Author) -> int:
        """Add a service or change all that is known of it."""
        service.check()
        return self._change(by, lambda world, _: rules.put_service(world, service))

    def change_service(self, name: str, fields: Mapping[str, Any], *, by: Author) -> int:
        """Change these fields of a service, whatever others change of it meanwhile."""
        return self._change(by, lambda world, _: rules.change_service(world, name, fields))

    def remove_service(self, name: str, *, by: Author, force: bool = False) -> int:
        """Remove a service with its overrides and rulings."""
        return self._change(
            by, lambda world, _: rules.remove_service(world, name, force=force), self._look_around(force)
        )

    def claim_port(self, service: Service, *, by: Author, ports: Iterable[int] = range(8000, 9000)) -> Service:
        """Add a service with the first free port, or give the one that is there."""
        service.check()
        offered = list(ports)
        claimed = service

        def decide(world: World, _: int) -> rules.Edits:
            nonlocal claimed
            claimed = rules.claim_port(world, service, offered)
            return rules.put_service(world, claimed)

        self._change(by, decide)
        return claimed

    def set_override(self, scope: str, key: str, value: Any, *, by: Author, secret: bool = False) -> int:
        """Set a setting. One that is a secret stays a secret until it is unset."""
        name = f"{scope}/{key}"
        Override(scope, key, value, secret).check()
        value = rules.check_value(name, value)
        sealed: Mapping[str, str] | None = None

        def decide(world: World, revision: int) -> rules.Edits:
            nonlocal sealed
            known = world.overrides.get(name)
            is_secret = secret or (known is not None and known.secret)
            same = known is not None and known.secret == is_secret and self._same_value(known, value)
            kept: Any = value
            if is_secret:
                self._check_key(world)
                kept = sealed = sealed or self._box.seal(name, value)
            override = Override(scope, key, kept, is_secret, False, by.name, self._now(), revision)
            return rules.set_override(world, override, same_value=same)

        return self._change(by, decide)

    def unset_override(self, scope: str, key: str, *, by: Author) -> int:
        """Take an override away."""
        return self._change(by, lambda world, _: rules.unset_override(world, scope, key))

    def rule(self, ruling: Ruling, *, by: Author, force: bool = False) -> int:
        """The operator's word on an instance."""
        ruling = replace(ruling, author=by.name, at=self._now())
        ruling.check()
        if ruling.expires_at is not None and ruling.expires_at <= ruling.at:
            raise ValidationFailed("The time at which this ruling ends is over already.")
        return self._change(by, lambda world, _: rules.rule(world, ruling, force=force), self._look_around(force))

    def rollback(self, revision: int, *, by: Author, kind: Kind | None = None, key: str | None = None) -> int:
        """Put the catalogue, or one key of it, back to what it was at `revision`, as a new change."""
        if not is_whole(revision, -(2**53)):
            raise ValidationFailed("A revision is a whole number: `atlas history` shows them.")
        if kind == "token":
            raise ValidationFailed("Tokens are never rolled back: make a new one, or revoke it.")
        if key is not None and kind is None:
            raise ValidationFailed("A key is rolled back together with its kind: service, override or ruling.")

        def decide(world: World, next_revision: int) -> rules.Edits:
            if not 0 <= revision < next_revision:
                raise NotFound(f"There is no revision {revision}: the newest is {next_revision - 1}.")
            changes = self._catalogue.backwards(self._mirror.state.catalogue)
            edits = rules.rollback(world, changes, revision, kind=kind, key=key)
            return tuple(_stamped(edit, by, self._now(), next_revision) for edit in edits)

        return self._change(by, decide)

    # -- presence ------------------------------------------------------------------------------------------------------

    def hold(self, lease: Lease) -> None:
        """Say that the holder lives and carries exactly these instances. Conflict for an incarnation that is over."""
        if self._leases.hold(lease):
            self._keep_snapshot(self._presence, self._presence.read())

    def release(self, lease_id: str, incarnation: str) -> None:
        """The holder leaves: its instances are gone at once."""
        self._leases.release(lease_id, incarnation)

    def sweep(self) -> list[str]:
        """End leases that ran out and rulings whose time is over; gives the ids of the leases. Call it every second or so.

        Any number of processes may do so at once.
        """
        ended = self._leases.sweep()
        if ended:
            _log.warning("leases ran out: %s", ", ".join(ended))
        if rules.expired_rulings(self._mirror.world, self._now()):
            by = Author("atlas", "expired")
            self._change(by, lambda world, _: rules.expired_rulings(world, self._now()))
        return ended

    def reports(self) -> Mapping[str, Report]:
        """What each sidecar that lives last said of itself, read from the store."""
        return self._leases.reports()

    # -- tokens --------------------------------------------------------------------------------------------------------

    def create_token(
        self, role: str, subject: str, *, by: Author, expires_at: float | None = None
    ) -> tuple[str, Token]:
        """A new bearer token, `<id>.<43 random characters>`, and what is kept of it."""
        if role not in ROLES:
            raise ValidationFailed(f"There is no role {role}: a token is for one of {', '.join(ROLES)}.")
        token_id = secrets.token_hex(4)
        text = f"{token_id}.{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        token = Token(token_id, role, subject, digest, self._now(), expires_at)  # type: ignore[arg-type]
        token.check()
        if expires_at is not None and expires_at <= self._now():
            raise ValidationFailed("The time at which this token ends is over already.")
        self._change(by, lambda world, _: rules.change(world, "token", token_id, token.to_json()))
        return text, token

    def revoke_token(self, token_id: str, *, by: Author) -> int:
        """From now on the token is refused."""

        def decide(world: World, _: int) -> rules.Edits:
            if token_id not in world.tokens:
                raise NotFound(f"There is no token {token_id}: `atlas token ls` shows those that are.")
            return rules.change(world, "token", token_id, None)

        return self._change(by, decide)

    def reseal(self, *, by: Author) -> int:
        """Seal every secret with the first key, so that older keys may be dropped. History keeps what it has."""

        def decide(world: World, revision: int) -> rules.Edits:
            edits = []
            for name, override in sorted(world.overrides.items()):
                if override.secret:
                    try:
                        value = self._box.open(name, override.value)
                    except Unreadable:
                        raise ValidationFailed(
                            f"No key of ATLAS_KEYS opens {name}: add the one it was sealed with."
                        ) from None
                    kept = replace(override, value=self._box.seal(name, value))
                    edits.append(Edit("override", name, override.to_json(), kept.to_json()))
            return tuple(edits)

        return self._change(by, decide)

    # -- moving --------------------------------------------------------------------------------------------------------

    def export(self) -> Iterator[Mapping[str, Any]]:
        """The whole map with its history, one JSON object at a time; see `atlas.moving`."""
        return moving.export(self._mirror, self._now)

    def import_(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Fill an empty map with what `export` gave."""
        return moving.import_(records, self._mirror, self._leases)

    def status(self) -> Mapping[str, Any]:
        """The stores and their guarantees, position, counts, every lease, and which are overdue or held back."""
        world = self._mirror.refresh()
        patience = self._leases.patience
        documents = self._leases.documents()
        leases = []
        for name, lease in sorted(world.leases.items()):
            document = documents.get(name)
            leases.append(
                {
                    "id": name,
                    "incarnation": lease.incarnation,
                    "ttl_seconds": lease.ttl_seconds,
                    "opened_at": lease.opened_at,
                    "renewed_at": None if document is None else document.renewed_at,
                    "instances": sum(1 for _ in rules.instances_of_lease(world, name)),
                    "overdue": name in patience.overdue,
                }
            )
        return {
            "catalogue": asdict(self._stores[0].guarantees),
            "presence": asdict(self._stores[-1].guarantees),
            "position": str(world.position),
            "services": len(world.services),
            "instances": sum(len(places) for places in world.instances.values()),
            "overrides": len(world.overrides),
            "rulings": len(world.rulings),
            "secrets": sum(1 for override in world.overrides.values() if override.secret),
            "can_open_secrets": self._box.can_open,
            "leases": leases,
            "overdue": list(patience.overdue),
            "held_back": patience.held_back,
        }

    def close(self) -> None:
        """Let go of connections and threads. Idempotent."""
        self._mirror.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _look_around(self, force: bool) -> Callable[[], object]:
        """Reads presence, for a change that depends on what runs; one that is forced does without when it is away."""

        def look() -> None:
            try:
                self._mirror.take(self._presence, self._presence.read())
            except Unavailable:
                if not force:
                    raise

        return look

    def _change(
        self,
        by: Author,
        decide: Callable[[World, int], rules.Edits],
        look: Callable[[], object] = lambda: None,
    ) -> int:
        """Append what `decide(world, its revision)` makes of the present World; gives the revision that holds then.

        `look` is called before each decision. What depends on the catalogue alone does not ask for presence, which may be in
        another store that is away.
        """
        rules.check_author(by)

        def drafted(head: Head) -> Draft | None:
            look()
            edits = decide(self._mirror.take(self._catalogue, head, writing=True), head.revision + 1)
            return Draft(by.name, by.why, edits) if edits else None

        head, change = self._catalogue.append(drafted)
        self._mirror.take(self._catalogue, head)
        self._keep_snapshot(self._catalogue, head)
        return head.revision if change is None else change.revision

    def _keep_snapshot(self, log: Log, head: Head) -> None:
        """Keep a snapshot when it is time. The change that led to it is written already: a failure waits for the next one."""
        if not log.wants_snapshot(head):
            return
        state = self._mirror.state
        try:
            log.keep_snapshot(getattr(state, log.name), items_of(state.world, log.name))
        except SmartError as error:
            _log.warning("no snapshot of the %s was kept: %s", log.name, error)

    def _check_key(self, world: World) -> None:
        """No new key is made beside secrets that an older one sealed: it would hide that the older one is missing."""
        if self._box.file is not None and not self._box.can_open:
            count = sum(1 for override in world.overrides.values() if override.secret)
            if count:
                raise NotConfigured(
                    f"The key file {self._box.file} is missing, and {count} of the secrets in this map were sealed with it: "
                    "put it back. If it is lost, unset them first."
                )

    def _same_value(self, known: Override, value: Any) -> bool:
        if not known.secret:
            return _is_same(known.value, value)
        try:
            return _is_same(self._box.open(known.name, known.value), value)
        except Unreadable:
            return False

    def _shown(self, world: World) -> World:
        """The World as this book's service may see it."""
        if not any(override.secret for override in world.overrides.values()):
            return world
        overrides = {
            name: self._shown_override(override) if override.secret else override
            for name, override in world.overrides.items()
        }
        return replace(world, overrides=overrides)

    def _shown_override(self, override: Override) -> Override:
        if self._service is not None and override.scope in (EVERY_SERVICE, self._service):
            try:
                return replace(override, value=self._box.open(override.name, override.value))
            except Unreadable:
                self._warn(override.name)
        return replace(override, value=None, hidden=True)

    def _shown_edit(self, edit: Edit) -> Edit:
        if edit.kind != "override" or edit.after is None or not edit.after.get("secret"):
            return edit
        return replace(edit, after=self._shown_override(PARSERS["override"](edit.after)).to_json())

    def _warn(self, name: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            _log.error("the secret %s cannot be opened: none of the keys given here sealed it", name)

    def __repr__(self) -> str:
        return f"Book({' + '.join(map(repr, self._stores))})"


def _stamped(edit: Edit, by: Author, now: float, revision: int) -> Edit:
    """An override that comes back says who brought it back, and when."""
    if edit.kind != "override" or edit.after is None:
        return edit
    return replace(edit, after={**edit.after, "author": by.name, "at": now, "revision": revision})


def _masked(edit: Edit) -> Edit:
    return replace(edit, before=_mask(edit.kind, edit.before), after=_mask(edit.kind, edit.after))


def _mask(kind: Kind, data: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if data is not None and kind == "override" and data.get("secret"):
        return {**{name: value for name, value in data.items() if name != "value"}, "hidden": True}
    if data is not None and kind == "token":
        return {name: value for name, value in data.items() if name != "digest"}
    return data


def _is_same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1, 1.0 and true are different settings."""
    return one == other and repr(one) == repr(other)
