"""What the resources take, as pydantic models: made of the map's own values, so that each field is stated once."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from atlas.model import Instance, Kind, Ruling, Service

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:  # what pydantic asks for, and brings along, before 3.12
    from typing_extensions import TypedDict


def _model_of(kind: type[Any], name: str, *, without: Collection[str]) -> Any:
    """A model with the fields of a value, except those that stand in the path or are filled in by the map."""
    hints = get_type_hints(kind)
    wanted = [one for one in dataclasses.fields(kind) if one.name not in without]
    found: dict[str, Any] = {
        one.name: (hints[one.name], ... if one.default is dataclasses.MISSING else one.default) for one in wanted
    }
    return create_model(name, __config__=ConfigDict(extra="forbid", strict=True), __doc__=kind.__doc__, **found)


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


ServiceIn = _model_of(Service, "ServiceIn", without={"name"})
InstanceIn = _model_of(Instance, "InstanceIn", without={"lease"})
RulingIn = _model_of(Ruling, "RulingIn", without={"service", "host", "port", "author", "at"})
ClaimIn = create_model(
    "ClaimIn",
    __base__=_model_of(Service, "ClaimBase", without={"name", "port"}),
    __doc__="A service that wants a port of its own: what is known of it, and the ports to choose from.",
    port=(int | None, None),
    ports=(str, "8000-8999"),
)


class Revision(TypedDict):
    """The revision of the catalogue that a change made; the present one where it changed nothing."""

    revision: int


class OverrideIn(_In):
    """A setting that is set from outside. `value` is any JSON value; a `secret` one is encrypted before it is stored."""

    value: Any
    secret: bool = False


class LeaseIn(_In):
    """What one holder carries: all its instances, renewed every third of `ttl_seconds`. `report`: what a sidecar says of
    itself; it may change with each renewal, and wakes nobody."""

    incarnation: str
    ttl_seconds: float = 15.0
    opened_at: float = 0.0
    instances: list[dict[str, Any]] = []
    report: dict[str, Any] = {}


class RollbackIn(_In):
    """Which revision to go back to; with `kind` and `key` only one thing of the catalogue."""

    revision: int = Field(ge=0)
    kind: Kind | None = None
    key: str | None = None


class TokenIn(_In):
    """Whom a new token is for. `expires_at`: seconds since 1970; null for never."""

    role: Literal["operator", "service", "host", "reader"]
    subject: str = Field(min_length=1, max_length=200)
    expires_at: float | None = None


class WorldQuery(_In):
    """Where the reader stands (`epoch.revision.presence`), how long it will wait for news, on whose behalf it reads."""

    position: str | None = None
    wait: float = Field(default=0.0, ge=0)
    service: str | None = None


class HistoryQuery(_In):
    """Which changes: of one kind, of one key, below a revision, and how many."""

    kind: Kind | None = None
    key: str | None = None
    limit: int = Field(default=50, ge=1, le=10000)
    before: int | None = None


class ForceQuery(_In):
    """`force=true` sets the guard aside."""

    force: bool = False


class ReleaseQuery(_In):
    """Which start of the holder is leaving."""

    incarnation: str
