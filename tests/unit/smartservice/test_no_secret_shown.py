"""Eighty secrets are planted all over a service; none may come out anywhere. And harmless names stay readable."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, abort, request

from healthcheck import EnvironmentDump
from smartrealm.errors import Conflict, Unavailable
from smartservice import SmartService, cli, create_app
from smartservice.reporting import PrintedSink
from tests.unit.smartservice.leaky import planted

SHAPE = re.compile(r"Pl4nted(\d{3})zQ")
ENVIRONMENT = {
    f"{name}_{number}": planted(number)
    for number, name in enumerate(
        ["DB_PASSWORD", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "JWT_SECRET", "X_API_KEY", "PGPASSWORD", "VAULT_PASS"],
        21,
    )
} | {"UPSTREAM": f"http://user:{planted(28)}@proxy", "FLAGS": f"--token={planted(29)}", "COOKIE": f"sid={planted(30)}"}
HARMLESS = """
    MONKEY KEYBOARD PRIMARY_KEY SORT_KEY PARTITION_KEY PUBLIC_KEY CACHE_KEY_PREFIX MAX_TOKENS TOKEN_TTL PASSWORD_MIN_LENGTH
    SECRETARY AUTHOR AUTHORITY COMPASS BYPASS_CACHE PASSENGERS SESSION_COOKIE_NAME SESSION_COOKIE_SECURE KEYWORDS AUTH_URL
    TOKEN_URL SECRETS_REGION PASSWORD_FILE TOKENIZER CLIENT_ID HOST_NAME KEYS PASS_RATE SPIN PIPELINE PATTERN COOKIE_DOMAIN
    API_KEY_HEADER SECRET_NAME PROMPT_TOKENS SIGNATURE_ALGORITHM LOG_LINES KEEPALIVE KEY_COUNT FOREIGN_KEY ROUTING_KEY
    TURKEY_REGION HOCKEY DONKEY TOKENS_PER_MINUTE PASSTHROUGH PASSIVE AUTHENTICATED_USERS COOKIECUTTER TOKEN_BUCKET_SIZE
    DESSERT OAUTH_SCOPES CARDINALITY KEYSPACE REQUEST_NUMBER SERVICE_LABEL MENU_KEY IDEMPOTENCY_KEY HASH_KEY LOOKUP_KEY
