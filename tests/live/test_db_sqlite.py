"""app.db on a SQLite file that several processes use."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from sqlalchemy import text

from smartservice.db import Database, open_database
from tests.changing import ChangingSettings


def fork(work: int, db: Database) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    try:
        for _ in range(work):
            with db.session_scope() as session:
                session.execute(text("CREATE TABLE IF NOT EXISTS counter (n int)"))
                value = session.scalar(text("SELECT n FROM counter"))
                if value is None:
                    session.execute(text("INSERT INTO counter VALUES (1)"))
                else:
                    session.execute(text("UPDATE counter SET n = :n"), {"n": value + 1})
        db.close()
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
    os._exit(1)


def total(db: Database) -> object:
    with db.session_scope() as session:
        return session.scalar(text("SELECT n FROM counter"))


def test_processes_that_meet_a_new_file_lose_nothing(tmp_path: Path) -> None:
    """Four processes open a file that is not there yet, at once, and count to 400 together."""
    db = open_database(ChangingSettings(DATABASE_URL=f"sqlite:///{tmp_path}/new.db"))
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in [fork(100, db) for _ in range(4)]]
    assert codes == [0, 0, 0, 0]
    assert total(db) == 400
    db.close()


def test_a_warm_pool_survives_a_fork(tmp_path: Path) -> None:
    """A file that was open before the fork: parent and children count on, and lose nothing."""
    db = open_database(ChangingSettings(DATABASE_URL=f"sqlite:///{tmp_path}/warm.db"))
    with db.session_scope() as session:
        session.execute(text("CREATE TABLE counter (n int)"))
        session.execute(text("INSERT INTO counter VALUES (0)"))
    held = [db.engine.connect() for _ in range(3)]
    for connection in held:
        connection.close()
    children = [fork(50, db) for _ in range(4)]
    for _ in range(50):
        with db.session_scope() as session:
            session.execute(text("UPDATE counter SET n = n + 1"))
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0, 0, 0, 0]
    assert total(db) == 250
    db.close()


def test_a_memory_database_is_copied_by_a_fork() -> None:
    """A database in memory goes along into the child, and each has its own from then on."""
    db = open_database(ChangingSettings(DATABASE_URL="sqlite://"))
    with db.session_scope() as session:
        session.execute(text("CREATE TABLE counter (n int)"))
        session.execute(text("INSERT INTO counter VALUES (7)"))
    assert os.waitstatus_to_exitcode(os.waitpid(fork(1, db), 0)[1]) == 0
    assert total(db) == 7
    db.close()
