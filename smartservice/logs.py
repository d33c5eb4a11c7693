"""Logging: one handler per process, JSON lines for machines, readable lines for people, secrets masked in both.

Everything that goes through `logging` comes out the same way: the service's own lines, gunicorn's, werkzeug's and
warnings'. Each line names the service, the realm, the request and the config version. A line is always one line: control
characters are escaped, so nobody can forge a second one.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
import weakref
from contextvars import ContextVar
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quote
from typing import TYPE_CHECKING, Any, TextIO

from flask import current_app, has_app_context

from smartrealm import current_call, redact, redact_text
from smartrealm.redaction import is_secret_name

if TYPE_CHECKING:
    from smartservice.app import SmartService

ACCESS = logging.getLogger("smartservice.access")
"""The logger of the access lines: one for each request, written when its answer is complete."""

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
_IN_ACCESS_MESSAGE = ("method", "path", "status")
_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85, 0x2028, 0x2029)}
_ESCAPES.update({10: "\\n", 13: "\\r", 9: "\\t", 27: "\\e"})
_serving: ContextVar[SmartService] = ContextVar("smartservice.logs.serving")


def enter_app(app: SmartService) -> None:
    """Name the app that serves in this execution context: its lines are its own before and after Flask's context too."""
    _serving.set(app)


class LineHandler(logging.Handler):
    """Writes each record as one line to standard error, as it is at that moment. One for each process."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = logging.INFO
        self._app: weakref.ref[SmartService] | None = None

    def serve(self, app: SmartService, threshold: int, formatter: logging.Formatter) -> None:
        """Name the app whose lines these are when a record is written outside of any request."""
        self._app = weakref.ref(app)
        self.threshold = threshold
        self.setFormatter(formatter)

    def app(self) -> SmartService | None:
        """The app that the present line belongs to: the current one, the one that serves, or else the last that was made."""
        if has_app_context():
            app = current_app._get_current_object()  # type: ignore[attr-defined]
            if hasattr(app, "redactor"):
                return app  # type: ignore[no-any-return]
        serving = _serving.get(None)
        if serving is not None:
            return serving
        return self._app() if self._app is not None else None

    def filter(self, record: logging.LogRecord) -> bool:  # type: ignore[override, unused-ignore]  # 3.12 widened it
        if record.levelno < self.threshold:
            call = current_call()
            if call is None or not call.debug:
                return False
        if record.name == "werkzeug" and isinstance(record.msg, str) and " - - [" in record.msg[:64]:
            return False  # the development server's own access line: ours says more
        return bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:
            line = self.format(_malformed(record, error))
        try:
            self.write(line)
        except Exception:
            self.handleError(record)

    def write(self, line: str) -> None:
        """Write one finished line at once."""
        stream: TextIO = sys.stderr
        stream.write(line + "\n")
        stream.flush()


def _malformed(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """What is logged instead of a line that cannot be put together: where it is. Its arguments may hold anything."""
    said = f"a log line cannot be written ({type(error).__name__}): {record.pathname}:{record.lineno}"
    return logging.LogRecord(record.name, logging.ERROR, record.pathname, record.lineno, said, None, None)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; `extra=` fields become members of it."""

    def __init__(self, handler: LineHandler) -> None:
        super().__init__()
        self._handler = handler

    def format(self, record: logging.LogRecord) -> str:
        app = self._handler.app()
        known = app.settings.secrets() if app is not None else ()
        line: dict[str, Any] = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact_text(record.getMessage(), known),
        }
        line.update(context_fields(app))
        for name, value in record.__dict__.items():
            if name not in _STANDARD and name not in line:
                line[name] = redact({name: value}, known)[name]
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = redact_text(exception_text(record), known)
        if record.stack_info:
            line["stack"] = redact_text(record.stack_info, known)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """A readable line: time, level, logger, message, fields; a traceback follows it, indented."""

    def __init__(self, handler: LineHandler, *, colour: bool) -> None:
        super().__init__()
        self._handler = handler
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        app = self._handler.app()
        known = app.settings.secrets() if app is not None else ()
        call = current_call()
        message = redact_text(record.getMessage(), known).translate(_ESCAPES)
        said = _IN_ACCESS_MESSAGE if record.name == ACCESS.name else ()
        fields = {name: value for name, value in record.__dict__.items() if name not in _STANDARD and name not in said}
        if call is not None:
            fields["request_id"] = call.request_id
        clean = redact(fields, known)
        tail = "".join(
            f"  {self._paint('2', name + '=')}{str(value).translate(_ESCAPES)}" for name, value in clean.items()
        )
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = self._paint(_COLOURS.get(record.levelname, "0"), f"{record.levelname:<8}")
        line = f"{clock}.{int(record.msecs):03d} {level} {self._paint('36', record.name)}  {message}{tail}"
        if record.exc_info and record.exc_info[0] is not None:
            trace = redact_text(exception_text(record), known)
            line += "".join(f"\n    {part.translate(_ESCAPES)}" for part in trace.split("\n"))
        return line

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def context_fields(app: SmartService | None) -> dict[str, str]:
    """What each line says of where it comes from: service, realm, release, config version, request, caller."""
    fields: dict[str, str] = {}
    if app is not None:
        fields.update(app.log_fields)
        fields["config_version"] = app.settings.pinned().version
    call = current_call()
    if call is not None:
        fields["request_id"] = call.request_id
        if call.caller is not None:
            fields["caller"] = call.caller
        if call.traceparent is not None:
            fields["trace_id"] = call.traceparent[3:35]
    return fields


