"""`HealthCheck` as both published libraries have it: checks with cached results behind one call or one route.

For a new service use `healthcheck.Engine`; this class is for those that have one already.
"""

from __future__ import annotations

import contextvars
import logging
import socket
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from healthcheck.flight import Flight
from healthcheck.published import (
    fits_json,
    is_app,
    name_of,
    own_app_context,
    read_arguments,
    route_options,
    serving_logger,
    write_json,
)
from healthcheck.security import safe_dict
from healthcheck.timeout import TimeoutError
from smartrealm.errors import ConfigurationError
from smartrealm.fork import on_fork
from smartrealm.redaction import redact, redact_text

logger = logging.getLogger(__name__)

Check = Callable[[], tuple[Any, Any]]
Row = dict[str, Any]

_SHARED = ("success_status", "success_headers", "success_handler", "success_ttl", "failed_status", "failed_headers")
_WITH_APP = ("app", "path", *_SHARED, "failed_handler", "failed_ttl", "exception_handler", "checkers", "log_on_failure")
_WITHOUT = (*_SHARED, "failed_handler", "failed_ttl", "error_timeout", "exception_handler", "checkers")
_JSON = {"Content-Type": "application/json"}


def basic_exception_handler(checker: Any, error: object) -> tuple[bool, str]:
    """What a check that raised counts as: failed, with the error's message as output."""
    return False, str(error)


def json_success_handler(results: list[Row], *args: Any, **sections: Any) -> str:
    """The reply when every check passed; `sections` become members of it."""
    return _reply("success", results, sections)


def json_failed_handler(results: list[Row], *args: Any, **sections: Any) -> str:
    """The reply when a check failed; `sections` become members of it."""
    return _reply("failure", results, sections)


def check_reduce(passed: Any, result: Mapping[str, Any]) -> Any:
    """One step of "did all pass"."""
    return passed and result.get("passed")


def _reply(status: str, results: list[Row], sections: Mapping[str, Any]) -> str:
    whole = {"hostname": socket.gethostname(), "status": status, "timestamp": time.time(), "results": results}
    return write_json({**whole, **sections})


