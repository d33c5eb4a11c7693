"""A running service whose DATABASE_URL and REDIS_URL change in the watched file."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from types import ModuleType

from sqlalchemy import text

from smartconfig import FileSource
from smartservice import SmartService, create_app
from tests import servers
from tests.processes import wait_until
from tests.servers import PostgresServer, RedisServer


def write(path: Path, **values: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(values))
    os.replace(beside, path)


def make_app(path: Path) -> SmartService:
    app = create_app(ModuleType("moving.config"), source=FileSource(path, poll_seconds=0.05))

    @app.get("/where")
    def where() -> dict[str, str]:
        first = app.db.session.scalar(text("SELECT current_database()"))
        app.redis.incr("requests")
        app.db.session.execute(text("SELECT pg_sleep(0.002)"))
        assert app.db.session.scalar(text("SELECT current_database()")) == first
        return {"database": str(first)}

    return app


def test_a_changed_file_moves_a_running_service(
    tmp_path: Path, postgres: PostgresServer, postgres_url: str, redis_server: RedisServer, redis_url: str
) -> None:
    """Both URLs change under load: every request is answered 200, then nothing is connected to the old servers."""
    path = tmp_path / "overrides.json"
    write(path, DATABASE_URL=postgres_url, REDIS_URL=redis_url)
    app = make_app(path)
    new_url = postgres.create_database()
    new_name = new_url.rpartition("/")[2]
    statuses: list[int] = []
    last = [""] * 4
    stop = threading.Event()

    def load(number: int) -> None:
        client = app.test_client()
        while not stop.is_set():
            response = client.get("/where")
            statuses.append(response.status_code)
            last[number] = response.json["database"] if response.json else ""

    with servers.redis_server() as other:
        threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(statuses) > 50)
        write(path, DATABASE_URL=new_url, REDIS_URL=other.url())
        wait_until(lambda: set(last) == {new_name}, what="all threads on the new database")
        wait_until(lambda: postgres.connections(postgres_url) == 0, what="no connection on the old database")
        wait_until(lambda: app.redis.get("requests") is not None and app.redis.info("server")["tcp_port"] == other.port)
        stop.set()
        for thread in threads:
            thread.join()
        app.close()
        wait_until(lambda: postgres.connections(new_url) == 0)
    postgres.drop_database(new_url)

    assert set(statuses) == {200}
