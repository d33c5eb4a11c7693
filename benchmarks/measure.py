"""How every benchmark here measures: variant and reference alternate in one run, medians are compared, a ratio is told.

The machine is noisy, so no absolute figure is a claim. A benchmark is a file with `def run() -> list[Claim]`;
`python -m benchmarks` runs them all, `python -m benchmarks NAME` one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask
from werkzeug.test import EnvironBuilder


@dataclass(frozen=True)
class Claim:
    """One line of the table: what was claimed, the bar, what was measured and against what."""

    what: str
    bar: str
    measured: str
    reference: str
    holds: bool


def alternate(
    variants: Mapping[str, Callable[[], object]], *, rounds: int = 9, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """The median of `clock` differences for each variant, taken in turns so that noise hits all alike.

    One untimed round comes first. `clock` is CPU time of this process unless told otherwise.
    """
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, variant in variants.items():
            begun = clock()
            variant()
            if number:
                taken[name].append(clock() - begun)
    return {name: statistics.median(times) for name, times in taken.items()}


def requests_to(app: Flask, path: str, *, times: int = 500, **variables: str) -> Callable[[], None]:
    """A function that calls the app `times` times as a WSGI server does, past any test client; each must answer 200.

    `variables` are WSGI variables of the request: `HTTP_ACCEPT="..."`.
    """
    template = EnvironBuilder(path, environ_overrides={"REMOTE_ADDR": "127.0.0.1", **variables}).get_environ()

    def start_response(status: str, headers: Any, error: Any = None) -> Callable[[bytes], object]:
        assert status == "200 OK", status
        return lambda data: None

    def send() -> None:
        for _ in range(times):
            body = app(dict(template), start_response)
            b"".join(body)
            body.close()  # type: ignore[attr-defined]

    return send


def ratio_claim(what: str, *, most: float, ours: float, reference: float, against: str) -> Claim:
    """A claim that `ours` is at most `most` times `reference`."""
    ratio = ours / reference
    return Claim(what, f"at most {most:g}x", f"{ratio:.2f}x", against, ratio <= most)
