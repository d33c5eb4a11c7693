"""`sidecar render`: HAProxy's files for any map. It touches nothing that runs."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.terminal import Session, looks
from smartrealm.errors import ConfigurationError, NotFound, ValidationFailed
from smartrealm.wording import count, plain

if TYPE_CHECKING:
    from atlas.world import World
    from sidecar.model import Plan
    from sidecar.render import Files
    from sidecar.settings import Settings


@click.command("render")
@click.option(
    "--map", "file", metavar="FILE", help="A map in a file: `atlas export`, /v1/world, or one kept by a sidecar."
)
@click.option("--atlas", "atlas_url", metavar="URL", help="A living map; else ATLAS_URL, else the local realm's.")
@click.option("--to", "folder", metavar="DIRECTORY", help="Write haproxy.cfg and maps/ there.")
@click.option("--why", is_flag=True, help="Print what was decided of each instance instead.")
@click.option("--zone", metavar="ZONE", help="As a sidecar of this zone would; else ZONE.")
@looks
def render(
    session: Session, file: str | None, atlas_url: str | None, folder: str | None, why: bool, zone: str | None
) -> None:
    """HAProxy's file and its maps, as a sidecar with these settings would write them for a map. Nothing that runs is asked or
    touched, and HAProxy need not be there; names of hosts are looked up from here."""
    if file is not None and atlas_url is not None:
        raise click.UsageError("--map and --atlas exclude each other")
    settings = session.settings(needs_atlas=False, zone=zone, atlas_url=atlas_url)
    world = read_map(Path(file)) if file is not None else _living(session, settings)
    plan, files = made_of(world, settings)
    if folder is not None:
        names = write(files, Path(folder))
        session.done(f"{count(len(plan.routes), 'service')}: {', '.join(names)} in {folder}.", files=names)
        return
    if session.as_json:
        session.give(_document(plan, files))
        return
    for line in _reasons(plan, session.now()) if why else _texts(files):
        session.print(line)
    for name, reason in sorted(plan.quarantined.items()):
        session.note(f"sidecar: {plain(name)} is not routed: {plain(reason)}")


def made_of(world: World, settings: Settings) -> tuple[Plan, Files]:
    """What is decided of a map, and the files that say so."""
    from sidecar import render as rendering
    from sidecar.layout import fresh_layout, lay_out
    from sidecar.plan import Planner

    plan = Planner(zone=settings.zone, resolve=functools.cache(_resolved)).plan(world)
    layout = fresh_layout(plan.routes, settings.spare_backends)
    layout, state, _ = lay_out(plan.routes, layout)
    return plan, rendering.render(state, layout, settings)


def _resolved(name: str) -> str | None:
    """The address of a host's name, chosen as the agent chooses; it waits for the answer."""
    from sidecar.resolve import best_first, look_up

    try:
        return next(iter(best_first(look_up(name))), None)
    except (OSError, ValueError):
        return None


def _living(session: Session, settings: Settings) -> World:
    import atlas

    with atlas.open(settings.atlas_url, environ=session.environ) as directory:
        return directory.world()


def write(files: Files, folder: Path) -> list[str]:
    """Write the files below a folder; gives their names."""
    from sidecar.layout import map_file

    named = {"haproxy.cfg": files.config, **{map_file(name): text for name, text in files.maps.items()}}
    try:
        for name, text in named.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename} cannot be written ({error.strerror}): give another --to."
        ) from error
    return list(named)


def _texts(files: Files) -> Iterator[str]:
    from sidecar.layout import map_file

    yield files.config.rstrip("\n")
    for name, text in files.maps.items():
        yield f"\n# {map_file(name)}"
        if text:
            yield text.rstrip("\n")


def _reasons(plan: Plan, now: float) -> Iterator[str]:
    from sidecar.why import decision_line

    for name in sorted({*plan.routes, *plan.decisions}):
        decisions = plan.decisions.get(name, {})
        yield f"{name}{'' if decisions else ': no instance'}"
        for address in sorted(decisions):
            yield f"  {decision_line(decisions[address], now)}"


def _document(plan: Plan, files: Files) -> dict[str, Any]:
    from sidecar.facts import Facts
    from sidecar.layout import map_file
    from sidecar.status import routes_document

    return {
        **routes_document(Facts(), plan),
        "quarantined": dict(plan.quarantined),
        "files": {"haproxy.cfg": files.config, **{map_file(name): text for name, text in files.maps.items()}},
    }


# -- maps in files -----------------------------------------------------------------------------------------------------


def read_map(path: Path) -> World:
    """The map in a file: an answer of /v1/world or a kept map (JSON with `items`), or what `atlas export` wrote (lines of JSON).

    Raises NotFound, ValidationFailed."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}: `atlas export {path}` writes one.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValidationFailed(f"{path} cannot be read: {error}.") from error
    try:
        return _of_document(json.loads(text)) if '"items"' in text[:20_000] else _of_export(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValidationFailed(
            f"{path} holds no map that is understood here ({error}): it takes what `atlas export` or GET /v1/world gives, or "
            "a map that a sidecar has kept."
        ) from error


def _of_document(document: Mapping[str, Any]) -> World:
    from atlas.world import Position, World

    items = [(kind, str(key), data) for kind, key, data in document["items"] if kind not in ("token", "override")]
    return World.from_items(Position.parse(document["position"]), items)


def _of_export(text: str) -> World:
    """The folded export: services and rulings of its changes, instances of its leases."""
    from atlas.log import read_change
    from atlas.model import Edit
    from atlas.world import Delta, Position, World

    records = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not records or records[0].get("atlas") != "export":
        raise ValueError("its first line is no header of an export")
    if "end" not in records[-1]:
        raise ValueError("it was cut off: its last line is missing")
    world, revision = World(), 0
    for record in records[1:-1]:
        if "change" in record:
            change = read_change(record["change"])
            revision = change.revision
            edits = tuple(edit for edit in change.edits if edit.kind in ("service", "ruling"))
        else:
            carried = record["lease"]["instances"]
            edits = tuple(
                Edit("instance", f"{one['service']}/{_place(one)}", None, {**one, "lease": record["lease"]["id"]})
                for one in carried
            )
        world = world.apply(Delta(world.position, Position("export", revision), edits))
    return world


def _place(instance: Mapping[str, Any]) -> str:
    from atlas.model import address

    return address(str(instance["host"]), int(instance["port"]))
