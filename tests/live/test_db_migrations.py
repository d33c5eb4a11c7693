"""`flask db` as a deployment runs it: processes, PostgreSQL, two jobs at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import psycopg
import pytest

from smartservice import SmartService, create_app
from smartservice.migrations import LOCK, db
from tests.processes import free_port, wait_until
from tests.servers import PASSWORD

FIRST = """
revision = "first"
down_revision = None
from alembic import op
def upgrade():
    op.execute("CREATE TABLE team (id serial PRIMARY KEY, name text)")
    op.execute("SELECT pg_sleep(0.5)")
    op.execute("INSERT INTO team (name) VALUES ('once')")
def downgrade():
    op.execute("DROP TABLE team")
"""

SECOND = """
revision = "second"
down_revision = "first"
from alembic import op
def upgrade():
    with op.get_context().autocommit_block():
        op.create_index("ix_team_name", "team", ["name"], postgresql_concurrently=True)
def downgrade():
    op.drop_index("ix_team_name")
"""


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "first.py").write_text(FIRST)
    (versions / "second.py").write_text(SECOND)
    return versions


@pytest.fixture
def app(postgres_url: str, versions: Path) -> Iterator[SmartService]:
    app = create_app(
        ModuleType("migrating.config"),
        DATABASE_URL=postgres_url,
        MIGRATIONS_DIRECTORY=str(versions.parent),
        TESTING=True,
    )
    yield app
    app.close()


def ask(url: str, statement: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(statement.encode()).fetchone()
        return row[0] if row else None


@contextmanager
def job(directory: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    """What a deployment's migration job is: a process that runs `flask db upgrade` where the service is."""
    package = directory / "migrating"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "config.py").write_text("")
    (package / "app.py").write_text("from smartservice import create_app\n\napp = create_app('migrating.config')\n")
    # A statement of a migration may take longer than the requests' limit.
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "PYTHONPATH": os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")]),
        "DATABASE_STATEMENT_TIMEOUT": "0.1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "migrating.app", "db", "upgrade"],
        cwd=directory, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def test_two_jobs_at_once_migrate_once(postgres_url: str, versions: Path, tmp_path: Path) -> None:
    """Two migration jobs of one deployment: one runs, the other waits and finds nothing to do; concurrent indexes too."""
    with job(tmp_path, postgres_url) as one, job(tmp_path, postgres_url) as two:
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute(f"SELECT pg_advisory_lock({LOCK})".encode())
            clients = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            wait_until(lambda: ask(postgres_url, clients) == 4, 60, what="both jobs waiting")  # with us, twice
        outputs = [process.communicate(timeout=60) for process in (one, two)]

    assert [one.returncode, two.returncode] == [0, 0], outputs
    assert sorted(out.splitlines()[0] for out, _ in outputs) == ["nothing to do", "upgraded (first)"], outputs
    assert ask(postgres_url, "SELECT count(*) FROM team") == 1
    assert ask(postgres_url, "SELECT count(*) FROM pg_indexes WHERE indexname = 'ix_team_name'") == 1


def test_a_job_without_patience_ends_with_4(app: SmartService, postgres_url: str) -> None:
    """While another migration runs, --wait is how long a job waits; then it says so and exits with 4."""
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute(f"SELECT pg_advisory_lock({LOCK})".encode())
        result = app.test_cli_runner().invoke(db, ["upgrade", "--wait", "0"])
    assert result.exit_code == 4
    assert result.output.strip() == "Error: another migration of this database did not end within 0 s."


def test_upgrade_and_downgrade_leave_no_lock_and_no_changed_connection(app: SmartService, postgres_url: str) -> None:
    """After a migration in this process the lock is free and the pool's connections have the requests' limits."""
    runner = app.test_cli_runner()
    assert runner.invoke(db, ["upgrade"]).exit_code == 0
    assert "downgraded (second)" in runner.invoke(db, ["downgrade"]).output
    assert runner.invoke(db, ["current"]).output.strip() == "first"
    assert ask(postgres_url, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    held = [app.db.engine.connect() for _ in range(4)]
    assert {connection.exec_driver_sql("SHOW statement_timeout").scalar() for connection in held} == {"30s"}
    assert {connection.exec_driver_sql("SHOW lock_timeout").scalar() for connection in held} == {"0"}
    for connection in held:
        connection.close()


def test_a_command_leaves_no_connection_open(app: SmartService) -> None:
    """Neither for the server to notice, nor for Python to warn of at the end of the process."""
    from smartservice.cli import doctor

    app.test_cli_runner().invoke(db, ["current"])
    assert app.db.pool_status().idle == 0
    app.test_cli_runner().invoke(doctor, [])
    assert app.db.pool_status().idle == 0


def test_a_failed_migration_leaves_nothing(app: SmartService, postgres_url: str, versions: Path) -> None:
    """A migration that fails is undone with all that ran before it in the same upgrade."""
    (versions / "second.py").write_text(SECOND.replace("with op", "op.execute('SELECT nothing')\n    with op"))
    result = app.test_cli_runner().invoke(db, ["upgrade"])
    assert result.exit_code == 1
    assert 'column "nothing" does not exist' in result.output
    assert "Traceback" not in result.output
    assert ask(postgres_url, "SELECT count(*) FROM pg_tables WHERE tablename = 'team'") == 0


def test_a_database_that_is_away_is_exit_code_3(versions: Path) -> None:
    """A server that refuses is one sentence without the password, and exit code 3."""
    app = create_app(
        ModuleType("migrating.config"),
        DATABASE_URL=f"postgresql://service:{PASSWORD}@127.0.0.1:{free_port()}/x",
        MIGRATIONS_DIRECTORY=str(versions.parent),
    )
    result = app.test_cli_runner().invoke(db, ["upgrade"])
    app.close()
    assert result.exit_code == 3
    assert result.output.startswith("Error: The database does not answer")
    assert PASSWORD not in result.output
