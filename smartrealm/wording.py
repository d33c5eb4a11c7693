"""How programs tell things to people: lengths of time, moments, counts, tables. Pure: no terminal, no clock of its own."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def plain(text: object) -> str:
    """The text on one line, without anything by which it could steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))


def span(seconds: float) -> str:
    """A length of time as a person says it: `12 s`, `5 min`, `3 h 10 min`, `4 days`."""
    seconds = max(0.0, seconds)
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round(seconds / 86400)} days"


def ago(at: float, now: float) -> str:
    """`5 min ago`, `in 2 h`, `just now`."""
    return "just now" if abs(now - at) < 1 else f"{span(now - at)} ago" if at <= now else f"in {span(at - now)}"


def moment(at: float, now: float) -> str:
    """A time of day in the local zone; with the date, and without seconds, where it is not today."""
    there, here = time.localtime(at), time.localtime(now)
    return time.strftime("%H:%M:%S" if there[:3] == here[:3] else "%Y-%m-%d %H:%M", there)


def since(at: float | None, now: float) -> str:
    """` since 03:12:04 (5 min)`, to be put behind a verb; empty for an unknown time."""
    return "" if not at else f" since {moment(at, now)} ({span(now - at)})"


def count(number: int, singular: str, plural: str = "") -> str:
    """`1 service`, `1,204 services`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def some(names: Sequence[str], most: int = 5) -> str:
    """`a, b and 7 more`."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> list[str]:
    """Lines with aligned columns; columns named in `right` stand at the right edge. Styled cells are measured bare."""
    cells = [list(titles), *(list(row) for row in rows)]
    widths = [max(len(_STYLE.sub("", row[column])) for row in cells) for column in range(len(titles))]
    to_right = [title in right for title in titles]
    lines = []
    for row in cells:
        padded = []
        for cell, width, rightward in zip(row, widths, to_right, strict=True):
            space = " " * (width - len(_STYLE.sub("", cell)))
            padded.append(space + cell if rightward else cell + space)
        lines.append("  ".join(padded).rstrip())
    return lines
