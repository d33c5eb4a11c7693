"""What the map knows: services, instances, the operator's word on them, leases, overrides, changes. Frozen, with their JSON.

Every value has `to_json()` (a dict that `json.dumps` takes; defaults are left away) and a `from_json()` that checks what
it is given and raises ValidationFailed with every mistake. Times of day are seconds since 1970 (float, UTC).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Any, Literal, Self, cast

from atlas.splits import parse_split
from smartrealm.errors import ConfigurationError, ValidationFailed
from smartrealm.names import ServiceName

EVERY_SERVICE = "*"
"""The scope of an override that is meant for every service which declares the key."""

State = Literal["enabled", "draining", "disabled"]
"""enabled: takes calls. draining: takes no new ones. disabled: takes none."""

RetryClass = Literal["none", "idempotent"]
"""Whether callers may repeat idempotent calls of a service: `idempotent` (the default) or `none`."""

ROLES = ("operator", "service", "host", "reader")
"""What a token may be for."""

_KEY = re.compile(r"[A-Z][A-Z0-9_]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:_-]{0,252}[A-Za-z0-9])?|::1?")
_TEXT = 2000


class Checker:
    """Collects mistakes, each with the name of the field."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.errors: list[dict[str, str]] = []

    def want(self, right: object, name: str, detail: str) -> None:
        if not right:
            self.errors.append({"pointer": f"#/{name}", "detail": detail})

    def finish(self) -> None:
        if self.errors:
            told = "; ".join(f"{error['pointer'][2:]}: {error['detail']}" for error in self.errors)
            raise ValidationFailed(f"This is no {self._what}: {told}.", errors=self.errors)


class _Value:
    """JSON for a frozen dataclass of plain fields."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Its fields by name, without those that have their default."""
        found = {}
        for one in fields(cast(Any, self)):
            value = getattr(self, one.name)
            default = one.default_factory() if one.default_factory is not MISSING else one.default
            if value != default or (one.default is MISSING and one.default_factory is MISSING):
                found[one.name] = value
        return found

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Made of what `to_json` gave. Raises ValidationFailed, which names unknown, missing and wrong fields."""
        what = cls.__name__.lower()
        if not isinstance(data, Mapping):
            raise ValidationFailed(f"This is no {what}: a JSON object is needed.")
        known = {one.name: one for one in fields(cast(Any, cls))}
        check = Checker(what)
        for name in data:
            check.want(name in known, str(name), f"unknown; known are {', '.join(known)}")
        for name, one in known.items():
            required = one.default is MISSING and one.default_factory is MISSING
            check.want(name in data or not required, name, "missing")
        check.finish()
        made = cls(**data)
        made.check()
        return made

    def check(self) -> None:
        """Raise ValidationFailed unless every field holds what it should."""
        check = Checker(type(self).__name__.lower())
        for name, right, detail in self._rules():
            check.want(right(), name, detail)
        check.finish()

    def _rules(self) -> Iterator[tuple[str, Callable[[], bool], str]]:
        yield from ()


def is_service_name(text: object) -> bool:
    """Whether this can be the name of a service."""
    try:
        return isinstance(text, str) and bool(ServiceName(text))
    except ConfigurationError:
        return False


def _is_split(text: str) -> bool:
    try:
        parse_split(text)
    except ValidationFailed:
        return False
    return True


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def is_whole(value: object, least: int, most: int = 2**53) -> bool:
    """Whether it is a whole number in these bounds; True is none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_text(value: object, longest: int = _TEXT) -> bool:
    """Whether it is text that every store can keep: half of a surrogate pair has no UTF-8."""
    if not isinstance(value, str) or len(value) > longest:
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def is_time(value: object) -> bool:
    """Whether it is a time of day: seconds since 1970."""
    return _is_number(value, 0, 1e12)


def _is_host(value: object) -> bool:
    return isinstance(value, str) and _HOST.fullmatch(value) is not None


_NAME_RULE = "1 to 63 lower-case letters, digits and single hyphens, beginning with a letter"
_PORT_RULE = "a whole number from 1 to 65535"
_TEXT_RULE = f"text of at most {_TEXT} characters"
_TIME_RULE = "seconds since 1970"


