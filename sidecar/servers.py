"""From instances to HAProxy's servers: their names and their weights."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

MOST_WEIGHT = 256
_LONGEST = 100
_BACKUP = ".b"
_NAMED = re.compile(r"([^:]+:[0-9]{1,5})\.[0-9A-Fa-f.:]+")


def server_name(address: str, host: str, *, backup: bool = False) -> str:
    """The name of the server for an instance: its address without brackets.

    A backup has another name, and so has a host name that leads to another address: neither can be changed at run time, so it is
    another server. `host` is the address that is called.
    """
    name = address.replace("[", "").replace("]", "")
    if host.isascii() and ":" not in host and address.startswith(f"{host}:"):
        pass
    elif not address.startswith("["):
        name = f"{name}.{host}"
    if len(name) > _LONGEST - len(_BACKUP):
        name = f"{name[:60]}-{zlib.crc32(name.encode()):08x}{zlib.adler32(name.encode()):08x}"
    return name + _BACKUP if backup else name


def is_backup(name: str) -> bool:
    """Whether the server of this name is a backup: HAProxy's list of servers does not tell."""
    return name.endswith(_BACKUP)


def address_of(name: str) -> str:
    """The `host:port` of the instance that a server stands for; of a name that had to be cut, the name itself."""
    name = name.removesuffix(_BACKUP)
    named = _NAMED.fullmatch(name)
    if named is not None:
        return named[1]
    host, _, port = name.rpartition(":")
    return f"[{host}]:{port}" if ":" in host else name


def step(weights: Iterable[int]) -> int:
    """By what the weights of a service are divided: 1 while none is above 256, then 2 or 4, so that one changed weight seldom
    changes the others."""
    most = max(weights, default=0)
    return 1 if most <= MOST_WEIGHT else 2 if most <= 2 * MOST_WEIGHT else 4


def scaled(weight: int, step: int) -> int:
    """The weight for HAProxy, 1 to 256."""
    return min(MOST_WEIGHT, max(1, round(weight / step)))