""".split()


@contextmanager
def listening(format_name: str) -> Iterator[tuple[SmartService, io.StringIO]]:
    """The leaky service, and everything that it writes to standard error."""
    kept, logging.root.handlers = logging.root.handlers, []
    stderr, sys.stderr = sys.stderr, io.StringIO()
    app = create_app(
        "tests.unit.smartservice.leaky",
        environ={"REALM": "local", "ATLAS_URL": "", **ENVIRONMENT},
        SECRET_KEY=planted(31),
        SECRET_KEY_FALLBACKS=[planted(32)],
        DATABASE_URL=f"postgresql://app:{planted(33)}@127.0.0.1:1/x",
        REDIS_URL=f"redis://:{planted(34)}@127.0.0.1:1/0",
        BUGSNAG_API_KEY=planted(35),
        HEALTH_TOKEN=planted(36),
        DEBUG_HEADER_KEY=planted(37),
        LOG_FORMAT=format_name,
    )
    app.reports.sink = PrintedSink()
    try:
        yield app, sys.stderr
    finally:
        logging.root.handlers, sys.stderr = kept, stderr
        app.close()


def add_routes(app: Flask) -> None:
    """Routes that fail in many ways, each with secrets in its hands."""

    @app.post("/crash/<token>")
    def crash(token: str) -> str:
        local = {"password": planted(38)}
        raise RuntimeError(f"cannot log in at {app.config['BROKER']} with {app.config['PARTNER_ONE']} {local}")

    @app.post("/refuse")
    def refuse() -> str:
        abort(400, f"bad password={planted(39)}")

    @app.post("/conflict")
    def conflict() -> str:
        raise Conflict("taken", owner={"api_key": planted(40)}, link=f"https://x/?token={planted(41)}")

    @app.post("/away")
    def away() -> str:
        raise Unavailable(f"no answer from redis://:{planted(42)}@h")

    @app.post("/log")
    def log() -> str:
        logger = app.logger
        logger.info("calling %s", f"https://u:{planted(43)}@api")
        logger.info("sent Bearer %s", planted(44))
        logger.info("headers", extra={"headers": {"Authorization": f"Basic {planted(45)}", "Cookie": planted(46)}})
        logger.info("body", extra={"body": [{"card": {"cvv": planted(47)}}, ("password", planted(48))]})
        logger.info('{"client_secret": "%s"}', planted(49))
        logger.warning("the partner is %s", app.config["PARTNER_TWO"])
        logger.warning(f"-----BEGIN PRIVATE KEY-----\n{planted(50)}\n-----END PRIVATE KEY-----")
        logging.getLogger("sqlalchemy.engine").warning("connect(%r)", {"password": planted(51)})
        logging.getLogger("urllib3").warning("GET /x?api_key=%s&page=2", planted(52))
        return ""


def use(app: SmartService) -> Iterator[str]:
    """Everything that a caller, an operator or a colleague can look at."""
    app.health.add("leaky", lambda: (False, f"password={planted(53)} at https://u:{planted(54)}@h"))
    app.health.add("nested", lambda: (False, {"token": planted(55), "urls": [f"redis://:{planted(56)}@h"]}))
    app.health.add("raising", lambda: int(f"secret={planted(57)}"))
    dump = EnvironmentDump(app, "/environment")
    dump.add_section("mine", lambda: {"password": planted(58), "list": [{"token": planted(59)}], "PRIMARY_KEY": "id"})
    dump.add_section("text", lambda: f"mysql://root:{planted(60)}@h")
    client = app.test_client()
    headers = {
        "Authorization": f"Bearer {planted(61)}",
        "Cookie": f"session={planted(62)}",
        "X-Api-Key": planted(63),
        "X-Auth-Token": planted(64),
        "Referer": f"https://x/?access_token={planted(65)}",
        "Smart-Debug": planted(66),
    }
    for path in ("/crash/" + planted(67), "/refuse", "/conflict", "/away", "/log", "/nothing"):
        body = {"password": planted(68), "user": {"credentials": [planted(69)]}}
        reply = client.post(f"{path}?token={planted(70)}&sig={planted(71)}", json=body, headers=headers)
        yield f"{reply.headers}{reply.text}"
    reply = client.post("/crash/x", data={"pin": planted(72), "passphrase": planted(73)}, headers=headers)
    yield reply.text
    for accept in ("application/json", "application/health+json", "text/plain"):
        for path in ("/healthcheck", "/healthcheck/ready", "/environment", "/metrics"):
            yield client.get(path, headers={"Accept": accept}).text
    runner = app.test_cli_runner()
    for command in (["explain"], ["explain", "--json"]):
        yield runner.invoke(cli.config, command).output
    yield runner.invoke(cli.doctor).output
    app.reports.notify(
        ValueError(f"token={planted(74)}"), user={"name": "x", "password": planted(75)}, job=[planted(1)]
    )
    app.reports.notify(ValueError("handled"), request_copy={"headers": [("Cookie", planted(76))]})
    yield f"{app!r} {app.config!r} {app.settings!r} {app.settings.snapshot!r} {app.db!r} {app.redis!r} {app.redactor!r}"
    yield f"{app.health!r} {app.reports!r} {app.settings.explain()!r} {app.settings.status!r} {request!r}"


def plant_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(["SMTP_PWD", "NPM_TOKEN", "SLACK_WEBHOOK_URL", "ENCRYPTION_KEY"], 77):
        monkeypatch.setenv(name, planted(number))
    for name in HARMLESS:
        monkeypatch.setenv(name, f"harmless-{name.lower().replace('_', '')}")


@pytest.mark.parametrize("format_name", ["json", "text"])
def test_eighty_planted_secrets_and_none_is_shown(format_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dumps, config, health, logs, reports, problems and reprs show none of them."""
    plant_in_environment(monkeypatch)
    with listening(format_name) as (app, written):
        add_routes(app)
        with app.test_request_context("/x"):
            shown = list(use(app))
        text = written.getvalue()
    assert len(text) > 10_000, "the logs and reports must be among what was looked at"
    everything = "\n".join([*shown, text])
    places = {
        number: everything[max(0, found.start() - 60) : found.end() + 5]
        for found in SHAPE.finditer(everything)
        for number in [found[1]]
    }
    assert places == {}


def test_eighty_are_planted() -> None:
    """The count is what the claim says."""
    source = Path(__file__).read_text() + (Path(__file__).parent / "leaky.py").read_text()
    numbers = {int(number) for number in re.findall(r"planted\((\d+)\)", source)}
    assert numbers | set(range(21, 28)) | set(range(77, 81)) >= set(range(1, 81))


def test_harmless_names_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most five in a hundred of sixty harmless names are masked in an environment dump."""
    plant_in_environment(monkeypatch)
    dump = EnvironmentDump(Flask("plain"), "/environment")
    body: Any = json.loads(dump.run()[0])
    text = json.dumps(body)
    masked = [name for name in HARMLESS if f"harmless-{name.lower().replace('_', '')}" not in text]
    assert len(HARMLESS) == 60
    assert len(masked) <= 3, masked
