"""How the sidecar is told in words, beside what all programs share (`smartrealm.wording`). Pure."""

from __future__ import annotations

from smartrealm.wording import ago, count, moment, plain, since, some, span

__all__ = ["ago", "count", "moment", "one_line", "plain", "since", "some", "span"]


def one_line(text: object) -> str:
    """A message of several lines as one sentence: its lines as parts of a list, without the full stop."""
    parts = [line.strip().removeprefix("- ").rstrip(".") for line in str(text).splitlines()]
    return plain("; ".join(part for part in parts if part)).replace(":;", ":")
