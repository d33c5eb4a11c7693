"""Holding a lease: one daemon thread that renews it every third of its time, and lets go when it is closed."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Protocol

from atlas.model import Lease
from smartrealm import on_fork
from smartrealm.errors import SmartError, Unavailable

RETRY_SECONDS = 0.7
"""Seconds until the next try while the map cannot be written; soon, so that after an outage everything is right again."""

IDLE_SECONDS = 1.0
"""Seconds until it is asked again whether there is something to hold."""

_log = logging.getLogger("atlas")


class Holds(Protocol):
    """What a Keeper asks of the map."""

    def hold(self, lease: Lease) -> None: ...

    def sweep(self) -> object: ...

    def release(self, lease_id: str, incarnation: str) -> object: ...


class Keeper:
    """Keeps the lease that `describe()` gives: asked before every renewal, None while there is nothing to hold.

    It also sweeps the map, so that a realm without a server loses its dead. Changes (an instance more, one that drains) are told at once by `refresh()`. Safe from any thread; after a fork the child
    holds nothing until its own `start()`.
    """

    def __init__(
        self,
        directory: Holds,
        describe: Callable[[], Lease | None],
        *,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.failure: str | None = None
        """Why the last renewal failed; None when it did not."""
        self._directory = directory
        self._describe = describe
        self._spread = spread
        self._held: Lease | None = None
        self._wake = threading.Event()
        self._stopped = False
        self._releases = False
        self._thread: threading.Thread | None = None
        on_fork(self, Keeper._begin_anew)

    @property
    def held(self) -> Lease | None:
        """The lease as it was last written; None while there is none."""
        return self._held

    def start(self) -> Keeper:
        """Hold the lease from now on. Idempotent."""
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._run, name="atlas-keeper", daemon=True)
            self._thread.start()
        return self

    def refresh(self) -> None:
        """Say at once what has changed."""
        self._wake.set()

    def close(self, *, release: bool = True, seconds: float = 3.0) -> None:
        """Hold it no more; `release` takes it out of the map at once. Waits at most `seconds` for that; raises nothing."""
        self._releases = release
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            if not self._stopped:
                self._wake.wait(self._renew())
        held, self._held = self._held, None
        if self._releases and held is not None:
            self._let_go(held)

    def _renew(self) -> float:
        """Renew once; gives the seconds until the next time."""
        lease = self._held
        try:
            lease = self._describe()
            if lease is None:
                self._held = None
                return IDLE_SECONDS
            self._directory.hold(lease)
            self._directory.sweep()
        except Exception as error:
            if self.failure is None:
                which = lease.id if lease is not None else "of this program"
                _log.warning("the lease %s could not be renewed, trying again: %s", which, _told(error))
            self.failure = _told(error)
            return RETRY_SECONDS * (0.5 + self._spread())
        if self.failure is not None:
            _log.info("the lease %s is held again", lease.id)
        self._held, self.failure = lease, None
        return lease.ttl_seconds / 3 * (0.9 + self._spread() / 10)

    def _let_go(self, lease: Lease) -> None:
        try:
            self._directory.release(lease.id, lease.incarnation)
        except Unavailable as error:
            _log.warning("the lease %s could not be given back, and ends by itself: %s", lease.id, error)
        except Exception:
            _log.exception("the lease could not be given back")

    def _begin_anew(self) -> None:
        self._wake = threading.Event()
        self._thread = None
        self._held = None

    def __repr__(self) -> str:
        return f"<Keeper of {self._held.id if self._held else 'no lease'}>"


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, SmartError) else f"{type(error).__name__}: {error}"
