"""Until when a call may take."""

from __future__ import annotations

import time

import pytest

from smartclient.deadlines import deadline, moment_of
from smartrealm.headers import CallContext, current_call, enter_call, leave_call


def test_a_block_bounds_what_is_in_it() -> None:
    """Within the block there is a deadline, after it there is none again."""
    assert current_call() is None
    with deadline(0.5) as moment:
        context = current_call()
        assert context is not None
        assert context.deadline == moment
        assert 0.4 < moment - time.monotonic() <= 0.5
    assert current_call() is None


def test_an_inner_block_cannot_be_longer_than_the_outer_one() -> None:
    """The sooner deadline holds; request id and tags of the context stay."""
    token = enter_call(CallContext("abc", deadline=time.monotonic() + 1, tags={"tenant": "x"}))
    try:
        with deadline(60) as moment:
            context = current_call()
            assert context is not None
            assert (context.request_id, context.tags) == ("abc", {"tenant": "x"})
            assert moment < time.monotonic() + 1.1
            with deadline(0.1) as inner:
                assert inner < moment
    finally:
        leave_call(token)


def test_the_deadline_is_undone_by_an_error_too() -> None:
    """Whatever is raised within the block."""
    with pytest.raises(KeyError), deadline(1):
        raise KeyError
    assert current_call() is None


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_nonsense_is_refused(seconds: float) -> None:
    """A deadline is a number of seconds that is not negative."""
    with pytest.raises(ValueError, match="seconds from now"), deadline(seconds):
        pass
    with pytest.raises(ValueError, match="seconds from now"):
        moment_of(seconds, 10, None, 0)


def test_a_call_ends_when_the_sooner_of_its_own_and_its_contexts_deadline_comes() -> None:
    """The default counts when the call names none."""
    context = CallContext("abc", deadline=105.0)
    assert moment_of(None, 10, None, 100) == 110
    assert moment_of(2, 10, None, 100) == 102
    assert moment_of(None, 10, context, 100) == 105
    assert moment_of(2, 10, context, 100) == 102
