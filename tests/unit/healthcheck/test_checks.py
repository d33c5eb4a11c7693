"""The ready-made checks."""

from __future__ import annotations

import http.server
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool, StaticPool

from healthcheck import Engine, checks
from tests.processes import free_port


def test_a_database_that_answers_passes() -> None:
    """SELECT 1 through the engine that the function gives; nothing is reached before the check runs."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    asked: list[int] = []
    check = checks.database(lambda: (asked.append(1), engine)[1])  # type: ignore[func-returns-value]
    assert asked == []
    assert check().status == "pass"
    engine.dispose()


def test_a_database_that_is_gone_fails(tmp_path: Path) -> None:
    """What cannot be reached is a failed row with the reason."""
    engine = Engine()
    gone = create_engine(f"sqlite:///{tmp_path}/no/such.db")
    engine.add("database", checks.database(lambda: gone))
    row = engine.report().rows[0]
    assert (row.status, "unable to open database file" in row.output) == ("fail", True)
    gone.dispose()


@pytest.mark.parametrize("tells_limit", [True, False])
def test_an_exhausted_pool_is_a_warning(tells_limit: bool) -> None:
    """A busy process is no dead database: it warns, at once where the pool tells its limit."""
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01)
    shown: Any = engine if tells_limit else SimpleNamespace(pool=object(), connect=engine.connect)
    with engine.connect():
        result = checks.database(lambda: shown)()
    assert (result.status, result.output) == ("warn", "every connection of the pool is in use")
    assert checks.database(lambda: shown)().status == "pass"
    engine.dispose()


def test_redis_is_pinged() -> None:
    """PING passes, an error fails, an exhausted pool warns."""

    class MaxConnectionsError(ConnectionError):
        pass

    def client(error: Exception | None = None) -> Callable[[], SimpleNamespace]:
        def ping() -> bool:
            if error is not None:
                raise error
            return True

        return lambda: SimpleNamespace(ping=ping)

    assert checks.redis(client())().status == "pass"
    assert checks.redis(client(MaxConnectionsError("Too many connections")))().status == "warn"
    with pytest.raises(ConnectionError):
        checks.redis(client(ConnectionError("refused")))()


def test_a_disk_is_judged_by_what_is_free(tmp_path: Path) -> None:
    """Below the limit it fails, below twice the limit it warns; the ratio is the observed value."""
    free = checks.disk(tmp_path, min_free_ratio=0.0)().value
    assert isinstance(free, float)
    assert checks.disk(tmp_path, min_free_ratio=0.0)().status == "pass"
    assert checks.disk(tmp_path, min_free_ratio=free * 0.7)().status == "warn"
    assert checks.disk(tmp_path, min_free_ratio=1.1)().status == "fail"
    assert checks.disk(tmp_path, min_free_ratio=0.0, min_free_bytes=10**18)().status == "fail"


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers the status that its path names."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:4]))
        self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("status", "expected"), [(200, "pass"), (302, "pass"), (404, "fail"), (503, "fail")])
def test_a_url_passes_below_400(port: int, status: int, expected: str) -> None:
    """The status decides; a redirect is not followed; secrets of the URL are not shown."""
    result = checks.http(f"http://127.0.0.1:{port}/{status}?token=hunter22")()
    assert result.status == expected
    assert f": {status}" in result.output
    assert "hunter22" not in result.output


def test_a_url_that_refuses_fails() -> None:
    """No connection is a failure that names its kind."""
    result = checks.http(f"http://127.0.0.1:{free_port()}/?token=hunter22")()
    assert (result.status, result.output.endswith(": ConnectionError")) == ("fail", True)
    assert "hunter22" not in result.output


SourceStatus = namedtuple("SourceStatus", "state version age_seconds mistakes pending")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (SourceStatus("fresh", "7", 3.0, (), {}), "pass"),
        (SourceStatus("none", "7", None, (), {}), "pass"),
        (SourceStatus("stale", "7", 301.0, (), {}), "warn"),
        (SourceStatus("missing", "7", None, (), {}), "warn"),
        (SourceStatus("refused", "7", 3.0, ("PORT: ...",), {}), "warn"),
        (SourceStatus("fresh", "7", 3.0, (), {"WORKERS": 4}), "warn"),
    ],
)
def test_settings_warn_and_never_fail(status: SourceStatus, expected: str) -> None:
    """Old, refused or waiting settings are a warning: the last good ones serve on."""
    result = checks.config(lambda: status)()
    assert result.status == expected
    assert result.output["version"] == "7"
