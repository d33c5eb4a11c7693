"""What a doctor says: `flask doctor` of a service, `atlas doctor` of a map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["wrong", "risky", "good"]

_ORDER: tuple[Level, ...] = ("wrong", "risky", "good")


@dataclass(frozen=True)
class Finding:
    """One line of the screen: how bad, about what, why, and what to do."""

    level: Level
    topic: str
    says: str
    advice: str = ""


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """The findings in the order in which they matter; equals stay in theirs."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.level))
