"""A pool that is warm before gunicorn's `--preload` forks: app.db against a plain SQLAlchemy engine."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Engine, create_engine, text

from benchmarks.measure import Claim
from smartservice.db import open_database
from tests.changing import ChangingSettings
from tests.servers import postgres_server

WORKERS, THREADS, EACH = 4, 3, 125
QUERIES = WORKERS * THREADS * EACH


@dataclass
class _Told:
    """What a worker has to say: how many answers were right, and the server processes that gave them."""

    right: int = 0
    pids: list[int] = field(default_factory=list)


def run() -> list[Claim]:
    """Ask 1,500 numbered questions from 4 forked workers; count right answers and connections that two processes used."""
    with postgres_server() as server:
        url = server.url("postgres")
        naive = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        naive_right, naive_shared = _fork_and_ask(lambda: naive, warm=naive)
        db = open_database(ChangingSettings(DATABASE_URL=url))
        right, shared = _fork_and_ask(lambda: db.engine, warm=db.engine)
        db.close()
        naive.dispose(close=False)
    return [
        Claim(
            f"right answers of {QUERIES:,} queries: preload, {WORKERS} workers, warm pool",
            f"{QUERIES:,}", f"{right:,}", f"plain engine: {naive_right:,}", right == QUERIES,
        ),
        Claim(
            "database connections that two processes shared", "0", str(shared), f"plain engine: {naive_shared}", shared == 0
        ),
    ]  # fmt: skip


def _fork_and_ask(engine: Callable[[], Engine], *, warm: Engine) -> tuple[int, int]:
    held = [warm.connect() for _ in range(5)]
    parents = {int(str(connection.scalar(text("SELECT pg_backend_pid()")))) for connection in held}
    for connection in held:
        connection.close()
    with TemporaryDirectory() as directory:
        notes = [Path(directory, str(number)) for number in range(WORKERS)]
        children = [_fork(partial(_ask, engine, number, note)) for number, note in enumerate(notes)]
        for child in children:
            os.waitpid(child, 0)
        told = [_Told(**json.loads(note.read_text())) if note.exists() else _Told() for note in notes]
    users = Counter(pid for answer in told for pid in set(answer.pids))
    shared = sum(1 for pid, count in users.items() if count > 1 or pid in parents)
    return sum(answer.right for answer in told), shared


def _fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def _ask(engine: Callable[[], Engine], worker: int, note: Path) -> None:
    """Count the answers that were ours; a worker of the plain engine may hang, so it ends after some seconds."""
    right: list[int] = []
    pids: list[int] = []

    def questions(thread: int) -> None:
        for i in range(EACH):
            expected = worker * 1_000_000 + thread * 1_000 + i
            try:
                with engine().connect() as connection:
                    answer, pid = connection.execute(text(f"SELECT {expected}, pg_backend_pid()")).one()
            except Exception:
                continue
            pids.append(pid)
            if answer == expected:
                right.append(answer)

    threads = [threading.Thread(target=questions, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15 / THREADS)
    beside = note.with_suffix(".part")
    beside.write_text(json.dumps({"right": len(right), "pids": list(pids)}))
    beside.rename(note)
