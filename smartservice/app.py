"""The factory: `create_app` reads like a list of what a smart service has, in the order in which it acts."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from datetime import UTC, datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Flask, request

import smartconfig
from healthcheck import Engine
from smartrealm import NotConfigured, Realm, ServiceName, on_fork
from smartrealm.calling import use_caller
from smartrealm.redaction import Redactor
from smartservice import errors, health, inbound, logs, openapi
from smartservice.config import LiveConfig, Loaded, load_settings
from smartservice.jsons import SmartJSON
from smartservice.lifecycle import Lifecycle

if TYPE_CHECKING:
    from concurrent.futures import Future

    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask import Response
    from flask.ctx import RequestContext

    from smartclient import Session
    from smartclient.runtime import Mesh
    from smartservice.announcing import Announcer
    from smartservice.api import SmartApi
    from smartservice.atlas import Atlas
    from smartservice.db import Database
    from smartservice.lifecycle import Desk
    from smartservice.metrics import Metrics
    from smartservice.redis import SmartRedis
    from smartservice.registration import Registration
    from smartservice.reporting import Reports

T = TypeVar("T")


def create_app(
    config: str | ModuleType,
    *,
    source: smartconfig.Source | None = None,
    environ: Mapping[str, str] | None = None,
    **overrides: Any,
) -> SmartService:
    """Make a service from its config module: `create_app("identity.config")`.

    `overrides` are settings by name that win over every other layer (for tests: `TESTING=True`). `source` gives overrides
    at run time; without one, the file that the variable CONFIG_FILE names is watched, else the map of the realm. Nothing is connected and no thread
    is started: each part does that when it is first used, in the process that uses it.

    Raises ConfigurationError with every mistake in the settings at once.
    """
    loaded = load_settings(config, source=source, environ=environ, overrides=overrides)
    app = SmartService(loaded, import_name=config if isinstance(config, str) else config.__name__)
    use_caller(app)
    logs.install(app)
    app.before_request(inbound.refuse_expired)
    errors.install(app, report=app.report)
    app.teardown_appcontext(app.end_request)
    health.install(app)
    openapi.install(app)
    return app


class SmartService(Flask):
    """A Flask app with everything attached that a service in a fleet needs. Made by `create_app`.

    `realm`, `service`, `config`, `settings`, `db`, `redis`, `api`, `atlas`, `client`, `health`, `metrics`, `reports` and `logger` are
    reached from anywhere through `flask.current_app`. Safe to make before a fork; safe from any thread.
    """

    json_provider_class = SmartJSON

    config: LiveConfig
    clock: Callable[[], datetime] = staticmethod(lambda: datetime.now(UTC))
    """The time of day in UTC, for the service's own use: tests put a frozen one in its place."""

    def __init__(self, loaded: Loaded, *, import_name: str) -> None:
        self.settings = settings = loaded.settings
        self._atlas = loaded.atlas
        self.state_dir = loaded.state_dir
        self.sidecar_dir = loaded.sidecar_dir
        self.realm = Realm(settings.realm)
        self.service = ServiceName(settings.service)
        self.lifecycle = Lifecycle()
        self.redactor = Redactor(settings.secrets)
        self._parts: dict[str, Any] = {}
        self._making = threading.RLock()
        self._started = False
        package = import_name.rpartition(".")[0] or import_name
        super().__init__(package, root_path=None if _is_importable(package) else os.getcwd())
        self.log_fields = {"service": str(self.service), "realm": str(self.realm)}
        if self.config["RELEASE"]:
            self.log_fields["release"] = self.config["RELEASE"]
        self.health: Engine = health.make_engine(self)
        self.inbound = inbound.Inbound(self)
        on_fork(self, SmartService._begin_anew)

    @property
    def db(self) -> Database:
        """The database: `app.db.session` in a request, `with app.db.session_scope():` elsewhere.

        Raises NotConfigured when DATABASE_URL is not set.
        """
        return self._part("db", _make_db)

    @property
    def redis(self) -> SmartRedis:
        """A Redis client that gives up fast. Raises NotConfigured when REDIS_URL is not set."""
        return self._part("redis", _make_redis)

    @property
    def api(self) -> SmartApi:
        """flask-restful's Api: `app.api.add_resource(Teams, "/teams")`."""
        return self._part("api", _make_api)

    @property
    def atlas(self) -> Atlas:
        """The map of the realm: `app.atlas.world`, `app.atlas.directory`. Raises NotConfigured where there is none."""
        if self._atlas is None:
            raise NotConfigured(
                "This service has no map of its realm: set ATLAS_URL to an `atlas serve` (https://atlas.example:7000) or a "
                "store. Only in the local realm, outside of tests, there is one by itself."
            )
        return self._atlas

    @property
    def client(self) -> Session:
        """`requests` that knows the services of the realm: `app.client.get("service://identity/teams")`.

        It shares its cookies and connections with every request of this process. The verbs of the module,
        `smartclient.get(...)`, go through the same mesh.
        """
        return self._part("client", _make_client)

    @property
    def mesh(self) -> Mesh:
        """What the calls of this process share: instances, breakers, budget, connections."""
        return self._part("mesh", _make_mesh)

    @property
    def has_atlas(self) -> bool:
        """Whether there is a map: `app.atlas` can be asked."""
        return self._atlas is not None

    @property
    def metrics(self) -> Metrics | None:
        """What Prometheus reads at METRICS_PATH; None when that is empty."""
        return self._part("metrics", _make_metrics)

    @property
    def reports(self) -> Reports:
        """Where crashes are reported: `app.reports.notify(error)` for one that you handled yourself."""
        return self._part("reports", _make_reports)

    @property
    def logger(self) -> logging.Logger:
        """The service's own logger, named after its package."""
        return logging.getLogger(self.name)

    def start(self) -> None:
        """Start the threads of this process: the config watcher and the background health checks. Idempotent.

        gunicorn's hooks call it in each worker; under any other server the first request does.
        """
        with self._making:
            if self._started:
                return
            self._started = True
        self.settings.start()
        if self.config["BUGSNAG_API_KEY"]:
            self.reports.prepare()
        if not self.testing:
            self.health.start()

    def register(self, desk: Desk) -> Registration | Announcer | None:
        """Enter this instance into the map from this worker, and keep it there; gunicorn's hooks call it.

        It is announced to the sidecar of the host, where there is one, and that does the rest; without one it registers by
        itself, unless REGISTER is off. None where neither can be.
        """
        atlas = self._atlas if self.config["REGISTER"] else None
        announces = self.sidecar_dir is not None and not self.testing
        if not self.config["PORT"] or (atlas is None and not announces):
            return None
        announcer = self._announcer(desk) if announces else None
        if atlas is None:
            if announcer is not None:
                announcer.beat()
            return announcer
        from smartservice.registration import Registration, instance_of

        registration = Registration(
            atlas.directory,
            lambda: instance_of(
                self.settings.snapshot,
                service=self.service,
                incarnation=desk.incarnation,
                draining=self.lifecycle.draining,
            ),
            desk=desk,
            ttl_seconds=self.config["LEASE_SECONDS"],
            is_draining=lambda: self.lifecycle.draining,
            announcer=announcer,
            world=lambda: atlas.world,
        )
        registration.start()
        return registration

    def _announcer(self, desk: Desk) -> Announcer:
        from smartservice.announcing import Announcer, announcement_of

        assert self.sidecar_dir is not None
        return Announcer(
            self.sidecar_dir,
            lambda: announcement_of(
                self.settings.snapshot, service=self.service, desk=desk, draining=self.lifecycle.draining
            ),
            desk=desk,
        )

    def close(self) -> None:
        """End the threads, send what is queued, close the connections. Idempotent; errors are logged."""
        self.health.close()
        for part in reversed([part for part in self._parts.values() if hasattr(part, "close")]):
            try:
                part.close()
            except Exception:
                self.logger.exception("could not close %s", type(part).__name__)
        self.settings.close()
        if self._atlas is not None:
            self._atlas.close()
        self.lifecycle.close()

    def in_background(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Run `work(*args, **kwargs)` in a thread that keeps this request's id, caller, deadline and config snapshot.

        It has an app context of its own (`current_app`, `app.db.session`), closed when the work ends. What it raises is
        logged, and raised again by `Future.result()`. The thread is a daemon: a process that stops does not wait for it.
        """
        from concurrent.futures import Future

        future: Future[T] = Future()
        context = copy_context()
        thread = threading.Thread(
            target=context.run,
            args=(self._work, future, work, args, kwargs),
            name=f"{self.name}-background",
            daemon=True,
        )
        thread.start()
        return future

    def report(self, error: BaseException) -> None:
        """Hand a crash to the error reports; never raises."""
        try:
            self.reports.crashed(error)
        except Exception:
            self.logger.exception("the error report could not be made")

    def end_request(self, error: BaseException | None) -> None:
        """Give the request's database session back, whatever happened to it."""
        db = self.part("db")
        if db is not None:
            db.end_request(error)

    def log_exception(self, exc_info: Any) -> None:
        """Log a crash with its traceback; a secret part of the path is not written."""
        route = None if request.url_rule is None else request.url_rule.rule
        shown = logs.shown_path(request.environ.get("PATH_INFO", ""), route)
        self.logger.error("crash in %s %s", request.method, shown, exc_info=exc_info)

    def make_config(self, instance_relative: bool = False) -> LiveConfig:
        plain = super().make_config(instance_relative)
        return LiveConfig(plain.root_path, dict(plain), self.settings)

    def request_context(self, environ: WSGIEnvironment) -> RequestContext:
        context = super().request_context(environ)
        environ[inbound.REQUEST] = context.request
        return context

    def process_response(self, response: Response) -> Response:
        response = super().process_response(response)
        inbound.mark_stream(response, request.environ)
        return response

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self._started:
            self.start()
        return self.inbound(environ, start_response)

    def __repr__(self) -> str:
        return f"<SmartService {self.service} in realm {self.realm}, config {self.settings.snapshot.version}>"

    def part(self, name: str) -> Any:
        """One of the lazily made parts (`"db"`, `"redis"`, ...), or None while nobody has asked for it."""
        return self._parts.get(name)

    def _part(self, name: str, make: Callable[[SmartService], T]) -> T:
        try:
            return self._parts[name]  # type: ignore[no-any-return]
        except KeyError:
            pass  # and what making it raises does not happen "during handling of" this
        with self._making:
            if name not in self._parts:
                self._parts[name] = make(self)
            return self._parts[name]  # type: ignore[no-any-return]

    def _work(
        self, future: Future[T], work: Callable[..., T], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        logs.enter_app(self)
        try:
            with self.app_context():
                future.set_result(work(*args, **kwargs))
        except BaseException as error:
            self.logger.exception("background work failed: %s", getattr(work, "__qualname__", work))
            future.set_exception(error)

    def _begin_anew(self) -> None:
        self._making = threading.RLock()
        self._started = False


def _is_importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _make_db(app: SmartService) -> Database:
    from smartservice.db import open_database

    return open_database(app.settings)


def _make_redis(app: SmartService) -> SmartRedis:
    from smartservice.redis import open_redis

    return open_redis(app.settings)


def _make_api(app: SmartService) -> SmartApi:
    from smartservice.api import SmartApi

    return SmartApi(app)


def _make_mesh(app: SmartService) -> Mesh:
    from smartservice.client import open_mesh

    return open_mesh(app)


def _make_client(app: SmartService) -> Session:
    from smartservice.client import open_client

    return open_client(app)


def _make_metrics(app: SmartService) -> Metrics | None:
    return health.make_metrics(app) if app.config["METRICS_PATH"] else None


def _make_reports(app: SmartService) -> Reports:
    from smartservice.reporting import open_reports

    return open_reports(app)