@dataclass(frozen=True, slots=True)
class Service(_Value):
    """A service of the realm and what its callers need to know: who answers for it, how long to wait, what to repeat."""

    name: str
    owner: str = ""
    description: str = ""
    repository: str = ""
    port: int | None = None
    """Where its instances listen, unless they say otherwise."""
    health_path: str = "/healthcheck/ready"
    timeout_seconds: float = 10.0
    """The deadline of a call for which the caller names none."""
    retry_class: RetryClass = "idempotent"
    version_policy: str = "any"
    """`any`, or a pattern of versions (`2.*`): calls go to instances that match, and to all while none does."""
    split: str = ""
    """Which part of the callers reaches which version: `1.4=5%`; see `atlas.splits`. Empty: none."""
    callers: str = ""
    """The services that may call it, `orders,billing`; empty: everybody. Enforced by the sidecars."""
    loss_accepted_at: float = 0.0
    """Instances that were lost before this time of day are gone for good: sidecars hold them no longer."""

    def _rules(self) -> Iterator[tuple[str, Callable[[], bool], str]]:
        yield "name", lambda: is_service_name(self.name), _NAME_RULE
        for name in ("owner", "description", "repository", "version_policy"):
            yield name, partial(is_text, getattr(self, name)), _TEXT_RULE
        yield "port", lambda: self.port is None or is_whole(self.port, 1, 65535), _PORT_RULE
        yield (
            "health_path",
            lambda: is_text(self.health_path) and self.health_path.startswith("/"),
            "begins with a slash",
        )
        yield "timeout_seconds", lambda: _is_number(self.timeout_seconds, 0.001, 3600), "seconds, 0.001 to 3600"
        yield "retry_class", lambda: self.retry_class in ("none", "idempotent"), "none or idempotent"
        yield (
            "split",
            lambda: is_text(self.split) and _is_split(self.split),
            "shares such as 1.4=5%, at most three, at most 100%",
        )
        yield (
            "callers",
            lambda: is_text(self.callers) and all(is_service_name(one) for one in self.callers.split(",") if one),
            "names of services, separated by commas",
        )
        yield "loss_accepted_at", lambda: is_time(self.loss_accepted_at), _TIME_RULE


@dataclass(frozen=True, slots=True)
class Instance(_Value):
    """One running copy of a service, as it says of itself. Its key in the map is `service/host:port`."""

    service: str
    host: str
    port: int
    zone: str = ""
    version: str = ""
    weight: int = 100
    """Its share of the calls beside the others, 0 to 1000."""
    draining: bool = False
    """It is about to stop and takes no new calls."""
    incarnation: str = ""
    """Made anew at every start: tells a restarted instance from the one before it."""
    lease: str = ""
    """The lease that carries it; filled in by the map."""

    @property
    def address(self) -> str:
        return address(self.host, self.port)

    @property
    def key(self) -> str:
        return f"{self.service}/{self.address}"

    def _rules(self) -> Iterator[tuple[str, Callable[[], bool], str]]:
        yield "service", lambda: is_service_name(self.service), _NAME_RULE
        yield "host", lambda: _is_host(self.host), "a host name or an address"
        yield "port", lambda: is_whole(self.port, 1, 65535), _PORT_RULE
        yield "weight", lambda: is_whole(self.weight, 0, 1000), "a whole number from 0 to 1000"
        yield "draining", lambda: isinstance(self.draining, bool), "true or false"
        for name in ("zone", "version", "incarnation", "lease"):
            yield name, partial(is_text, getattr(self, name), 200), "text of at most 200 characters"


def address(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Ruling(_Value):
    """The operator's word on one address of a service. It outlives the instance: one that restarts finds it still there."""

    service: str
    host: str
    port: int
    state: State = "enabled"
    weight: int | None = None
    """In place of the instance's own weight."""
    reason: str = ""
    author: str = ""
    at: float = 0.0
    expires_at: float | None = None
    """When it ends by itself."""

    @property
    def key(self) -> str:
        return f"{self.service}/{address(self.host, self.port)}"

    def _rules(self) -> Iterator[tuple[str, Callable[[], bool], str]]:
        yield "service", lambda: is_service_name(self.service), _NAME_RULE
        yield "host", lambda: _is_host(self.host), "a host name or an address"
        yield "port", lambda: is_whole(self.port, 1, 65535), _PORT_RULE
        yield "state", lambda: self.state in ("enabled", "draining", "disabled"), "enabled, draining or disabled"
        yield "weight", lambda: self.weight is None or is_whole(self.weight, 0, 1000), "a whole number from 0 to 1000"
        yield "reason", lambda: is_text(self.reason), _TEXT_RULE
        yield "author", lambda: is_text(self.author, 200), "text of at most 200 characters"
        yield (
            "expires_at",
            lambda: self.expires_at is None or is_time(self.expires_at),
            _TIME_RULE,
        )
        yield "at", lambda: is_time(self.at), _TIME_RULE


@dataclass(frozen=True, slots=True)
class Lease:
    """What one agent or process holds: all its instances, renewed with one write every third of `ttl_seconds`."""

    id: str
    """Chosen by its holder and the same after a restart: the name of the host, or `identity@host:port`."""
    incarnation: str
    """Made anew at every start of the holder."""
    ttl_seconds: float = 15.0
    instances: tuple[Instance, ...] = ()
    opened_at: float = 0.0
    report: Mapping[str, Any] = field(default_factory=dict)
    """What a sidecar tells of itself with each renewal: see `Report`. It is kept with the lease, and wakes no reader."""

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "incarnation": self.incarnation,
            "ttl_seconds": self.ttl_seconds,
            "opened_at": self.opened_at,
            "instances": [instance.to_json() for instance in self.instances],
            **({"report": dict(self.report)} if self.report else {}),
        }

    @classmethod
    def from_json(cls, data: Any) -> Lease:
        """Made of what `to_json` gave. Raises ValidationFailed."""
        check = Checker("lease")
        if not isinstance(data, Mapping):
            raise ValidationFailed("This is no lease: a JSON object is needed.")
        for name in ("id", "incarnation"):
            check.want(is_text(data.get(name), 200) and data.get(name), name, "text of 1 to 200 characters")
        check.want(
            re.fullmatch(r"[A-Za-z0-9\[][A-Za-z0-9._:@\[\]-]{0,199}", str(data.get("id"))),
            "id",
            "letters, digits and . _ : @ - [ ], beginning with a letter or a digit",
        )
        check.want(_is_number(data.get("ttl_seconds", 15.0), 1, 3600), "ttl_seconds", "seconds, 1 to 3600")
        check.want(is_time(data.get("opened_at", 0.0)), "opened_at", _TIME_RULE)
        check.want(isinstance(data.get("instances", []), list | tuple), "instances", "a list")
        check.want(isinstance(data.get("report", {}), Mapping), "report", "a JSON object")
        check.finish()
        return cls(
            id=data["id"],
            incarnation=data["incarnation"],
            ttl_seconds=float(data.get("ttl_seconds", 15.0)),
            instances=tuple(Instance.from_json(one) for one in data.get("instances", ())),
            opened_at=float(data.get("opened_at", 0.0)),
            report=dict(data.get("report", {})),
        )


