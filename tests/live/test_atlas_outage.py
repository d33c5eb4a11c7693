"""Services whose map goes away: their calls go on, and their registrations are right soon after it is back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.atlas_outage import outage_of


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_no_call_fails_while_the_map_is_away(how: str, tmp_path: Path) -> None:
    """Away for longer than a lease: not one failed call; what started meanwhile can call, and is in the map soon after."""
    outage = outage_of(tmp_path, 4.5, how=how)
    assert outage.failed == []
    assert outage.answered > 20
    assert outage.newcomer_answers == 200
    assert outage.right_again_seconds < 10  # the bar of 2 s is held in the benchmark, on a quiet machine
