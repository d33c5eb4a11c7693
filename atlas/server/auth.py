"""Who asks, and what they may do: bearer tokens by their SHA-256, four scopes, and the open realm of a laptop."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any
from urllib.parse import urlsplit

from flask import Request, g, request

from atlas import wire
from atlas.model import EVERY_SERVICE, Author, Instance, Token
from atlas.reports import PREFIX, host_of, is_sidecar
from atlas.rules import instances_of_lease
from atlas.server.answers import Audience
from atlas.server.follower import Follower
from atlas.world import World
from smartrealm.errors import Forbidden, Unauthorized

_PREFIX = "bearer "

OPEN_HISTORY = ("service", "ruling")
"""Kinds whose changes everybody may read who reads the map: never settings, never tokens."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. In an open realm everybody is an operator and says their own name."""

    role: str
    subject: str

    def author(self, why: str) -> Author:
        return Author(self.subject, why)

    def audience(self, service: str | None) -> Audience:
        """What they see of the map; `service` is on whose behalf they read."""
        if self.role == "operator":
            return Audience("all", service, tokens=True)
        if self.role == "service" and service in (None, self.subject):
            return Audience("own", self.subject)
        if service is not None:
            raise _refused(f"read the settings of {service}", f"operator, or service for {service}")
        return Audience("names" if self.role == "reader" else "none")

    def check_scope(self, scope: str) -> None:
        """Raise Forbidden unless they may read the overrides of this scope."""
        if self.role == "host" or (self.role == "service" and scope not in (EVERY_SERVICE, self.subject)):
            raise _refused(f"read the settings of {scope}", f"operator, or service for {scope}")

    def check_history(self, kind: str | None) -> bool:
        """Whether they see all of the history. Raise Forbidden unless this kind is one that everybody sees."""
        if self.role == "operator":
            return True
        if kind not in OPEN_HISTORY:
            what = f"read the history of {kind or 'everything'} (but kind={' and kind='.join(OPEN_HISTORY)})"
            raise _refused(what, "operator")
        return False

    def is_host(self, host: str) -> bool:
        """Whether this is the token of a host: of this one, or of the network (`10.42.0.0/16`) in which its address lies."""
        return self.role == "host" and (self.subject == host or _lies_in(host, self.subject))

    def check_lease(
        self, lease_id: str, instances: Iterable[Instance], follower: Follower, *, reports: bool = False
    ) -> None:
        """Raise Forbidden unless every instance is theirs: those they name, and those that the lease carries now. The lease
        of a sidecar, which may carry none, is its host's; what `reports` is the lease of a sidecar."""
        if self.role == "operator":
            return
        if is_sidecar(lease_id) and not self.is_host(host_of(lease_id)):
            raise _refused(f"hold the lease {lease_id}", f"operator, or host for {host_of(lease_id)}")
        if reports and not is_sidecar(lease_id):
            # A drain waits for what sidecars report: nobody else is to say that it is done.
            raise _refused(f"report with the lease {lease_id}", f"operator; a sidecar's is named {PREFIX}HOST")
        # A lease of which this worker has heard nothing may have been opened through another one a moment ago.
        carried = follower.carried(lease_id) or tuple(instances_of_lease(follower.fresh(), lease_id))
        for instance in (*instances, *carried):
            theirs = self.subject == instance.service if self.role == "service" else self.is_host(instance.host)
            if not theirs:
                raise _refused(
                    f"hold the lease {lease_id} with {instance.key}",
                    f"operator, service for {instance.service} or host for {instance.host}",
                )


@lru_cache(1024)
def _lies_in(host: str, network: str) -> bool:
    try:
        return "/" in network and ipaddress.ip_address(host) in ipaddress.ip_network(network)
    except ValueError:
        return False


def _refused(what: str, needed: str) -> Forbidden:
    asking = who()
    return Forbidden(
        f"The token of {asking.subject} (role {asking.role}) may not {what}: that needs the role {needed}.",
        needed=needed,
    )


def who() -> Principal:
    """The one who asks in this request."""
    principal: Principal = g.atlas_principal
    return principal


def author(why: str = "") -> Author:
    """The author of what this request changes, with the reason from the header `Atlas-Why`."""
    return who().author(why or wire.read_header(request.headers.get(wire.WHY, "")))


def check_still_in() -> None:
    """For a request that has waited: raise Unauthorized when its token was revoked or ended meanwhile."""
    doorkeeper: Doorkeeper = g.atlas_doorkeeper
    doorkeeper.identify(request)


def needs(*roles: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let in only tokens with one of these scopes; for a method of a resource."""

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            if who().role not in roles:
                raise _refused(f"{request.method} {request.path}", " or ".join(roles))
            return view(*args, **kwargs)

        checked.__roles__ = roles  # type: ignore[attr-defined]
        return checked

    return decorate


class Doorkeeper:
    """Finds out who asks. `is_open`: nobody on this machine is asked for a token."""

    def __init__(self, follower: Follower, *, is_open: bool, now: Callable[[], float] = time.time) -> None:
        self.is_open = is_open
        self._follower = follower
        self._now = now
        self._seen: tuple[object, Mapping[str, Token]] = (None, {})

    def let_in(self) -> None:
        """For `before_request`: note who asks, or raise Unauthorized or Forbidden."""
        if request.path.startswith("/v1/"):
            g.atlas_doorkeeper, g.atlas_principal = self, self.identify(request)

    def identify(self, asked: Request) -> Principal:
        """Who sends this request. Raises Unauthorized, or Forbidden for what only looks like coming from this machine."""
        header = asked.headers.get("Authorization", "")
        if not header and self.is_open:
            _check_local(asked)
            return Principal("operator", wire.read_header(asked.headers.get(wire.AUTHOR, "")) or "local")
        if header[: len(_PREFIX)].lower() != _PREFIX:
            raise Unauthorized(
                "Nobody is let in without a token here: set ATLAS_TOKEN (as a header: Authorization, Bearer). An operator makes one: atlas token create."
            )
        digest = hashlib.sha256(header[len(_PREFIX) :].strip().encode("latin-1", "replace")).hexdigest()
        token = self._find(digest, self._follower.known()) or self._find(digest, self._follower.look_again())
        if token is None:
            raise Unauthorized("This token is not known here: it was revoked, or belongs to another realm.")
        if token.expires_at is not None and token.expires_at <= self._now():
            raise Unauthorized(f"This token of {token.subject} has expired: an operator can create another one.")
        return Principal(token.role, token.subject)

    def _find(self, digest: str, world: World) -> Token | None:
        seen, by_digest = self._seen
        if seen is not world.tokens:
            by_digest = {token.digest: token for token in world.tokens.values()}
            self._seen = (world.tokens, by_digest)
        token = by_digest.get(digest)
        return token if token is not None and hmac.compare_digest(token.digest, digest) else None


def _check_local(asked: Request) -> None:
    """A page in a browser of this machine is not its owner: neither by another site's request nor by a name that was
    bent to point here."""
    origin = asked.headers.get("Origin")
    host = urlsplit(f"//{asked.host}").hostname or ""
    foreign = origin is not None and origin.partition("://")[2] != asked.host
    if foreign or not is_loopback(host) or not is_loopback(asked.remote_addr or "127.0.0.1"):
        raise Forbidden("Without a token this Atlas answers programs on its own machine only.")


def is_loopback(host: str) -> bool:
    """Whether this name or address can only be reached from the machine itself."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