def exception_text(record: logging.LogRecord) -> str:
    """The traceback of a record as text, without the newline at its end."""
    assert record.exc_info is not None
    return "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")


_second: tuple[int, str] = (0, "")


def rfc3339(moment: float) -> str:
    """A wall-clock time as RFC 3339 in UTC with milliseconds: `2026-01-31T23:59:59.123Z`."""
    global _second
    whole = int(moment)
    known, text = _second
    if known != whole:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _second = (whole, text)
    return f"{text}.{int((moment - whole) * 1000):03d}Z"


class AccessLog:
    """One line for each request. The line is put together here, by hand, since it is the most frequent of all."""

    def __init__(self, app: SmartService) -> None:
        self._settings = app.settings
        self._start = "".join(f', "{name}": {json.dumps(value)}' for name, value in app.log_fields.items())

    def write(self, method: str, path: str, route: str | None, status: int, seconds: float, remote: str | None) -> None:
        """Log one answered request; at level `warning` when its status is 500 or more."""
        level = logging.WARNING if status >= 500 else logging.INFO
        if not ACCESS.isEnabledFor(level):
            return
        if not method.isalpha() or not method.isascii():
            method = "?"
        path = shown_path(path, route)
        handler = _only_handler()
        if handler is not None and isinstance(handler.formatter, JsonFormatter):
            if level >= handler.threshold or _is_debug():
                handler.acquire()
                try:
                    handler.write(self._line(level, method, path, route, status, seconds, remote))
                except (OSError, ValueError):
                    pass  # a full disk below the log, a closed stream: the answer must not be lost for it
                finally:
                    handler.release()
            return
        ACCESS.log(
            level,
            "%s %s %d",
            method,
            path,
            status,
            extra={
                "method": method,
                "path": path,
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 3),
                "remote": remote,
            },
        )

    def _line(
        self, level: int, method: str, path: str, route: str | None, status: int, seconds: float, remote: str | None
    ) -> str:
        call = current_call()
        quoted = quote(path)
        more = ""
        if call is not None:
            more = f', "request_id": "{call.request_id}"'
            if call.caller is not None:
                more += f', "caller": "{call.caller}"'
            if call.traceparent is not None:
                more += f', "trace_id": "{call.traceparent[3:35]}"'
        return (
            f'{{"time": "{rfc3339(time.time())}", "level": "{"warning" if level > logging.INFO else "info"}", '
            f'"logger": "smartservice.access", "message": "{method} {quoted[1:-1]} {status}"{self._start}, '
            f'"config_version": {json.dumps(self._settings.pinned().version)}{more}, "method": "{method}", '
            f'"path": {quoted}, "route": {"null" if route is None else quote(route)}, "status": {status}, '
            f'"duration_ms": {seconds * 1000:.3f}, "remote": {"null" if remote is None else quote(remote)}}}'
        )


