"""Health under real servers: gunicorn with several workers, PostgreSQL, Redis."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import create_engine

from healthcheck import Engine, checks
from tests.processes import Child, accepts, free_port, wait_until

SERVICE = """
import os, threading, time
from flask import Flask
from healthcheck import Engine, HealthCheck
from healthcheck.flask import attach

app = Flask("orders")
hangs = threading.Event()

def dependency():
    if hangs.is_set():
        time.sleep(60)
    return True, f"asked in {os.getpid()}"

engine = Engine(interval=0.1, timeout=0.1, describe=lambda: {"pid": os.getpid()})
engine.add("dependency", dependency)
attach(app, engine)
engine.start()

limited = HealthCheck(app, "/limited", error_timeout=0.2, failed_ttl=None)
limited.add_check(dependency)

@app.get("/work")
def work():
    return str(os.getpid())

@app.post("/hang")
def hang():
    hangs.set()
    return ""
"""


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[int]:
    (folder / "orders.py").write_text(SERVICE)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--no-control-socket", *arguments]
    with Child([*command, "orders:app"], output=folder / "log", cwd=folder) as server:
        server.wait_ready(lambda: accepts(port))
        yield port


def ask(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def whole(port: int) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(ask(port, "/healthcheck")[1])
    return shown


def test_each_worker_checks_for_itself_after_preload(tmp_path: Path) -> None:
    """A schedule that was started before the fork runs anew in every worker, and asks nothing twice for another."""
    with serving(tmp_path, "--preload", "--workers", "2") as port:
        seen: set[int] = set()

        def both_workers() -> bool:
            shown = whole(port)
            assert shown["results"][0]["output"] == f"asked in {shown['pid']}"
            seen.add(shown["pid"])
            return len(seen) == 2

        wait_until(both_workers, what="an answer of each worker")


@pytest.mark.parametrize("worker", [("--worker-class", "sync"), ("--worker-class", "gthread", "--threads", "4")])
def test_a_hung_check_hurts_nobody(tmp_path: Path, worker: tuple[str, ...]) -> None:
    """In a worker of either class: other routes and probes are answered, the group turns red, and HealthCheck keeps its limit."""
    with serving(tmp_path, *worker) as port:
        assert ask(port, "/healthcheck/ready")[0] == 200
        ask(port, "/hang", "POST")
        wait_until(lambda: ask(port, "/healthcheck/ready")[0] == 503, what="readiness turning red")
        begun = time.monotonic()
        for _ in range(20):
            assert ask(port, "/work")[0] == 200
            assert ask(port, "/healthcheck/live")[0] == 200
        assert time.monotonic() - begun < 20  # the check takes 60 s
        assert whole(port)["results"][0]["hanging_since"] is not None
        begun = time.monotonic()
        status, body = ask(port, "/limited")
        assert (status, b"Timeout error!" in body) == (500, True)
        assert time.monotonic() - begun < 20  # the check takes 60 s


def test_a_real_database_is_checked_over_its_pool(postgres_url: str) -> None:
    """PostgreSQL passes, an exhausted pool warns and recovers, a server that is not there fails without its password."""
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    check = checks.database(lambda: engine)
    assert check().status == "pass"
    with engine.connect():
        assert check().status == "warn"
    assert check().status == "pass"
    engine.dispose()
    health = Engine(timeout=5)
    gone = create_engine(f"postgresql+psycopg://app:hunter22@127.0.0.1:{free_port()}/x")
    health.add("database", checks.database(lambda: gone))
    answer = health.answer(detailed=True)
    assert (answer.status, b"OperationalError" in answer.body, b"hunter22" in answer.body) == (500, True, False)


def test_a_real_redis_is_pinged(redis_url: str) -> None:
    """Redis passes, an exhausted pool warns, a server that is not there fails."""
    pool = redis.ConnectionPool.from_url(redis_url, max_connections=1)
    client = redis.Redis(connection_pool=pool)
    check = checks.redis(lambda: client)
    assert check().status == "pass"
    taken = pool.get_connection()
    assert check().status == "warn"
    pool.release(taken)
    assert check().status == "pass"
    client.close()
    pool.disconnect()
    health = Engine(timeout=5)
    with redis.Redis(port=free_port()) as gone:
        health.add("redis", checks.redis(lambda: gone))
        assert health.report().status == "fail"
