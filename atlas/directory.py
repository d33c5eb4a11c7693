"""The interface through which everybody reads and writes the map, whatever is behind it: a store or an `atlas serve`.

with atlas.open("sqlite:///realm.db") as directory:
    directory.put_service(Service("identity", owner="accounts", port=8000), by=Author("anna"))
    world = directory.world()
    update = directory.wait(world.position, seconds=25)   # a World, a Delta, or None: nothing changed
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, Self

from atlas.model import Author, Change, Kind, Lease, Report, Ruling, Service, Token
from atlas.world import Delta, Position, World


class Directory(Protocol):
    """The map of one realm. Methods may be called from any thread; after a fork each process connects anew.

    They raise errors of `smartrealm.errors` only: Unavailable (cannot be reached within its time; nothing is known of a
    write), ValidationFailed, NotFound (with the near names), Conflict (a guard or a newer change stands against it),
    Unauthorized, Forbidden. Writes give the revision of the catalogue that they made; one that changes nothing makes none and
    gives the present one.
    """

    # -- reading -------------------------------------------------------------------------------------------------------

    def world(self) -> World:
        """The whole map now. A secret is in it only for the service on whose behalf the directory was opened."""

    def wait(self, position: Position, seconds: float) -> World | Delta | None:
        """What changed since `position`, as soon as something did; None when nothing did for `seconds`.

        A position that cannot be continued from (another epoch, too old) gives the complete World at once.
        """

    def history(
        self, *, kind: Kind | None = None, key: str | None = None, limit: int = 50, before: int | None = None
    ) -> list[Change]:
        """The changes of the catalogue, the newest first; `before`: only revisions below it. Secrets are masked."""

    # -- the catalogue -------------------------------------------------------------------------------------------------

    def put_service(self, service: Service, *, by: Author) -> int:
        """Add a service or change all that is known of it."""

    def change_service(self, name: str, fields: Mapping[str, Any], *, by: Author) -> int:
        """Change these fields of a service, as in its JSON, whatever others change of it meanwhile; it is added where it is not
        there. ValidationFailed names a field that is unknown or wrong."""

    def remove_service(self, name: str, *, by: Author, force: bool = False) -> int:
        """Remove a service with its overrides and rulings. Conflict while it has instances, unless forced."""

    def claim_port(self, service: Service, *, by: Author, ports: Iterable[int] = range(8000, 9000)) -> Service:
        """Add a service with the first of `ports` that no service of the realm has; one that is there is given as it is."""

    def set_override(self, scope: str, key: str, value: Any, *, by: Author, secret: bool = False) -> int:
        """Set a setting of one service, or of all (`*`). A secret is encrypted before it is stored, and stays a secret
        until it is unset."""

    def unset_override(self, scope: str, key: str, *, by: Author) -> int:
        """Take an override away: the default of the service is in force again. NotFound when there is none."""

    def rule(self, ruling: Ruling, *, by: Author, force: bool = False) -> int:
        """The operator's word on an instance: its state, its weight, until when. `enabled` with no weight takes it away.

        Conflict when it would leave the service without an enabled instance, unless forced.
        """

    def rollback(self, revision: int, *, by: Author, kind: Kind | None = None, key: str | None = None) -> int:
        """Put the catalogue, or one key of it, back to what it was at `revision`, as a new change. Tokens stay."""

    # -- presence ------------------------------------------------------------------------------------------------------

    def hold(self, lease: Lease) -> None:
        """Say that the holder lives and carries exactly these instances. Called every third of the ttl; one write while
        nothing changed, whatever the number of instances. A lease that was lost is opened anew. Conflict for an incarnation
        that another one has replaced."""

    def release(self, lease_id: str, incarnation: str) -> None:
        """The holder leaves: its instances are gone at once. Nothing happens when another incarnation holds it by now."""

    def sweep(self) -> list[str]:
        """Take leases out of the map that were not renewed in time; gives their ids. Whoever holds a lease calls it now and
        then, so that a realm without a server has no dead instances; over HTTP the server does it, and nothing happens.
        """

    def reports(self) -> Mapping[str, Report]:
        """What each sidecar last said of itself, by the id of its lease; of those whose lease is overdue nothing. Read anew
        each time."""

    # -- tokens --------------------------------------------------------------------------------------------------------

    def create_token(
        self, role: str, subject: str, *, by: Author, expires_at: float | None = None
    ) -> tuple[str, Token]:
        """A new bearer token, which is shown this once and kept as a hash, and what is kept of it."""

    def revoke_token(self, token_id: str, *, by: Author) -> int:
        """From now on the token is refused."""

    # -- moving --------------------------------------------------------------------------------------------------------

    def export(self) -> Iterator[Mapping[str, Any]]:
        """The whole map with its history, one JSON object at a time, the first one a header. Secrets stay encrypted."""

    def import_(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Fill an empty map with what `export` gave: same revisions, same history, a new epoch. Conflict when not empty."""

    def status(self) -> Mapping[str, Any]:
        """What `atlas doctor` wants to know: the store and its guarantees, position, leases and which are overdue."""

    def close(self) -> None:
        """Let go of connections and threads. Idempotent."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...
