"""The engine on a Flask app: routes, methods, and who sees details."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from flask import Blueprint, Flask, current_app
from flask.testing import FlaskClient

from healthcheck import Engine
from healthcheck.access import Access
from healthcheck.flask import attach
from smartrealm.errors import ConfigurationError

STRANGER = {"REMOTE_ADDR": "203.0.113.7"}


def client_of(engine: Engine, **settings: Any) -> FlaskClient:
    app = Flask("orders")
    attach(app, engine, **settings)
    return app.test_client()


@pytest.fixture
def engine() -> Engine:
    engine = Engine(wall=lambda: 1000.0)
    engine.add("database", lambda: (False, "gone"))
    engine.add("reports", lambda: True, groups=("nightly",))
    return engine


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/healthcheck", 500),
        ("/healthcheck/", 500),
        ("/healthcheck/live", 200),
        ("/healthcheck/ready", 503),
        ("/healthcheck/startup", 200),
        ("/healthcheck/nightly", 200),
        ("/healthcheck/nightly/reports", 200),
        ("/healthcheck/ready/database", 503),
        ("/healthcheck?check=reports", 200),
        ("/healthcheck?check=database", 500),
        ("/healthcheck/unknown", 404),
        ("/healthcheck/ready/reports", 404),
        ("/healthcheck?check=unknown", 404),
    ],
)
def test_every_route_answers(engine: Engine, path: str, status: int) -> None:
    """The whole, each group and each check have their address; GET and HEAD agree."""
    client = client_of(engine)
    got, head = client.get(path), client.head(path)
    assert (got.status_code, head.status_code) == (status, status)
    assert head.data == b""
    assert head.headers["Content-Length"] == got.headers["Content-Length"]
    assert got.headers["Cache-Control"] == "no-store"


def test_other_methods_are_refused(engine: Engine) -> None:
    """Asking is all one can do."""
    assert client_of(engine).post("/healthcheck").status_code == 405


@pytest.mark.parametrize(("path", "asked"), [("/", "/ready"), ("status/", "/status/ready"), ("/a/b", "/a/b/ready")])
def test_the_path_can_be_chosen(engine: Engine, path: str, asked: str) -> None:
    """The groups live below the path, however it is written."""
    assert client_of(engine, path=path).get(asked).status_code == 503


def test_a_blueprint_takes_it_too(engine: Engine) -> None:
    """Attached to a blueprint, the answers follow its prefix."""
    blueprint = Blueprint("internal", "internal")
    attach(blueprint, engine)
    app = Flask("orders")
    app.register_blueprint(blueprint, url_prefix="/internal")
    assert app.test_client().get("/internal/healthcheck/ready").status_code == 503


def test_checks_run_in_the_app_context() -> None:
    """A check reaches current_app, in whichever thread it runs."""
    engine = Engine()
    engine.add("name", lambda: (True, current_app.name))
    assert client_of(engine).get("/healthcheck").json["results"][0]["output"] == "orders"  # type: ignore[index]


def test_strangers_see_words(engine: Engine) -> None:
    """From a public address, the status word only."""
    assert client_of(engine).get("/healthcheck", environ_overrides=STRANGER).json == {"status": "failure"}


@pytest.mark.parametrize(
    ("authorization", "detailed"),
    [
        ("Bearer s3same", True),
        ("bearer s3same", True),
        ("Bearer wrong", False),
        ("Basic s3same", False),
        ("s3same", False),
        ("Bearer ", False),
        ("Bearer \u00e9t\u00e9", False),
    ],
)
def test_the_token_opens_the_details(engine: Engine, authorization: str, detailed: bool) -> None:
    """Whoever holds the token sees the rows, wherever he comes from; a wrong one is no worse than none."""
    client = client_of(engine, token="s3same")
    answer = client.get("/healthcheck", headers={"Authorization": authorization}, environ_overrides=STRANGER)
    assert ("results" in (answer.json or {})) is detailed


def test_an_empty_token_opens_nothing(engine: Engine) -> None:
    """No token set means that none is right."""
    for token in (None, "", lambda: None):
        client = client_of(engine, token=token)
        answer = client.get("/healthcheck", headers={"Authorization": "Bearer "}, environ_overrides=STRANGER)
        assert answer.json == {"status": "failure"}


def test_a_token_may_change(engine: Engine) -> None:
    """A function gives the token that counts now."""
    token = ["old"]
    client = client_of(engine, token=lambda: token[0])
    headers = {"Authorization": "Bearer new"}
    assert "results" not in (client.get("/healthcheck", headers=headers, environ_overrides=STRANGER).json or {})
    token[0] = "new"
    assert "results" in (client.get("/healthcheck", headers=headers, environ_overrides=STRANGER).json or {})


@pytest.mark.parametrize(
    ("environ", "networks", "trusted"),
    [
        ({"REMOTE_ADDR": "127.0.0.1"}, None, True),
        ({"REMOTE_ADDR": "127.9.9.9"}, None, True),
        ({"REMOTE_ADDR": "::1"}, None, True),
        ({"REMOTE_ADDR": "::ffff:127.0.0.1"}, None, True),
        ({"REMOTE_ADDR": "10.1.2.3"}, None, False),
        ({"REMOTE_ADDR": "10.1.2.3"}, ["10.0.0.0/8"], True),
        ({"REMOTE_ADDR": "fe80::1%eth0"}, ["fe80::/10"], True),
        ({"REMOTE_ADDR": "127.0.0.1"}, [], False),
        ({"REMOTE_ADDR": ""}, None, False),
        ({}, None, False),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "127.0.0.1"}, None, False),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_FORWARDED": "for=127.0.0.1"}, None, False),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_REAL_IP": "127.0.0.1"}, None, False),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_ENVOY_EXTERNAL_ADDRESS": "203.0.113.7"}, None, False),
        ({"REMOTE_ADDR": "203.0.113.7", "HTTP_X_FORWARDED_FOR": "127.0.0.1"}, None, False),
    ],
)
def test_only_the_connection_says_where_a_caller_is(
    environ: dict[str, str], networks: list[str] | None, trusted: bool
) -> None:
    """A trusted network is judged by the connection's address; what a proxy forwarded is a stranger's."""
    access = Access() if networks is None else Access(networks=networks)
    assert access.shows_details(environ) is trusted


def test_a_network_that_is_none_is_refused() -> None:
    """All unusable networks are named together, and no repr shows the token."""
    with pytest.raises(ConfigurationError, match=r"(?s)'loopback'.*'10.0.0.1/8'"):
        Access(networks=["loopback", "10.0.0.1/8"])
    assert "s3same" not in repr(Access("s3same"))


def test_importing_the_package_imports_no_vendor() -> None:
    """`import healthcheck` brings neither Flask nor what the ready-made checks ask."""
    code = (
        "import sys, healthcheck; "
        "print([name for name in ('flask', 'werkzeug', 'sqlalchemy', 'redis', 'requests', 'tornado') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
