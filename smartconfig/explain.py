"""Where a value comes from, for a person or a program. Everything in here is already masked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from smartconfig.conversion import type_name
from smartconfig.declarations import Declarations
from smartconfig.layers import Setting
from smartconfig.shown import display, one_line, printable

LONGEST_IN_TABLE = 60


@dataclass(frozen=True, slots=True)
class Overridden:
    """A value that a higher layer overrode."""

    origin: str
    value: Any
    author: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """One setting: what holds, who said so, whom it overrode. Secret values are masks with a keyed fingerprint."""

    key: str
    value: Any
    type: str
    winner: str
    losers: tuple[Overridden, ...]
    version: str
    author: str | None
    description: str
    secret: bool
    needs_restart: bool
    pending: Any = None
    """The value that waits for a restart, in the same form; None when there is none."""


def explanation(
    setting: Setting,
    version: str,
    pending: Mapping[str, Any],
    declarations: Declarations,
    fingerprint_key: bytes,
) -> Explanation:
    """Say it all about one setting; nothing secret gets past here."""
    from smartconfig.descriptions import description

    secret, key = setting.secret, setting.declaration.key

    def visible(item: Any) -> Any:
        return display(item, secret=secret, fingerprint_key=fingerprint_key)

    winner = setting.layers[-1]
    return Explanation(
        key=key,
        value=visible(setting.value),
        type=type_name(setting.declaration.hint),
        winner=winner.origin,
        losers=tuple(Overridden(lost.origin, visible(lost.value), lost.author) for lost in setting.layers[-2::-1]),
        version=version,
        author=winner.author,
        description=description(key, declarations.modules),
        secret=secret,
        needs_restart=setting.declaration.needs_restart,
        pending=visible(pending[key]) if key in pending else None,
    )


def render_json(explanations: Iterable[Explanation]) -> str:
    """A JSON list with one object for each setting."""
    import json

    return json.dumps([asdict(item) for item in explanations], indent=2, ensure_ascii=True)


def render_text(explanations: Iterable[Explanation], *, full: bool | None = None) -> str:
    """A table with one line for each value and its losers below it; `full` (the default for a single one) says all."""
    items = list(explanations)
    if full or (full is None and len(items) == 1):
        return "\n\n".join(_block(item) for item in items)
    rows = [row for item in items for row in _rows(item)]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows)


def render_explanations(explanations: Iterable[Explanation], *, as_json: bool = False) -> str:
    """What `python -m smartconfig` and `flask config explain` print."""
    return render_json(explanations) if as_json else render_text(explanations)


def _text(value: Any, secret: bool) -> str:
    return str(value) if secret else one_line(value)


def _rows(item: Explanation) -> list[tuple[str, str, str, str]]:
    rows = [(item.key, _cut(_text(item.value, item.secret)), item.type, item.winner)]
    if item.pending is not None:
        rows.append(("", _cut(_text(item.pending, item.secret)), "", "waits for a restart"))
    rows += [("", _cut(_text(lost.value, item.secret)), "", f"overridden: {lost.origin}") for lost in item.losers]
    return rows


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_IN_TABLE else f"{text[: LONGEST_IN_TABLE - 3]}..."


def _block(item: Explanation) -> str:
    lines = [f"{item.key} = {_text(item.value, item.secret)}"]
    lines.append(f"  type         {item.type}" + (", secret" if item.secret else ""))
    lines.append(f"  from         {item.winner}")
    lines += [f"  overrode     {_text(lost.value, item.secret)} from {lost.origin}" for lost in item.losers]
    if item.author:
        lines.append(f"  author       {printable(item.author)}")
    lines.append(f"  version      {printable(item.version)}")
    if item.needs_restart:
        waiting = f": {_text(item.pending, item.secret)} waits for one" if item.pending is not None else ""
        lines.append(f"  restart      a change needs a restart{waiting}")
    if item.description:
        lines.append("  description  " + item.description.replace("\n", "\n" + " " * 15))
    return "\n".join(lines)
