"""The bar for secrets: of 80 that are planted, a dump and a health reply show none; of 60 harmless names at most three are masked."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from flask import Flask

from healthcheck import Engine, EnvironmentDump, HealthCheck
from healthcheck.flask import attach
from healthcheck.security import safe_dict

BY_NAME = (
    "PASSWORD DB_PASSWORD DATABASE_PASSWORD POSTGRES_PASSWORD MYSQL_PWD PGPASSWORD REDIS_PASS SMTP_PASS ADMIN_PASSWD "
    "SECRET SECRET_KEY CLIENT_SECRET AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID AWS_SESSION_TOKEN API_KEY APIKEY STRIPE_KEY "
    "SENDGRID_API_KEY BUGSNAG_API_KEY GITHUB_TOKEN SLACK_TOKEN ACCESS_TOKEN REFRESH_TOKEN AUTH_TOKEN BEARER_TOKEN JWT_SECRET "
    "PRIVATE_KEY SSH_PRIVATE_KEY SIGNING_KEY ENCRYPTION_KEY MASTER_KEY CREDENTIALS SERVICE_CREDENTIAL PASSPHRASE KEY_PASSPHRASE "
    "WEBHOOK_SECRET SESSION_COOKIE CSRF_TOKEN X_API_KEY LICENSE_KEY HMAC_KEY FERNET_KEY DSN SENTRY_DSN BASIC_AUTH VAULT_TOKEN "
    "NPM_TOKEN PYPI_TOKEN TWILIO_AUTH_TOKEN"
).split()
BY_SHAPE = [
    "postgresql://app:{}@db:5432/orders",
    "redis://:{}@cache:6379/0",
    "amqp://guest:{}@rabbit//",
    "https://user:{}@example.org/path",
    "mysql+pymysql://root:{}@db/x?charset=utf8",
    "Authorization: Bearer {}",
    "Bearer {}",
    "Basic {}",
    "password={}",
    "password='{}' host=db",
    "connect failed: user=app password={} host=db",
    "token: {}",
    "api_key={}&page=2",
    "https://example.org/hook?access_token={}",
    "https://example.org/hook?signature={}",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    '{{"password": "{}"}}',
    "{{'client_secret': '{}'}}",
    "Cookie: session={}",
    "DATABASE_URL=postgresql://app:{}@db/orders",
]
NESTED: list[Any] = [
    lambda secret: {"database": {"password": secret}},
    lambda secret: {"servers": [{"host": "a", "api_key": secret}]},
    lambda secret: {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"token": secret}}}}}}}},
    lambda secret: [["X-Api-Key", secret]],
    lambda secret: {"credentials": {"user": secret}},
    lambda secret: {"secrets": [secret]},
    lambda secret: [{"name": "DB_PASSWORD", "value": secret}],
    lambda secret: {"headers": {"Authorization": f"Basic {secret}"}},
    lambda secret: [f"redis://:{secret}@r/0"],
    lambda secret: {"old": {"passwords": {"root": secret}}},
]
HARMLESS = (
    "MONKEY KEYBOARD_LAYOUT PRIMARY_KEY SORT_KEY PARTITION_KEY FOREIGN_KEY CACHE_KEY PUBLIC_KEY TURKEY HOCKEY_TEAM KEYSPACE "
    "MAX_TOKENS TOKEN_COUNT TOKENIZER TOKENIZERS_PARALLELISM NEXT_PAGE_TOKEN COMPASS BYPASS_CACHE PASSENGERS PASSIVE_MODE "
    "PASSWORD_MIN_LENGTH PASSWORD_RESET_TIMEOUT TOKEN_TTL SESSION_COOKIE_NAME SESSION_COOKIE_SECURE SECRET_NAME API_KEY_HEADER "
    "AUTHOR AUTHORITY HOSTNAME PATH HOME USER LANG PORT WORKERS THREADS LOG_LEVEL REALM DATABASE_POOL_SIZE REDIS_TIMEOUT TIMEZONE "
    "DEBUG TESTING RELEASE REGION ENDPOINT BUCKET QUEUE_NAME SPIN_LOCK PINNED PATTERN SALTED CARDINALITY DISCARD SIGNAL ENCODING "
    "SHELL EDITOR TERM"
).split()


def planted() -> dict[str, Any]:
    """Eighty settings, each with a secret of its own that begins with `zq`."""
    values: dict[str, Any] = {name: secret(number) for number, name in enumerate(BY_NAME)}
    for number, shape in enumerate(BY_SHAPE):
        values[f"VALUE_{number}"] = shape.format(secret(100 + number))
    for number, nest in enumerate(NESTED):
        values[f"NESTED_{number}"] = nest(secret(200 + number))
    return values


def secret(number: int) -> str:
    return f"zq{number:03d}Hunter+7"


def shown(text: str) -> set[int]:
    """The numbers of the secrets in a text."""
    everything = (*range(len(BY_NAME)), *range(100, 100 + len(BY_SHAPE)), *range(200, 200 + len(NESTED)))
    return {number for number in everything if f"zq{number:03d}" in text}


def test_there_are_eighty_secrets_and_sixty_harmless_names() -> None:
    """The figures of the bar are the figures of this test."""
    assert len(BY_NAME) + len(BY_SHAPE) + len(NESTED) == 80
    assert len(set(BY_NAME)) == 50
    assert len(set(HARMLESS)) == 60


def test_a_dump_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment, the configuration and sections of one's own."""
    for name, value in planted().items():
        monkeypatch.setenv(name, value if isinstance(value, str) else json.dumps(value))
    app = Flask("orders")
    app.config.update(planted())
    dump = EnvironmentDump(app, "/environment", include_python=False)
    dump.add_section("mine", planted)
    dump.add_section("list", lambda: [planted()])
    answer = app.test_client().get("/environment")
    assert set(os.environ) == set((answer.json or {})["process"]["environ"])
    assert shown(answer.text) == set()


def test_a_health_reply_shows_none(caplog: pytest.LogCaptureFixture) -> None:
    """In outputs and errors of the engine and of HealthCheck, in their sections, and in the log lines of failures."""
    app = Flask("orders")
    engine = Engine(describe=planted)
    health = HealthCheck(app, "/health", config=planted)
    for number, (name, value) in enumerate(planted().items()):
        output = {name: value}

        def check(output: Any = output) -> tuple[bool, Any]:
            return False, output

        def broken(text: str = f"{name}={value}" if isinstance(value, str) else "") -> None:
            raise RuntimeError(text)

        check.__name__ = f"check{number}"
        health.add_check(check)
        engine.add(f"check{number}", check)
        engine.add(f"broken{number}", broken)
    attach(app, engine)
    client = app.test_client()
    texts = [
        client.get("/healthcheck", headers={"Accept": accept}).text
        for accept in ("application/json", "application/health+json", "text/plain")
    ]
    texts += [client.get("/health").text, caplog.text]
    assert [shown(text) for text in texts] == [set()] * 5


def test_harmless_names_stay_readable() -> None:
    """At most three of sixty."""
    values = {name: f"value of {number}" for number, name in enumerate(HARMLESS)}
    masked = [name for name, value in safe_dict(values).items() if value != values[name]]
    assert len(masked) <= 3, masked
