"""How the map is told in words: values, edits, changes, tables. Pure: no terminal, no clock of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from atlas.model import Change, Edit
from smartrealm import wording
from smartrealm.errors import ValidationFailed
from smartrealm.wording import ago, count, moment, plain

HIDDEN = "(secret)"

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)")

_LONGEST_VALUE = 80


def one_line(text: str) -> str:
    """Free text of people: line breaks become spaces."""
    return plain(" ".join(text.split()))


def parse_value(text: str) -> Any:
    """What is meant by a value on a command line: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text
    except RecursionError:
        raise ValidationFailed("This value is nested too deeply for a setting. Refer to a file.") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def kind_of(value: Any) -> str:
    """A value's kind as a person calls it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list | tuple) else "an object"


def value_text(value: Any, longest: int = _LONGEST_VALUE) -> str:
    """A value on one line; a long one is cut and its length told."""
    text = plain(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def value_and_kind(value: Any) -> str:
    """`50 (a number)`."""
    return f"{value_text(value)} ({kind_of(value)})"


def parse_span(text: str) -> float:
    """`90`, `90s`, `15min`, `2h`, `1h30m`, `7d` in seconds. Raises ValidationFailed."""
    compact = text.strip().lower().replace(" ", "")
    if re.fullmatch(r"\d+(\.\d+)?", compact):
        compact += "s"
    parts = _SPAN.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise ValidationFailed(f"{plain(text)!r} is no length of time: write 90s, 15min, 2h, 1h30m or 7d.")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < seconds <= 3650 * 86400:
        raise ValidationFailed(f"{plain(text)!r} is no length of time: it must be more than 0 and at most ten years.")
    return seconds


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> list[str]:
    """Lines with aligned columns under dimmed titles; columns named in `right` stand at the right edge."""
    first, *others = wording.table(titles, rows, right)
    return [click.style(first, dim=True), *others]


# -- edits and changes -------------------------------------------------------------------------------------------------


def edit_text(edit: Edit) -> str:
    """One thing that changed, as a sentence without a full stop."""
    return plain(_EDITS[edit.kind](edit))


def _setting(edit: Edit) -> str:
    scope, _, key = edit.key.partition("/")
    name = f"{scope} {key}"
    before, after = _shown(edit.before), _shown(edit.after)
    if edit.after is None:
        return f"{name} unset (was {before})"
    return f"{name} = {after}" if edit.before is None else f"{name} = {after} (was {before})"


def _shown(data: Mapping[str, Any] | None) -> str:
    if data is None:
        return "unset"
    return HIDDEN if data.get("secret") else value_text(data.get("value"))


def _ruling(edit: Edit) -> str:
    place = edit.key.replace("/", " ", 1)
    if edit.after is None:
        return f"{place} has no ruling any more (was {_ruled(edit.before or {})})"
    return f"{place} {_ruled(edit.after)}"


def _ruled(data: Mapping[str, Any]) -> str:
    told = str(data.get("state", "enabled"))
    if data.get("weight") is not None:
        told += f", weight {data['weight']}"
    if data.get("reason"):
        told += f" ({one_line(str(data['reason']))})"
    if data.get("expires_at") is not None:
        told += f" until {moment(float(data['expires_at']), float(data.get('at') or 0.0))}"
    return told


def _service(edit: Edit) -> str:
    if edit.after is None:
        return f"{edit.key} removed"
    if edit.before is None:
        return f"{edit.key} added"
    names = sorted(name for name in {*edit.before, *edit.after} if edit.before.get(name) != edit.after.get(name))
    told = (f"{name} {value_text(edit.after.get(name))} (was {value_text(edit.before.get(name))})" for name in names)
    return f"{edit.key} changed: {', '.join(told) or 'nothing'}"


def _token(edit: Edit) -> str:
    data = edit.after or edit.before or {}
    done = "revoked" if edit.after is None else "made" if edit.before is None else "changed"
    return f"token {edit.key} ({data.get('role', '?')} for {data.get('subject', '?')}) {done}"


def _lease(edit: Edit) -> str:
    return f"lease {edit.key} {'ended' if edit.after is None else 'opened'}"


def _instance(edit: Edit) -> str:
    place = edit.key.replace("/", " ", 1)
    if edit.after is None:
        return f"{place} left"
    version = f" version {edit.after['version']}" if edit.after.get("version") else ""
    if edit.before is None or edit.before.get("incarnation") != edit.after.get("incarnation"):
        return f"{place} {'came' if edit.before is None else 'started anew'}{version}"
    if edit.after.get("draining") and not edit.before.get("draining"):
        return f"{place} drains before it stops"
    return f"{place} changed{version}"


_EDITS = {
    "override": _setting,
    "ruling": _ruling,
    "service": _service,
    "token": _token,
    "lease": _lease,
    "instance": _instance,
}


def change_lines(change: Change, now: float) -> list[str]:
    """One change of the history: who, when and why, then what."""
    why = f": {one_line(change.why)}" if change.why else ""
    head = f"{change.revision:>6}  {moment(change.at, now)}  {plain(change.author or 'somebody')}{why}"
    return [head, *(f"{'':8}{edit_text(edit)}" for edit in change.edits)]


def change_line(change: Change, now: float) -> str:
    """One change on one line."""
    edits = [edit_text(edit) for edit in change.edits]
    what = edits[0] if edits else "nothing"
    if len(edits) > 1:
        what += f", and {count(len(edits) - 1, 'more edit')}"
    why = f": {one_line(change.why)}" if change.why else ""
    return f"{ago(change.at, now)} by {plain(change.author or 'somebody')}{why}: {what}"


def change_json(change: Change) -> dict[str, Any]:
    """A change for programs; values of secrets never."""
    return {
        "revision": change.revision,
        "at": change.at,
        "author": change.author,
        "why": change.why,
        "edits": [edit_json(edit) for edit in change.edits],
    }


def edit_json(edit: Edit) -> dict[str, Any]:
    return {
        "kind": edit.kind,
        "key": edit.key,
        "before": _safe(edit.kind, edit.before),
        "after": _safe(edit.kind, edit.after),
    }


def _safe(kind: str, data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if data is None:
        return None
    if kind == "token":
        return {name: value for name, value in data.items() if name != "digest"}
    if kind == "override" and data.get("secret"):
        return {**data, "value": None, "hidden": True}
    return dict(data)
