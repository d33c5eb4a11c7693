"""Promises of calls side by side: futures, gather, the pool."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from typing import Any

import pytest

from smartclient import parallel
from smartclient.errors import DeadlineExceeded
from smartclient.parallel import Pool, gather, start
from smartrealm import CallContext, current_call
from smartrealm.errors import Unavailable
from smartrealm.headers import enter_call, leave_call

_colour: ContextVar[str] = ContextVar("colour", default="none")


def after(event: threading.Event, result: Any) -> Callable[[], Any]:
    """A call that answers when the event is set."""

    def call() -> Any:
        assert event.wait(30)
        return result

    return call


def background_wait(event: threading.Event, done: threading.Semaphore | None = None) -> Callable[[], None]:
    """Work for the pool that lasts until the event is set."""

    def work() -> None:
        assert event.wait(30)
        if done is not None:
            done.release()

    return work


def failing(error: BaseException) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


def test_a_background_call_gives_a_future() -> None:
    """The future has the result, or the exception, of the call."""
    assert start(lambda: 7).result(5) == 7
    with pytest.raises(KeyError):
        start(failing(KeyError("x"))).result(5)
    assert isinstance(start(int), Future)


def test_a_background_call_has_the_context_of_its_caller() -> None:
    """Request id, deadline and every other context variable are there, and what the call sets stays with it."""
    token = enter_call(CallContext("request-1", deadline=time.monotonic() + 9))
    kept = _colour.set("red")
    try:
        future = start(lambda: (current_call(), _colour.get(), _colour.set("blue")))
        call, colour, _ = future.result(5)
    finally:
        leave_call(token)
    assert call is not None
    assert (call.request_id, colour, _colour.get()) == ("request-1", "red", "red")
    _colour.reset(kept)


def test_a_future_can_be_awaited() -> None:
    """`await` gives the result without holding the loop up."""

    async def main() -> list[Any]:
        return [await start(lambda: 1), await start(lambda: 2)]

    assert asyncio.run(main()) == [1, 2]


def test_gather_keeps_the_order() -> None:
    """Results stand where their calls stood, whichever came first."""
    late = threading.Event()
    future = start(after(late, "third"))
    results = gather([after(late, "first"), lambda: late.set() or "second", future])  # type: ignore[func-returns-value]
    assert results == ["first", "second", "third"]
    assert (len(results), results[1], gather([])) == (3, "second", [])


def test_gather_makes_at_most_so_many_calls_at_a_time() -> None:
    """Never more than `limit` of them are under way."""
    under_way, most, lock = 0, 0, threading.Lock()

    def call() -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.002)
        with lock:
            under_way -= 1

    gather([call] * 40, limit=4)
    assert most == 4
    with pytest.raises(ValueError, match="at least one"):
        gather([call], limit=0)


def test_the_first_failure_ends_gather() -> None:
    """It is raised at once, and what has not begun is not begun."""
    begun: list[int] = []
    never = threading.Event()
    calls = [failing(KeyError("broken")), *(lambda number=number: begun.append(number) for number in range(50))]
    with pytest.raises(KeyError, match="broken"):
        gather(calls, limit=1)
    assert begun == []
    started = time.monotonic()
    with pytest.raises(KeyError):
        gather([after(never, None), failing(KeyError("broken"))])
    assert time.monotonic() - started < 20
    never.set()


def test_failures_in_the_places_of_results() -> None:
    """With return_exceptions everything is called and nothing is raised."""
    broken = KeyError("broken")
    assert gather([lambda: 1, failing(broken), lambda: 3], return_exceptions=True) == [1, broken, 3]


def test_calls_share_one_deadline() -> None:
    """Each call sees the same moment at which it must end, or the caller's own when that is earlier."""
    begun = time.monotonic()
    calls = gather([current_call] * 3, deadline=5)
    assert len({call.deadline for call in calls}) == 1
    assert 4.9 < calls[0].deadline - begun < 10
    token = enter_call(CallContext("r", deadline=begun + 1))
    try:
        assert {(call.request_id, call.deadline) for call in gather([current_call] * 3, deadline=5)} == {
            ("r", begun + 1)
        }
    finally:
        leave_call(token)


