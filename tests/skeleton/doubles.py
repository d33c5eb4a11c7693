"""Stand-ins for what the generator talks to."""

from __future__ import annotations


class Silent:
    """Progress that nobody reads."""

    def begin(self, number: int, of: int, title: str) -> None:
        pass

    def end(self, title: str, seconds: float, note: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass
