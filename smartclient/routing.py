"""Where a call to a service goes: the name in its URL, the map that knows the name, the two routes.

Inside the client a service has an origin of its own, `http://identity.smart-service/`, which no name server can know:
parameters, cookies, authentication and redirects of requests are made for http origins, and so are kept per service. The
suffix is one label, so that no cookie can be set for all services (RFC 6265, section 5.3), and it holds a hyphen, which
no top-level domain may.
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote

import requests.exceptions

from smartrealm.errors import ConfigurationError
from smartrealm.names import ServiceName

SCHEME = "service://"
VIRTUAL_SUFFIX = ".smart-service"


@lru_cache(maxsize=1024)
def to_virtual(url: str) -> str:
    """`service://identity/teams?x=1` as `http://identity.smart-service/teams?x=1`.

    Raises requests.exceptions.InvalidURL for a name that no service can have, a port, or credentials in the URL.
    """
    rest = url.lstrip()[len(SCHEME) :]
    end = min((at for at in (rest.find(mark) for mark in "/?#") if at >= 0), default=len(rest))
    name = rest[:end].lower()
    try:
        ServiceName(name)
    except ConfigurationError as error:
        raise requests.exceptions.InvalidURL(
            f"{SCHEME}{quote(name.rpartition('@')[2], safe=':')} names no service: write service://<name>/<path>, with "
            "the name alone, without port or password. " + str(error).partition(": ")[2]
        ) from None
    return f"http://{name}{VIRTUAL_SUFFIX}{rest[end:]}"


def from_virtual(url: str) -> str:
    """The `service://` URL that `to_virtual` was given; any other URL is given back as it is."""
    service = service_of(url)
    if service is None:
        return url
    return f"{SCHEME}{service}{url[len('http://') + len(service) + len(VIRTUAL_SUFFIX) :]}"


def service_of(url: str) -> str | None:
    """The service that a virtual URL belongs to; None for a URL of the world outside."""
    if not url.startswith("http://"):
        return None
    end = min((at for at in (url.find(mark, 7) for mark in "/?#") if at >= 0), default=len(url))
    host = url[7:end]
    return host[: -len(VIRTUAL_SUFFIX)] if host.endswith(VIRTUAL_SUFFIX) and "@" not in host else None


def is_service_url(url: object) -> bool:
    """Whether this is a `service://` URL, as text or bytes."""
    if isinstance(url, bytes):
        return url.lstrip()[: len(SCHEME)].lower() == SCHEME.encode()
    return isinstance(url, str) and url.lstrip()[: len(SCHEME)].lower() == SCHEME
