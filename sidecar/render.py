"""HAProxy's file and its maps, as text. Pure: the same State, Layout and Settings give the same bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidecar import template
from sidecar.diff import CHECK, check_entry, server_words
from sidecar.fields import is_backend, refuse
from sidecar.layout import MAPS, NEWER, Layout
from sidecar.model import Server, State
from sidecar.settings import Settings
from smartrealm.errors import ConfigurationError

LONGEST_SOCKET = 97
"""HAProxy opens a unix socket under a name with ten characters more, and renames it; 107 is the limit of the system."""

_HEADER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SALT = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Files:
    """What is written for HAProxy."""

    config: str
    """The text of haproxy.cfg."""
    maps: Mapping[str, str]
    """The text of each map, by its name; it lies in `maps/<name>.map` beside haproxy.cfg."""


def render(state: State, layout: Layout, settings: Settings, *, descriptors: int = 0, threads: int = 0) -> Files:
    """The files that bring up an HAProxy which knows this State.

    `descriptors`: how many files the process may open (`ulimit -Hn`: HAProxy raises its own limit up to that), 0 where that is
    not known; HAProxy would refuse to start with more connections than that allows. `threads` 0: as many as HAProxy chooses. A
    server that drains has the weight 0 here, since the file knows no drain; the first comparison sets it right. Raises
    ValidationFailed for anything of the map that may not stand in the file, and ConfigurationError for such a setting.
    """
    owners = layout.owners()
    count = sum(len(servers) for servers in state.backends.values())
    parts = [
        _section("global", [*_process(settings, count, descriptors, threads), f"description {fingerprint(settings)}"]),
        *_rules(settings),
    ]
    order = sorted(state.backends, key=lambda name: (name.startswith("_"), name))
    parts.extend(_backend(name, owners.get(name, ""), state.backends[name]) for name in order)
    head = f"# Written by the sidecar of realm {_salt(settings.realm, 'realm')}, which writes it anew when the map changes.\n"
    return Files(head + "\n" + "\n".join(parts), {name: _map(name, state.maps.get(name, {})) for name in MAPS})


def fingerprint(settings: Settings) -> str:
    """What an HAProxy says of itself that was loaded with these settings, by this version: all of the file counts but the backends
    and what depends on their number or on the process that wrote it."""
    text = "\n".join([_section("global", _process(settings, 0, 0, 0)), *_rules(settings), CHECK])
    return f"sidecar-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def connections(most: int, descriptors: int, servers: int) -> int:
    """How many connections fit: each takes two descriptors, each server one for its check, and the process has its own."""
    if descriptors <= 0:
        return most
    return max(100, min(most, (descriptors - 2 * servers - 500) // 2))


def _rules(settings: Settings) -> list[str]:
    return [
        _section("defaults _edge", template.edge()),
        _section("defaults _service", template.service()),
        _section("frontend _calls from _edge", _calls(settings)),
        _section("frontend _metrics from _edge", _exporter(settings)),
        _section("defaults _passing", template.passing()),
        _section(f"backend {NEWER} from _passing", [f"server calls {_newer(settings)}"]),
    ]


def _section(title: str, lines: Iterable[str]) -> str:
    return "".join([f"{title}\n", *(f"    {line}\n" if line else "\n" for line in lines)])


def _process(settings: Settings, servers: int, descriptors: int, threads: int) -> Iterator[str]:
    most = connections(settings.max_connections, descriptors, servers)
    yield "# Maps are named relative to this file."
    yield "default-path config"
    yield "# Another HAProxy on our port is to fail at its start, not to take half of the calls. A reload hands the sockets over."
    yield "noreuseport"
    yield f"stats socket {_socket(settings.runtime_socket)} mode 600 level admin expose-fd listeners"
    yield "stats timeout 30s"
    yield f"log {_path(settings.events_socket)} len 8192 format rfc5424 local0 notice"
    yield f"maxconn {most}"
    if descriptors > 0:
        yield f"fd-hard-limit {descriptors}"
    if threads > 0:
        yield f"nbthread {threads}"
    yield "spread-checks 50"
    # Request ids differ from request to request: remembering how they matched costs more than matching.
    yield "tune.pattern.cache-size 0"
    yield "# Workers that a reload left behind end with their last connection, and at the latest then."
    yield "hard-stop-after 10m"
    yield "mworker-max-reloads 20"


def _calls(settings: Settings) -> Iterator[str]:
    if settings.loopback:
        yield f"bind 127.0.0.1:{int(settings.port)}"
    if settings.socket:
        yield f"bind {_socket(settings.calls_socket, 'unix@')} mode 660"
    if settings.tokens_file is not None:
        yield "# Frameworks read Smart_Caller as Smart-Caller: nobody may say by such a name who it is."
        yield "option http-restrict-req-hdr-names delete"
    yield ""
    yield from template.calls(
        realm=_salt(settings.realm, "realm"),
        tokens=settings.tokens_file is not None,
        salt=_salt(settings.salt or settings.realm, "salt" if settings.salt else "realm"),
        key_headers=[_header(name, "key_headers") for name in settings.key_headers],
        key_cookies=[_header(name, "key_cookies") for name in settings.key_cookies],
    )


def _newer(settings: Settings) -> str:
    if settings.socket:
        return _socket(settings.calls_socket, "unix@")
    return f"127.0.0.1:{int(settings.port)}"


def _exporter(settings: Settings) -> Iterator[str]:
    yield f"bind {_socket(settings.exporter_socket, 'unix@')} mode 600"
    yield "http-request use-service prometheus-exporter"


def _backend(name: str, owner: str, servers: Mapping[str, Server]) -> str:
    if not is_backend(name):
        refuse(owner or name, "backend", name, "which is no name of a backend")
    lines = [f"# holds {owner}"] if owner and owner != name else []
    for server in servers.values():
        words = server_words(server, owner or name)
        if server.draining:
            words = words.replace(f" weight {server.weight}", " weight 0", 1)
        lines.append(f"server {server.name} {words}")
    return _section(f"backend {name} from _service", lines)


def _map(name: str, entries: Mapping[str, str]) -> str:
    for key, value in entries.items():
        check_entry(name, key, value)
    return "".join(f"{key} {value}\n" for key, value in sorted(entries.items()))


def _path(path: Path, prefix: str = "") -> str:
    text = str(path)
    if "'" in text or not text.isprintable() or not path.is_absolute():
        raise ConfigurationError(
            f"directory: {text!r} cannot be written into HAProxy's file: give an absolute path without '."
        )
    return f"'{prefix}{text}'"


def _socket(path: Path, prefix: str = "") -> str:
    if len(str(path).encode()) > LONGEST_SOCKET:
        raise ConfigurationError(
            f"directory: {path} is too long for a unix socket of HAProxy, which may have {LONGEST_SOCKET} bytes: "
            "give a shorter SIDECAR_DIR, such as /run/smartservice."
        )
    return _path(path, prefix)


def _header(name: str, setting: str) -> str:
    if _HEADER.fullmatch(name):
        return name
    raise ConfigurationError(f"{setting}: {name!r} is no name of a header or cookie: use A-Z a-z 0-9 - _ . alone.")


def _salt(text: str, setting: str) -> str:
    if _SALT.fullmatch(text):
        return text
    raise ConfigurationError(f"{setting}: {text!r} cannot be used: 1 to 64 of A-Z a-z 0-9 - _ . alone.")
