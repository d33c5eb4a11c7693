"""HAProxy's files without the agent and without Atlas: made of the map that was kept on this disk.

So HAProxy serves at once after a boot, whatever else is away. The agent compares as soon as it is there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from atlas.world import World
from sidecar.model import Plan, Route
from sidecar.probe import is_listened_on
from sidecar.settings import Settings
from smartrealm.errors import Conflict

BEGUN = "haproxy.begun"
"""Touched whenever HAProxy is started."""

JUST_SECONDS = 3.0

NAMES_SECONDS = 0.5
"""How long the names of hosts are looked up before HAProxy starts; the agent adds those that take longer."""

_PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "LD_LIBRARY_PATH", "NOTIFY_SOCKET")
"""What HAProxy gets of the environment, which may hold tokens: beside what it needs, where systemd waits to hear of it."""


def prepare(settings: Settings, world: World | None = None, *, now: float | None = None) -> str:
    """See to it that there is a file that HAProxy takes; gives a sentence about what was done, empty when nothing was.

    A file that is there is taken as it is: the agent wrote it, and tried it. Only one with which HAProxy was started a moment
    ago, and does not run, is made anew: this host may allow fewer open files than the one that it was made for did. Without
    `world` the kept map is read.
    """
    settings.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    is_there = settings.proxy_config.exists()
    if is_there and not _has_just_begun(settings, time.time() if now is None else now):
        return ""
    kept = world if world is not None else _kept(settings)
    if is_there and not kept.services:
        return ""  # what is there is better than nothing
    _write(kept, settings)
    if not kept.services:
        return f"wrote {settings.proxy_config} without a service: no map is kept here yet"
    return f"wrote {settings.proxy_config} with {len(kept.services)} services of the map that was kept"


def _has_just_begun(settings: Settings, now: float) -> bool:
    try:
        return 0 <= now - (settings.directory / BEGUN).stat().st_mtime < JUST_SECONDS
    except OSError:
        return False


def refuse_a_second(
    settings: Settings,
    seconds: float = 2.0,
    *,
    is_alive: Callable[[Path], bool] = is_listened_on,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Raise Conflict when a HAProxy of this directory is alive: two would share one port, and the routes of one of them would be
    stale. One that is ending, as after a crash of its master, is waited for."""
    while is_alive(settings.master_socket):
        if seconds <= 0:
            raise Conflict(f"HAProxy runs in {settings.directory} already; end it first, or set another SIDECAR_DIR.")
        sleep(0.02)
        seconds -= 0.02


def become(settings: Settings, environ: Mapping[str, str], *, notify: bool = False) -> None:
    """Turn this process into HAProxy, in the foreground. Returns only by raising: ConfigurationError without the program."""
    from sidecar.proxy import command, program_version

    program_version(settings.haproxy)
    (settings.directory / BEGUN).touch()
    words = command(settings, notify=notify)
    os.umask(0o027)
    os.execvpe(words[0], words, {name: environ[name] for name in _PASSED_ON if name in environ})


def _write(world: World, settings: Settings) -> None:
    from sidecar.files import write_files
    from sidecar.layout import fresh_layout, lay_out
    from sidecar.proxy import FIRST_WITH_DYNAMIC_BACKENDS, descriptors, program_version, version_numbers
    from sidecar.render import render
    from sidecar.tokens import TokensFile

    dynamic = version_numbers(program_version(settings.haproxy)) >= FIRST_WITH_DYNAMIC_BACKENDS
    routes = _routes(world, settings)
    layout = fresh_layout(routes, settings.spare_backends, dynamic=dynamic)
    layout, state, _ = lay_out(routes, layout, tokens=TokensFile(settings.tokens_file).read(), dynamic=dynamic)
    write_files(render(state, layout, settings, descriptors=descriptors()), settings)


def _routes(world: World, settings: Settings) -> Mapping[str, Route]:
    """What the agent would plan: with what it held back when it ended, and after the names of hosts had their answers."""
    from sidecar.barred import Barred
    from sidecar.memory import read_file
    from sidecar.plan import Planner
    from sidecar.resolve import Resolver

    answered = threading.Event()
    resolver = Resolver(answered.set)
    planner = Planner(zone=settings.zone, resolve=resolver.resolve)
    planner.restore(read_file(settings.memory))
    until = time.monotonic() + NAMES_SECONDS
    plan = planner.plan(world)
    while _waits_for_names(plan) and answered.wait(max(0.0, until - time.monotonic())):
        answered.clear()
        plan = planner.plan(world)
    resolver.close()
    return Barred().writable(plan.routes)


def _waits_for_names(plan: Plan) -> bool:
    return any(one.reason == "invalid" for of_service in plan.decisions.values() for one in of_service.values())


def _kept(settings: Settings) -> World:
    from atlas.remembered import RememberedWorld

    remembered = RememberedWorld(settings.state, url=settings.atlas_url or "", realm=settings.realm)
    return remembered.load() or World()
