"""`sidecar register` and `unregister`: any program that listens on this host, in the map. Files alone, so that both work while
the agent is away."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from atlas import announcement as announcements
from atlas.announcement import Announcement
from sidecar.control import Control, why_path
from sidecar.terminal import Session, acts
from smartrealm.errors import Forbidden, NotFound, SmartError, Unavailable
from smartrealm.names import ServiceName

_PAUSE = 0.1


@click.command("register")
@click.argument("name")
@click.argument("port", type=click.IntRange(1, 65535))
@click.option(
    "--health", metavar="/PATH", help=f"What answers 2xx while it is ready; else {announcements.HEALTH_PATH}."
)
@click.option("--no-health", is_flag=True, help="It is ready as long as it accepts connections.")
@click.option(
    "--host",
    default="",
    metavar="HOST",
    callback=lambda context, option, host: _unbracketed(host),
    help="How others reach it; else as they reach this host.",
)
@click.option("--version", default="", metavar="TEXT", help="Its version, for splits and version policies.")
@click.option(
    "--weight", type=click.IntRange(0, 1000), default=100, help="Its share of the calls, 0 to 1000; else 100."
)
@click.option("--zone", default="", metavar="ZONE", help="Where it stands; else the zone of this host.")
@click.option("--pid", type=click.IntRange(1), help="The process whose end is its end.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 3600),
    default=10.0,
    metavar="SECONDS",
    help="How long to wait until it is in the map; else 10; 0: not at all.",
)
@acts
def register(
    session: Session, name: str, port: int, health: str | None, no_health: bool, wait: float, **given: Any
) -> None:
    """Announce a program that listens on PORT of this host as an instance of the service NAME.

    The sidecar asks it whether it is ready, and brings it into the map once it is. Says when it is there.
    """
    if health is not None and no_health:
        raise click.UsageError("--health and --no-health exclude each other")
    asked = "" if no_health else announcements.HEALTH_PATH if health is None else health
    announcement = Announcement(str(ServiceName(name)), port, health=asked, **given)
    announcement.check()
    path = session.directory / announcements.FOLDER / announcement.file_name
    if not session.dry_run:
        path = announcements.announce(session.directory, announcement)
    state, says = "announced", ""
    if not announcements.is_carried(session.directory):
        says = "No sidecar runs here now; one that starts takes it up (`sidecar up`)."
    elif wait and not session.dry_run:
        state, says = _wait(session, announcement, wait)
    told = (
        f"{name} on port {port} is announced in {path}." if state == "announced" else f"{name} on port {port}: {state}."
    )
    session.done(f"{told} {says}".rstrip(), file=str(path), state=state, says=says)


def _unbracketed(host: str) -> str:
    """An IPv6 address may be given as in a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _wait(session: Session, announcement: Announcement, seconds: float) -> tuple[str, str]:
    """What became of it within a while: `in the map`, or how far it has come."""
    begun = session.now()
    state, says = "announced", "The sidecar has not taken it up yet; `sidecar status` says how it stands."
    try:
        while session.now() - begun < seconds:
            if _routed(session.control, announcement):
                return "in the map", f"Calls reach it, {session.now() - begun:.1f} s after it was announced."
            document = session.control.get("/v1/status")
            found = _own(document, announcement)
            if found is not None:
                says = f"It is not in the map yet: {_what_it_waits_for(found, document)}. It is asked on."
            session.tools.sleep(_PAUSE)
    except (Forbidden, Unavailable) as error:
        says = f"Whether it is in the map could not be asked: {error.message}"
    return state, says


def _what_it_waits_for(own: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    if own["state"] == "ready" and status["lease_failure"]:
        return f"it is ready, and the map takes nothing of this host: {status['lease_failure'].rstrip('.')}"
    reason = f": {own['reason']}" if own["reason"] else ""
    return f"its check finds it {own['state']}{reason}"


def _own(status: Mapping[str, Any], announcement: Announcement) -> Any:
    for one in status["own"]:
        if one["service"] == announcement.service and one["address"].rpartition(":")[2] == str(announcement.port):
            return one
    return None


def _routed(control: Control, announcement: Announcement) -> bool:
    own = _own(control.get("/v1/status"), announcement)
    if own is None or own["state"] != "ready":
        return False
    document = control.get(why_path(announcement.service, own["address"]))
    return bool(document["known"] and document.get("applied"))


@click.command("unregister")
@click.argument("name")
@click.argument("port", type=click.IntRange(1, 65535), required=False)
@acts
def unregister(session: Session, name: str, port: int | None) -> None:
    """Take back what announces NAME on this host, all of it or the one on PORT. The sidecar lets its calls end, and takes it out
    of the map."""
    folder = session.directory / announcements.FOLDER
    found = [path for path, service, at in announced(folder) if service == name and port in (None, at)]
    if not found:
        raise _nothing(folder, name, port)
    if not session.dry_run:
        for path in found:
            _remove(path)
    files = [str(path) for path in found]
    carried = announcements.is_carried(session.directory)
    when = (
        "the sidecar takes it out of the map now" if carried else "no sidecar runs here now, so the map learns it later"
    )
    session.done(f"{name}: {', '.join(path.name for path in found)} taken back; {when}.", files=files)


def announced(folder: Path) -> list[tuple[Path, str, int]]:
    """Path, service and port of each announcement, read from its name: one with a bad content can be taken back as well."""
    found = []
    try:
        entries = sorted(announcements.names(folder), key=lambda one: one.name)
    except FileNotFoundError:
        return []
    for entry in entries:
        service, mark, place = entry.name.removesuffix(".json").partition("@")
        port = place.rpartition(":")[2]
        if mark and port.isdecimal():
            found.append((Path(entry.path), service, int(port)))
    return found


def _nothing(folder: Path, name: str, port: int | None) -> SmartError:
    there = announced(folder)
    on = f" on port {port}" if port is not None else ""
    same = sorted({at for _, service, at in there if service == name})
    if same:
        return NotFound(f"{name} is not announced{on} here; it is on {', '.join(map(str, same))}.")
    near = difflib.get_close_matches(name, sorted({service for _, service, _ in there}), n=3, cutoff=0.5)
    meant = f"; did you mean {' or '.join(near)}?" if near else f": there is nothing of it in {folder}."
    return NotFound(f"{name} is not announced{on} here{meant}", near=near)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except PermissionError as error:
        raise Forbidden(f"{path} belongs to somebody else: ask them, or root.") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be removed ({error.strerror}).") from error
