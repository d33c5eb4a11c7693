"""Finding what there is to drill on this host: through the directory of its sidecar, where everybody meets."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from atlas.announcement import HEALTH_PATH, LOCK, Announcement, names, own_pid_space, read, read_sidecar
from sidecar.control import Control
from sidecar.drill.load import Door
from sidecar.drill.processes import (
    Process,
    environ_of,
    ignores,
    is_ours,
    listeners,
    own_addresses,
    process,
    restarter_of,
    tree,
    words_of,
)
from sidecar.drill.scene import Scene, Served, Target
from sidecar.drill.watch import CALLED
from sidecar.master import Master
from sidecar.settings import Settings
from smartrealm.errors import ConfigurationError, SmartError


def find(
    settings: Settings, control: Control, *, programs: Mapping[str, str] = {}, token: str = "", caller: str = "drill"
) -> Scene:
    """Everything on this host that a drill can be about. Raises Unavailable without a sidecar, ConfigurationError where its
    services cannot be called."""
    status, routes = control.get("/v1/status"), control.get("/v1/routes")["services"]
    announced = _announced(settings, status["host"])
    services = _services(routes, announced.values(), "" if token else caller)
    targets = [_agent(status, settings), *_haproxy(settings, status)]
    left_out: list[tuple[str, str]] = []
    atlas, told = _atlas(settings.atlas_url or "")
    targets += atlas
    left_out += told
    targets += [_program(name, where) for name, where in programs.items()]
    targets += [_instance(key, one, path) for key, (one, path) in announced.items() if key[0] in services]
    targets += _remote(routes, announced, status["host"])
    return Scene(
        realm=status["realm"],
        directory=str(settings.directory),
        door=_door(settings, token),
        targets=tuple(targets),
        services=services,
        left_out=tuple(left_out),
        root=os.geteuid() == 0,
    )


class Places:
    """Where the processes of a target are now: after a kill others have their places."""

    def __init__(self, settings: Settings, *, programs: Mapping[str, str] = {}) -> None:
        self._settings = settings
        self._programs = programs

    def processes(self, target: Target, fault: str) -> tuple[Process, ...]:
        """Those that the fault is for, parents first; none while it is away."""
        if target.kind == "agent":
            found = process(agent_pid(self._settings.directory))
            return (found,) if found else ()
        if target.kind == "haproxy":
            return self._haproxy(fault)
        pid = self._pid(target)
        found_all = tree(pid) if pid else ()
        return found_all[-1:] if fault == "crash" and target.kind == "instance" and len(found_all) > 1 else found_all

    def _pid(self, target: Target) -> int:
        if target.kind == "program":
            return pid_of(self._programs.get(target.name, ""))
        if target.announced:
            with suppress(SmartError, OSError):
                one = read(Path(target.announced))
                return _pid_of_instance(one)
            return 0
        return next(iter(listeners(int(target.address.rpartition(":")[2] or 0))), 0)

    def _haproxy(self, fault: str) -> tuple[Process, ...]:
        try:
            known = Master(self._settings.master_socket, self._settings.runtime_socket).processes()
        except SmartError:
            return ()
        pids = (known.worker,) if fault == "crash" else (known.master, known.worker, *known.old)
        return tuple(one for pid in pids if pid and (one := process(pid)))


def instances_of_host(settings: Settings, host: str) -> list[Target]:
    """The instances that are announced in one directory."""
    return [_instance(key, one, path) for key, (one, path) in _announced(settings, host).items()]


def agent_pid(directory: Path) -> int:
    """The pid in the lock of the agent; 0 when there is none."""
    try:
        return int((directory / LOCK).read_text())
    except (OSError, ValueError):
        return 0


def pid_of(where: str) -> int:
    """A pid as the user names it: a number, or the path of a file that holds one."""
    with suppress(OSError, ValueError):
        return int(where) if where.isdigit() else int(Path(where).read_text().split()[0])
    return 0


def _door(settings: Settings, token: str) -> Door:
    told = read_sidecar(settings.directory)
    if told is None:
        raise ConfigurationError(
            f"{settings.directory} does not say how services are called: the sidecar has not begun yet."
        )
    if told.tokens and not token:
        raise ConfigurationError(
            "Calls through this sidecar need a token: set SIDECAR_TOKEN (`sidecar token create drill`)."
        )
    if told.socket:
        return Door(socket=told.socket)
    return Door(port=urlsplit(told.url).port or 80)


def _announced(settings: Settings, host: str) -> dict[tuple[str, str], tuple[Announcement, Path]]:
    found = {}
    with suppress(OSError):
        for entry in names(settings.announcements):
            with suppress(SmartError, OSError):
                one = read(Path(entry.path))
                found[one.service, one.instance(host=host).address] = (one, Path(entry.path))
    return dict(sorted(found.items()))


def _services(
    routes: Sequence[Mapping[str, Any]], announced: Iterable[tuple[Announcement, Path]], caller: str
) -> dict[str, Served]:
    paths = {
        one.service: one.health if one.health and one.health_port in (None, one.port) else "/" for one, _ in announced
    }
    found = {}
    for route in routes:
        name = route["service"]
        callers = route.get("callers")
        refused = ""
        if "quarantined" in route:
            refused = "it is not routed: see `sidecar why`"
        elif callers is not None and caller and caller not in callers:
            refused = f"it may be called by {', '.join(callers) or 'nobody'} only: say who calls with --as"
        called = sum(1 for one in route["instances"] if one["standing"] in CALLED and one["weight"] > 0)
        timeout = int(route.get("timeout_ms", 10_000))
        found[name] = Served(name, called, paths.get(name, HEALTH_PATH), timeout, refused)
    return found


def _agent(status: Mapping[str, Any], settings: Settings) -> Target:
    pid = int(status["pid"])
    away = [one for one in atlas_hosts(settings.atlas_url or "") if one[0] not in own_addresses([one[0]])]
    visible = agent_pid(settings.directory) == pid and process(pid) is not None
    return Target(
        "agent",
        "agent",
        pid=pid if visible else 0,
        restarted_by=restarter_of(pid) if visible else "",
        why_not=_why_not(pid) if visible else "its process is in another container",
        takes_full_disk=ignores(pid, signal.SIGXFSZ),
        has_children=True,
        hosts=tuple(host for host, _ in away),
    )


def _haproxy(settings: Settings, status: Mapping[str, Any]) -> list[Target]:
    try:
        known = Master(settings.master_socket, settings.runtime_socket).processes()
    except SmartError:
        return []
    agent = int(status["pid"])
    external = "external" in words_of(agent) or environ_of(agent, "SIDECAR_PROXY") == "external"
    by = restarter_of(known.master) if external else "the agent"
    return [
        Target(
            "haproxy", "haproxy", pid=known.master, restarted_by=by, why_not=_why_not(known.master), has_children=True
        )
    ]


def _instance(key: tuple[str, str], one: Announcement, path: Path) -> Target:
    service, address = key
    pid = _pid_of_instance(one)
    elsewhere = bool(one.pid_space) and one.pid_space != own_pid_space()
    return Target(
        "instance",
        f"{service} {address}",
        service=service,
        address=address,
        pid=pid,
        restarted_by=restarter_of(pid) if pid else "",
        announced=str(path),
        why_not=""
        if not pid and not elsewhere
        else "its process is in another container"
        if elsewhere
        else _why_not(pid),
        has_children=bool(pid) and len(tree(pid)) > 1,
        takes_full_disk=bool(pid) and all(ignores(each.pid, signal.SIGXFSZ) for each in tree(pid)),
    )


def _pid_of_instance(one: Announcement) -> int:
    if one.pid is not None and one.pid_space == own_pid_space():
        return one.pid
    return next(iter(listeners(one.port)), 0) if one.pid is None else 0


def _remote(routes: Sequence[Mapping[str, Any]], announced: Mapping[tuple[str, str], Any], host: str) -> list[Target]:
    found = []
    for route in routes:
        for one in route["instances"]:
            key = (route["service"], one["address"])
            if key not in announced and one["address"].rpartition(":")[0].strip("[]") != host:
                name = f"{route['service']} {one['address']}"
                found.append(Target("remote", name, service=key[0], address=key[1], is_local=False))
    return found


def _atlas(url: str) -> tuple[list[Target], list[tuple[str, str]]]:
    """The replicas that listen here, and a word on the others."""
    hosts = atlas_hosts(url)
    if not hosts:
        scheme = url.partition(":")[0] or "sqlite"
        why = "it is read from its store without a server"
        if scheme != "sqlite":
            why += "; a process of the store is drilled with --process NAME=PID"
        return [], [(f"Atlas ({scheme})", why)]
    found, here = [], own_addresses({host for host, _ in hosts})
    for host, port in hosts:
        name = f"atlas {host}:{port}"
        pid = next(iter(listeners(port)), 0) if host in here else 0
        found.append(
            Target(
                "atlas",
                name,
                address=f"{host}:{port}",
                pid=pid,
                restarted_by=restarter_of(pid) if pid else "",
                why_not="" if not pid else _why_not(pid),
                takes_full_disk=bool(pid) and all(ignores(each.pid, signal.SIGXFSZ) for each in tree(pid)),
                is_local=host in here,
            )
        )
    return found, []


def atlas_hosts(url: str) -> list[tuple[str, int]]:
    """Host and port of each replica; none for a store. Never the credentials that a URL may hold."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.lower() not in ("http", "https"):
        return []
    found = []
    for part in re.split(r"[/?#]", rest, maxsplit=1)[0].split(","):
        place = urlsplit(f"//{part.strip().removeprefix('http://').removeprefix('https://')}")
        if place.hostname:
            found.append((place.hostname, place.port or (443 if scheme.lower() == "https" else 80)))
    return found


def _program(name: str, where: str) -> Target:
    pid = pid_of(where)
    if process(pid) is None:
        raise ConfigurationError(f"--process {name}={where}: no such process, and no file that holds the pid of one.")
    return Target(
        "program",
        name,
        pid=pid,
        restarted_by=restarter_of(pid),
        why_not=_why_not(pid),
        takes_full_disk=all(ignores(each.pid, signal.SIGXFSZ) for each in tree(pid)),
    )


def _why_not(pid: int) -> str:
    return "" if is_ours(pid) else "its process belongs to another user"
