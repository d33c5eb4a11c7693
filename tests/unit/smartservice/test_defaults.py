"""What the framework's settings refuse beyond their types, through create_app."""

from __future__ import annotations

import re
from typing import Any

import pytest

from smartrealm import ConfigurationError
from tests.unit.smartservice.making import Make, make

__all__ = ["make"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "nonsense"),
        ("DATABASE_URL", "//host/name"),
        ("REDIS_URL", "http://planted:planted@host"),
        ("REDIS_URL", "localhost:6379"),
        ("PORT", "70000"),
        ("WORKERS", "0"),
        ("DATABASE_POOL_SIZE", "0"),
        ("HEALTH_INTERVAL", "0"),
        ("DRAIN_SECONDS", "-1"),
        ("HEALTH_PATH", "health"),
        ("OPENAPI_PATH", "openapi.json"),
        ("SIDECAR_URL", "https://h:1"),
        ("SIDECAR_URL", "unix://calls.sock"),
        ("SIDECAR_TOKEN", "planted\nplanted"),
        ("SPLIT_SALT", "a b"),
        ("SPLIT_KEY_HEADERS", '["X-User: x"]'),
        ("SPLIT_KEY_COOKIES", '[""]'),
    ],
)
def test_a_value_that_cannot_work_stops_the_start(make: Make, name: str, value: str) -> None:
    """The message names the setting and where the value came from, and shows no secret."""
    with pytest.raises(ConfigurationError, match=re.escape(f"{name} (environment variable {name})")) as caught:
        make(environ={name: value})
    assert len(caught.value.mistakes) == 1
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"DATABASE_URL": "postgres://user:p@ss@host/name?sslmode=require"},
        {"DATABASE_URL": "postgresql+psycopg://host/name"},
        {"DATABASE_URL": "mysql+pymysql://host/name"},
        {"DATABASE_URL": "sqlite://"},
        {"DATABASE_URL": "sqlite:///a file.db"},
        {"REDIS_URL": "rediss://:secret@host:6379/1"},
        {"REDIS_URL": "unix:///run/redis.sock"},
        {"SIDECAR_URL": "", "SPLIT_KEY_HEADERS": [], "SPLIT_KEY_COOKIES": []},
        {"SIDECAR_URL": "unix:///run/smartservice/local/calls.sock", "SIDECAR_TOKEN": "abc"},
        {"SIDECAR_URL": None},
        {"DRAIN_SECONDS": None, "PORT": 0, "MANAGEMENT_PORT": 0},
    ],
)
def test_what_can_work_is_taken(make: Make, settings: dict[str, Any]) -> None:
    """Nothing that a driver understands is refused."""
    app = make(**settings)
    assert {name: app.config[name] for name in settings} == settings


def test_a_redis_url_with_an_unknown_option_says_so(make: Make) -> None:
    """The client's own complaint comes as a sentence about REDIS_URL."""
    with pytest.raises(ConfigurationError, match="REDIS_URL"):
        make(REDIS_URL="redis://h?nonsense=1").redis.ping()
