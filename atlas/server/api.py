"""The resources under `/v1/`. Each method says who may call it; what they do is the Directory's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, cast

from flask import Response, current_app, request
from flask_restful import Resource

from atlas import wire
from atlas.model import EVERY_SERVICE, Change, Lease, Override, Ruling, Service, address, is_service_name
from atlas.server.answers import Prepared
from atlas.server.auth import author, check_still_in, needs, who
from atlas.server.follower import Follower
from atlas.server.models import (
    ClaimIn,
    ForceQuery,
    HistoryQuery,
    LeaseIn,
    OverrideIn,
    ReleaseQuery,
    Revision,
    RollbackIn,
    RulingIn,
    ServiceIn,
    TokenIn,
    WorldQuery,
)
from atlas.world import Place, Position
from smartrealm.errors import BadRequest, NotFound, Unavailable, ValidationFailed
from smartservice import SmartService
from smartservice.api import SmartApi
from smartservice.validation import validated

EVERYBODY = ("operator", "service", "host", "reader")
HOLDERS = ("operator", "service", "host")
NDJSON = "application/x-ndjson"
CHATTER = {"world", "onelease", "reports"}
"""The endpoints of polls and renewals: machines ask them all the time, so they are counted and not logged."""

_WORTH_ZIPPING = 1000

_NEWEST = 2000
"""Changes that are looked at for those who may see only some of them."""


class _Resource(Resource):  # type: ignore[misc]
    """A resource of one follower."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.book = follower.book


class World(_Resource):
    """The map: all of it, or what changed since a position."""

    @needs(*EVERYBODY)
    @validated(query=WorldQuery)
    def get(self, query: WorldQuery) -> Response:
        """The whole map; with `position` what changed since, waiting up to `wait` seconds for news. 204: nothing did."""
        audience = who().audience(query.service)
        if query.position is None:
            return _sent(self.follower.complete(audience), tagged=True)
        longest = current_app.config["ATLAS_LONGEST_WAIT"]
        found = self.follower.news(Position.parse(query.position), audience, min(query.wait, longest))
        check_still_in()
        response = Response(status=204) if found is None else _sent(found)
        if self.follower.draining:
            response.headers[wire.DRAINING] = "yes"
        return response


class Services(_Resource):
    """The services of the realm."""

    @needs(*EVERYBODY)
    def get(self) -> Any:
        """Every service of the catalogue, by name."""
        services = self.follower.fresh().services
        return {"services": [services[name].to_json() for name in sorted(services)]}


class OneService(_Resource):
    """One service: what its callers need to know."""

    @needs(*EVERYBODY)
    def get(self, name: str) -> Any:
        """What is known of the service. 404 lists the near names."""
        world = self.follower.fresh()
        if name not in world.services:
            raise _no_service(name, world.near(name))
        return world.services[name].to_json()

    @needs("operator")
    @validated(body=ServiceIn)
    def put(self, name: str, body: Any) -> Revision:
        """Add the service, or change what is known of it: what the body does not name gets its default."""
        return _revision(self.book.put_service(Service.from_json({**body.model_dump(), "name": name}), by=author()))

    @needs("operator")
    @validated(body=ServiceIn)
    def patch(self, name: str, body: Any) -> Revision:
        """Change what the body names; the rest stays. The service is added where it is not there."""
        return _revision(self.book.change_service(name, body.model_dump(exclude_unset=True), by=author()))

    @needs("operator")
    @validated(query=ForceQuery)
    def delete(self, name: str, query: ForceQuery) -> Revision:
        """Remove the service with its overrides and rulings. 409 while it has instances, unless forced."""
        return _revision(self.book.remove_service(name, by=author(), force=query.force))


class ServicePort(_Resource):
    """A port for a new service."""

    @needs("operator")
    @validated(body=ClaimIn)
    def post(self, name: str, body: Any) -> Any:
        """Add the service with the first free one of `ports` (`8000-8999,9100`); one that is there is given as it is."""
        given = body.model_dump()
        ports = wire.read_ports(given.pop("ports"))
        service = Service.from_json({**given, "name": name})
        return self.book.claim_port(service, by=author(), ports=ports).to_json()


class ServiceInstances(_Resource):
    """Where a service runs."""

    @needs(*EVERYBODY)
    def get(self, name: str) -> Any:
        """The instances of the service with their state and weight under the operator's word."""
        world = self.follower.fresh()
        if not world.knows(name):
            raise _no_service(name, world.near(name))
        return {"instances": [_place_json(place) for place in world.places(name, time.time())]}


