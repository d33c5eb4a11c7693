"""What a gunicorn worker does for its instance besides serving: report itself, answer probes, end well."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from smartservice.lifecycle import Board, Desk, Lifecycle, Worker
from smartservice.management import Answers, Listener

if TYPE_CHECKING:
    from smartservice.announcing import Announcer
    from smartservice.registration import Registration

QUICK_SECONDS = 2.0
_REPLACED_AFTER = 1.25


class WorkerSide:
    """The worker's half of the hooks. Made right after the fork; `start` is called once its app is loaded."""

    def __init__(
        self,
        worker: Any,
        *,
        board: Board,
        row: int | None,
        desk: Desk,
        management: socket.socket | None,
        wedged_seconds: float,
        health_path: str,
        metrics_path: str,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._worker = worker
        self._board = board
        self._row = row
        self._desk = desk
        self._management = management
        self._wedged_seconds = wedged_seconds
        self._health_path = health_path
        self._metrics_path = metrics_path
        self._end = end
        self._app: Any = None
        self._metrics: Any = None
        self._listener: Listener | None = None
        self._registration: Registration | Announcer | None = None
        self._lifecycle = Lifecycle()
        self._capacity = worker.cfg.threads if hasattr(worker, "tpool") else 1
        self._troubled = False
        worker.handle_quit = self.quit
        if row is not None:
            board.write(row, Worker(os.getpid(), 0, 0, self._capacity, 0, 0))

    def start(self, app: Any) -> None:
        """Start the app's own threads and the one that beats and answers probes."""
        self._app = app
        self._lifecycle = getattr(app, "lifecycle", None) or self._lifecycle
        self._metrics = getattr(app, "metrics", None)
        health = getattr(app, "health", None)
        add_gate = getattr(health, "add_gate", None)
        if add_gate is not None:
            add_gate("live", lambda: self._lifecycle.not_live(self._wedged_seconds))
        start = getattr(app, "start", None)
        if callable(start):
            start()
        register = getattr(app, "register", None)
        if callable(register):
            self._registration = register(self._desk)
        answers = Answers(
            self._lifecycle,
            health=health,
            metrics=getattr(self._metrics, "render", None),
            health_path=self._health_path,
            metrics_path=self._metrics_path,
            wedged_seconds=self._wedged_seconds,
        )
        self._listener = Listener(self._management, answers, is_quick=answers.is_quick, tick=self.beat).start()

    def enter(self) -> None:
        """A thread begins a request. While draining, its answer is made the last one on its connection."""
        if self._board.draining:
            self._last_answers()
        self._lifecycle.enter()

    def leave(self) -> None:
        """The thread has ended it, its answer sent."""
        self._lifecycle.leave()

    def beat(self) -> None:
        """Write this worker's row; end the worker when it has been wedged for too long."""
        row = self._lifecycle.row(self._capacity)
        if self._row is not None:
            self._board.write(self._row, row)
        if self._metrics is not None:
            self._metrics.publish()
        if self._registration is not None:
            self._registration.beat()
        trouble = row.trouble(row.beat, self._wedged_seconds)
        if trouble is not None and not self._troubled:
            self._worker.log.error("%s; liveness is red", trouble)
        self._troubled = trouble is not None
        if row.trouble(row.beat, self._wedged_seconds * _REPLACED_AFTER) is not None:
            self._give_up(str(trouble))

    def _give_up(self, trouble: str) -> None:
        self._worker.log.critical("%s; this worker ends itself and is replaced", trouble)
        self.show_stacks()
        closing = threading.Thread(target=self._close_app, daemon=True)
        closing.start()
        closing.join(QUICK_SECONDS)
        self._end(70)

    def show_stacks(self) -> None:
        """Write to standard error what every thread is doing."""
        try:
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
        except (OSError, ValueError, AttributeError):  # standard error is closed, or is no file
            pass

    def quit(self, number: int, frame: object) -> None:
        """Take the place of gunicorn's handler of SIGINT and SIGQUIT: a quick end, whatever this process is doing.

        gthread's own handler takes the lock of the thread pool, and waits for ever when the signal came while the same
        thread was handing a request to the pool. Here nothing is locked: the alarm is set first, then the stack unwinds.
        """
        self.hurry()
        self._worker.alive = False
        time.sleep(0.1)  # as gunicorn does: answers that are all but sent get out
        sys.exit(0)

    def hurry(self) -> None:
        """End this process soon: the interpreter would wait for its request threads, however long those take."""
        if threading.current_thread() is not threading.main_thread():
            return  # gunicorn's reloader: requests may finish
        signal.signal(signal.SIGALRM, lambda *_: self._end(0))
        signal.setitimer(signal.ITIMER_REAL, QUICK_SECONDS)

    def close(self) -> None:
        """Close the listener and the app."""
        if self._listener is not None:
            self._listener.close()
        if self._registration is not None:
            self._registration.close(stopping=self._board.stopping != "no")
        self._close_app()

    def _close_app(self) -> None:
        close = getattr(self._app, "close", None)
        if callable(close):
            close()

    def _last_answers(self) -> None:
        """Have gunicorn say `Connection: close`; an app cannot, since gunicorn drops that header from its answers.

        gthread does so when it holds as many idle connections as it may. (sync closes every connection anyway.)
        """
        if hasattr(self._worker, "max_keepalived"):
            self._worker.max_keepalived = 0
