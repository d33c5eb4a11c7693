"""When a call is tried again, as tables."""

from __future__ import annotations

import pytest

from smartclient.retry import Decision, Failure, Rules, decide, pause_before, read_retry_after

GET = Rules(retries=2, idempotent=True, replayable=True)
POST = Rules(retries=2, idempotent=False, replayable=True)
UPLOAD = Rules(retries=2, idempotent=True, replayable=False)


@pytest.mark.parametrize(
    ("rules", "outcome", "again"),
    [
        (GET, "refused", True),
        (GET, "connect-timeout", True),
        (GET, "reset", True),
        (GET, "timeout", True),
        (GET, "body", True),
        (GET, "status", True),
        (GET, "tls", False),
        (GET, "name", False),
        (GET, "cancelled", False),
        (POST, "refused", True),
        (POST, "connect-timeout", True),
        (POST, "reset", False),
        (POST, "timeout", False),
        (POST, "body", False),
        (POST, "status", False),
    ],
)
def test_what_may_have_been_executed_is_repeated_only_when_that_does_no_harm(
    rules: Rules, outcome: str, again: bool
) -> None:
    """A call that is not idempotent is repeated only when it was provably never sent; names and TLS never."""
    assert decide(rules, Failure(1, outcome), 10).again is again


@pytest.mark.parametrize(("touched", "again"), [(True, False), (False, True)])
def test_a_body_that_is_gone_is_not_sent_again(touched: bool, again: bool) -> None:
    """A one-shot body is sent again only when no byte of it was taken."""
    assert decide(UPLOAD, Failure(1, "refused", body_touched=touched), 10).again is again


def test_retries_end() -> None:
    """With two retries the third failure is final."""
    assert decide(GET, Failure(2, "reset"), 10).again
    assert decide(GET, Failure(3, "reset"), 10) == Decision(False, why="retries used up")


def test_one_layer_retries() -> None:
    """A failure that was retried further down is not retried here."""
    assert not decide(GET, Failure(1, "status", told_not_to=True), 10).again


def test_a_pause_beyond_the_deadline_is_not_begun() -> None:
    """A Retry-After that the deadline does not allow ends the call at once."""
    assert not decide(GET, Failure(1, "status", retry_after_seconds=3600), 10).again
    assert decide(GET, Failure(1, "status", retry_after_seconds=3), 10) == Decision(True, 3)


def test_pauses_are_spread_over_a_doubling_limit() -> None:
    """Full jitter: anything from nothing to 25, 50, 100 ms, never above a second."""
    assert [pause_before(Failure(number, "reset"), lambda: 1.0) for number in (1, 2, 3, 20)] == [0.025, 0.05, 0.1, 1.0]
    assert pause_before(Failure(3, "reset"), lambda: 0.0) == 0.0


def test_an_instance_that_cannot_be_reached_costs_no_pause_while_there_is_another() -> None:
    """The next instance is asked at once."""
    assert pause_before(Failure(1, "refused", elsewhere=True), lambda: 1.0) == 0.0
    assert pause_before(Failure(1, "timeout", elsewhere=True), lambda: 1.0) == 0.025


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (" 3 ", 3.0),
        ("-1", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    """Both forms of RFC 9110 are understood; anything else asks for nothing."""
    assert read_retry_after(header, now=60.0) == seconds
