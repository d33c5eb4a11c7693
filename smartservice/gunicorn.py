"""gunicorn's settings and hooks for a smart service: in `gunicorn.conf.py`, two lines.

    from smartservice.gunicorn import settings
    globals().update(settings("hello.config", "hello.app:make_app()"))

Without a config module, `from smartservice.gunicorn import *` or `gunicorn -c python:smartservice.gunicorn` takes the
framework's defaults and the environment, but not CONFIG_FILE. Options on gunicorn's command line win, as always.

What the hooks do is told in docs/explanation/stopping-without-losing-a-request.md: drain on SIGTERM, answer probes when
every thread is busy, replace a wedged worker, keep the metrics of workers that have ended.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from gunicorn.glogging import Logger

from smartrealm import ConfigurationError
from smartservice import lifecycle, management
from smartservice.cells import Shelf, merge_dead
from smartservice.logs import LineHandler, formatter
from smartservice.workers import WorkerSide

DRAIN_MARGIN_SECONDS = 2.0
CLOSE_SECONDS = 3
"""What the master grants a worker beyond GRACEFUL_SECONDS for closing pools and sending the last reports."""

_FD_VARIABLE = "SMARTSERVICE_MANAGEMENT_FD"


@dataclass(frozen=True)
class Options:
    """What the hooks need to know beyond gunicorn's own settings."""

    service: str = "smartservice"
    drain_seconds: float = 0.0
    graceful_seconds: int = 30
    management_host: str = "127.0.0.1"
    management_port: int = 0
    wedged_seconds: float = 60.0
    health_path: str = "/healthcheck"
    metrics_path: str = "/metrics"


