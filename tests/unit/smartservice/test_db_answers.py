"""What the caller of a service sees when its database or Redis is busy or away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import text

from smartservice import SmartService, create_app
from tests.processes import free_port


@pytest.fixture
def app(tmp_path: Path) -> Iterator[SmartService]:
    app = create_app(
        ModuleType("asking.config"),
        DATABASE_URL=f"sqlite:///{tmp_path}/x.db",
        DATABASE_POOL_SIZE=1,
        DATABASE_POOL_OVERFLOW=0,
        DATABASE_POOL_TIMEOUT=0.05,
        REDIS_URL=f"redis://:planted-pw@127.0.0.1:{free_port()}/0",
        HEALTH_PATH="",
    )

    @app.get("/database")
    def ask_database() -> dict[str, int]:
        return {"answer": app.db.session.scalar(text("SELECT 1")) or 0}

    @app.get("/redis")
    def ask_redis() -> dict[str, str]:
        return {"answer": str(app.redis.get("x"))}

    yield app
    app.close()


def test_an_exhausted_pool_is_503_with_retry_after(app: SmartService) -> None:
    """Every connection in use: 503, overloaded, try again in a second; afterwards the service answers again."""
    with app.db.engine.connect():
        response = app.test_client().get("/database")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert response.content_type == "application/problem+json"
    assert "DATABASE_POOL" not in response.text
    assert app.test_client().get("/database").json == {"answer": 1}


def test_a_redis_that_is_away_is_503(app: SmartService) -> None:
    """A refused Redis: 503, unavailable, and neither address nor password in the reply."""
    response = app.test_client().get("/redis")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert "127.0.0.1" not in response.text
    assert "planted-pw" not in response.text
