"""The map behind an `atlas serve`, over HTTP: the same interface as over a store, with failover between replicas."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self
from urllib.parse import quote, urlencode

from atlas import wire
from atlas.model import Author, Change, Kind, Lease, Report, Ruling, Service, Token, address
from atlas.replicas import Answer, Patience, Replicas
from atlas.world import Delta, Position, World
from smartrealm.errors import Unavailable, ValidationFailed

LONGEST_POLL = 60.0
"""Seconds that the server lets one question wait at most; longer waits are several questions."""

_NDJSON = "application/x-ndjson"


class HttpDirectory:
    """A Directory at `http(s)://a:7070,b:7070`. Its repr, its errors and its log lines never show the token.

    A replica that is killed costs one retry with the next one. A write that may have been received is repeated only where
    repeating it changes nothing; otherwise it raises Unavailable, and nothing is known of it. Nothing is connected before
    the first question; safe from any thread and across a fork.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        service: str | None = None,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._replicas = Replicas(url, token, patience=patience, sleep=sleep, spread=spread)
        self._service = service
        self._clock = clock
        self._sleep = sleep
        self._spread = spread

    # -- reading -------------------------------------------------------------------------------------------------------

    def world(self) -> World:
        """The whole map now, with the secrets of the service on whose behalf it is read."""
        update = wire.read_update(self._get("/v1/world", service=self._service))
        if isinstance(update, Delta):
            raise Unavailable(f"{self._replicas} answered with a part of the map where all of it was asked for.")
        return update

    def wait(self, position: Position, seconds: float) -> World | Delta | None:
        """What changed since `position`, as soon as something did; None after `seconds`."""
        end = self._clock() + seconds
        while True:
            left = max(0.0, end - self._clock())
            poll = min(left, LONGEST_POLL)
            begun = self._clock()
            answer = self._poll(position, poll)
            if answer.status != 204:
                return wire.read_update(answer.json())
            left = end - self._clock()
            if left <= 0.001:
                return None
            if wire.DRAINING in answer.headers:
                self._replicas.leave(answer.replica)
            if self._clock() - begun < min(poll, 1.0) / 2:  # sent away early: not at once again, and not all together
                self._sleep(min(left, 0.05 + 0.1 * self._spread()))

    def history(
        self, *, kind: Kind | None = None, key: str | None = None, limit: int = 50, before: int | None = None
    ) -> list[Change]:
        """The changes of the catalogue, the newest first."""
        found = self._get("/v1/history", kind=kind, key=key, limit=limit, before=before)
        return [wire.read_change(change) for change in found["changes"]]

    def status(self) -> Mapping[str, Any]:
        """What `atlas doctor` wants to know, with what the replica that answers says of itself under `server`."""
        found: Mapping[str, Any] = self._get("/v1/status")
        return found

    # -- the catalogue -------------------------------------------------------------------------------------------------

    def put_service(self, service: Service, *, by: Author) -> int:
        """Add a service or change all that is known of it."""
        body = service.to_json()
        return self._change("PUT", f"/v1/services/{_part(body.pop('name'))}", body, by=by)

    def change_service(self, name: str, fields: Mapping[str, Any], *, by: Author) -> int:
        """Change these fields of a service, whatever others change of it meanwhile."""
        return self._change("PATCH", f"/v1/services/{_part(name)}", fields, by=by)

    def remove_service(self, name: str, *, by: Author, force: bool = False) -> int:
        """Remove a service with its overrides and rulings. Conflict while it has instances, unless forced."""
        return self._change("DELETE", f"/v1/services/{_part(name)}", by=by, force=force, repeatable=False)

    def claim_port(self, service: Service, *, by: Author, ports: Iterable[int] = range(8000, 9000)) -> Service:
        """Add a service with the first of `ports` that no service of the realm has; one that is there is given as it is."""
        body = service.to_json()
        path = f"/v1/services/{_part(body.pop('name'))}/port"
        answer = self._replicas.ask("POST", path, body={**body, "ports": wire.ports_text(ports)}, headers=_by(by))
        return Service.from_json(answer.json())

    def set_override(self, scope: str, key: str, value: Any, *, by: Author, secret: bool = False) -> int:
        """Set a setting of one service, or of all (`*`)."""
        return self._change("PUT", f"/v1/config/{_part(scope)}/{_part(key)}", {"value": value, "secret": secret}, by=by)

    def unset_override(self, scope: str, key: str, *, by: Author) -> int:
        """Take an override away. NotFound when there is none."""
        return self._change("DELETE", f"/v1/config/{_part(scope)}/{_part(key)}", by=by, repeatable=False)

    def rule(self, ruling: Ruling, *, by: Author, force: bool = False) -> int:
        """The operator's word on an instance. Conflict when it would leave the service without one, unless forced."""
        path = f"/v1/rulings/{_part(ruling.service)}/{_part(address(ruling.host, ruling.port))}"
        body = {
            "state": ruling.state,
            "weight": ruling.weight,
            "reason": ruling.reason,
            "expires_at": ruling.expires_at,
        }
        return self._change("PUT", path, body, by=by, force=force)

    def rollback(self, revision: int, *, by: Author, kind: Kind | None = None, key: str | None = None) -> int:
        """Put the catalogue, or one key of it, back to what it was at `revision`, as a new change."""
        return self._change("POST", "/v1/rollback", {"revision": revision, "kind": kind, "key": key}, by=by)

    # -- presence ------------------------------------------------------------------------------------------------------

    def hold(self, lease: Lease) -> None:
        """Say that the holder lives and carries exactly these instances."""
        body = lease.to_json()
        self._replicas.ask("PUT", f"/v1/leases/{_part(body.pop('id'))}", body=body)

    def release(self, lease_id: str, incarnation: str) -> None:
        """The holder leaves: its instances are gone at once."""
        query = urlencode({"incarnation": incarnation})
        self._replicas.ask("DELETE", f"/v1/leases/{_part(lease_id)}", query=query)

    def sweep(self) -> list[str]:
        """Nothing: the replicas of the server do it."""
        return []

    def reports(self) -> Mapping[str, Report]:
        """What each sidecar last said of itself, by the id of its lease."""
        return wire.read_reports(self._get("/v1/reports"))

    # -- tokens --------------------------------------------------------------------------------------------------------

    def create_token(
        self, role: str, subject: str, *, by: Author, expires_at: float | None = None
    ) -> tuple[str, Token]:
        """A new bearer token, which is shown this once, and what is kept of it."""
        body = {"role": role, "subject": subject, "expires_at": expires_at}
        found = self._replicas.ask("POST", "/v1/tokens", body=body, headers=_by(by), repeatable=False).json()
        text = found.pop("token")
        return text, Token(**found, digest=hashlib.sha256(text.encode()).hexdigest())

    def revoke_token(self, token_id: str, *, by: Author) -> int:
        """From now on the token is refused."""
        return self._change("DELETE", f"/v1/tokens/{_part(token_id)}", by=by, repeatable=False)

    # -- moving --------------------------------------------------------------------------------------------------------

    def export(self) -> Iterator[Mapping[str, Any]]:
        """The whole map with its history, one JSON object at a time. Raises Unavailable when it breaks off."""
        for line in self._replicas.lines("/v1/export"):
            yield json.loads(line)

    def import_(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Fill an empty map with what `export` gave."""
        lines = (json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)
        found = self._replicas.stream("/v1/import", lines, content_type=_NDJSON, headers={}).json()
        return int(found["revision"])

    def close(self) -> None:
        """Let go of the connections. Idempotent."""
        self._replicas.close()

    def _get(self, path: str, **query: Any) -> Any:
        return self._replicas.ask("GET", path, query=_query(query)).json()

    def _poll(self, position: Position, seconds: float) -> Answer:
        query = _query({"position": position, "wait": f"{seconds:.3f}", "service": self._service})
        limit = seconds + self._replicas.patience.beyond_poll
        return self._replicas.ask("GET", "/v1/world", query=query, seconds=limit)

    def _change(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        by: Author,
        force: bool = False,
        repeatable: bool = True,
    ) -> int:
        query = "force=true" if force else ""
        answer = self._replicas.ask(method, path, query=query, body=body, headers=_by(by), repeatable=repeatable)
        return int(answer.json()["revision"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<HttpDirectory {self._replicas}>"


def _part(text: str) -> str:
    """One part of a path; never one that a server or a proxy would take for two, or for none. Raises ValidationFailed."""
    if not text or "/" in text:
        raise ValidationFailed(f"{text!r} names nothing in the map: it is empty, or has a slash.")
    return quote(text, safe="@:") if text.strip(".") else quote(text, safe="").replace(".", "%2E")


def _query(values: Mapping[str, Any]) -> str:
    return urlencode({name: str(value) for name, value in values.items() if value is not None})


def _by(author: Author) -> dict[str, str]:
    headers = {wire.AUTHOR: wire.header_text(author.name)}
    if author.why:
        headers[wire.WHY] = wire.header_text(author.why)
    return headers
