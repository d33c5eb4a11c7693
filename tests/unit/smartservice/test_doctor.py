"""What `flask doctor` finds, as a table of settings and findings."""

from __future__ import annotations

from typing import Any

import pytest

from smartrealm.findings import Finding
from smartservice import defaults
from smartservice.doctor import Facts, examine

DEFAULTS = {name: value for name, value in vars(defaults).items() if name.isupper()}
SOUND = {
    "MANAGEMENT_PORT": 9000,
    "BUGSNAG_API_KEY": "k",
    "ATLAS_URL": "https://atlas.example",
    "ATLAS_TOKEN": "t",
    "HOST": "0.0.0.0",
}


def facts(*, realm: str = "production", drain: float = 6.0, **more: Any) -> Facts:
    fields = {
        name: more.pop(name)
        for name in ("environ", "max_connections", "health", "pending", "refused", "silent")
        if name in more
    }
    fields.setdefault("environ", {})
    return Facts(settings={**DEFAULTS, **SOUND, **more}, realm=realm, drain_seconds=drain, **fields)


def bad(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.topic) for finding in found if finding.level != "good"]


def test_a_sound_service_has_nothing_to_complain_about() -> None:
    """A management port, error reports, a map and an address for others make it sound in production; a laptop needs none."""
    assert bad(examine(facts())) == []
    assert (
        bad(examine(facts(realm="local", MANAGEMENT_PORT=0, BUGSNAG_API_KEY="", ATLAS_URL=None, HOST="127.0.0.1")))
        == []
    )


@pytest.mark.parametrize(
    ("settings", "level", "topic", "arithmetic"),
    [
        ({"drain": 4.0}, "wrong", "drain", "2 s x PROBE_FALL 2 = 4 s"),
        ({"DATABASE_URL": "sqlite:///x.db"}, "risky", "database", "SQLite in realm production"),
        ({"DATABASE_URL": "postgresql://h/d", "THREADS": 20}, "risky", "database", "20 threads share 10 connections"),
        (
            {"DATABASE_URL": "postgresql://h/d", "max_connections": 100, "WORKERS": 7},
            "risky",
            "database",
            "= 56 connections",
        ),
        (
            {"DATABASE_URL": "postgresql://h/d", "max_connections": 40, "WORKERS": 7},
            "wrong",
            "database",
            "max_connections 40",
        ),
        ({"DATABASE_URL": "postgresql://h/d", "DATABASE_STATEMENT_TIMEOUT": 60.0}, "risky", "timeouts", "60 s"),
        ({"DATABASE_URL": "postgresql://h/d", "DATABASE_STATEMENT_TIMEOUT": 0.0}, "risky", "timeouts", "for ever"),
        ({"REDIS_URL": "redis://h", "REDIS_MAX_CONNECTIONS": 4}, "risky", "redis", "THREADS 8"),
        ({"MANAGEMENT_PORT": 0}, "risky", "probes", "MANAGEMENT_PORT is 0"),
        ({"MANAGEMENT_PORT": 8000}, "wrong", "probes", "both 8000"),
        ({"HEALTH_TIMEOUT": 9.0}, "risky", "probes", "9 s"),
        ({"HEALTH_TRUSTED_NETWORKS": ["0.0.0.0/0"]}, "wrong", "exposure", "everybody"),
        ({"DEBUG": True}, "wrong", "exposure", "DEBUG is on"),
        ({"LOG_LEVEL": "DEBUG"}, "risky", "logs", "LOG_LEVEL"),
        ({"BUGSNAG_API_KEY": ""}, "risky", "reports", "no error reports"),
        ({"BUGSNAG_ENDPOINT": "http://x"}, "wrong", "reports", "only one"),
        ({"WORKERS": 1, "WORKER_CLASS": "sync"}, "risky", "threads", "one request at a time"),
        ({"environ": {"DATABSE_URL": "x"}}, "risky", "names", "DATABSE_URL"),
        ({"ATLAS_URL": None}, "risky", "map", "no ATLAS_URL in realm production"),
        ({"ATLAS_TOKEN": ""}, "wrong", "map", "no ATLAS_TOKEN"),
        ({"HOST": "127.0.0.1"}, "risky", "map", "registers as 127.0.0.1"),
        ({"pending": ("WORKERS",)}, "risky", "config", "WORKERS"),
        ({"refused": ("PAGE_SIZE is wrong",)}, "wrong", "config", "PAGE_SIZE is wrong"),
        ({"silent": ("x.json cannot be read",)}, "wrong", "config", "the source gives no overrides: x.json"),
        ({"health": {"database": "refused"}}, "wrong", "health", "refused"),
    ],
)
def test_each_risk_is_found_and_told_with_its_figures(
    settings: dict[str, Any], level: str, topic: str, arithmetic: str
) -> None:
    """One wrong setting gives one finding, which shows the arithmetic and says what to do."""
    found = examine(facts(**settings))
    assert bad(found) == [(level, topic)]
    assert arithmetic in found[0].says
    assert found[0].advice


def test_room_for_the_connections_is_shown_too() -> None:
    """What is right is told with its figures, so that an operator can check the reckoning."""
    said = [
        f.says for f in examine(facts(DATABASE_URL="postgresql://h/d", max_connections=100)) if f.topic == "database"
    ]
    assert said == [
        "WORKERS 2 x min(THREADS 8, pool 5 + 5) = 16 connections per instance; max_connections 100 has room for 6 instances"
    ]