def shown_path(path: str, route: str | None) -> str:
    """The path of a request as it may be written down: its route where a part of it is secret, as in `/reset/<token>`."""
    if route is not None and _has_secret(route):
        return route
    if not path.isascii():  # WSGI hands over bytes as latin-1 (PEP 3333)
        path = path.encode("latin-1", "replace").decode("utf-8", "replace")
    return redact_text(path)


@lru_cache(maxsize=1024)
def _has_secret(route: str) -> bool:
    """Whether a part of the path is a secret by its name in the route."""
    return any(is_secret_name(part.strip("<>").rpartition(":")[2]) for part in route.split("/") if part.startswith("<"))


def _only_handler() -> LineHandler | None:
    """The process's own handler when nobody else listens to access lines."""
    if ACCESS.handlers or ACCESS.filters or not ACCESS.propagate:
        return None
    parent = ACCESS.parent
    handlers = logging.root.handlers
    if parent is not None and parent is not logging.root and (parent.handlers or not parent.propagate):
        return None
    return handlers[0] if len(handlers) == 1 and isinstance(handlers[0], LineHandler) else None


def _is_debug() -> bool:
    call = current_call()
    return call is not None and call.debug


class DebugGate:
    """Lets debug lines through while at least one request that may write them is being served.

    The level of the root logger and of the app's logger is lowered for that while; the handler drops the debug lines of
    every other request. Safe from any thread.
    """

    def __init__(self, *loggers: logging.Logger) -> None:
        self._loggers = loggers
        self._levels: list[int] = []
        self._open = 0
        self._lock = threading.Lock()

    def __enter__(self) -> DebugGate:
        with self._lock:
            self._open += 1
            if self._open == 1:
                self._levels = [logger.level for logger in self._loggers]
                for logger in self._loggers:
                    logger.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0:
                for logger, level in zip(self._loggers, self._levels, strict=True):
                    logger.setLevel(level)


def install(app: SmartService) -> None:
    """Send everything that is logged in this process through one handler. Called again, it changes that handler."""
    level = logging.getLevelNamesMapping()[app.config["LOG_LEVEL"]]
    handler = next((known for known in logging.root.handlers if isinstance(known, LineHandler)), None) or LineHandler()
    handler.serve(app, level, formatter(handler, app.config["LOG_FORMAT"]))
    if handler not in logging.root.handlers:
        logging.root.addHandler(handler)
    logging.root.setLevel(level)
    app.logger.setLevel(level)
    if not app.testing:
        logging.captureWarnings(True)

    def follow(_old: object, new: Any) -> None:
        changed = logging.getLevelNamesMapping()[new["LOG_LEVEL"]]
        handler.threshold = changed
        logging.root.setLevel(changed)
        app.logger.setLevel(changed)

    app.settings.on_change(["LOG_LEVEL"], follow)


def formatter(handler: LineHandler, wanted: str = "auto") -> logging.Formatter:
    """The formatter for LOG_FORMAT: `auto` is text in a terminal and JSON elsewhere."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if wanted == "text" or (wanted == "auto" and terminal):
        return TextFormatter(handler, colour=terminal and not os.environ.get("NO_COLOR"))
    return JsonFormatter(handler)
