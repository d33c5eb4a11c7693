"""A pytest plugin for the authors of services. It is there as soon as smartservice is installed.

Name your factory once, in setup.cfg: `[tool:pytest]`, `smartservice_app = hello.app:make_app`. Then ask for:

| fixture | what it is |
|---|---|
| `app` | the service, with TESTING on; whatever a test writes to the database is undone at its end |
| `client` | its test client |
| `make_app` | a second app with other settings: `make_app(PAGE_SIZE=2)`; closed at the end of the test |
| `db_session` | a session on the database that the test and the requests see |
| `logs` | every line that was logged, as it would be written: `logs.find(message="sent")` |
| `reports` | the error reports that were made |
| `metrics` | `metrics("http_requests_total", route="/teams")`: by how much it grew in this test |
| `clock` | the app's clock, frozen: `clock.advance(seconds=30)` |

A test never touches the database that DATABASE_URL names: it uses TEST_DATABASE_URL, or a SQLite file of its own; the same
goes for REDIS_URL and TEST_REDIS_URL.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from prometheus_client.samples import Sample
    from sqlalchemy.orm import Session

    from smartservice.app import SmartService
    from smartservice.reporting import Report

_INI = "smartservice_app"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(_INI, "The factory of the service under test, as package.module:function", default="")


class CapturedLogs(list[dict[str, Any]]):
    """The lines of a test in order, each as the JSON object that production would write."""

    def find(self, **fields: Any) -> list[dict[str, Any]]:
        """The lines that have all these fields with these values."""
        return [line for line in self if all(line.get(name) == value for name, value in fields.items())]


class FrozenClock:
    """A clock that stands still until it is moved. Called, it gives the time of day in UTC."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def __call__(self) -> datetime:
        return self._now

    def advance(self, **duration: float) -> datetime:
        """Move on by `seconds=`, `minutes=`, `hours=`, `days=`; gives the new time."""
        self._now += timedelta(**duration)
        return self._now

    def set(self, moment: datetime) -> None:
        """Stand at this moment (with a zone)."""
        self._now = moment.astimezone(UTC)


def _factory(config: pytest.Config) -> Callable[..., SmartService]:
    from werkzeug.utils import import_string

    name = config.getini(_INI)
    if not name:
        raise pytest.UsageError(
            f"the fixture app needs to know your service: set {_INI} = your_package.app:make_app under [tool:pytest]"
        )
    factory: Callable[..., SmartService] = import_string(name)
    return factory


def _test_settings(request: pytest.FixtureRequest, plain: SmartService) -> dict[str, Any]:
    """TESTING on, and servers that are there to be tested on."""
    settings: dict[str, Any] = {"TESTING": True}
    if plain.config["DATABASE_URL"]:
        factory = request.getfixturevalue("tmp_path_factory")
        own = f"sqlite:///{factory.mktemp('database') / 'test.db'}"
        settings["DATABASE_URL"] = os.environ.get("TEST_DATABASE_URL") or own
    if plain.config["REDIS_URL"]:
        settings["REDIS_URL"] = os.environ.get("TEST_REDIS_URL") or "redis://127.0.0.1:1/0"
    return settings


@pytest.fixture(scope="session")
def _made_app(request: pytest.FixtureRequest) -> Iterator[tuple[Callable[..., SmartService], SmartService]]:
    factory = _factory(request.config)
    plain = factory(TESTING=True)
    settings = _test_settings(request, plain)
    plain.close()

    def make(**overrides: Any) -> SmartService:
        return factory(**{**settings, **overrides})

    app = make()
    if app.config["DATABASE_URL"]:
        app.db.metadata.create_all(app.db.engine)
    yield make, app
    app.close()


@pytest.fixture
def app(_made_app: tuple[Callable[..., SmartService], SmartService]) -> Iterator[SmartService]:
    """The service under test; its database is as it was when the test ends."""
    _, app = _made_app
    written = app.config.written()
    if app.config["DATABASE_URL"]:
        with app.db.rolled_back():
            yield app
    else:
        yield app
    app.config.restore(written)


@pytest.fixture
def make_app(_made_app: tuple[Callable[..., SmartService], SmartService]) -> Iterator[Callable[..., SmartService]]:
    """Make another app of the same service with other settings."""
    make, _ = _made_app
    apps: list[SmartService] = []

    def make_and_remember(**overrides: Any) -> SmartService:
        apps.append(make(**overrides))
        return apps[-1]

    yield make_and_remember
    for app in apps:
        app.close()


@pytest.fixture
def client(app: SmartService) -> FlaskClient:
    """The test client of the service under test."""
    return app.test_client()


@pytest.fixture
def db_session(app: SmartService) -> Iterator[Session]:
    """A session that sees what the requests of this test commit, and they see what it commits."""
    with app.db.session_scope() as session:
        yield session


@pytest.fixture
def logs(app: SmartService) -> Iterator[CapturedLogs]:
    """What is logged during the test, in every logger, from the level DEBUG on."""
    from smartservice.logs import JsonFormatter, LineHandler

    captured = CapturedLogs()

    class Capture(LineHandler):
        def write(self, line: str) -> None:
            captured.append(json.loads(line))

    handler = Capture()
    handler.serve(app, logging.DEBUG, JsonFormatter(handler))
    loggers = (logging.root, app.logger)
    levels = [logger.level for logger in loggers]
    logging.root.addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    yield captured
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    logging.root.removeHandler(handler)


@pytest.fixture
def reports(app: SmartService) -> Iterator[list[Report]]:
    """The error reports that are made during the test; none is sent."""
    with app.reports.capture() as captured:
        yield captured


@pytest.fixture
def metrics(app: SmartService) -> Callable[..., float]:
    """By how much a metric has grown during the test: `metrics(name, **labels)`; labels that are not named add up."""
    before = _samples(app)

    def grown(name: str, **labels: str) -> float:
        return _total(_samples(app), name, labels) - _total(before, name, labels)

    return grown


def _samples(app: SmartService) -> list[Sample]:
    from prometheus_client.parser import text_string_to_metric_families

    if app.metrics is None:
        raise RuntimeError("METRICS_PATH is empty: this service has no metrics")
    _, body = app.metrics.render()
    return [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]


def _total(samples: list[Sample], name: str, labels: dict[str, str]) -> float:
    wanted = labels.items()
    return sum(sample.value for sample in samples if sample.name == name and wanted <= sample.labels.items())


@pytest.fixture
def clock(app: SmartService) -> Iterator[FrozenClock]:
    """`app.clock`, frozen at the time the test began."""
    frozen = FrozenClock(datetime.now(UTC))
    app.clock = frozen
    yield frozen
    del app.clock
