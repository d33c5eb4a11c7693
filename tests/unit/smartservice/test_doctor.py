"""What `flask doctor` finds, as a table of settings and findings."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from atlas.announcement import Carrier, Sidecar
from smartrealm.findings import Finding
from smartservice import defaults
from smartservice.doctor import Facts, examine
from smartservice.sidecar import Found, find

DEFAULTS = {name: value for name, value in vars(defaults).items() if name.isupper()}
SOUND = {
    "MANAGEMENT_PORT": 9000,
    "BUGSNAG_API_KEY": "k",
    "ATLAS_URL": "https://atlas.example",
    "ATLAS_TOKEN": "t",
    "HOST": "0.0.0.0",
}


_FACTS = ("environ", "max_connections", "health", "pending", "refused", "silent")


def facts(*, realm: str = "production", drain: float = 6.0, **more: Any) -> Facts:
    fields = {
        name: more.pop(name) for name in (*_FACTS, "sidecar", "sidecar_answers", "sidecar_wants_token") if name in more
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


HERE = "http://127.0.0.1:4000"


@pytest.mark.parametrize(
    ("known", "level", "says"),
    [
        ({}, "good", "called directly: this host has no sidecar"),
        ({"SIDECAR_URL": ""}, "good", "called directly: SIDECAR_URL is empty"),
        ({"sidecar": HERE}, "good", f"through {HERE}, the sidecar of this host; it was not asked"),
        (
            {"sidecar": HERE, "SIDECAR_URL": HERE, "sidecar_answers": True},
            "good",
            f"through {HERE}, which SIDECAR_URL names",
        ),
        (
            {"sidecar": HERE, "SIDECAR_URL": HERE, "sidecar_answers": False},
            "risky",
            "takes no connections: calls go directly",
        ),
        ({"sidecar": HERE, "sidecar_answers": False, "ATLAS_URL": ""}, "wrong", "no service can be called"),
        ({"sidecar": HERE, "sidecar_answers": True, "sidecar_wants_token": True}, "wrong", "there is no SIDECAR_TOKEN"),
        (
            {"sidecar": HERE, "sidecar_answers": True, "sidecar_wants_token": True, "SIDECAR_TOKEN": "t"},
            "good",
            "services are called through",
        ),
    ],
)
def test_it_says_by_which_way_services_are_called(known: dict[str, Any], level: str, says: str) -> None:
    """Directly or through which sidecar, and what is wrong with that."""
    found = [finding for finding in examine(facts(**known)) if finding.topic == "calls"]
    assert [finding.level for finding in found] == [level]
    assert says in found[0].says


def test_a_short_drain_is_enough_behind_sidecars() -> None:
    """It is a risk beside them, not a mistake; shorter than they need it is one."""
    assert bad(examine(facts(drain=1.0, sidecar=HERE))) == [("risky", "drain")]
    assert bad(examine(facts(drain=0.5, sidecar=HERE))) == [("wrong", "drain")]


def test_a_service_behind_a_sidecar_needs_no_map() -> None:
    """The sidecar finds the others, and the others find it."""
    assert bad(examine(facts(ATLAS_URL=None, ATLAS_TOKEN="", sidecar=HERE))) == []


def test_a_sidecar_is_found_where_it_says_it_is(tmp_path: Path) -> None:
    """SIDECAR_URL counts; without a value the one whose agent lives; an empty one is none. Asked, it takes connections or not."""
    assert find(None, tmp_path) == Found()
    with Carrier(tmp_path) as carrier:
        carrier.tell(Sidecar(HERE, realm="local", tokens=True))
        assert find(None, tmp_path) == Found(HERE, True)
        assert find("", tmp_path) == Found()
        carrier.tell(Sidecar("", f"{tmp_path}/s", "local"))
        found = find(None, tmp_path)
        assert found.asked().answers is False
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"{tmp_path}/s")
            listening.listen()
            assert found.asked().answers is True
    assert find(None, tmp_path) == Found()
    with socket.create_server(("127.0.0.1", 0)) as port:
        url = f"http://127.0.0.1:{port.getsockname()[1]}"
        assert find(url, None).asked().answers is True
    assert find(url, None).asked().answers is False
