"""`safe_dict` and `timeout`: the two helpers that py-healthcheck publishes as modules."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from healthcheck.security import safe_dict
from healthcheck.timeout import TimeoutError, timeout
from tests.unit.healthcheck.tools import hanging, in_threads

M = "********"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, {}),
        (
            {"password": "x", "api_key": "x", "token": "x", "key": "x"},
            {"password": M, "api_key": M, "token": M, "key": M},
        ),
        ({"MONKEY": "banana", "PRIMARY_KEY": "id"}, {"MONKEY": "banana", "PRIMARY_KEY": "id"}),
        ({"a": {"b": {"passwd": "x", "c": 1}}}, {"a": {"b": {"passwd": M, "c": 1}}}),
        ({"credentials": {"db": "x", "deep": {"y": 5}}}, {"credentials": {"db": M, "deep": {"y": M}}}),
        ({"servers": [{"password": "x"}, "y"]}, {"servers": [{"password": M}, "y"]}),
        ({"url": "redis://:hunter22@r/0"}, {"url": "redis://:********@r/0"}),
        ({1: "one", b"token": "x"}, {1: "one", b"token": M}),
        ({"name": "DB_PASSWORD", "value": "x"}, {"name": "DB_PASSWORD", "value": M}),
        (
            {"a": {"b": {"c": {"d": {"e": {"f": {"password": "x"}}}}}}},
            {"a": {"b": {"c": {"d": {"e": {"f": {"password": M}}}}}}},
        ),
    ],
)
def test_secrets_are_masked_and_the_shape_stays(given: dict[Any, Any], shown: dict[Any, Any]) -> None:
    """By name, by shape, at any depth, inside lists; harmless names stay readable."""
    assert safe_dict(given) == shown


def test_the_callers_own_list_is_followed() -> None:
    """With a blacklist exactly the names that contain one of its words are masked."""
    given = {"MONKEY": "x", "password": "y", "in": {"donkey": "z"}}
    assert safe_dict(given, ("key",)) == {"MONKEY": M, "password": "y", "in": {"donkey": M}}
    assert safe_dict(given, blacklist=[]) == given


def test_the_callers_own_depth_is_followed() -> None:
    """With max_deep, mappings below that depth come back as they are."""
    given = {"token": "x", "in": {"token": "x"}}
    assert safe_dict(given, max_deep=1) == {"token": M, "in": {"token": "x"}}
    assert safe_dict(given, ("token",), 0) == given


def test_a_call_in_time_is_the_plain_call() -> None:
    """Arguments, result, exceptions and the name are the function's own."""

    @timeout(5)
    def add(a: int, *, b: int) -> int:
        if b < 0:
            raise ValueError("negative")
        return a + b

    assert (add(1, b=2), add.__name__) == (3, "add")
    with pytest.raises(ValueError, match="negative"):
        add(1, b=-1)


def test_a_call_that_takes_too_long_raises() -> None:
    """In any thread, with the message given; further calls raise at once while it hangs."""
    with hanging() as check:
        limited = timeout(0.05, "too slow")(check)

        def call() -> str:
            with pytest.raises(TimeoutError) as raised:
                limited()
            return str(raised.value)

        assert in_threads(1, call) == ["too slow"]
        before = threading.active_count()
        assert call() == "too slow"
        assert (check.runs, threading.active_count()) == (1, before)
        check.hangs = False
        check.let_go.set()
        for _ in range(1000):
            if threading.active_count() < before:
                break
            threading.Event().wait(0.005)
        assert limited().status == "pass"


def test_the_timeout_error_is_no_builtin() -> None:
    """Services catch it as healthcheck.timeout.TimeoutError, an Exception of its own."""
    assert TimeoutError.__mro__[1] is Exception
