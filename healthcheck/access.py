"""Who may see the details of a health answer: whoever holds the token, and whoever asks from a trusted network.

The address is the one the connection came from, never one that a header names. A request that a proxy forwarded is a
stranger's, even when the proxy is on this host: it needs the token. (A proxy that relays strangers and adds no
forwarding header cannot be told from a local caller; empty `networks` where such a proxy runs.)
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from smartrealm.errors import ConfigurationError

LOOPBACK = ("127.0.0.0/8", "::1/128")

_FORWARDED = frozenset(
    f"HTTP_{name}"
    for name in (
        "FORWARDED VIA X_FORWARDED_FOR X_FORWARDED_HOST X_FORWARDED_PROTO X_FORWARDED_PORT X_FORWARDED_SERVER X_REAL_IP "
        "X_CLIENT_IP TRUE_CLIENT_IP CF_CONNECTING_IP FASTLY_CLIENT_IP X_CLUSTER_CLIENT_IP X_ORIGINAL_FORWARDED_FOR "
        "X_FORWARDED_PREFIX X_FORWARDED_SCHEME X_FORWARDED_SSL X_FORWARDED_BY X_ENVOY_EXTERNAL_ADDRESS FLY_CLIENT_IP"
    ).split()
)


class Access:
    """Decides by token and by network. `token` may be a function, for a token that changes at run time."""

    def __init__(self, token: str | Callable[[], str | None] | None = None, networks: Iterable[str] = LOOPBACK) -> None:
        self._token = token
        trusted, mistakes = [], []
        for network in (networks,) if isinstance(networks, str) else networks:
            try:
                trusted.append(ip_network(network))
            except ValueError as error:
                mistakes.append(f"trusted network {network!r}: {error}; write it like 10.0.0.0/8")
        if mistakes:
            raise ConfigurationError("The trusted networks of the health check cannot be used:", mistakes)
        self._networks = tuple(trusted)

    def shows_details(self, environ: Mapping[str, object]) -> bool:
        """Whether this request (a WSGI environ, or a mapping with its REMOTE_ADDR and HTTP_ keys) may see details."""
        authorization = environ.get("HTTP_AUTHORIZATION")
        if authorization is not None and self._holds_token(str(authorization)):
            return True
        if not _FORWARDED.isdisjoint(environ):
            return False
        return _within(str(environ.get("REMOTE_ADDR") or ""), self._networks)

    def _holds_token(self, authorization: str) -> bool:
        token = self._token() if callable(self._token) else self._token
        scheme, _, given = authorization.partition(" ")
        if not token or scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode("utf-8", "replace"))

    def __repr__(self) -> str:
        return f"Access(token={'set' if self._token else 'none'}, networks={[str(entry) for entry in self._networks]})"


@lru_cache(maxsize=1024)
def _within(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    try:
        caller = ip_address(address.partition("%")[0])
    except ValueError:  # a unix socket has no address: whoever relays through it is not known
        return False
    mapped = getattr(caller, "ipv4_mapped", None)
    return any((mapped or caller) in network for network in networks)