def settings(
    config: str | None = None, app: str | None = None, *, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """gunicorn's settings for a service: its config module, and where its app is (`hello.app:make_app()`).

    Ends the process with one message that names every mistake: this is meant to be read by whoever starts gunicorn.
    """
    try:
        return _settings(config, app, os.environ if environ is None else environ)
    except ConfigurationError as error:
        raise SystemExit(str(error)) from None


def from_values(
    values: Mapping[str, Any],
    *,
    service: str = "smartservice",
    app: str | None = None,
    reload: bool = False,
) -> dict[str, Any]:
    """gunicorn's settings from a mapping of ours. `reload`: for development, with no drain."""
    sync = values["WORKER_CLASS"] == "sync"
    options = Options(
        service=service,
        drain_seconds=0.0 if reload else drain_seconds(values),
        graceful_seconds=values["GRACEFUL_SECONDS"],
        management_host=values["HOST"],
        management_port=values["MANAGEMENT_PORT"],
        wedged_seconds=values["WEDGED_SECONDS"],
        health_path=values["HEALTH_PATH"],
        metrics_path=values["METRICS_PATH"],
    )
    host = f"[{values['HOST']}]" if ":" in values["HOST"] else values["HOST"]
    most = values["WORKER_MAX_REQUESTS"]
    found: dict[str, Any] = {
        "bind": [f"{host}:{values['PORT']}"],
        "workers": values["WORKERS"],
        "worker_class": values["WORKER_CLASS"],
        "threads": 1 if sync else values["THREADS"],
        "timeout": 0 if reload else values["WORKER_TIMEOUT_SECONDS"],
        "graceful_timeout": values["GRACEFUL_SECONDS"] + CLOSE_SECONDS,
        "keepalive": values["KEEPALIVE_SECONDS"],
        "max_requests": most,
        "max_requests_jitter": most // 10,
        "preload_app": not reload,
        "reload": reload,
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,
        "control_socket_disable": True,  # it is on by default, at one path for all services of a user
        "forwarded_allow_ips": "127.0.0.1,::1",
        "accesslog": None,  # the app writes its own access line
        "logger_class": QuietLogger,
        "proc_name": service,
        **Hooks(options).by_name(),
    }
    if app is not None:
        found["wsgi_app"] = app
    return found


def drain_seconds(values: Mapping[str, Any]) -> float:
    """How long an instance serves on after SIGTERM: DRAIN_SECONDS, or what the probes of the load balancer need."""
    if values["DRAIN_SECONDS"] is not None:
        return float(values["DRAIN_SECONDS"])
    return float(values["PROBE_INTERVAL"] * values["PROBE_FALL"] + DRAIN_MARGIN_SECONDS)


def _settings(config: str | None, app: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    from smartservice.config import load_settings

    if config is None:  # overrides name the service's own settings too, and those are not known here
        environ = {name: value for name, value in environ.items() if name != "CONFIG_FILE"}
        environ["ATLAS_URL"] = ""
    reload = environ.get("RELOAD", "").lower() in ("1", "true", "yes", "on")
    before = set(sys.modules)
    found = load_settings(config or "smartservice.defaults", environ=environ)
    loaded = found.settings
    try:
        return from_values(loaded.snapshot, service=str(loaded.service), app=app, reload=reload)
    finally:
        if reload and config:
            _forget(config.partition(".")[0], before)
        loaded.close()
        if found.atlas is not None:
            found.atlas.close()


def _forget(package: str, before: set[str]) -> None:
    """Let each worker import the service's own modules anew: one that inherits ours never sees what was edited."""
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == package:
            del sys.modules[name]


class QuietLogger(Logger):  # type: ignore[misc]
    """gunicorn's lines go where all others go: through the root logger, once. No access log of its own."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self._access_log_enabled = False
        self.loglevel = self.LOG_LEVELS.get(cfg.loglevel.lower(), logging.INFO)
        self.error_log.setLevel(self.loglevel)
        self.error_log.propagate = True
        self.access_log.disabled = True
        if not any(isinstance(handler, _UntilTheAppLogs) for handler in self.error_log.handlers):
            self.error_log.handlers = [_UntilTheAppLogs()]

    def info(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """gunicorn's line at level info. Not of SIGTERM: the drain tells of it, and comes back by the same signal."""
        if (msg, *args) != ("Handling signal: %s", "term"):
            super().info(msg, *args, **kwargs)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Nothing: the app has written the line."""


class _UntilTheAppLogs(LineHandler):
    """Writes gunicorn's lines while nobody has set up the root logger: before the app is loaded, or in its absence."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(formatter(self))

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.root.handlers:
            super().emit(record)


@dataclass
class Instance:
    """What the master holds for its whole life, through every reload of its settings."""

    pid: int
    board: lifecycle.Board
    shelf: Shelf
    desk: lifecycle.Desk = field(default_factory=lifecycle.Desk)
    management: socket.socket | None = None
    drain_until: float | None = None
    rows: dict[int, int] = field(default_factory=dict)  # worker's age -> its row on the board


_instance: Instance | None = None


class Hooks:
    """gunicorn's server hooks. Those of the master are here; what a worker does is in `workers.WorkerSide`."""

    def __init__(self, options: Options) -> None:
        self.refused: str | None = None
        self._options = options
        self._side: WorkerSide | None = None

    def by_name(self) -> dict[str, Any]:
        """The hooks under the names by which gunicorn knows them."""
        return {name: getattr(self, name) for name in _HOOKS}

    # -- in the master -------------------------------------------------------------------------------------------------

    def nworkers_changed(self, server: Any, new: int, old: int | None) -> None:
        """Set up what must exist before the app is loaded: of all hooks, only this one is called that early."""
        global _instance
        if self.refused is not None:
            raise SystemExit(self.refused)
        if _instance is None:
            shelf = Shelf.make(self._options.service, uid=server.cfg.uid, gid=server.cfg.gid)
            _instance = Instance(os.getpid(), lifecycle.share(), shelf)

    def on_starting(self, server: Any) -> None:
        """Bind the management port and take over SIGTERM. The signal itself stays gunicorn's: its handlers only queue."""
        assert _instance is not None
        _instance.management = self._bind_management()
        server.handle_term = lambda: self._on_term(server)
        server.stop = _noting(server.stop, _instance.board)
        warm_up = getattr(getattr(_app_of(server.app.callable), "metrics", None), "warm_up", None)
        if warm_up is not None:
            warm_up()

    def when_ready(self, server: Any) -> None:
        """Say in one line how this instance will stop and where it answers probes."""
        options = self._options
        port = options.management_port or "none"
        server.log.info(
            "serving as %s: drain %g s, then up to %d s for requests in flight; management port %s",
            getattr(_app_of(server.app.callable), "service", options.service),
            options.drain_seconds,
            options.graceful_seconds,
            port,
        )

    def pre_fork(self, server: Any, worker: Any) -> None:
        """Give the worker that is about to be forked a row on the board."""
        assert _instance is not None
        row = _instance.board.claim()
        if row is not None:
            _instance.rows[worker.age] = row

    def child_exit(self, server: Any, worker: Any) -> None:
        """Free the row of a worker that has ended and keep what it counted."""
        assert _instance is not None
        row = _instance.rows.pop(worker.age, None)
        if row is not None:
            _instance.board.release(row)
        try:
            merge_dead(_instance.shelf.directory, {os.getpid(), *server.WORKERS})
        except Exception:
            server.log.exception("the metrics of worker %s could not be merged", worker.pid)

    def pre_exec(self, server: Any) -> None:
        """SIGUSR2: hand the management socket over to the new master, as gunicorn does with its own."""
        assert _instance is not None
        # As this one was started: gunicorn would run `python -m gunicorn` as a file, and then find its own `http` for Python's.
        server.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        if _instance.management is not None:
            os.set_inheritable(_instance.management.fileno(), True)
            server.cfg.env_orig[_FD_VARIABLE] = str(_instance.management.fileno())

    def on_exit(self, server: Any) -> None:
        """Remove what belongs to this instance alone."""
        if _instance is not None and _instance.pid == os.getpid():
            if _instance.desk.noted():
                _announcing().tell_gone(_instance.desk)
            _instance.shelf.remove()

    def _bind_management(self) -> socket.socket | None:
        handed = os.environ.pop(_FD_VARIABLE, None)
        if not self._options.management_port:
            return None
        if handed is not None and "GUNICORN_PID" in os.environ:
            return socket.socket(fileno=int(handed))
        try:
            return management.bind(self._options.management_host, self._options.management_port)
        except OSError as error:
            raise SystemExit(
                f"MANAGEMENT_PORT {self._options.management_port} cannot be bound ({error.strerror}): "
                f"end what listens there, or choose another port."
            ) from None

    def _on_term(self, server: Any) -> None:
        """First SIGTERM: drain, and come back here by an alarm. Second one, or nothing to drain: stop."""
        assert _instance is not None
        board, seconds = _instance.board, self._options.drain_seconds
        if not any(worker.is_ready() for worker in board.workers()):
            server.log.info("stopping at once: no worker has begun to serve")
            server.stop(False)  # as gunicorn does for SIGINT; on SIGTERM a worker would first finish loading the app
            raise StopIteration
        if _instance.drain_until is None and seconds > 0:
            _instance.drain_until = time.monotonic() + seconds
            self._begin_draining(_instance)
            server.log.info(
                "SIGTERM, draining: readiness is red, serving on for %g s (a second SIGTERM ends that)", seconds
            )
            signal.signal(signal.SIGALRM, lambda *_: server.SIG_QUEUE.put_nowait(signal.SIGTERM))
            signal.setitimer(signal.ITIMER_REAL, seconds)
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        left = 0.0 if _instance.drain_until is None else _instance.drain_until - time.monotonic()
        self._begin_draining(_instance)
        server.log.info(
            "stopping%s: requests in flight may take up to %d s",
            f" {left:.1f} s before the drain is over" if left > 0.05 else "",
            self._options.graceful_seconds,
        )
        raise StopIteration

    def _begin_draining(self, instance: Instance) -> None:
        """Turn readiness red, and tell the sidecar of the host: then no caller has to find out."""
        if instance.board.draining:
            return
        instance.board.begin_draining()
        if instance.desk.noted():
            _announcing().tell_draining(instance.desk)

    # -- in a worker ---------------------------------------------------------------------------------------------------

    def post_fork(self, server: Any, worker: Any) -> None:
        """Begin the worker's side; the app is not loaded yet unless it was preloaded."""
        assert _instance is not None
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        worker.cfg.set("graceful_timeout", self._options.graceful_seconds)
        self._side = WorkerSide(
            worker,
            board=_instance.board,
            row=_instance.rows.get(worker.age),
            desk=_instance.desk,
            management=_instance.management,
            wedged_seconds=self._options.wedged_seconds,
            health_path=self._options.health_path,
            metrics_path=self._options.metrics_path,
        )
        # Until gunicorn sets them, the master's handlers would queue them.
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._side.quit)
        if _instance.board.stopping == "quickly":  # told before that; loading the app first may take long
            sys.exit(0)

    def post_worker_init(self, worker: Any) -> None:
        """Start the app's threads and the management listener in this worker."""
        assert self._side is not None
        self._side.start(_app_of(worker.wsgi))
        stopping = _instance.board.stopping if _instance is not None else "no"
        if stopping != "no":  # the master's signal came before this worker had a handler for it: it would never end
            os.kill(os.getpid(), signal.SIGQUIT if stopping == "quickly" else signal.SIGTERM)

    def pre_request(self, worker: Any, req: Any) -> None:
        assert self._side is not None
        self._side.enter()

    def post_request(self, worker: Any, req: Any, environ: Any, resp: Any) -> None:
        assert self._side is not None
        self._side.leave()

    def worker_int(self, worker: Any) -> None:
        """SIGINT, SIGQUIT: a quick end, whatever the request threads are doing."""
        if self._side is not None:
            self._side.hurry()

    def worker_abort(self, worker: Any) -> None:
        """SIGABRT: the master gave up on this worker; say where it hangs."""
        if self._side is not None:
            self._side.show_stacks()

    def worker_exit(self, server: Any, worker: Any) -> None:
        """Close the app. gunicorn calls this in the master as well, when a worker was gone before it was told to go."""
        if worker.pid != os.getpid():
            self.child_exit(server, worker)
        elif self._side is not None:
            self._side.close()


_HOOKS = tuple(
    name for name, value in vars(Hooks).items() if callable(value) and not name.startswith("_") and name != "by_name"
)


def _announcing() -> ModuleType:
    """Imported by an instance that is announced; at the end of one that is not, there is nothing to import."""
    from smartservice import announcing

    return announcing


def _noting(stop: Callable[..., None], board: lifecycle.Board) -> Callable[..., None]:
    """The arbiter's `stop`, noted on the board before any worker is told."""

    def noted(graceful: bool = True) -> None:
        board.begin_stopping(quick=not graceful)
        stop(graceful)

    return noted


def _app_of(wsgi: Any) -> Any:
    """The app inside of any middleware: the first object on the way in that has `lifecycle`, else the outermost."""
    inner = wsgi
    for _ in range(10):
        if hasattr(inner, "lifecycle"):
            return inner
        inner = next(
            (value for name in ("app", "application", "wsgi_app") if (value := getattr(inner, name, None)) is not None),
            None,
        )
        inner = getattr(inner, "__self__", inner)  # `wsgi_app` of a Flask app is a bound method
        if inner is None:
            break
    return wsgi


def _at_import(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings without a config module. Importing this file must not fail, so a mistake is told when gunicorn starts."""
    try:
        return _settings(None, None, environ)
    except ConfigurationError as error:
        found = _settings(None, None, {})
        found["on_starting"].__self__.refused = str(error)
        return found


_found = _at_import(os.environ)
globals().update(_found)
__all__ = ["settings", *_found]
