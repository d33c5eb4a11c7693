"""What the tests of a HAProxy that the sidecar steers begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.sidecar.steered import Instance, Steered, instances, steered


@pytest.fixture
def one() -> Iterator[Steered]:
    """A HAProxy that has not begun yet."""
    with steered() as running:
        yield running


@pytest.fixture
def three() -> Iterator[list[Instance]]:
    """Three instances in this process."""
    with instances(3) as running:
        yield running


@pytest.fixture
def two(three: list[Instance]) -> list[Instance]:
    """Two of them."""
    return three[:2]
