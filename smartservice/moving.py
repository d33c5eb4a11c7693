"""A connection pool that follows its URL setting: opened when first used, moved while the service runs.

    first use   open(snapshot) -> current
    a change    open the new one, prove that it answers, swap one reference, retire the old one
    no answer   the old one stays in force; the new one is tried again until it answers or the setting changes back

Whoever took the old pool keeps using it to the end of their work; `retire` closes what they give back.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from smartrealm import ConfigurationError, NotConfigured, on_fork, redact_text

R = TypeVar("R")

log = logging.getLogger("smartservice")


class Settings(Protocol):
    """What is needed of smartconfig.Settings."""

    @property
    def snapshot(self) -> Mapping[str, Any]: ...

    @property
    def service(self) -> str: ...

    def on_change(self, keys: list[str], callback: Callable[[Any, Any], None], /) -> object: ...


class Moving(Generic[R]):
    """The present resource for a URL setting, and the thread that moves to another one (alive only while it moves)."""

    def __init__(
        self,
        settings: Settings,
        key: str,
        *,
        open: Callable[[Mapping[str, Any]], R],
        check: Callable[[R], object],
        retire: Callable[[R], object],
        reset_after_fork: Callable[[R], R],
        retry_seconds: float = 5.0,
    ) -> None:
        self.key = key
        self._settings = settings
        self._open, self._check, self._retire, self._reset = open, check, retire, reset_after_fork
        self._retry_seconds = retry_seconds
        self._current: R | None = None
        self._url = ""
        self._closed = False
        self._begin()
        changed = _callback(weakref.ref(self))
        self._unsubscribe = settings.on_change([key], changed)
        on_fork(self, Moving._after_fork)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._news = threading.Event()
        self._mover: threading.Thread | None = None
        self.problem: str | None = None

    def get(self) -> R:
        """The resource in force; opened by the first call. Costs one attribute read after that."""
        current = self._current
        return current if current is not None else self._open_first()

    def opened(self) -> R | None:
        """The resource in force if anybody has asked for it yet, else None; opens nothing."""
        return self._current

    def close(self) -> None:
        """Retire the resource and end a move that is under way. Idempotent; `get` refuses afterwards."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            current, self._current, mover = self._current, None, self._mover
            self._news.set()
        if callable(self._unsubscribe):
            self._unsubscribe()
        if mover is not None and mover is not threading.current_thread():
            mover.join(10)
        if current is not None:
            self._retire(current)

    def _open_first(self) -> R:
        with self._lock:
            if self._closed:
                raise NotConfigured(f"This app is closed: what {self.key} names cannot be used any more.")
            if self._current is None:
                snapshot = self._settings.snapshot
                self._current, self._url = self._open(snapshot), snapshot[self.key]
            return self._current

    def changed(self) -> None:
        """Move to what the setting names now, if something is open. Returns at once; a thread does it."""
        with self._lock:
            self._news.set()
            if self._current is not None and not self._closed and self._mover is None:
                self._start_mover()

    def _start_mover(self) -> None:
        self._mover = threading.Thread(target=self._move, name=f"smartservice-move-{self.key.lower()}", daemon=True)
        self._mover.start()

    def _move(self) -> None:
        while True:
            with self._lock:
                self._news.clear()
                snapshot = self._settings.snapshot
                if self._closed or snapshot[self.key] == self._url:
                    self._mover = self.problem = None
                    return
            try:
                self._move_to(snapshot)
            except Exception as error:
                self._note(error)
                self._news.wait(None if isinstance(error, ConfigurationError) else self._retry_seconds)

    def _move_to(self, snapshot: Mapping[str, Any]) -> None:
        new = self._open(snapshot)
        try:
            self._check(new)
            with self._lock:
                if self._closed or self._settings.snapshot[self.key] != snapshot[self.key]:
                    old = new
                else:
                    assert self._current is not None
                    old, self._current, self._url = self._current, new, snapshot[self.key]
        except BaseException:
            self._retire(new)
            raise
        if old is not new:
            log.info("moved to the new %s", self.key)
        self._retire(old)

    def _note(self, error: Exception) -> None:
        reason = redact_text(str(error), [self._settings.snapshot[self.key]]).strip().partition("\n")[0]
        problem = f"The new {self.key} cannot be used, so the old one stays in force: {reason}"
        if problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem

    def _after_fork(self) -> None:
        self._begin()
        if self._current is None or self._closed:
            return
        self._current = self._reset(self._current)
        if self._settings.snapshot[self.key] != self._url:
            self._start_mover()


def _callback(reference: weakref.ref[Moving[R]]) -> Callable[[object, object], None]:
    """What the settings call: it does not keep the pool alive."""

    def changed(old: object, new: object) -> None:
        moving = reference()
        if moving is not None:
            moving.changed()

    return changed
