"""`flask db revision|upgrade|downgrade|current|check`: alembic, with its environment in the framework.

A service holds nothing but `migrations/versions/*.py` (MIGRATIONS_DIRECTORY, from the working directory). Alembic is
imported by the commands themselves, so that `flask run` does not pay for it.

Exit codes: 0 done; 1 it failed, or `check` found a difference; 2 wrong use; 3 the database does not answer; 4 another
migration holds the lock.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from smartrealm import SmartError, redact_text
from smartrealm.errors import Unavailable
from smartservice.commands import ServiceGroup, service

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection
    from sqlalchemy.exc import SQLAlchemyError

    from smartservice.db import Database

LOCK = 0x736D_6172_7464_6201  # "smartdb" and a one: the advisory lock of this command, within one database
_FILE_NAME = "%(year)d%(month).2d%(day).2d_%(hour).2d%(minute).2d_%(slug)s"
_TEMPLATE = '''\
"""${message}"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision: str = ${repr(up_revision)}
down_revision: str | tuple[str, ...] | None = ${repr(down_revision)}
branch_labels: str | None = ${repr(branch_labels)}
depends_on: str | None = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
'''

db = ServiceGroup(
    "db",
    help="Bring the database to the shape that the models have (alembic).",
    short_help="Migrate the database.",
)


class Failed(click.ClickException):
    """One sentence on stderr, without secrets, and exit code 1."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(redact_text(message))


class Unreachable(Failed):
    """The database does not answer: exit code 3."""

    exit_code = 3


class Locked(Failed):
    """Another migration is running: exit code 4."""

    exit_code = 4


@db.command(short_help="Write a new migration.")
@click.option("-m", "--message", required=True, help="What it does, in a few words; becomes the name of the file.")
@click.option("--empty", is_flag=True, help="Write an empty one by hand instead of comparing models and database.")
def revision(message: str, empty: bool) -> None:
    """Write a new migration from the difference between the models and the database.

    The database must be at the newest migration. Without a difference nothing is written. Read the file before it is
    committed: a renamed column looks like one dropped and one added.
    """
    with _translated(), Migrations.of_app(make=True) as migrations:
        path = migrations.write_revision(message, compare=not empty)
    click.echo(f"wrote {path}" if path else "models and database are alike: nothing to write")


@db.command(short_help="Run migrations.")
@click.argument("target", default="head", metavar="[REVISION]")
@click.option("--sql", is_flag=True, help="Print the SQL instead of running it.")
@click.option("--dry-run", is_flag=True, help="Print the migrations that would run.")
@click.option("--wait", default=60.0, show_default=True, help="Seconds to wait for another migration to end.")
def upgrade(target: str, sql: bool, dry_run: bool, wait: float) -> None:
    """Run the migrations up to REVISION (the newest one when it is not given), all of them or none."""
    with _translated(), Migrations.of_app() as migrations:
        if dry_run or sql:
            migrations.show_upgrade(target, sql=sql, out=sys.stdout)
            return
        for line in migrations.move("upgrade", target, wait):
            click.echo(line)


@db.command(short_help="Take back migrations.")
@click.argument("target", default="-1", metavar="[REVISION]")
@click.option("--wait", default=60.0, show_default=True, help="Seconds to wait for another migration to end.")
def downgrade(target: str, wait: float) -> None:
    """Take back the last migration, or all that came after REVISION (`base`: every one)."""
    with _translated(), Migrations.of_app() as migrations:
        for line in migrations.move("downgrade", target, wait):
            click.echo(line)


@db.command(short_help="Print where the database is.")
def current() -> None:
    """Print the migration that the database is at."""
    with _translated(), Migrations.of_app() as migrations:
        here, head = migrations.where()
    for revision in here:
        click.echo(f"{revision} (newest)" if revision in head else revision)
    if not here:
        click.echo("no migration has run yet")


@db.command(short_help="Say whether the database fits the models.")
def check() -> None:
    """Exit with 1, and say why, when the database is not at the newest migration or differs from the models."""
    with _translated(), Migrations.of_app() as migrations:
        problems = migrations.problems()
    if problems:
        raise Failed("\n".join(problems))
    click.echo("the database is at the newest migration and has the shape of the models")


@contextmanager
def _translated() -> Iterator[None]:
    """Each error that is no bug as one sentence and an exit code."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # what ran is printed, once
    try:
        from alembic.util import CommandError
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("alembic"):
            raise
        raise Failed("alembic is not installed: add smartservice[migrate] to the requirements.") from None
    from smartservice.db import translate

    try:
        yield
    except SmartError as error:
        kind = Unreachable if isinstance(error, Unavailable) else Failed
        raise kind(error.message) from error
    except CommandError as error:
        raise Failed(_explained(str(error))) from error
    except SQLAlchemyError as error:
        known = translate(error)
        if known is not None:
            raise Unreachable(known.message) from error
        raise Failed(_one_line(error)) from error


def _one_line(error: SQLAlchemyError) -> str:
    """What the database said, and to which statement."""
    said = " ".join(str(getattr(error, "orig", None) or error).split())
    statement = " ".join((getattr(error, "statement", None) or "").split())
    return f"{said} (in: {statement[:200]})" if statement else said


def _explained(message: str) -> str:
    if "not up to date" in message:
        return "the database is not at the newest migration: run `flask db upgrade` first."
    if "Can't locate revision" in message:
        return f"{message}: the database or the command names a migration that is not in MIGRATIONS_DIRECTORY."
    if "didn't produce" in message:
        return "there are not that many migrations to run or to take back: see `flask db current`."
    return message


class Migrations:
    """The migrations of one service and its database; open only inside of `of_app`."""

    def __init__(self, database: Database, scripts: ScriptDirectory) -> None:
        self._database = database
        self._scripts = scripts

    @classmethod
    @contextmanager
    def of_app(cls, *, make: bool = False) -> Iterator[Migrations]:
        """The migrations of the current app. `make` makes the directory when it is missing."""
        from alembic.script import ScriptDirectory

        app = service()
        database = app.db
        versions = Path(app.config["MIGRATIONS_DIRECTORY"]).absolute() / "versions"
        if make:
            versions.mkdir(parents=True, exist_ok=True)
        if not versions.is_dir():
            raise Failed(f"there is no {versions}: run this where the service's MIGRATIONS_DIRECTORY is.")
        with tempfile.TemporaryDirectory(prefix="smartservice-migrations-") as directory:
            Path(directory, "script.py.mako").write_text(_TEMPLATE)
            scripts = ScriptDirectory(
                directory,
                _FILE_NAME,
                version_locations=[str(versions)],
                timezone="UTC",
                messaging_opts={"quiet": True},
            )
            try:
                yield cls(database, scripts)
            finally:
                database.close_idle()

    def where(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The migrations that the database is at, and the newest ones there are."""
        from alembic.runtime.migration import MigrationContext

        with self._reading() as connection:
            return MigrationContext.configure(connection).get_current_heads(), tuple(self._scripts.get_heads())

    def problems(self) -> list[str]:
        """What `check` complains of, a line each."""
        from alembic.autogenerate import compare_metadata
        from alembic.runtime.migration import MigrationContext

        here, head = self.where()
        if len(head) > 1:
            return [f"there are several newest migrations ({', '.join(sorted(head))}): make one depend on the other."]
        if set(here) != set(head):
            return [
                f"the database is at {_names(here)}, the newest migration is {_names(head)}: run `flask db upgrade`."
            ]
        with self._reading() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            differences = compare_metadata(context, self._database.metadata)
        lines = [f"  {line}" for difference in differences for line in _described(difference)]
        return ["models and database differ: write a migration with `flask db revision`.", *lines] if lines else []

    def write_revision(self, message: str, *, compare: bool) -> Path | None:
        """Write a migration; None when there was nothing to write."""
        from alembic.autogenerate import RevisionContext

        context = RevisionContext(
            _config(),
            self._scripts,
            {
                "message": " ".join(message.replace("\\", "/").replace('"', "'").split()), "autogenerate": compare, "sql": False, "head": "head", "splice": False,
                "branch_label": None, "version_path": None, "rev_id": None, "depends_on": None,
            },
            process_revision_directives=_nothing_for_nothing if compare else None,
        )  # fmt: skip

        def collect(rev: Any, migration_context: Any) -> list[Any]:
            find = context.run_autogenerate if compare else context.run_no_autogenerate
            find(rev, migration_context)
            return []

        with self._reading() as connection:
            self._run(
                collect,
                connection,
                dont_mutate=True,
                revision_context=context,
                template_args=context.template_args,
            )
        written = [script for script in context.generate_scripts() if script is not None]
        return Path(written[0].path) if written else None

    def move(self, direction: str, target: str, wait: float) -> list[str]:
        """Upgrade or downgrade in one transaction, alone; gives a line for each migration that ran."""
        done: list[str] = []
        steps = self._scripts._upgrade_revs if direction == "upgrade" else self._scripts._downgrade_revs

        def plan(rev: Any, context: Any) -> list[Any]:
            planned = list(steps(target, rev))
            done.extend(f"{direction}d {_title(step)}" for step in planned)
            return planned

        with self._alone(wait), self._writing() as connection:
            self._run(plan, connection, destination_rev=target)
        return done or ["nothing to do"]

    def show_upgrade(self, target: str, *, sql: bool, out: IO[str]) -> None:
        """Write what an upgrade would run: the names of the migrations, or their SQL."""
        here: Any = self.where()[0]
        planned = list(self._scripts._upgrade_revs(target, here))
        if not sql:
            for step in planned:
                out.write(f"{_title(step)}\n")
            if not planned:
                out.write("nothing to do\n")
            return
        self._run(
            lambda rev, context: planned, None, as_sql=True, starting_rev=here or None, destination_rev=target, out=out
        )

    def _run(
        self,
        function: Callable[[Any, Any], Iterable[Any]],
        connection: Connection | None,
        *,
        out: IO[str] | None = None,
        **options: Any,
    ) -> None:
        """What an env.py does."""
        from alembic.runtime.environment import EnvironmentContext

        sqlite = self._database.engine.dialect.name == "sqlite"
        where: dict[str, Any] = {"connection": connection}
        if connection is None:
            where = {"dialect_name": self._database.engine.dialect.name, "literal_binds": True, "output_buffer": out}
        with EnvironmentContext(_config(), self._scripts, fn=function, **options) as environment:
            environment.configure(
                target_metadata=self._database.metadata,
                render_as_batch=sqlite,
                transactional_ddl=True,
                compare_type=True,
                **where,
            )
            with environment.begin_transaction():
                environment.run_migrations()
                if sqlite and connection is not None and options.get("destination_rev"):
                    _refuse_broken_references(connection)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        from smartservice.engines import READ_ONLY

        with self._database.engine.connect().execution_options(**READ_ONLY) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A connection of our own, closed afterwards, under the rules of migrations rather than of requests."""
        with self._database.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            if connection.dialect.name == "sqlite":
                # Batch mode drops and renames whole tables, which must not delete the rows that refer to them.
                driver.execute("PRAGMA foreign_keys = OFF")
            elif connection.dialect.name == "postgresql":
                # Work may be long, but a lock that is not had soon is given up: every query of the service queues behind it.
                connection.exec_driver_sql("SET statement_timeout = 0")
                connection.exec_driver_sql("SET lock_timeout = '10s'")
                connection.commit()
            try:
                yield connection
            finally:
                if connection.dialect.name == "sqlite":
                    connection.rollback()
                    driver.execute("PRAGMA foreign_keys = ON")
                else:
                    connection.invalidate()

    @contextmanager
    def _alone(self, wait: float) -> Iterator[None]:
        """No other migration of this database runs meanwhile. SQLite's write lock does that by itself.

        The lock is asked for again and again instead of waited for in the server: a waiting query holds a snapshot, and
        CREATE INDEX CONCURRENTLY in the other migration would wait for it for ever.
        """
        engine = self._database.engine
        if engine.dialect.name != "postgresql":
            yield
            return
        end = time.monotonic() + wait
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({LOCK})").scalar():
                if time.monotonic() >= end:
                    raise Locked(f"another migration of this database did not end within {wait:g} s.")
                time.sleep(0.1)
            try:
                yield
            finally:
                connection.invalidate()  # ends the server's session, and the lock with it


def _config() -> Any:
    from alembic.config import Config

    return Config()


def _names(revisions: Iterable[str]) -> str:
    return ", ".join(sorted(revisions)) or "the beginning"


def _title(step: Any) -> str:
    """What a migration says it does, and its revision."""
    return f"{step.doc} ({step.revision.revision})".lstrip()


def _nothing_for_nothing(context: Any, revision: Any, directives: list[Any]) -> None:
    """Write no file when models and database are alike."""
    if directives and directives[0].upgrade_ops.is_empty():
        directives.clear()


def _refuse_broken_references(connection: Connection) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        tables = ", ".join(sorted({str(row[0]) for row in broken}))
        raise Failed(f"the migration leaves {len(broken)} rows that refer to nothing (in {tables}); it was undone.")


def _described(difference: Any) -> list[str]:
    """A difference of alembic's as words: `add_column team.colour`."""
    if isinstance(difference, list):
        return [line for part in difference for line in _described(part)]
    kind, *rest = difference
    if kind in ("add_column", "remove_column"):
        return [f"{kind} {rest[1]}.{rest[2].name}"]
    if kind.startswith("modify_"):
        return [f"{kind} {rest[1]}.{rest[2]}: {rest[-2]!r} in the database, {rest[-1]!r} in the models"]
    table = getattr(rest[0], "table", None)
    name = getattr(rest[0], "name", None)
    return [f"{kind} {name}" if table is None else f"{kind} {name} on {table.name}"]
