"""Apps for tests: made in an environment of their own, closed at the end of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from smartservice import SmartService, create_app

Make = Callable[..., SmartService]

PLACE: Mapping[str, Any] = {
    "HOST": "127.0.0.1",
    "PORT": 8000,
    "ADVERTISE_HOST": "",
    "ADVERTISE_PORT": 0,
    "ZONE": "a",
    "RELEASE": "1.2",
    "WEIGHT": 50,
}
"""The settings from which a service knows what it says of itself in the map."""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """`make(environ={...}, SETTING=value)`: an app of the sample service in the realm `testing`."""
    apps: list[SmartService] = []

    def make_one(*, environ: dict[str, str] | None = None, **options: Any) -> SmartService:
        environ = {"REALM": "testing", "ATLAS_URL": "", "STATE_DIR": str(tmp_path / "state"), **(environ or {})}
        environ.setdefault("SIDECAR_DIR", str(tmp_path / "sidecar"))
        apps.append(create_app("tests.unit.smartservice.sample", environ=environ, **options))
        return apps[-1]

    yield make_one
    for app in apps:
        app.close()
