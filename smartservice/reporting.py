"""Error reports: what crashed, in which request, under which release; sent to Bugsnag, printed on a laptop.

A report is made in the request, holds nothing of any other request, and is redacted whole before it leaves. Sending
happens in a daemon thread behind a bounded queue with short timeouts, so a receiver that hangs costs no request
anything. What is the caller's mistake (a status below 500) is never reported. `bugsnag` is imported only when a key is
set, none of its hooks stays installed, and its global configuration is left alone.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from flask import g, has_app_context, has_request_context, request
from werkzeug.exceptions import HTTPException

from smartrealm import SmartError, current_call, on_fork
from smartrealm.redaction import Redactor
from smartservice.logs import shown_path
from smartservice.outbox import EXIT_SECONDS, Outbox

if TYPE_CHECKING:
    from smartservice.app import SmartService

Severity = Literal["info", "warning", "error"]

_NOTES = "_smartservice_report_notes"
_TRAIL_LENGTH = 25
_TIMEOUTS = (1.0, 2.0)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crumb:
    """One step on the way to an error."""

    at: datetime
    message: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """One error with what was known around it. Everything but the exception itself is redacted."""

    error: BaseException = field(repr=False)
    message: str
    severity: Severity
    unhandled: bool
    context: str | None
    """`GET /teams/<int:id>`; None outside of a request."""
    user: Mapping[str, Any]
    tabs: Mapping[str, Mapping[str, Any]]
    """Named groups of details: `app`, `request`, and those that the service adds."""
    trail: tuple[Crumb, ...] = ()

    def text(self) -> str:
        """The report as one block for people. The full traceback of a crash is in the log."""
        place = f" in {self.context}" if self.context else ""
        lines = [f"error report ({'crash' if self.unhandled else 'handled'}{place})"]
        lines.append(f"{type(self.error).__name__}: {self.message}")
        frames = traceback.extract_tb(self.error.__traceback__)[-4:]
        lines += [f"at {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        lines += [f"{crumb.at:%H:%M:%S} {crumb.message} {_pairs(crumb.data)}".rstrip() for crumb in self.trail]
        groups = {"user": self.user, **self.tabs}
        lines += [f"{name}: {_pairs(values)}" for name, values in groups.items() if values]
        return "\n  ".join(line.replace("\n", "\n    ") for line in lines) + "\n"


class Sink(Protocol):
    """Where reports go."""

    def deliver(self, report: Report) -> None:
        """Take a report. Never waits for a network."""

    def flush(self, seconds: float) -> bool:
        """Wait at most `seconds` until everything taken is away; whether it is."""

    def close(self, seconds: float) -> None:
        """Flush and end what runs for this sink."""


class MemorySink:
    """Keeps reports in a list, for tests."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def deliver(self, report: Report) -> None:
        self.reports.append(report)

    def flush(self, seconds: float) -> bool:
        return True

    def close(self, seconds: float) -> None:
        pass