class HealthCheck:
    """`HealthCheck(app, "/healthcheck", ...)` puts itself on a Flask app; `HealthCheck(...)` is run by `run()`.

    Named arguments, positional in the order of either library: success_status=200, success_headers, success_handler,
    success_ttl=27, failed_status=500, failed_headers, failed_handler, failed_ttl=9, error_timeout=0 (none),
    exception_handler, checkers, log_on_failure=True. Further keywords are options of the route where there is one, and
    sections of the reply otherwise.

    Results are kept for their ttl (seconds; None or 0: not at all). Checks that are due run in parallel, and a check
    that is running is not started again: concurrent calls wait for the same run. In a helper thread a check has a copy
    of the caller's context and a Flask app context of its own; set `in_parallel = False` for checks that cannot
    leave the caller's thread.
    """

    in_parallel = True
    wall_clock: Callable[[], float] = staticmethod(lambda: time.time())
    clock: Callable[[], float] = staticmethod(lambda: time.monotonic())

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given, further = read_arguments("HealthCheck", args, kwargs, _WITH_APP, _WITHOUT)
        self.cache: dict[Hashable, Row] = {}
        self.success_status = given.get("success_status", 200)
        self.success_headers = given.get("success_headers") or dict(_JSON)
        self.success_handler = given.get("success_handler", json_success_handler)
        self.success_ttl = float(given.get("success_ttl", 27) or 0)
        self.failed_status = given.get("failed_status", 500)
        self.failed_headers = given.get("failed_headers") or dict(_JSON)
        self.failed_handler = given.get("failed_handler", json_failed_handler)
        self.failed_ttl = float(given.get("failed_ttl", 9) or 0)
        self.error_timeout = float(given.get("error_timeout", 0) or 0)
        self.exception_handler = given.get("exception_handler", basic_exception_handler)
        self.checkers: list[Check] = given.get("checkers") or []
        self.log_on_failure = given.get("log_on_failure", True)
        self.options: dict[str, Any] = {}
        self.functions: dict[str, Any] = {}
        self._further = further
        for name, section in further.items():
            self.add_section(name, section)
        self._serves_app = False
        self._measured: dict[Hashable, float] = {}
        self._running: dict[Hashable, _Shared] = {}
        self._hanging: dict[Hashable, Flight[Any]] = {}
        self._lock = threading.Lock()
        on_fork(self, HealthCheck._begin_anew)
        if is_app(given.get("app")):
            self.init_app(given["app"], given.get("path"))

    def init_app(self, app: Any, path: str | None) -> None:
        """Answer at `path` of a Flask app or blueprint. Constructor keywords that are options of a route go to it."""
        self._serves_app = True
        if not path:
            return
        for name in route_options(app) & self._further.keys():
            self.options[name] = self._further[name]
            self.functions.pop(name, None)
        app.add_url_rule(path, view_func=self.check, **self.options)

    def add_check(self, func: Check) -> None:
        """Register a check: a function without arguments that returns (passed, output)."""
        self.checkers.append(func)

    def add_section(self, name: str, func: Any) -> None:
        """Add a member to the reply: a value, or a function that gives one. Raises when the name is taken."""
        if name in self.functions:
            raise ConfigurationError(f'The name "{name}" is already taken.')
        self.functions[name] = func

    def check(self) -> tuple[str, Any, Any]:
        """The view: runs every check that is due and gives (body, status, headers)."""
        self._serves_app = True
        return self.run()

    def run(self, check: str | None = None) -> tuple[str, Any, Any]:
        """Run every check that is due, or those of one name; gives (body, status, headers)."""
        chosen = [checker for checker in self.checkers if check is None or name_of(checker) == check]
        results = self._results(chosen)
        sections = self._sections()
        if all(result.get("passed") for result in results):
            body = self.success_handler(results, **sections) if self.success_handler else "OK"
            return body, self.success_status, self.success_headers
        body = self.failed_handler(results, **sections) if self.failed_handler else "NOT OK"
        return body, self.failed_status, self.failed_headers

    def run_check(self, checker: Check) -> Row:
        """Run one check now, past the cache; gives its row. Never raises for what the check does."""
        begun = self.clock()
        passed, output = self._ask(checker)
        elapsed = self.clock() - begun
        passed, output = self._presentable(passed, output)
        if not passed and self.log_on_failure:
            message = f'Health check "{name_of(checker)}" failed with output "{output}"'
            self._logger().error(redact_text(message))
        now = self.wall_clock()
        return {
            "checker": name_of(checker),
            "output": output,
            "passed": passed,
            "timestamp": now,
            "expires": now + (self.success_ttl if passed else self.failed_ttl),
            "response_time": round(elapsed, 6),
        }

    # -- one result ----------------------------------------------------------------------------------------------------

    def _ask(self, checker: Check) -> tuple[Any, Any]:
        try:
            passed, output = self._limited(checker) if self.error_timeout > 0 else checker()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit in a check must not end the request
            self._logger().exception(redact_text(str(error)))
            return self._excuse(checker, error)
        return passed, output

    def _excuse(self, checker: Check, error: BaseException) -> tuple[Any, Any]:
        """What the exception handler makes of an error. Handlers of the form with an app were given the error's type."""
        own = self.exception_handler is not basic_exception_handler
        try:
            passed, output = self.exception_handler(checker, type(error) if own and self._serves_app else error)
        except Exception as mistake:
            self._logger().exception("the exception handler of a health check failed")
            return False, f"the exception handler failed: {type(mistake).__name__}"
        return passed, output

    def _limited(self, checker: Check) -> Any:
        """The check in a helper thread, waited for at most `error_timeout`; not run again while it still hangs."""
        key = _key(checker)
        with self._lock:
            hanging = self._hanging.pop(key, None)
            if hanging is not None and not hanging.landed:
                self._hanging[key] = hanging
                raise TimeoutError("Timeout error! It still hangs and is not started again before it ends.")
        flight = _in_own_thread(checker).start()
        if flight.wait(self.error_timeout):
            return flight.result()
        with self._lock:
            self._hanging[key] = flight
        raise TimeoutError("Timeout error!")

    def _presentable(self, passed: Any, output: Any) -> tuple[Any, Any]:
        """Both as they may be shown. What JSON cannot hold is a failure, unless an own handler writes the reply."""
        try:
            if not isinstance(passed, bool | int | float | str | None):
                passed = bool(passed)
            handler = self.success_handler if passed else self.failed_handler
        except Exception as error:
            return False, f"the check's verdict has no truth: {type(error).__name__}"
        if fits_json(output):
            return passed, redact(output)
        if handler not in (json_success_handler, json_failed_handler):
            return passed, output
        return False, f"the check's output, a {type(output).__name__}, cannot be written as JSON"

    def _logger(self) -> logging.Logger:
        return (serving_logger() if self._serves_app else None) or logger

    # -- caching, sharing, running together ----------------------------------------------------------------------------

    def _results(self, checkers: list[Check]) -> list[Row]:
        """A row for each check; those that are due run together, the first of them in this thread."""
        once = {_key(checker): checker for checker in checkers} if self.in_parallel else {}
        due = [checker for checker in once.values() if self._cached(checker) is None]
        helpers = [(checker, _in_own_thread(lambda checker=checker: self._row(checker))) for checker in due[1:]]  # type: ignore[misc]
        flights: list[tuple[Check, Flight[Row]]] = []
        for checker, flight in helpers:
            try:
                flights.append((checker, flight.start()))
            except RuntimeError:  # no thread to be had: the check runs in this one
                break
        rows: dict[Hashable, Row] = {_key(checker): self._row(checker) for checker in due[:1]}
        for checker, flight in flights:
            flight.wait()
            try:
                rows[_key(checker)] = flight.result()
            except BaseException:  # not the check's doing (it is contained): a teardown of the app context
                self._logger().exception("the helper thread of a health check failed")
        return [rows[_key(checker)] if _key(checker) in rows else self._row(checker) for checker in checkers]

    def _cached(self, checker: Check) -> Row | None:
        """The kept result, unless it has expired. The monotonic clock decides too: setting the wall clock back keeps
        nothing alive."""
        key = _key(checker)
        row = self.cache.get(key)
        if row is None or row["expires"] < self.wall_clock():
            return None
        ttl = row["expires"] - row.get("timestamp", row["expires"])
        measured = self._measured.get(key)
        return row if measured is None or self.clock() - measured <= ttl else None

    def _row(self, checker: Check) -> Row:
        """The kept result, or that of the run on its way, or of a run begun now."""
        key = _key(checker)
        with self._lock:
            cached = self._cached(checker)
            if cached is not None:
                return cached
            shared = self._running.get(key)
            leads = shared is None
            if shared is None:
                shared = self._running[key] = _Shared()
        if not leads:
            shared.done.wait()
            return shared.row if shared.row is not None else self._row(checker)
        try:
            shared.row = self.cache[key] = self.run_check(checker)
            self._measured[key] = self.clock()
            return shared.row
        finally:
            with self._lock:
                self._running.pop(key, None)
            shared.done.set()

    def _sections(self) -> dict[str, Any]:
        """The members that sections give, without secrets. One that raises is left out, as published."""
        sections: dict[str, Any] = {}
        for name, section in tuple(self.functions.items()):
            try:
                sections[name] = section() if callable(section) else section
            except Exception:
                logger.debug("the section %s of the health check failed", name, exc_info=True)
        return safe_dict(sections)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._running, self._hanging = {}, {}


class _Shared:
    """One run of a check that several callers wait for. `row` stays None when its leader was interrupted."""

    __slots__ = ("done", "row")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.row: Row | None = None


def _in_own_thread(work: Callable[[], Any]) -> Flight[Any]:
    def fly() -> Any:
        with own_app_context():
            return work()

    return Flight(fly, name=f"healthcheck-{name_of(work)}", context=contextvars.copy_context())


def _key(checker: Any) -> Hashable:
    try:
        hash(checker)
    except TypeError:
        return ("unhashable", id(checker))
    return checker  # type: ignore[no-any-return]