class Config(_Resource):
    """The overrides of one scope: `*`, or a service."""

    @needs("operator", "service", "reader")
    def get(self, scope: str) -> Any:
        """Every override of the scope. A secret has its value for its own service only."""
        who().check_scope(scope)
        _check_scope(scope)
        found = sorted(self.follower.fresh().overrides.items())
        return {"overrides": [self.shown(override) for _, override in found if override.scope == scope]}

    def shown(self, override: Override) -> Mapping[str, Any]:
        audience = who().audience(None)
        secrets = {} if audience.service is None else self.book.secrets(audience.service)
        _, seen = audience.shown("override", override.name, override.to_json(), secrets)
        return seen or {}


class OneOverride(Config):
    """One override."""

    @needs("operator", "service", "reader")
    def get(self, scope: str, key: str) -> Any:
        """The override: value, author, when, at which revision."""
        who().check_scope(scope)
        _check_scope(scope)
        overrides = self.follower.fresh().overrides
        if f"{scope}/{key}" not in overrides:
            known = sorted(override.key for override in overrides.values() if override.scope == scope)
            raise NotFound(f"{key} is not set for {scope}; set are: {', '.join(known) or 'none'}.", near=known[:20])
        return self.shown(overrides[f"{scope}/{key}"])

    @needs("operator")
    @validated(body=OverrideIn)
    def put(self, scope: str, key: str, body: OverrideIn) -> Revision:
        """Set the setting; running services follow within a second."""
        return _revision(self.book.set_override(scope, key, body.value, by=author(), secret=body.secret))

    @needs("operator")
    def delete(self, scope: str, key: str) -> Revision:
        """Take the override away: the service's default is in force again."""
        return _revision(self.book.unset_override(scope, key, by=author()))


class OneRuling(_Resource):
    """The operator's word on one address of a service."""

    @needs("operator")
    @validated(body=RulingIn, query=ForceQuery)
    def put(self, service: str, place: str, body: Any, query: ForceQuery) -> Revision:
        """Enable, drain or disable the instance, or weigh it. 409 when it would leave the service without one, unless forced."""
        host, port = _read_place(place)
        by = author(body.reason)
        ruling = Ruling.from_json({**body.model_dump(), "service": service, "host": host, "port": port})
        return _revision(self.book.rule(ruling, by=by, force=query.force))


class History(_Resource):
    """What was changed, by whom, when and why."""

    @needs(*EVERYBODY)
    @validated(query=HistoryQuery)
    def get(self, query: HistoryQuery) -> Any:
        """The changes of the catalogue, the newest first; secrets are masked. `before` pages on.

        Operators see all of it. Everybody else sees services and rulings: `kind` says which, among the newest 2,000 changes.
        """
        if who().check_history(query.kind):
            found = self.book.history(kind=query.kind, key=query.key, limit=query.limit, before=query.before)
        else:
            found = list(islice(self._among_the_newest(query), query.limit))
        return {"changes": [wire.change_json(change) for change in found]}

    def _among_the_newest(self, query: HistoryQuery) -> Iterator[Change]:
        """Bounded, so that nobody but an operator makes the server read the whole history again and again."""
        for change in self.book.history(limit=_NEWEST, before=query.before):
            asked = (edit for edit in change.edits if edit.kind == query.kind and query.key in (None, edit.key))
            if edits := tuple(asked):
                yield replace(change, edits=edits)


class Rollback(_Resource):
    """Back to what was."""

    @needs("operator")
    @validated(body=RollbackIn)
    def post(self, body: RollbackIn) -> Revision:
        """Put the catalogue, or one key of it, back to what it was at a revision, as a new change. Tokens stay."""
        return _revision(self.book.rollback(body.revision, by=author(), kind=body.kind, key=body.key))


class OneLease(_Resource):
    """What one holder carries."""

    @needs(*HOLDERS)
    @validated(body=LeaseIn)
    def put(self, lease_id: str, body: LeaseIn) -> Any:
        """Hold the lease: these are all its instances, and they live for `ttl_seconds` unless it is held again."""
        lease = Lease.from_json({**body.model_dump(), "id": lease_id})
        who().check_lease(lease_id, lease.instances, self.follower, reports=bool(lease.report))
        self.book.hold(lease)
        return Response(status=204)

    @needs(*HOLDERS)
    @validated(query=ReleaseQuery)
    def delete(self, lease_id: str, query: ReleaseQuery) -> Any:
        """The holder leaves: its instances are gone at once. Nothing happens when it was started anew meanwhile."""
        who().check_lease(lease_id, (), self.follower)
        self.book.release(lease_id, query.incarnation)
        return Response(status=204)


class Reports(_Resource):
    """What the sidecars say of themselves."""

    @needs(*EVERYBODY)
    def get(self) -> Any:
        """The last report of each sidecar that lives, by the id of its lease: what it has applied, what is under way."""
        return wire.reports_json(self.book.reports()), 200, {"Cache-Control": "no-store"}


