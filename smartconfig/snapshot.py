"""One complete, validated set of values that never changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Snapshot(Mapping[str, Any]):
    """Every setting at one version. Read-only; safe to share between threads.

    Two snapshots are equal when their version and all their values are. Lists and dictionaries in it are copies that
    belong to the snapshot: read them, do not change them.
    """

    __slots__ = ("_values", "_version")

    def __init__(self, values: Mapping[str, Any], version: str) -> None:
        self._values = dict(values)
        self._version = version

    @property
    def version(self) -> str:
        """The version of the source that these values come from; `defaults` when there is no source."""
        return self._version

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a setting, or `default` when there is no such setting."""
        return self._values.get(key, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Snapshot):
            return self._version == other._version and self._values == other._values
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Snapshot(version={self._version!r}, {len(self._values)} settings)"


def differs(old: Any, new: Any) -> bool:
    """Whether two values of a setting are different; `1` and `True` are. Values that cannot be compared are."""
    try:
        return type(old) is not type(new) or bool(old != new)
    except Exception:
        return True
