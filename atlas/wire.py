"""How the map is written on the wire: worlds, deltas, changes and ports as JSON. Spoken by the client and by the server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from atlas.model import Change, Edit, Report
from atlas.reports import read_report
from atlas.world import Delta, Position, World
from smartrealm.errors import ValidationFailed

AUTHOR = "Atlas-Author"
"""Who makes a change, where nobody is asked for a token. Percent-encoded where it is not plain ASCII."""

WHY = "Atlas-Why"
"""Why a change is made; kept in the history. Percent-encoded where it is not plain ASCII."""

DRAINING = "Atlas-Draining"
"""On an answer: this replica is about to stop, the next question is better put to another one."""

_PLAIN = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_MOST_PORTS = 65536


def header_text(text: str) -> str:
    """Any text as the value of a header."""
    return quote(text, safe=_PLAIN)


def read_header(value: str) -> str:
    """The text in a header; also one that a person typed, in UTF-8 or not encoded at all."""
    return unquote(value.encode("latin-1", "replace").decode("utf-8", "replace"))


def read_update(data: Mapping[str, Any]) -> World | Delta:
    """What an answer of `/v1/world` says: everything, or what changed."""
    position = Position.parse(data["position"])
    if data["complete"]:
        return World.from_items(position, (tuple(item) for item in data["items"]))
    edits = tuple(Edit(kind, key, None, after) for kind, key, after in data["edits"])
    return Delta(Position.parse(data["since"]), position, edits)


def change_json(change: Change) -> dict[str, Any]:
    """One entry of the history as JSON."""
    return {
        "revision": change.revision,
        "at": change.at,
        "author": change.author,
        "why": change.why,
        "id": change.id,
        "edits": [
            {"kind": edit.kind, "key": edit.key, "before": edit.before, "after": edit.after} for edit in change.edits
        ],
    }


def read_change(data: Mapping[str, Any]) -> Change:
    """The change that `change_json` gave."""
    edits = tuple(Edit(edit["kind"], edit["key"], edit["before"], edit["after"]) for edit in data["edits"])
    return Change(data["revision"], data["at"], data["author"], data["why"], edits, data.get("id", ""))


def reports_json(reports: Mapping[str, Report]) -> dict[str, Any]:
    """What sidecars say of themselves as JSON."""
    return {"reports": {name: reports[name].to_json() for name in sorted(reports)}}


def read_reports(data: Mapping[str, Any]) -> Mapping[str, Report]:
    """The reports that `reports_json` gave."""
    read = {
        name: read_report(name, told, at=told.get("at", 0.0), ttl_seconds=told.get("ttl_seconds", 15.0))
        for name, told in data["reports"].items()
    }
    return {name: report for name, report in read.items() if report is not None}


def ports_text(ports: Iterable[int]) -> str:
    """Ports in the order in which they are to be tried: `8000-8999,9100`."""
    runs: list[list[int]] = []
    for port in ports:
        if runs and port == runs[-1][1] + 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def read_ports(text: str) -> list[int]:
    """The ports of `ports_text`. Raises ValidationFailed."""
    found: list[int] = []
    for part in text.split(","):
        found.extend(_run(part))
        if len(found) > _MOST_PORTS:
            break
    if not found or len(found) > _MOST_PORTS:
        raise ValidationFailed("Ports look like `8000-8999,9100`.")
    return found


def _run(part: str) -> Iterator[int]:
    first, dash, last = part.strip().partition("-")
    if not _is_port(first) or (dash and not _is_port(last)):
        raise ValidationFailed("Ports look like `8000-8999,9100`, each from 1 to 65535.")
    yield from range(int(first), int(last or first) + 1)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535
