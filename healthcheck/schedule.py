"""The background thread of an engine. It holds its engine weakly: dropping the engine ends the thread."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Protocol


class Turns(Protocol):
    """What the thread drives."""

    def turn(self) -> float:
        """Do what is due now; gives the seconds until there is something to do again."""
        ...


class Schedule:
    """Calls `owner.turn()` whenever it asked to be called again, until `stop()` or until the owner is gone."""

    def __init__(self, owner: Turns, *, name: str) -> None:
        self._wake = threading.Event()
        self._stopped = False
        self._owner = weakref.ref(owner, lambda _: self._wake.set())
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive() and not self._stopped

    def wake(self) -> None:
        """Have the next turn now, because something changed."""
        self._wake.set()

    def stop(self, seconds: float = 1.0) -> None:
        """End the thread; waits for it at most `seconds`."""
        self._stopped = True
        self._wake.set()
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopped:
            pause = self._turn()
            if pause is None:
                return
            self._wake.wait(pause)
            self._wake.clear()

    def _turn(self) -> float | None:
        owner = self._owner()
        if owner is None:
            return None
        try:
            return owner.turn()
        except Exception:
            logging.getLogger("healthcheck").exception("the health schedule stumbled; it goes on")
            return 1.0
