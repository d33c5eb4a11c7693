"""What a check says, what a row shows and what a report concludes. Values only: nothing here runs anything."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Status = Literal["pass", "warn", "fail"]
STATUSES: frozenset[str] = frozenset(get_args(Status))

_LONGEST_OUTPUT = 8_000


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of a check found. `output` is anything JSON can hold; `value` and `unit` are what was measured."""

    status: Status
    output: Any = None
    value: float | str | None = None
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One check in a report. Times are Unix seconds, for display.

    `status` is what counts, after hysteresis; `observed` is what the latest run found. `time` is None before the first
    result, `hanging_since` is set while a run that missed its timeout still has not come back.
    """

    name: str
    status: Status
    observed: Status
    output: Any
    critical: bool
    groups: tuple[str, ...]
    time: float | None
    expires: float | None
    seconds: float
    since: float | None
    hanging_since: float | None = None
    value: float | str | None = None
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of a check's status. `before` is None for a first result."""

    name: str
    before: Status | None
    after: Status
    output: Any
    time: float


@dataclass(frozen=True, slots=True)
class Report:
    """What is known about a group. `group` is None for all of them; `reasons` is what closed gates say.

    `time` (Unix seconds) is when the report was put together; a cached report keeps it.
    """

    group: str | None
    status: Status
    rows: tuple[Row, ...]
    reasons: tuple[str, ...]
    time: float


def conclude(rows: Sequence[Row], reasons: Sequence[str]) -> Status:
    """fail for a closed gate or a failed critical row; warn when anything else is short of pass; else pass."""
    if reasons or any(row.critical and row.status == "fail" for row in rows):
        return "fail"
    return "pass" if all(row.status == "pass" for row in rows) else "warn"


def read_result(value: Any, redact: Callable[[Any], Any]) -> Result:
    """The result in what a check returned: a Result, `(ok, output)`, a bool, or None for "it did not raise".

    `ok` is truth or a status word. Anything else, and output that JSON cannot hold, is a failure that says so.
    """
    if isinstance(value, Result):
        return _checked(value, redact)
    if value is None or isinstance(value, bool):
        return Result("fail" if value is False else "pass")
    if isinstance(value, tuple) and len(value) == 2:
        ok, output = value
        if isinstance(ok, str):
            return _checked(Result(ok, output), redact)  # type: ignore[arg-type]
        return _checked(Result("pass" if ok else "fail", output), redact)
    if inspect.iscoroutine(value):
        value.close()
        return Result("fail", "the check is a coroutine function; a check is a plain function")
    return Result(
        "fail", f"the check returned {_kind(value)}; a check returns (ok, output), a bool, None or a healthcheck.Result"
    )


def read_error(error: BaseException, redact: Callable[[Any], Any]) -> Result:
    """The failure that an exception stands for: its type and the first line of its message."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:
        lines = []
    return Result("fail", redact(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__))


def _checked(result: Result, redact: Callable[[Any], Any]) -> Result:
    if result.status not in STATUSES:
        return Result("fail", f"the check says {_kind(result.status)} instead of pass, warn or fail")
    try:
        json.dumps([result.output, result.value, result.unit], allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return Result("fail", f"the check's output, {_kind(result.output)}, cannot be written as JSON")
    output = redact(result.output)
    text = output if isinstance(output, str) else json.dumps(output)
    if len(text) > _LONGEST_OUTPUT:
        output = f"{text[:_LONGEST_OUTPUT]}... ({len(text)} characters)"
    return Result(result.status, output, result.value, result.unit)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
