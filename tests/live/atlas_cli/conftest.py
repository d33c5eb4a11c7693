"""The command line over a real map in a SQLite file: `atlas("set", "identity", "PAGE_SIZE", "50")`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.atlas_cli.runs import Runs


@pytest.fixture
def atlas(tmp_path: Path) -> Iterator[Runs]:
    """The command, over a map with nothing in it."""
    with Runs(tmp_path) as runs:
        yield runs


@pytest.fixture
def filled(atlas: Runs) -> Runs:
    """The command, over a map with two services that run."""
    atlas.fill()
    return atlas