class PrintedSink:
    """Prints each report in one piece, to stderr unless told otherwise."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def deliver(self, report: Report) -> None:
        (self._stream or sys.stderr).write(report.text())

    def flush(self, seconds: float) -> bool:
        return True

    def close(self, seconds: float) -> None:
        pass


class BugsnagSink:
    """Sends reports to Bugsnag, or to `endpoint`. Without a key they are dropped and bugsnag is not imported."""

    def __init__(
        self,
        api_key: Callable[[], str],
        *,
        endpoint: str = "",
        session_endpoint: str = "",
        realm: str = "",
        release: str = "",
        redactor: Redactor | None = None,
    ) -> None:
        self._api_key = api_key
        self._options: dict[str, Any] = {"release_stage": realm or None, "app_version": release or None}
        if endpoint:
            self._options |= {"endpoint": endpoint, "session_endpoint": session_endpoint or endpoint}
        self._redactor = redactor or Redactor()
        self._outbox: Outbox[tuple[str, str, str]] = Outbox(self._post, name="error reports")
        self._begin_anew()
        on_fork(self, BugsnagSink._begin_anew)

    def _begin_anew(self) -> None:
        self._client: Any = None
        self._making = threading.Lock()

    @property
    def lost(self) -> int:
        """How many reports this process has dropped or failed to send."""
        return self._outbox.lost

    def prepare(self) -> None:
        """Import bugsnag now, in a worker that starts, rather than in the first request that crashes."""
        if self._api_key():
            self._ready_client()

    def deliver(self, report: Report) -> None:
        """Queue the report; drops it when the queue is full or no key is set."""
        key = self._api_key()
        if key and self._outbox.has_room():
            # bugsnag keeps user, tabs, breadcrumbs and flags in context variables: an empty context has none of them.
            Context().run(self._notify, report, key)

    def flush(self, seconds: float) -> bool:
        return self._outbox.flush(seconds)

    def close(self, seconds: float) -> None:
        self._outbox.close(seconds)

    def _notify(self, report: Report, key: str) -> None:
        client = self._ready_client()
        for crumb in report.trail:
            client.leave_breadcrumb(crumb.message, {"at": crumb.at.isoformat(), **crumb.data})
        reason = "unhandledExceptionMiddleware" if report.unhandled else "handledException"
        client.notify(
            report.error,
            api_key=key,
            severity=report.severity,
            unhandled=report.unhandled,
            severity_reason={"type": reason, **({"attributes": {"framework": "Flask"}} if report.unhandled else {})},
            context=report.context,
            user=dict(report.user),
            metadata={name: dict(tab) for name, tab in report.tabs.items()},
        )

    def _ready_client(self) -> Any:
        with self._making:
            if self._client is None:
                bugsnag = _import_bugsnag()
                configuration = bugsnag.Configuration(logger=_logger)
                configuration.configure(
                    api_key=self._api_key(),
                    delivery=_Delivery(self._outbox),
                    auto_notify=False,
                    auto_capture_sessions=False,
                    send_code=False,  # lines of source may hold anything; the release says where to find them
                    ignore_classes=[],
                    params_filters=[],  # its filters match parts of names and skip lists; ours see the whole payload
                    enabled_breadcrumb_types=[bugsnag.BreadcrumbType.MANUAL],
                    **self._options,
                )
                self._client = bugsnag.Client(configuration, install_sys_hook=False, configure=False)
            return self._client

    def _post(self, item: tuple[str, str, str]) -> None:
        import requests
        from bugsnag.delivery import default_headers

        endpoint, key, payload = item
        document = json.loads(payload)
        document["events"] = [self._redactor.value(event) for event in document["events"]]
        response = requests.post(
            endpoint,
            data=json.dumps(document).encode(),
            headers=default_headers(key),
            timeout=_TIMEOUTS,
            allow_redirects=False,
            stream=True,  # the answer's body is of no interest, and could drip for ever
        )
        response.close()
        response.raise_for_status()


class _Delivery:
    """What bugsnag hands its payload to."""

    def __init__(self, outbox: Outbox[tuple[str, str, str]]) -> None:
        self._outbox = outbox

    def deliver(self, config: Any, payload: str, options: Mapping[str, Any]) -> None:
        key = json.loads(payload)["apiKey"]
        self._outbox.put((config.endpoint, key, payload))
        options["post_delivery_callback"]()


class Reports:
    """`app.reports`: takes the errors of one app to a sink. Never raises; safe from any thread."""

    def __init__(
        self,
        sink: Sink,
        *,
        redactor: Redactor | None = None,
        describe: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """`describe` says what is running here: service, realm, release, config version."""
        self.sink = sink
        self._redactor = redactor or Redactor()
        self._describe = describe

    def notify(
        self,
        error: BaseException,
        *,
        severity: Severity = "warning",
        user: Mapping[str, Any] | None = None,
        **context: Any,
    ) -> None:
        """Report an error that the service has handled, with any details: `notify(error, order={"id": 7})`.

        The caller's mistakes (HTTPException and SmartError below 500) are left out, and so is an exception that was
        already reported in this request.
        """
        self._take(error, severity, False, user or {}, context)

    def crashed(self, error: BaseException) -> None:
        """Report an error that nobody handled."""
        self._take(error, "error", True, {}, {})

    def note(self, *, user: Mapping[str, Any] | None = None, **context: Any) -> None:
        """Add details to whatever is reported later in this request; they end with it."""
        notes = _notes()
        if notes is not None:
            notes.user.update(user or {})
            _merge(notes.tabs, context)

    def breadcrumb(self, message: str, **data: Any) -> None:
        """Remember a step for whatever is reported later in this request: the last 25 are kept."""
        notes = _notes()
        if notes is not None:
            notes.trail.append(Crumb(datetime.now(UTC), self._redactor.text(message), self._redactor.value(data)))

    @contextmanager
    def capture(self) -> Iterator[list[Report]]:
        """Collect reports in a list instead of sending them, for tests."""
        before, memory = self.sink, MemorySink()
        self.sink = memory
        try:
            yield memory.reports
        finally:
            self.sink = before

    def prepare(self) -> None:
        """Do now what the first report would have to wait for. Call it where a worker starts."""
        if isinstance(self.sink, BugsnagSink):
            self.sink.prepare()

    def flush(self, seconds: float = EXIT_SECONDS) -> bool:
        """Wait at most `seconds` until every report is sent; whether it is."""
        return self.sink.flush(seconds)

    def close(self, seconds: float = EXIT_SECONDS) -> None:
        """Send what is queued within `seconds` and end the sender thread. Idempotent."""
        self.sink.close(seconds)

    def _take(
        self,
        error: BaseException,
        severity: Severity,
        unhandled: bool,
        user: Mapping[str, Any],
        context: Mapping[str, Any],
    ) -> None:
        try:
            if not _is_callers_mistake(error) and self._is_news(error):
                self.sink.deliver(self._make(error, severity, unhandled, user, context))
        except Exception:
            _logger.exception("the report of a %s could not be made", type(error).__name__)

    def _make(
        self,
        error: BaseException,
        severity: Severity,
        unhandled: bool,
        user: Mapping[str, Any],
        context: Mapping[str, Any],
    ) -> Report:
        notes = _notes() or _Notes()
        tabs: dict[str, dict[str, Any]] = {"app": dict(self._describe()), "request": _request_details()}
        _merge(tabs, notes.tabs)
        _merge(tabs, context)
        return Report(
            error=error,
            message=self._redactor.text(str(error)),
            severity=severity,
            unhandled=unhandled,
            context=_where(),
            user=self._redactor.value({**notes.user, **user}),
            tabs={name: self._redactor.value(tab) for name, tab in tabs.items() if tab},
            trail=tuple(notes.trail),
        )

    def _is_news(self, error: BaseException) -> bool:
        """Whether this exception was not reported yet in this request; from now on it is."""
        call = current_call()
        mark = (id(self), None if call is None else call.request_id)
        if getattr(error, "__smartservice_reported__", None) == mark:
            return False
        try:
            error.__smartservice_reported__ = mark  # type: ignore[attr-defined]
        except (AttributeError, TypeError):
            pass
        return True


def open_reports(app: SmartService) -> Reports:
    """The reports of a service: printed in the local realm, sent to Bugsnag elsewhere when a key is set."""
    settings = app.settings
    sink: Sink = PrintedSink()
    if not app.realm.is_local:
        sink = BugsnagSink(
            lambda: str(settings.snapshot["BUGSNAG_API_KEY"]),
            endpoint=app.config["BUGSNAG_ENDPOINT"],
            session_endpoint=app.config["BUGSNAG_SESSION_ENDPOINT"],
            realm=str(app.realm),
            release=app.config["RELEASE"],
            redactor=app.redactor,
        )
    about = {"service": str(app.service), "realm": str(app.realm), "release": app.config["RELEASE"]}
    return Reports(sink, redactor=app.redactor, describe=lambda: {**about, "config_version": settings.pinned().version})


@dataclass
class _Notes:
    """What a service has said during one request. It lives on `flask.g` and ends with it."""

    user: dict[str, Any] = field(default_factory=dict)
    tabs: dict[str, dict[str, Any]] = field(default_factory=dict)
    trail: deque[Crumb] = field(default_factory=lambda: deque(maxlen=_TRAIL_LENGTH))


def _notes() -> _Notes | None:
    if not has_app_context():
        return None
    notes: _Notes = g.setdefault(_NOTES, _Notes())
    return notes


def _merge(tabs: dict[str, dict[str, Any]], context: Mapping[str, Any]) -> None:
    """Mappings become tabs of their own, single values go into the tab `context`."""
    for name, value in context.items():
        if isinstance(value, Mapping):
            tabs.setdefault(name, {}).update(value)
        else:
            tabs.setdefault("context", {})[name] = value


def _is_callers_mistake(error: BaseException) -> bool:
    if isinstance(error, HTTPException):
        return error.code is None or error.code < 500
    return isinstance(error, SmartError) and error.status < 500


def _where() -> str | None:
    if not has_request_context():
        return None
    rule = request.url_rule
    return f"{request.method} {rule.rule if rule is not None else '(no route)'}"


def _request_details() -> dict[str, Any]:
    call = current_call()
    details: dict[str, Any] = {}
    if call is not None:
        details |= {"request_id": call.request_id, "caller": call.caller}
    if has_request_context():
        route = None if request.url_rule is None else request.url_rule.rule
        url = request.host_url.rstrip("/") + shown_path(request.environ.get("PATH_INFO", ""), route)
        query = request.query_string.decode("latin-1")
        details |= {
            "method": request.method,
            "url": f"{url}?{query}" if query else url,
            "headers": dict(request.headers),
        }
    return details


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def _import_bugsnag() -> Any:
    """The bugsnag module. Its import installs exception hooks for the whole process; unless the service had imported it
    before, they are taken out again."""
    was_there = "bugsnag" in sys.modules
    import bugsnag

    if not was_there:
        bugsnag.legacy.default_client.uninstall_sys_hook()  # type: ignore[no-untyped-call]
    return bugsnag
