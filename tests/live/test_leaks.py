"""Making, using and dropping leaves nothing behind."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from pathlib import Path

from smartrealm import fork
from smartrealm.fork import registered
from smartservice import SmartService, create_app
from smartservice.db import open_database
from smartservice.outbox import Outbox
from smartservice.redis import open_redis
from tests.changing import ChangingSettings
from tests.processes import open_files, wait_until
from tests.unit.smartservice.making import Make, make

__all__ = ["make"]


def test_a_thousand_apps_leak_nothing(make: Make) -> None:
    """No thread, no handler, no registry entry and no app stays behind."""
    make()
    gc.collect()
    threads, handlers, registered = threading.active_count(), list(logging.root.handlers), fork.registered()
    last: weakref.ref[SmartService] | None = None
    for _ in range(1000):
        app = create_app("tests.unit.smartservice.sample", environ={"REALM": "testing"})
        last = weakref.ref(app)
        app.close()
        del app
    make()
    gc.collect()
    assert threading.active_count() <= threads
    assert logging.root.handlers == handlers
    assert last is not None
    assert last() is None
    assert fork.registered() <= registered + 10


def test_a_thousand_databases_leak_nothing(tmp_path: Path) -> None:
    """A thousand databases leave no thread and no at-fork entry; two hundred used ones leave no file open."""
    gc.collect()
    before = registered(), threading.active_count()
    for _ in range(200):
        db = open_database(ChangingSettings(DATABASE_URL=f"sqlite:///{tmp_path}/x.db"))
        db.ping()
        db.close()
        db.close()
    for _ in range(800):
        open_database(ChangingSettings(DATABASE_URL="postgresql://h/d")).close()
    del db
    gc.collect()

    assert registered() <= before[0]
    assert threading.active_count() <= before[1]
    assert open_files(tmp_path / "x.db") == 0


def test_a_thousand_redis_clients_leak_nothing() -> None:
    """A thousand clients leave no thread and no at-fork entry."""
    gc.collect()
    before = registered(), threading.active_count()
    for _ in range(1000):
        open_redis(ChangingSettings(REDIS_URL="redis://h/0")).close()
    gc.collect()
    assert registered() <= before[0]
    assert threading.active_count() <= before[1]


def test_a_thousand_outboxes_leave_nothing_behind() -> None:
    """1,000 outboxes that were used and closed leave no thread and no object."""
    before = threading.active_count()
    kept = []
    for _ in range(1000):
        outbox: Outbox[int] = Outbox(lambda item: None)
        outbox.put(1)
        outbox.close(1)
        kept.append(weakref.ref(outbox))
    wait_until(lambda: threading.active_count() <= before, what="the end of the threads")
    del outbox
    gc.collect()
    assert [reference for reference in kept if reference() is not None] == []
