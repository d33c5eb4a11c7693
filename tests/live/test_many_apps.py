"""Making and dropping apps leaves nothing behind."""

from __future__ import annotations

import gc
import logging
import threading
import weakref

from smartrealm import fork
from smartservice import SmartService, create_app
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
    assert threading.active_count() == threads
    assert logging.root.handlers == handlers
    assert last is not None
    assert last() is None
    assert fork.registered() <= registered + 10
