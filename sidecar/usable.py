"""Whether what the map says can be used: values come from it unchecked, and one bad one may cost nobody but itself.

Each function gives a sentence that says what is wrong, or None.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from atlas.model import Instance, Ruling, Service, is_service_name, is_time, is_whole
from atlas.splits import MOST_SHARES, Share, parse_split
from smartrealm.errors import ValidationFailed

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_NUMBER = re.compile(r"(0[xX][0-9A-Fa-f]*|[0-9]+)")
_SHORTEST, _LONGEST = 0.001, 3600.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What the catalogue says of a service, read and found usable."""

    shares: tuple[Share, ...] = ()
    policy: str = ""
    """A pattern of versions; empty: any."""
    timeout_ms: int = 10_000
    repeatable: bool = True
    callers: tuple[str, ...] | None = None


def read_terms(name: str, entry: Any) -> Terms | str:
    """What is in force for a service (the defaults, when it runs without being in the catalogue), or what is wrong with it."""
    if not is_service_name(name):
        return f"{str(name)[:80]!r} is no name of a service"
    if entry is None:
        return Terms()
    if not isinstance(entry, Service) or entry.name != name:
        return "its entry in the catalogue is not its own"
    return _read(entry)


def _read(entry: Any) -> Terms | str:
    seconds = entry.timeout_seconds
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not _SHORTEST <= seconds <= _LONGEST:
        return f"timeout_seconds is {_shown(seconds)}; seconds from 0.001 to 3600 are needed"
    if entry.retry_class not in ("none", "idempotent"):
        return f"retry_class is {_shown(entry.retry_class)}; none or idempotent is needed"
    if not isinstance(entry.version_policy, str):
        return f"version_policy is {_shown(entry.version_policy)}; any or a pattern of versions is needed"
    if not is_time(entry.loss_accepted_at):
        return f"loss_accepted_at is {_shown(entry.loss_accepted_at)}; seconds since 1970 are needed"
    try:
        shares = parse_split(entry.split)
    except (ValidationFailed, TypeError, AttributeError) as error:
        return f"its split cannot be read: {error}"
    if len(shares) > MOST_SHARES:
        return f"its split has {len(shares)} shares; {MOST_SHARES} are possible"
    callers = _callers(entry.callers)
    if isinstance(callers, str):
        return callers
    policy = "" if entry.version_policy == "any" else entry.version_policy
    return Terms(shares, policy, max(1, round(seconds * 1000)), entry.retry_class == "idempotent", callers)


def trouble_with(instance: Any, service: str, address: str) -> str | None:
    """What is wrong with an instance, apart from a host name that has no address yet."""
    if not isinstance(instance, Instance):
        return "there is no instance in its entry"
    if instance.service != service:
        return f"its entry names another service: {_shown(instance.service)}"
    if not is_whole(instance.port, 1, 65535):
        return f"its port is {_shown(instance.port)}; 1 to 65535 is needed"
    if not isinstance(instance.host, str) or instance.address != address:
        return f"its entry names another address than its key: host {_shown(instance.host)}"
    return _trouble_within(instance)


def _trouble_within(instance: Any) -> str | None:
    if not is_host(instance.host):
        return f"its host is {_shown(instance.host)}; an address or a host name is needed"
    if not is_whole(instance.weight, 0, 1000):
        return f"its weight is {_shown(instance.weight)}; 0 to 1000 is needed"
    if not isinstance(instance.draining, bool):
        return f"draining is {_shown(instance.draining)}; true or false is needed"
    if not isinstance(instance.version, str) or not isinstance(instance.zone, str):
        return "its version or its zone is no text"
    return None


def trouble_with_ruling(ruling: Any) -> str | None:
    """What is wrong with the operator's word on an instance."""
    if not isinstance(ruling, Ruling) or ruling.state not in ("enabled", "draining", "disabled"):
        return "the ruling on it cannot be read"
    if ruling.weight is not None and not is_whole(ruling.weight, 0, 1000):
        return f"the ruling gives it the weight {_shown(ruling.weight)}; 0 to 1000 is needed"
    if ruling.expires_at is not None and not is_time(ruling.expires_at):
        return f"the ruling on it ends at {_shown(ruling.expires_at)}; seconds since 1970 are needed"
    return None


def is_host(host: str) -> bool:
    """Whether it is an address, or a name that can only be a name: `10.1` and `0x7f.1` are addresses to some resolvers."""
    if literal(host) is not None:
        return True
    if not _NAME.fullmatch(host) or ".." in host:
        return False
    return _NUMBER.fullmatch(host.rpartition(".")[2]) is None


def literal(host: str) -> str | None:
    """The address, when it is one that can be called; None for a name. An IPv6 address is written in its shortest form."""
    try:
        if ":" not in host:
            socket.inet_pton(socket.AF_INET, host)
            return None if host == "0.0.0.0" else host
        found = ip_address(host)
    except (OSError, ValueError):
        return None
    return None if found.is_unspecified or "%" in host else str(found)


def instances_of(found: object) -> Mapping[str, Instance]:
    """The instances of one service as the map has them; empty when that is no table at all."""
    return found if isinstance(found, Mapping) else {}


def _callers(text: Any) -> tuple[str, ...] | str | None:
    if not isinstance(text, str):
        return f"callers is {_shown(text)}; names of services are needed"
    if not text:
        return None
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    wrong = next((name for name in names if not is_service_name(name)), None)
    if wrong is not None or not names:
        return f"callers is {_shown(text)}; names of services are needed"
    return names


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
