"""Unit tests wait for nothing: not for a disk either."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 100_000_000


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder, in memory where there is room: SQLite waits for the disk with each commit, which was most of the time."""
    if not _has_memory():
        yield request.getfixturevalue("tmp_path_factory").mktemp("unit")
        return
    folder = Path(tempfile.mkdtemp(prefix="unit-", dir=MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has_memory() -> bool:
    try:
        return os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ENOUGH_BYTES
    except OSError:
        return False