def test_gather_ends_at_its_deadline_whatever_a_call_does() -> None:
    """A call that knows of no deadline is left behind; the answers that came are kept with return_exceptions."""
    never = threading.Event()
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="1 of 2 calls"):
        gather([after(never, None), lambda: 1], deadline=0.05)
    results = gather([after(never, None), lambda: 1], deadline=0.05, return_exceptions=True)
    assert time.monotonic() - begun < 20
    assert isinstance(results[0], DeadlineExceeded)
    assert results[1] == 1
    never.set()


def test_gather_can_be_awaited() -> None:
    """In a coroutine it gives way to others, and its results are refused until it was awaited."""
    go = threading.Event()

    async def release() -> None:
        go.set()

    async def main() -> Any:
        gathered = gather([after(go, 1), lambda: 2])
        with pytest.raises(RuntimeError, match="must be awaited"):
            list(gathered)
        results, _ = await asyncio.gather(gathered, release())
        with pytest.raises(DeadlineExceeded):
            await gather([after(threading.Event(), 1)], deadline=0.01)
        return results

    assert asyncio.run(main()) == [1, 2]


def test_a_cancelled_task_begins_nothing_more() -> None:
    """When the coroutine is cancelled, the calls that wait are not made."""
    first, go, made = threading.Event(), threading.Event(), list[int]()

    def begin() -> None:
        first.set()
        assert go.wait(30)

    async def main() -> None:
        calls = [begin, *(lambda number=number: made.append(number) for number in range(20))]
        task = asyncio.ensure_future(gather(calls, limit=1))
        await asyncio.get_running_loop().run_in_executor(None, first.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()

    asyncio.run(main())
    time.sleep(0.02)
    assert made == []


def test_a_future_that_waits_can_be_cancelled() -> None:
    """A call that has not begun is never made."""
    pool, go, made = Pool(most=1), threading.Event(), list[int]()
    future = parallel.CallFuture(lambda: made.append(1))
    pool.submit(background_wait(go))
    pool.submit(future.run)
    assert future.cancel()
    go.set()
    with pytest.raises(CancelledError):
        future.result(1)
    assert made == []


def test_calls_within_calls_never_stand_still() -> None:
    """More nested gathers and futures than the pool has threads come to their end: who waits in the pool helps."""

    def nested(depth: int) -> int:
        if not depth:
            return 1
        inner: list[int] = gather([lambda: nested(depth - 1)] * 3)
        return sum(inner) + start(lambda: 1).result()

    kept, parallel._pool = parallel._pool, Pool(most=2)
    try:
        assert start(lambda: nested(3)).result(5) == 40
    finally:
        parallel._pool = kept


def test_the_pool_grows_as_needed_and_shrinks_when_idle() -> None:
    """Threads are started for calls that find none free, up to the bound, and end when there is nothing to do."""
    pool, go, done = Pool(most=3, idle_seconds=0.01), threading.Event(), threading.Semaphore(0)
    assert pool.threads == 0
    for _ in range(5):
        pool.submit(background_wait(go, done))
    assert pool.threads == 3
    go.set()
    for _ in range(5):
        assert done.acquire(timeout=5)
    end = time.monotonic() + 5
    while pool.threads and time.monotonic() < end:
        time.sleep(0.005)
    assert pool.threads == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own() -> None:
    """It calls with new threads, and is told that a call of its parent will not come."""
    go = threading.Event()
    future = start(after(go, 1))
    assert gather([lambda: 1] * 5) == [1] * 5
    end = time.monotonic() + 5
    while not parallel._pool.idle and time.monotonic() < end:
        time.sleep(0.001)
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        try:
            right = start(lambda: 2).result(3) == 2 and gather([lambda: 2] * 5) == [2] * 5
            try:
                future.result(1)
            except Unavailable:
                os._exit(0 if right else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    go.set()
    assert future.result(5) == 1


def test_what_is_no_call_is_refused() -> None:
    """The error says what gather takes."""
    with pytest.raises(TypeError, match="method, url"):
        gather(["http://host/"])  # type: ignore[list-item]


def test_a_result_is_not_kept_by_the_pool() -> None:
    """Once nobody holds a future, its result is free, though the thread waits for more work."""

    class Big:
        pass

    import weakref

    future = start(Big)
    seen = weakref.ref(future.result(5))
    del future
    end = time.monotonic() + 2
    while seen() is not None and time.monotonic() < end:
        gc.collect()
        time.sleep(0.005)
    assert seen() is None
