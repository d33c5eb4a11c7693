"""`flask db`: migrations without an env.py in the service."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import Result
from sqlalchemy import ForeignKey, MetaData, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from smartservice import SmartService, create_app
from smartservice.db import Base
from smartservice.migrations import Failed, Locked, Unreachable, db

Run = Callable[..., Result]


class V1(DeclarativeBase):
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)


class Team(V1):
    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


class Player(V1):
    __tablename__ = "player"
    id: Mapped[int] = mapped_column(primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("team.id", ondelete="CASCADE"))


class V2(DeclarativeBase):
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)


class Team2(V2):
    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    colour: Mapped[str | None]


class Player2(V2):
    __tablename__ = "player"
    id: Mapped[int] = mapped_column(primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("team.id", ondelete="CASCADE"))


@pytest.fixture
def app(tmp_path: Path) -> Iterator[SmartService]:
    app = create_app(
        ModuleType("hello.config"),
        DATABASE_URL=f"sqlite:///{tmp_path}/hello.db",
        MIGRATIONS_DIRECTORY=str(tmp_path / "migrations"),
        TESTING=True,
    )
    app.db.metadata = V1.metadata
    yield app
    app.close()


@pytest.fixture
def run(app: SmartService) -> Run:
    runner = app.test_cli_runner()

    def invoke(*arguments: str, code: int = 0) -> Result:
        result = runner.invoke(db, arguments)
        assert result.exit_code == code, result.output
        return result

    return invoke


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "migrations" / "versions").glob("*.py"))


def test_a_first_migration_is_written_run_and_taken_back(run: Run, app: SmartService, tmp_path: Path) -> None:
    """revision, upgrade, current, check and downgrade do what they say, with nothing but versions/ in the service."""
    run("revision", "-m", 'Add teams: a "first" step')
    (name,) = files(tmp_path)
    assert name.endswith("_add_teams_a_first_step.py")
    assert name[:8].isdigit()
    assert "no migration has run yet" in run("current").output

    assert "upgraded Add teams: a 'first' step" in run("upgrade").output
    assert "(newest)" in run("current").output
    assert "has the shape of the models" in run("check").output
    assert "nothing to do" in run("upgrade").output
    with app.db.session_scope() as session:
        session.execute(text("INSERT INTO team (name) VALUES ('reds')"))

    assert "downgraded" in run("downgrade").output
    with app.db.session_scope() as session:
        assert session.scalar(text("SELECT count(*) FROM sqlite_master WHERE name = 'team'")) == 0
    assert "not that many migrations" in run("downgrade", code=1).output
    assert list((tmp_path / "migrations").iterdir()) == [tmp_path / "migrations" / "versions"]


def test_a_migration_file_is_clean(run: Run, tmp_path: Path) -> None:
    """A generated file passes ruff as it is written, but for the order of the columns' lines."""
    run("revision", "-m", "Add teams")
    path = tmp_path / "migrations" / "versions" / files(tmp_path)[0]
    lint = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,I,UP", "--target-version", "py311"]
    done = subprocess.run([*lint, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_sqlite_changes_columns_and_keeps_the_rows(run: Run, app: SmartService, tmp_path: Path) -> None:
    """A changed column on SQLite rebuilds the table, and the rows that refer to it with ON DELETE CASCADE stay."""
    run("revision", "-m", "First")
    run("upgrade")
    with app.db.session_scope() as session:
        session.execute(text("INSERT INTO team (id, name) VALUES (1, 'reds')"))
        session.execute(text("INSERT INTO player (id, team_id) VALUES (1, 1), (2, 1)"))

    app.db.metadata = V2.metadata
    complaint = run("check", code=1).output
    assert "models and database differ" in complaint
    assert "add_column team.colour" in complaint
    assert "modify_type team.name" in complaint
    run("revision", "-m", "Second")
    assert "run `flask db upgrade`" in run("check", code=1).output
    run("upgrade")
    run("check")

    with app.db.session_scope() as session:
        assert session.execute(text("SELECT id, name, colour FROM team")).all() == [(1, "reds", None)]
        assert session.scalar(text("SELECT count(*) FROM player")) == 2
        assert session.scalar(text("PRAGMA foreign_keys")) == 1


def test_without_a_difference_nothing_is_written(run: Run, tmp_path: Path) -> None:
    """revision writes no file for nothing, unless an empty one is asked for."""
    run("revision", "-m", "First")
    run("upgrade")
    assert "nothing to write" in run("revision", "-m", "Again").output
    assert len(files(tmp_path)) == 1
    run("revision", "-m", "By hand", "--empty")
    assert len(files(tmp_path)) == 2


def test_a_revision_needs_a_database_that_is_up_to_date(run: Run) -> None:
    """revision on a database that lacks a migration says what to run first."""
    run("revision", "-m", "First")
    assert "run `flask db upgrade` first" in run("revision", "-m", "Second", code=1).output


def test_dry_run_and_sql_change_nothing(run: Run, app: SmartService) -> None:
    """--dry-run names the migrations, --sql prints their statements; the database stays as it is."""
    run("revision", "-m", "First")
    assert run("upgrade", "--dry-run").output.startswith("First (")
    sql = run("upgrade", "--sql").output
    assert "CREATE TABLE team" in sql
    assert "INSERT INTO alembic_version" in sql
    with app.db.session_scope() as session:
        assert session.scalar(text("SELECT count(*) FROM sqlite_master")) == 0
    run("upgrade")
    assert "nothing to do" in run("upgrade", "--dry-run").output
    assert "CREATE TABLE" not in run("upgrade", "--sql").output


BROKEN = """
revision = "broken"
down_revision = None
from alembic import op
def upgrade():
    op.execute("CREATE TABLE half (id int)")
    op.execute({statement!r})
def downgrade():
    pass
"""


@pytest.mark.parametrize("statement", ["INSERT INTO nothing VALUES (1)", "INSERT INTO child VALUES (99)"])
def test_a_migration_that_fails_leaves_nothing(run: Run, app: SmartService, tmp_path: Path, statement: str) -> None:
    """A failed migration is undone as a whole, on SQLite too, and told in one line; broken references count as failed."""
    with app.db.session_scope() as session:
        session.execute(text("CREATE TABLE parent (id integer PRIMARY KEY)"))
        session.execute(text("CREATE TABLE child (parent_id integer REFERENCES parent (id))"))
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "broken.py").write_text(BROKEN.format(statement=statement))
    output = run("upgrade", code=1).output
    assert output.startswith("Error: ")
    assert "Traceback" not in output
    with app.db.session_scope() as session:
        assert session.scalar(text("SELECT count(*) FROM sqlite_master WHERE name = 'half'")) == 0
    assert "no migration has run yet" in run("current").output


def test_mistakes_are_one_sentence(run: Run, app: SmartService, tmp_path: Path) -> None:
    """A missing directory, an unknown revision: one line that says what to do, exit code 1."""
    assert "MIGRATIONS_DIRECTORY" in run("upgrade", code=1).output
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    assert "abc" in run("upgrade", "abc", code=1).output
    run("revision", code=2)


def test_a_missing_alembic_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without alembic the commands say which extra to install."""
    monkeypatch.setitem(sys.modules, "alembic", None)
    monkeypatch.delitem(sys.modules, "alembic.util", raising=False)
    assert "smartservice[migrate]" in run("upgrade", code=1).output


def test_without_a_database_the_setting_is_named() -> None:
    """A service without DATABASE_URL is told which setting to set."""
    app = create_app(ModuleType("hello.config"), TESTING=True)
    result = app.test_cli_runner().invoke(db, ["upgrade"])
    app.close()
    assert result.exit_code == 1
    assert "set DATABASE_URL" in result.output


def test_the_commands_cost_nothing_until_they_are_used() -> None:
    """Importing the commands imports neither alembic nor sqlalchemy."""
    code = "import sys, smartservice.migrations; print([m for m in ('alembic', 'sqlalchemy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_option_and_exit_code_is_in_the_reference() -> None:
    """The page on the database names each command, each of its options and each exit code."""
    page = (Path(__file__).parents[3] / "docs" / "reference" / "database.md").read_text()
    for name, command in db.commands.items():
        assert f"`flask db {name}" in page
        for option in command.params:
            assert all(word in page for word in option.opts if word.startswith("-")), option.opts
    for code in {0, 1, 2, 3, 4, *(kind.exit_code for kind in (Failed, Unreachable, Locked))}:
        assert f"| {code} |" in page