class Tokens(_Resource):
    """The bearer tokens of the realm."""

    @needs("operator")
    def get(self) -> Any:
        """Every token: whose it is and what it may; never the token itself."""
        tokens = self.follower.fresh().tokens
        return {"tokens": [_token_json(tokens[name].to_json()) for name in sorted(tokens)]}

    @needs("operator")
    @validated(body=TokenIn)
    def post(self, body: TokenIn) -> Any:
        """Make a token. It is in this answer and nowhere else."""
        text, token = self.book.create_token(body.role, body.subject, by=author(), expires_at=body.expires_at)
        return {**_token_json(token.to_json()), "token": text}, 201, {"Cache-Control": "no-store"}


class OneToken(_Resource):
    """One bearer token."""

    @needs("operator")
    def delete(self, token_id: str) -> Revision:
        """Revoke the token: it is refused within a second."""
        return _revision(self.book.revoke_token(token_id, by=author()))


class Export(_Resource):
    """The whole map, to be moved."""

    @needs("operator")
    def get(self) -> Response:
        """The map with its history, one JSON object a line, the first one a header. Secrets stay encrypted."""
        records = iter(self.book.export())
        first = next(records)  # what cannot be begun is an error, not half an answer

        def lines() -> Iterator[bytes]:
            yield _line(first)
            for record in records:
                yield _line(record)

        return Response(lines(), content_type=NDJSON)


class Import(_Resource):
    """A map that was exported elsewhere."""

    @needs("operator")
    def post(self) -> Revision:
        """Fill an empty map with what an export gave. 409 when it is not empty."""
        return _revision(self.book.import_(_records()))


class Status(_Resource):
    """How this Atlas is."""

    @needs(*EVERYBODY)
    def get(self) -> Any:
        """The store and what it guarantees, the position, leases and which are overdue; under `server` this worker."""
        follower = self.follower
        server = {
            "position": None if follower.world is None else str(follower.world.position),
            "store_problem": follower.problem,
            "store_heard_seconds_ago": follower.age_seconds,
            "readers_waiting": follower.waiting,
            "draining": follower.draining,
            "realm": str(cast(SmartService, current_app).realm),
        }
        try:
            return {**self.book.status(), "server": server}
        except Unavailable as error:
            return {"server": {**server, "store_problem": error.message}}


def install(api: SmartApi, follower: Follower) -> None:
    """Register the resources."""
    for resource, url in (
        (World, "/v1/world"),
        (Services, "/v1/services"),
        (OneService, "/v1/services/<name>"),
        (ServicePort, "/v1/services/<name>/port"),
        (ServiceInstances, "/v1/services/<name>/instances"),
        (Config, "/v1/config/<scope>"),
        (OneOverride, "/v1/config/<scope>/<key>"),
        (OneRuling, "/v1/rulings/<service>/<place>"),
        (History, "/v1/history"),
        (Rollback, "/v1/rollback"),
        (OneLease, "/v1/leases/<lease_id>"),
        (Reports, "/v1/reports"),
        (Tokens, "/v1/tokens"),
        (OneToken, "/v1/tokens/<token_id>"),
        (Export, "/v1/export"),
        (Import, "/v1/import"),
        (Status, "/v1/status"),
    ):
        api.add_resource(resource, url, resource_class_args=(follower,))


def _sent(prepared: Prepared, *, tagged: bool = False) -> Response:
    zipped = len(prepared.body) >= _WORTH_ZIPPING and request.accept_encodings["gzip"] > 0
    response = Response(prepared.zipped if zipped else prepared.body, mimetype="application/json")
    if zipped:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding, Authorization"
    response.headers["Cache-Control"] = "private, no-cache"
    if tagged:
        response.set_etag(prepared.tag, weak=True)
        response.make_conditional(request)
    return response


def _revision(revision: int) -> Revision:
    return {"revision": revision}


def _no_service(name: str, near: list[str]) -> NotFound:
    meant = f"; near are: {', '.join(near)}" if near else ""
    return NotFound(f"{name} is not in the map of this realm{meant}.", near=near)


def _place_json(place: Place) -> Mapping[str, Any]:
    found: dict[str, Any] = {**place.instance.to_json(), "state": place.state, "weight": place.weight}
    if place.ruling is not None:
        found["ruling"] = place.ruling.to_json()
    return found


def _token_json(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "digest"}


def _check_scope(scope: str) -> None:
    if scope != EVERY_SERVICE and not is_service_name(scope):
        raise ValidationFailed(f"{scope!r} is no scope: `*`, or the name of a service.")


def _read_place(place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal():
        raise ValidationFailed(f"{place!r} is no place: write host:port, an IPv6 address in brackets.")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if address(host, int(port)) != place:
        raise ValidationFailed(f"{place!r} is no place: write {address(host, int(port))}.")
    return host, int(port)


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _records() -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(request.stream, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise BadRequest(f"Line {number} of the body is not JSON: send what an export gave, as it is.") from None
        if not isinstance(record, dict):
            raise BadRequest(f"Line {number} of the body is no JSON object.")
        yield record
