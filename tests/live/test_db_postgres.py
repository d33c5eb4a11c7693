"""app.db on a real PostgreSQL: timeouts, outages, forks, moves."""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import exc, text

from smartrealm.errors import Unavailable
from smartservice.db import Database, open_database, translate
from tests.changing import ChangingSettings
from tests.processes import free_port, wait_until
from tests.servers import PASSWORD, PostgresServer


@pytest.fixture
def db(postgres_url: str) -> Iterator[Database]:
    database = open_database(ChangingSettings(DATABASE_URL=postgres_url, DATABASE_STATEMENT_TIMEOUT=0.3))
    yield database
    database.close()


def ask(db: Database, statement: str) -> object:
    with db.session_scope() as session:
        return session.scalar(text(statement))


def test_the_server_knows_the_service_and_its_limits(db: Database) -> None:
    """Connections carry the service's name and the statement timeout."""
    assert ask(db, "SHOW application_name") == "hello"
    assert ask(db, "SHOW statement_timeout") == "300ms"


def test_a_long_statement_is_ended_and_is_no_outage(db: Database) -> None:
    """statement_timeout ends a statement; that is not translated into 503."""
    begun = time.monotonic()
    with pytest.raises(exc.OperationalError, match="statement timeout") as caught:
        ask(db, "SELECT pg_sleep(20)")
    assert time.monotonic() - begun < 10
    assert translate(caught.value) is None
    assert ask(db, "SELECT 1") == 1


def test_the_text_of_a_failed_statement_shows_no_row(db: Database) -> None:
    """PostgreSQL quotes the row in its DETAIL, which would stand in logs and reports; a program still finds it."""
    with db.session_scope() as session:
        session.execute(text("CREATE TABLE team (name text UNIQUE)"))
        session.execute(text("INSERT INTO team VALUES ('planted')"))
    with pytest.raises(exc.IntegrityError, match="team_name_key") as caught:
        ask(db, "INSERT INTO team SELECT chr(112) || 'lanted' RETURNING 1")
    shown = "".join(traceback.format_exception(caught.value))
    assert "(planted)" not in shown
    assert "planted" in caught.value.orig.diag.message_detail  # type: ignore[union-attr]


def test_a_connection_that_was_cut_costs_no_request(db: Database, postgres: PostgresServer) -> None:
    """The first query after the server dropped an idle connection succeeds."""
    pid = ask(db, "SELECT pg_backend_pid()")
    postgres.execute(f"SELECT pg_terminate_backend({pid})")
    wait_until(lambda: postgres.execute(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}") == 0)
    assert ask(db, "SELECT pg_backend_pid()") != pid


def test_a_connection_cut_in_a_transaction_is_unavailable(db: Database) -> None:
    """A query whose connection the server ended means 503, and the session closes without an error."""
    with pytest.raises(exc.DBAPIError) as caught, db.session_scope() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert isinstance(translate(caught.value), Unavailable)
    assert db.pool_status().in_use == 0


@pytest.mark.parametrize(
    "url", ["postgresql://service:{p}@127.0.0.1:{port}/x", "postgresql://service:{p}@localhost:{port}/x"]
)
def test_a_database_that_is_down_is_unavailable_at_once(url: str) -> None:
    """A refused port means 503 quickly, and nothing shows the password."""
    db = open_database(ChangingSettings(DATABASE_URL=url.format(p=PASSWORD, port=free_port())))
    begun = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        db.ping()
    assert time.monotonic() - begun < 10
    assert PASSWORD not in f"{caught.value} {caught.value.__cause__} {db!r}"
    db.close()


def test_a_database_that_does_not_exist_is_unavailable(postgres: PostgresServer) -> None:
    """Being refused by the server itself is an outage to the caller."""
    db = open_database(ChangingSettings(DATABASE_URL=postgres.url("nothing_here")))
    with pytest.raises(Unavailable, match="does not exist"):
        db.ping()
    db.close()


def test_a_server_that_says_nothing_is_given_up() -> None:
    """A server that accepts and never answers costs at most DATABASE_CONNECT_TIMEOUT."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        db = open_database(ChangingSettings(DATABASE_URL=f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x"))
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            db.ping()
        assert time.monotonic() - begun < 10
        db.close()


def fork() -> int:
    """os.fork without Python 3.12's warning about threads: that the pools survive it is what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def test_1500_queries_after_a_fork_are_all_right(postgres_url: str, postgres: PostgresServer, tmp_path: Path) -> None:
    """A warm pool before the fork: 4 workers ask 1,500 questions, get their own answers, share no connection."""
    db = open_database(ChangingSettings(DATABASE_URL=postgres_url))
    warm(db, 5)
    before = {int(pid) for pid in backends(db)}
    workers = []
    for number in range(4):
        pid = fork()
        if pid == 0:
            os._exit(_worker(db, number, tmp_path / f"worker-{number}"))
        workers.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]
    used = [set(map(int, (tmp_path / f"worker-{number}").read_text().split())) for number in range(4)]

    assert codes == [0, 0, 0, 0]
    assert not before & set().union(*used)
    assert sum(map(len, used)) == len(set().union(*used))
    assert {int(pid) for pid in backends(db)} >= before  # the children closed nothing of the parent's
    assert ask(db, "SELECT 1") == 1
    db.close()
    wait_until(lambda: postgres.connections(postgres_url) == 0, what="every connection closed")


