"""`atlas service claim`: what `generate-service` asks for: a record of the new service and a port that it can have."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import click

from atlas.model import Service
from atlas.opening import default_path, scheme_of
from atlas.server.terminal import Command, Session, writes
from atlas.stores.sqlite import SqliteStore
from atlas.world import World
from smartrealm.errors import Conflict
from smartrealm.wording import plain

PORTS = range(8000, 9000)
MANAGEMENT = 1000
"""How far above its port a service answers probes; `generate-service` writes it so."""

_OFFERED = 20
"""So many free ports are offered to the map: others may claim some of them at the same time."""


@click.command("claim", cls=Command, short_help="Record a service with a port that it can have.")
@click.argument("name")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="This one, whoever else has it.")
@click.option("--owner", default="", metavar="TEAM", help="Who answers for it.")
@click.option("--description", default="", metavar="TEXT", help="What it is for.")
@click.option("--repository", default="", metavar="URL", help="Where its code is.")
@writes
def claim(session: Session, name: str, port: int | None, **facts: Any) -> None:
    """Record the service NAME with a port of 8000 to 8999 that no service of the realm has.

    Free is a port when neither it nor the one 1000 above, where probes are answered, is used by another service or by
    something that listens on this machine now. A service that is recorded already is told as it is.
    """
    wanted = Service(name, port=port, **facts)
    wanted.check()
    world = _present(session)
    known = world.services.get(name)
    if known is not None and known.port is not None:
        _tell(session, known, world, world.position.revision, made=False)
        return
    asked = known or wanted
    if port is None and (known is not None or session.dry_run):
        port = next(free_ports(world, listens), None)
        if port is None:
            raise Conflict(f"Every port from {PORTS.start} to {PORTS.stop - 1} is taken: name one with --port.")
    if session.dry_run:
        _tell(session, replace(asked, port=port), world, world.position.revision, made=known is None)
    elif port is not None:
        claimed = replace(asked, port=port)
        revision = session.directory.put_service(claimed, by=session.author())
        _tell(session, claimed, world, revision, made=known is None)
    else:
        offered = list(islice(free_ports(world, listens), _OFFERED))
        claimed = session.directory.claim_port(wanted, by=session.author(), ports=offered)
        now = session.directory.world()
        _tell(session, claimed, now, now.position.revision, made=claimed == replace(wanted, port=claimed.port))


def free_ports(
    world: World, is_taken: Callable[[int], bool], ports: Iterable[int] = PORTS, above: int = MANAGEMENT
) -> Iterator[int]:
    """The ports that a new service can have, probes included; each is asked for only when the one before is not wanted."""
    used = {known.port for known in world.services.values() if known.port is not None}
    for port in ports:
        if used.isdisjoint((port, port + above, port - above)) and not is_taken(port) and not is_taken(port + above):
            yield port


def clashing(world: World, claimed: Service) -> list[str]:
    """The other services that have this port, or one at which the other's probes are answered."""
    if claimed.port is None:
        return []
    near = {claimed.port, claimed.port + MANAGEMENT, claimed.port - MANAGEMENT}
    return sorted(known.name for known in world.services.values() if known.name != claimed.name and known.port in near)


def listens(port: int) -> bool:
    """Whether something accepts connections on this port of this machine now."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _present(session: Session) -> World:
    """The map as it is. A dry run reads only, and makes no file where there is none."""
    if not session.dry_run:
        return session.world
    url = (session.url or session.environ.get("ATLAS_URL") or "").strip()
    path: Path | None = SqliteStore.from_url(url).path if scheme_of(url) == "sqlite" and " + " not in url else None
    if not url and session.realm == "local":
        path = default_path(session.environ)
    return World() if path is not None and not path.exists() else session.open().world()


def _tell(session: Session, told: Service, world: World, revision: int, *, made: bool) -> None:
    clashes = clashing(world, told)
    if clashes and not session.as_json:
        session.note(f"Warning: port {told.port} clashes with {', '.join(map(plain, clashes))}.")
    state = "recorded" if made else "registered already,"
    facts: dict[str, Any] = {"service": told.to_json(), "made": made, "clashes": clashes}
    session.done(f"{plain(told.name)} {state} with port {told.port}", revision, **facts)