@dataclass(frozen=True, slots=True)
class Report(_Value):
    """What the sidecar of one host last said of itself."""

    host: str
    at: float
    """Time of day at which it said so."""
    revision: int = 0
    """Up to which revision of the catalogue its HAProxy has applied the map."""
    presence: int = 0
    """The same for presence."""
    epoch: str = ""
    sessions: Mapping[str, int] = field(default_factory=dict)
    """Calls that are under way through it to instances that drain or are disabled, by `service/host:port`."""
    holding: int = 0
    """How many instances its guard holds."""
    ttl_seconds: float = 15.0

    def applied(self, revision: int) -> bool:
        """Whether a change of the catalogue with this revision is in force there."""
        return self.revision >= revision


@dataclass(frozen=True, slots=True)
class Override(_Value):
    """One setting, set from outside for one service or for every one. Its repr never shows the value."""

    scope: str
    """`*` or the name of a service."""
    key: str
    value: Any = field(repr=False, default=None)
    """Any JSON value. None for a secret that the one who reads may not see (`hidden` is then True)."""
    secret: bool = False
    hidden: bool = False
    author: str = ""
    at: float = 0.0
    revision: int = 0
    """The revision of the catalogue at which it was set."""

    @property
    def name(self) -> str:
        """Its key in the map: `scope/KEY`."""
        return f"{self.scope}/{self.key}"

    def _rules(self) -> Iterator[tuple[str, Callable[[], bool], str]]:
        yield "scope", lambda: self.scope == EVERY_SERVICE or is_service_name(self.scope), "* or the name of a service"
        yield (
            "key",
            lambda: isinstance(self.key, str) and _KEY.fullmatch(self.key) is not None,
            "upper-case letters, digits and _",
        )
        yield "secret", lambda: isinstance(self.secret, bool), "true or false"
        yield "author", lambda: is_text(self.author, 200), "text of at most 200 characters"
        yield "at", lambda: is_time(self.at), _TIME_RULE
        yield "revision", lambda: is_whole(self.revision, 0), "a whole number"


@dataclass(frozen=True, slots=True)
class Token(_Value):
    """A bearer token as it is kept: never itself, only the SHA-256 of it."""

    id: str
    role: Literal["operator", "service", "host", "reader"]
    subject: str
    """Who holds it: a person, the name of a service, the name of a host."""
    digest: str = field(repr=False)
    created_at: float = 0.0
    expires_at: float | None = None

    def _rules(self) -> Iterator[tuple[str, Callable[[], bool], str]]:
        yield "id", lambda: is_text(self.id, 200) and bool(self.id), "text of 1 to 200 characters"
        yield "role", lambda: self.role in ROLES, f"one of {', '.join(ROLES)}"
        yield (
            "subject",
            lambda: is_text(self.subject, 200) and self.subject.isprintable() and bool(self.subject.strip()),
            "who will hold it: the name of a person, a service or a host, at most 200 characters",
        )
        yield "digest", lambda: is_text(self.digest, 200), "a SHA-256"
        yield "created_at", lambda: is_time(self.created_at), _TIME_RULE
        yield "expires_at", lambda: self.expires_at is None or is_time(self.expires_at), _TIME_RULE


Kind = Literal["service", "override", "ruling", "token", "lease", "instance"]
"""What an edit is about. The first four are the catalogue, the others are presence."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One thing that changed: its JSON before and after, None for absent. Its repr shows neither."""

    kind: Kind
    key: str
    """service: name. override: `scope/KEY`. ruling and instance: `service/host:port`. token and lease: id."""
    before: Mapping[str, Any] | None = field(repr=False)
    after: Mapping[str, Any] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the history: who changed what, when and why. All its edits happened at once."""

    revision: int
    at: float
    author: str
    why: str
    edits: tuple[Edit, ...]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes the map, and why; kept in the history."""

    name: str
    why: str = ""
