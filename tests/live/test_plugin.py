"""The pytest plugin for service authors, run as they would run it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

SERVICE = """
    from flask import current_app
    from sqlalchemy.orm import Mapped, mapped_column
    from smartservice import create_app
    from smartservice.db import Base

    class Team(Base):
        __tablename__ = "teams"
        id: Mapped[int] = mapped_column(primary_key=True)

    def make_app(**overrides):
        app = create_app("shop.config", **overrides)

        @app.post("/teams")
        def add():
            current_app.db.session.add(Team())
            current_app.db.session.commit()
            current_app.logger.info("added")
            return {"at": current_app.clock(), "size": current_app.config["PAGE_SIZE"]}

        @app.get("/crash")
        def crash():
            raise RuntimeError("on purpose")

        return app
"""
TESTS = """
    import pytest
    from datetime import datetime
    from shop.app import Team
    from sqlalchemy import func, select

    def count(session):
        return session.scalar(select(func.count()).select_from(Team))

    @pytest.mark.parametrize("turn", [1, 2])
    def test_each_test_begins_with_an_empty_database(client, db_session, turn):
        assert count(db_session) == 0
        assert client.post("/teams").status_code == 200
        assert count(db_session) == 1

    def test_never_the_real_database(app):
        assert "real" not in str(app.db.engine.url)

    def test_logs_reports_and_metrics(client, logs, reports, metrics):
        client.post("/teams")
        assert client.get("/crash").status_code == 500
        assert len(logs.find(message="added", level="info")) == 1
        assert [str(report.error) for report in reports] == ["on purpose"]
        assert metrics("http_requests_total", route="/teams") == 1
        assert metrics("http_requests_total") == 2

    def test_the_clock_stands_still(client, clock):
        before = client.post("/teams").json["at"]
        assert client.post("/teams").json["at"] == before
        clock.advance(hours=1)
        assert client.post("/teams").json["at"] != before

    def test_config_is_put_back(app):
        app.config["PAGE_SIZE"] = 7

    def test_config_was_put_back(client, make_app):
        assert client.post("/teams").json["size"] == 20
        assert make_app(PAGE_SIZE=3).config["PAGE_SIZE"] == 3
"""


def test_the_fixtures_do_what_they_promise(tmp_path: Path) -> None:
    """A service's tests get app, client, database, logs, reports, metrics and clock, each test its own."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "config.py").write_text('DATABASE_URL = "sqlite:///real.db"\nPAGE_SIZE: int = 20\n')
    (tmp_path / "shop" / "app.py").write_text(textwrap.dedent(SERVICE))
    (tmp_path / "test_shop.py").write_text(textwrap.dedent(TESTS))
    (tmp_path / "setup.cfg").write_text("[tool:pytest]\nsmartservice_app = shop.app:make_app\nfilterwarnings = error\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "STATE_DIR": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert "7 passed" in ran.stdout, ran.stdout + ran.stderr
    assert not (tmp_path / "real.db").exists()


def test_who_does_not_use_the_plugin_does_not_pay_for_it() -> None:
    """Every pytest run imports the plugin; it brings neither Flask nor the client nor the map along."""
    program = (
        "import sys, smartservice.testing\n"
        "print(sorted({'flask', 'requests', 'sqlalchemy', 'smartclient', 'atlas', 'smartservice.app'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
