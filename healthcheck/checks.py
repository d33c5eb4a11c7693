"""Ready-made checks: `engine.add("database", checks.database(lambda: app.db.engine))`.

Each takes what it needs as a function, so that nothing is reached before the check runs, and imports its library no
earlier. All of them ask something outside this process: the group "live" refuses them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from healthcheck.model import Result
from smartrealm.redaction import redact_url

Check = Callable[[], Result]


def _dependency(check: Check) -> Check:
    check.dependency = True  # type: ignore[attr-defined]
    return check


def database(get_engine: Callable[[], Any]) -> Check:
    """`SELECT 1` over the app's own SQLAlchemy pool.

    An exhausted pool is a warning, not a failure: it says that this process is busy, not that the database is gone, and
    taking every busy instance out of service would drop the load on the others.
    """

    def check() -> Result:
        from sqlalchemy.exc import TimeoutError as PoolTimeout

        engine = get_engine()
        if _exhausted(engine.pool):
            return Result("warn", "every connection of the pool is in use")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
        except PoolTimeout:
            return Result("warn", "every connection of the pool is in use")
        return Result("pass")

    return _dependency(check)


def _exhausted(pool: Any) -> bool:
    """Whether a checkout would have to wait. Pools without a limit, or of a kind that does not tell, never are."""
    limit = getattr(pool, "_max_overflow", None)
    if not isinstance(limit, int) or limit < 0:
        return False
    try:
        return bool(pool.checkedout() >= pool.size() + limit)
    except (AttributeError, TypeError):
        return False


def redis(get_client: Callable[[], Any]) -> Check:
    """PING over the app's own redis client. An exhausted pool is a warning, as with `database`."""

    def check() -> Result:
        try:
            get_client().ping()
        except Exception as error:
            if type(error).__name__ == "MaxConnectionsError":
                return Result("warn", "every connection of the pool is in use")
            raise
        return Result("pass")

    return _dependency(check)


def disk(path: str | Path, min_free_ratio: float = 0.05, min_free_bytes: int = 0) -> Check:
    """Fails when less than `min_free_ratio` or `min_free_bytes` of the file system of `path` is free; warns below twice."""

    def check() -> Result:
        usage = shutil.disk_usage(path)
        needed = max(usage.total * min_free_ratio, min_free_bytes)
        free = round(usage.free / usage.total, 4) if usage.total else 0.0
        status = "fail" if usage.free < needed else "warn" if usage.free < 2 * needed else "pass"
        return Result(status, f"{free:.1%} free ({usage.free // 1_000_000} MB) at {path}", free, "ratio")  # type: ignore[arg-type]

    return _dependency(check)


def http(url: str, timeout: float = 1.5) -> Check:
    """GET `url`; passes below status 400. Follows no redirect, uses no proxy and no `.netrc`, reads no body.

    `timeout` (seconds) is for each socket operation; keep it below the check's own timeout, which bounds the whole.
    """

    def check() -> Result:
        import requests

        with requests.Session() as session:
            session.trust_env = False
            try:
                with session.get(url, timeout=timeout, stream=True, allow_redirects=False) as response:
                    status = response.status_code
            except requests.RequestException as error:
                return Result("fail", f"{redact_url(url)}: {type(error).__name__}")
        return Result("pass" if status < 400 else "fail", f"{redact_url(url)}: {status}")

    return _dependency(check)


def config(get_status: Callable[[], Any]) -> Check:
    """Warns when the source of settings is stale, missing or refused, and when a changed setting waits for a restart.

    Never fails: the last good snapshot serves on. `get_status()` gives what `smartconfig.Settings.status` is: `state`,
    `version`, `age_seconds`, `mistakes` and `pending`.
    """

    def check() -> Result:
        status = get_status()
        told: dict[str, Any] = {"state": str(status.state), "version": str(status.version)}
        if status.age_seconds is not None:
            told["age_seconds"] = round(status.age_seconds, 1)
        if status.mistakes:
            told["mistakes"] = [str(mistake) for mistake in status.mistakes]
        if status.pending:
            told["waiting_for_restart"] = sorted(str(key) for key in status.pending)
        in_order = status.state in ("none", "fresh") and not status.mistakes and not status.pending
        return Result("pass" if in_order else "warn", told)

    return _dependency(check)
