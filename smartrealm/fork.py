"""The one at-fork registry: whoever owns a socket, a pool or a thread says here how to begin anew in a child.

`os.register_at_fork` cannot be undone and keeps what it is given alive for ever; this registry holds its owners
weakly, so an app that is dropped leaves nothing behind.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_resets: list[tuple[weakref.ref[Any], Callable[[Any], None]]] = []
_lock = threading.Lock()
_installed = False


def on_fork(owner: T, reset: Callable[[T], None]) -> None:
    """Call `reset(owner)` in every child that is forked while `owner` is alive.

    `reset` must not hold a reference to the owner (give it a plain function or an unbound method) and must take no lock
    that another thread of the parent may have held: threads do not survive a fork, their locks do. Resets run in the
    order they were registered; one that raises is logged and does not stop the others. Safe from any thread.
    """
    global _installed
    with _lock:
        _resets[:] = [entry for entry in _resets if entry[0]() is not None]
        _resets.append((weakref.ref(owner), reset))
        if not _installed:
            os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_in_child)
            _installed = True


def registered() -> int:
    """How many living owners are registered (for tests that look for leaks)."""
    with _lock:
        return sum(1 for owner, _ in _resets if owner() is not None)


def _in_child() -> None:
    _lock.release()
    for reference, reset in tuple(_resets):
        owner = reference()
        if owner is None:
            continue
        try:
            reset(owner)
        except Exception:
            logging.getLogger("smartrealm").exception("reset after fork failed for %s", type(owner).__name__)