def warm(db: Database, connections: int) -> None:
    held = [db.engine.connect() for _ in range(connections)]
    for connection in held:
        connection.close()


def backends(db: Database) -> list[str]:
    with db.session_scope() as session:
        rows = session.execute(text("SELECT pid FROM pg_stat_activity WHERE datname = current_database()"))
        return [str(row.pid) for row in rows]


def _worker(db: Database, number: int, note: Path) -> int:
    """Ask 375 questions from three threads; 0 when every answer was the right one."""
    wrong: list[object] = []
    pids: set[object] = set()

    def questions(thread: int) -> None:
        for i in range(125):
            expected = number * 1000 + thread * 200 + i
            try:
                with db.session_scope() as session:
                    row = session.execute(text("SELECT CAST(:n AS int), pg_backend_pid()"), {"n": expected}).one()
                pids.add(row[1])
                if row[0] != expected:
                    wrong.append(row)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=questions, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    note.write_text(" ".join(map(str, pids)))
    db.close()
    return 1 if wrong else 0


def test_a_move_under_load_fails_nothing_and_leaves_nothing(postgres: PostgresServer, postgres_url: str) -> None:
    """DATABASE_URL changes under load: no failed request, both databases answer in order, no connection stays on the old."""
    new_url = postgres.create_database()
    settings = ChangingSettings(DATABASE_URL=postgres_url)
    db = open_database(settings)
    old_name, new_name = postgres_url.rpartition("/")[2], new_url.rpartition("/")[2]
    failures: list[BaseException] = []
    seen: list[list[str]] = [[] for _ in range(6)]
    stop = threading.Event()

    def requests(mine: list[str]) -> None:
        while not stop.is_set():
            try:
                with db.session_scope() as session:
                    name = str(session.scalar(text("SELECT current_database()")))
                    session.execute(text("SELECT pg_sleep(0.005)"))
                    assert session.scalar(text("SELECT current_database()")) == name
                mine.append(name)
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=requests, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(len(mine) > 10 for mine in seen))
    settings.change(DATABASE_URL=new_url)
    wait_until(lambda: all(mine and mine[-1] == new_name for mine in seen), what="all threads on the new database")
    wait_until(lambda: postgres.connections(postgres_url) == 0, what="no connection left on the old database")
    stop.set()
    for thread in threads:
        thread.join()
    db.close()
    wait_until(lambda: postgres.connections(new_url) == 0)
    postgres.drop_database(new_url)

    assert failures == []
    for mine in seen:
        assert mine == sorted(mine, key=[old_name, new_name].index)


def test_a_move_to_a_server_that_is_down_waits_for_it(postgres: PostgresServer, postgres_url: str) -> None:
    """A new database that does not exist yet: the old one serves on, the reason is told; once it is there, it moves."""
    settings = ChangingSettings(DATABASE_URL=postgres_url)
    db = Database(settings, move_retry_seconds=0.05)
    assert ask(db, "SELECT 1") == 1
    settings.change(DATABASE_URL=postgres.url("later"))
    wait_until(lambda: db.problem)
    assert "later" in str(db.problem)
    assert PASSWORD not in str(db.problem)
    assert ask(db, "SELECT current_database()") == postgres_url.rpartition("/")[2]

    postgres.execute("CREATE DATABASE later OWNER service")
    wait_until(lambda: ask(db, "SELECT current_database()") == "later")
    db.close()
    wait_until(lambda: postgres.connections(postgres_url) == 0)
    postgres.drop_database(postgres.url("later"))


def test_a_forked_child_goes_on_with_a_move(postgres: PostgresServer, postgres_url: str) -> None:
    """A move that is under way when a worker is forked ends in the worker too."""
    settings = ChangingSettings(DATABASE_URL=postgres_url)
    db = Database(settings, move_retry_seconds=0.05)
    assert ask(db, "SELECT 1") == 1
    settings.change(DATABASE_URL=postgres.url("after_fork"))
    wait_until(lambda: db.problem)
    pid = fork()
    if pid == 0:
        try:
            wait_until(lambda: ask(db, "SELECT current_database()") == "after_fork")
            db.close()
            os._exit(0)
        finally:
            os._exit(1)
    postgres.execute("CREATE DATABASE after_fork OWNER service")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    db.close()
    postgres.drop_database(postgres.url("after_fork"))

    assert code == 0


def test_rolled_back_undoes_commits_on_postgres(db: Database) -> None:
    """Commits and rollbacks inside rolled_back() behave as usual and leave nothing."""
    with db.session_scope() as session:
        session.execute(text("CREATE TABLE thing (id int)"))
    with db.rolled_back():
        with db.session_scope() as session:
            session.execute(text("INSERT INTO thing VALUES (1)"))
        with pytest.raises(exc.ProgrammingError), db.session_scope() as session:
            session.execute(text("INSERT INTO nothing VALUES (1)"))
        assert ask(db, "SELECT count(*) FROM thing") == 1
    assert ask(db, "SELECT count(*) FROM thing") == 0
