"""What an annotation can say besides the type: `Secret[str]`, `NeedsRestart[int]`, or both, one inside the other."""

from __future__ import annotations

from typing import Annotated, TypeVar

T = TypeVar("T")


class Mark:
    """One thing said about a setting; carried in `typing.Annotated`, ignored by whoever does not know it."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


SECRET = Mark("secret")
NEEDS_RESTART = Mark("needs restart")

Secret = Annotated[T, SECRET]
"""`STRIPE_KEY: Secret[str]`: the value stays a plain `str`, but nothing ever shows it."""

NeedsRestart = Annotated[T, NEEDS_RESTART]
"""`WORKERS: NeedsRestart[int] = 2`: a change at run time is reported as pending; the old value stays in force."""
