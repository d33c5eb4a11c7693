"""What may be written into HAProxy's files and said to its socket: every field is checked here, and nothing else gets there.

A name, an address and a number cannot be read as anything but themselves. Whoever writes one for HAProxy (`render`, `diff`)
has it checked, although the plan has been checked before: a State may be made by hand.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import NoReturn

from atlas.model import is_service_name, is_whole
from sidecar.model import Route, Server
from sidecar.servers import MOST_WEIGHT
from smartrealm.errors import ValidationFailed

LONGEST_TIMEOUT_MS = 86_400_000
"""A day."""
MOST_SIDES = 3
LAST_LIMIT = 10_000

_SERVER = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_BACKEND = re.compile(r"[a-z][a-z0-9-]{0,62}(:[1-9])?|_spare_[0-9]{3,6}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def refuse(service: str, field: str, value: object, rule: str) -> NoReturn:
    """Raise ValidationFailed for a field of a service."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    raise ValidationFailed(
        f"{service!r} cannot be routed: its {field} is {shown}, {rule}. It comes from the map; correct it there.",
        errors=[{"pointer": f"#/{field}", "detail": rule}],
        service=service,
        field=field,
    )


@lru_cache(maxsize=65_536)
def is_service(name: object) -> bool:
    """Whether this is the name of a service; remembered, since the same ones are asked for with every change."""
    return is_service_name(name)


@lru_cache(maxsize=65_536)
def is_address(host: object) -> bool:
    """Whether this is an IPv4 or IPv6 address as HAProxy reads it: without brackets, scope or netmask."""
    if not isinstance(host, str) or "%" in host:
        return False
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_backend(name: object) -> bool:
    """Whether this is a name that `layout` gives to a backend."""
    return isinstance(name, str) and _BACKEND.fullmatch(name) is not None and "--" not in name


def is_digest(text: object) -> bool:
    """Whether this is a SHA-256 in lower-case hexadecimal digits."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def check_route(route: Route) -> None:
    """Raise ValidationFailed, which names service and field, for anything in a route that may not be written for HAProxy."""
    service = route.service
    if not is_service(service):
        refuse(service, "service", service, "which is no name of a service")
    if not is_whole(route.timeout_ms, 1, LONGEST_TIMEOUT_MS):
        refuse(service, "timeout_ms", route.timeout_ms, f"which is no number from 1 to {LONGEST_TIMEOUT_MS}")
    for caller in route.callers or ():
        if not is_service(caller):
            refuse(service, "callers", caller, "which is no name of a service")
    check_servers(service, route.servers)
    if len(route.sides) > MOST_SIDES:
        refuse(service, "sides", len(route.sides), f"more than {MOST_SIDES}")
    limit = 0
    for side in route.sides:
        if not is_whole(side.limit, limit + 1, LAST_LIMIT):
            refuse(service, "sides.limit", side.limit, f"which is no number from {limit + 1} to {LAST_LIMIT}")
        limit = side.limit
        check_servers(service, side.servers)


def check_servers(service: str, servers: tuple[Server, ...]) -> None:
    """Raise ValidationFailed for a server that may not be written, and for two of the same name."""
    names = set()
    for server in servers:
        check_server(service, server)
        if server.name in names:
            refuse(service, "servers.name", server.name, "which another server of the service has as well")
        names.add(server.name)


def check_server(service: str, server: Server) -> None:
    """Raise ValidationFailed for a server that may not be written."""
    if not isinstance(server.name, str) or _SERVER.fullmatch(server.name) is None:
        refuse(service, "servers.name", server.name, "which is not made of A-Z a-z 0-9 - _ . : alone")
    if not is_address(server.host):
        refuse(service, "servers.host", server.host, "which is no IPv4 or IPv6 address")
    if not is_whole(server.port, 1, 65_535):
        refuse(service, "servers.port", server.port, "which is no port")
    if not is_whole(server.weight, 0, MOST_WEIGHT):
        refuse(service, "servers.weight", server.weight, f"which is no number from 0 to {MOST_WEIGHT}")
    for field in ("backup", "draining"):
        if type(getattr(server, field)) is not bool:
            refuse(service, f"servers.{field}", getattr(server, field), "which is neither True nor False")
