"""Calls side by side: `background=True` on every verb, and `gather`.

One pool of daemon threads for each process, made when it is first needed: threads come as they are wanted, up to a
bound, and go when they are idle. Every call takes the context of its caller along: request id, deadline, tags, config.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, wait as wait_for
from contextvars import Context, copy_context
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from smartclient.errors import DeadlineExceeded
from smartrealm import CallContext, current_call, on_fork
from smartrealm.errors import Overloaded, Unavailable
from smartrealm.headers import enter_call, new_request_id

T = TypeVar("T")

MOST_THREADS = 256
MOST_WAITING = 10_000
_IDLE_SECONDS = 10.0
_GRACE_SECONDS = 0.02
"""How much longer than its deadline `gather` waits, so that a call can say itself what it has tried."""

Call: TypeAlias = Callable[[], Any] | tuple[str, str] | tuple[str, str, Mapping[str, Any]] | Future[Any]


def start(call: Callable[[], T]) -> CallFuture[T]:
    """Run `call` in the pool, in a copy of this context; gives a future at once, which may be awaited too.

    Raises Overloaded while too many calls wait for a thread.
    """
    future = CallFuture(call)
    _pool.submit(future.run)
    return future


def gather(
    calls: Iterable[Call],
    *,
    deadline: float | None = None,
    limit: int = 50,
    return_exceptions: bool = False,
) -> Gathered:
    """Make many calls, `limit` of them at a time, and give their results in the order of `calls`.

    A call is a function without arguments, `(method, url)` or `(method, url, keywords)` of a request, or a future that
    `background=True` gave. `deadline` is seconds for all of them together. The first failure is raised at once and what
    has not begun is not begun; `return_exceptions=True` puts failures in the places of results instead.

    In a coroutine: `await gather(...)`. Everywhere else it waits itself.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}: at least one call at a time is needed")
    until = None if deadline is None else time.monotonic() + deadline
    call = current_call()
    if call is not None and call.deadline is not None:
        until = call.deadline if until is None else min(until, call.deadline)
    run = _Run(list(calls), until if deadline is not None else None, limit, return_exceptions)
    gathered = Gathered(run, until)
    run.begin()
    if not _in_event_loop():
        gathered._wait()
    return gathered


class CallFuture(Future[T]):
    """A `concurrent.futures.Future` that can be awaited. Whoever waits for it in the pool runs it when nobody else does."""

    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__()
        self._call: Callable[[], T] | None = call
        self._context: Context | None = copy_context()
        self._claim = threading.Lock()
        self._pid = os.getpid()

    def run(self) -> None:
        """Do the call, unless somebody else does it already or it was cancelled."""
        if not self._claim.acquire(blocking=False):
            return
        call, context = self._call, self._context
        self._call = self._context = None
        if call is None or context is None or not self.set_running_or_notify_cancel():
            return
        try:
            result = context.run(call)
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(result)

    def result(self, timeout: float | None = None) -> T:
        self._prepare_to_wait()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._prepare_to_wait()
        return super().exception(timeout)

    def __await__(self) -> Generator[Any, None, T]:
        self._prepare_to_wait()
        return asyncio.wrap_future(self).__await__()

    def _prepare_to_wait(self) -> None:
        if self._pid != os.getpid() and not self.done():
            raise Unavailable("This call was begun before the fork, in another process: make it again in this one.")
        if _pool.is_inside():  # all threads may be waiting like this one: the pool must not stand still
            self.run()


class Gathered(list[Any]):
    """What `gather` gives: the results in order. In a coroutine they are there once it was awaited."""

    def __init__(self, run: _Run, until: float | None) -> None:
        super().__init__()
        self._run: _Run | None = run
        self._until = until

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self._awaited().__await__()

    def __iter__(self) -> Any:
        self._must_be_there()
        return super().__iter__()

    def __len__(self) -> int:
        self._must_be_there()
        return super().__len__()

    def __getitem__(self, index: Any) -> Any:
        self._must_be_there()
        return super().__getitem__(index)

    def __eq__(self, other: object) -> bool:
        self._must_be_there()
        return super().__eq__(other)

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)  # asyncio.gather keeps what it awaits in a dictionary

    def __repr__(self) -> str:
        return "<Gathered, not awaited yet>" if self._run is not None else super().__repr__()

    def _must_be_there(self) -> None:
        if self._run is not None:
            raise RuntimeError("in a coroutine, gather must be awaited: results = await smartclient.gather(...)")

    def _wait(self) -> None:
        assert self._run is not None
        run, self._run = self._run, None
        try:
            if _pool.is_inside():
                run.help()
            done, _ = wait_for([run.whole], self._seconds())
            self.extend(run.whole.result() if done else run.give_up())
        finally:
            run.cancel()

    async def _awaited(self) -> list[Any]:
        if self._run is None:
            return self
        run = self._run
        whole = asyncio.wrap_future(run.whole)
        try:
            done, _ = await asyncio.wait([whole], timeout=self._seconds())
            results = whole.result() if done else run.give_up()
        finally:
            run.cancel()
            whole.cancel()
        self._run = None
        self.extend(results)
        return self

    def _seconds(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - time.monotonic()) + _GRACE_SECONDS


class _Run:
    """One gather under way: what is still to be called, taken by a few lanes, and what has come of the rest."""

    def __init__(self, calls: Sequence[Call], until: float | None, limit: int, return_exceptions: bool) -> None:
        self.whole: Future[list[Any]] = Future()
        self._results: list[Any] = [_MISSING] * len(calls)
        self._open = len(calls)
        self._lock = threading.Lock()
        self._return_exceptions = return_exceptions
        self._given = [(place, call) for place, call in enumerate(calls) if isinstance(call, Future)]
        self._pending = deque(
            (place, _function_of(call), _context(until))
            for place, call in enumerate(calls)
            if not isinstance(call, Future)
        )
        self._lanes = min(limit, len(self._pending))

    def begin(self) -> None:
        if not self._open:
            self.whole.set_result([])
        for place, future in self._given:
            future.add_done_callback(lambda done, place=place: self._take(place, done))  # type: ignore[misc]
        try:
            for _ in range(self._lanes):
                _pool.submit(self.lane)
        except Overloaded:
            self.cancel()
            raise

    def lane(self) -> None:
        """Make one call after another until none is left."""
        while True:
            try:
                place, function, context = self._pending.popleft()
            except IndexError:
                return
            try:
                result = context.run(function)
            except BaseException as error:
                self._failed(place, error)
            else:
                self._came(place, result)

    def help(self) -> None:
        """The same in a thread that waits for it, also for what was given as futures."""
        self.lane()
        for _, future in self._given:
            if isinstance(future, CallFuture):
                future.run()

    def cancel(self) -> None:
        """Begin nothing more; what has begun ends by itself, within its deadline."""
        self._pending.clear()

    def give_up(self) -> list[Any]:
        """The time is over: the results that are there, or the error that says how many are missing."""
        self.cancel()
        for _, future in self._given:
            future.cancel()
        with self._lock:
            results = list(self._results)
        missing = sum(result is _MISSING for result in results)
        error = DeadlineExceeded(f"The deadline of gather passed with {missing} of {len(results)} calls unanswered.")
        if not self._return_exceptions:
            raise error
        return [error if result is _MISSING else result for result in results]

    def _take(self, place: int, future: Future[Any]) -> None:
        try:
            result = future.result()
        except BaseException as error:
            self._failed(place, error)
        else:
            self._came(place, result)

    def _failed(self, place: int, error: BaseException) -> None:
        if self._return_exceptions:
            self._came(place, error)
            return
        self.cancel()
        try:
            self.whole.set_exception(error)
        except InvalidStateError:
            pass  # it failed before, or nobody waits any more

    def _came(self, place: int, result: Any) -> None:
        with self._lock:
            self._results[place] = result
            self._open -= 1
            if self._open:
                return
        try:
            self.whole.set_result(self._results)
        except InvalidStateError:
            pass


class _Missing:
    __slots__ = ()


_MISSING = _Missing()


def _function_of(call: Any) -> Callable[[], Any]:
    if callable(call):
        return call  # type: ignore[no-any-return]
    if not isinstance(call, tuple) or not 2 <= len(call) <= 3:
        raise TypeError(
            f"gather takes functions, futures and (method, url) or (method, url, keywords), not {type(call).__name__}"
        )
    method, url = call[0], call[1]
    keywords = dict(call[2]) if len(call) == 3 else {}
    keywords.pop("background", None)

    def request() -> Any:
        import smartclient

        return smartclient.request(method, url, **keywords)

    return request


def _context(until: float | None) -> Context:
    """A copy of this context, in which every call ends by `until`."""
    context = copy_context()
    if until is not None:
        context.run(_bound, until)
    return context


def _bound(until: float) -> None:
    enter_call(replace(current_call() or CallContext(new_request_id()), deadline=until))


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Pool:
    """Daemon threads that run what is submitted. A child process begins with none and with nothing waiting."""

    def __init__(self, most: int = MOST_THREADS, *, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._most = most
        self._idle_seconds = idle_seconds
        self._begin_anew()
        on_fork(self, Pool._begin_anew)

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work`, which raises nothing, in a thread as soon as one is free."""
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                raise Overloaded(f"{MOST_WAITING} calls wait for a thread already: make fewer at a time.")
            self._waiting.append(work)
            if self.idle >= len(self._waiting):
                self._changed.notify()
                return
            if self.threads >= self._most:
                return
            self.threads += 1
        try:
            threading.Thread(target=self._work, name="smartclient-call", daemon=True).start()
        except RuntimeError as error:  # the system has no more threads, or the interpreter is ending
            self._could_not_start(work, error)

    def is_inside(self) -> bool:
        """Whether this is a thread of the pool."""
        return getattr(self._here, "inside", False)

    def _could_not_start(self, work: Callable[[], None], error: RuntimeError) -> None:
        with self._changed:
            self.threads -= 1
            if self.threads:
                return  # one of those will come to it
            if work in self._waiting:
                self._waiting.remove(work)
        raise Overloaded("No thread can be started for this call.") from error

    def _work(self) -> None:
        self._here.inside = True
        while True:
            with self._changed:
                while not self._waiting:
                    self.idle += 1
                    woken = self._changed.wait(self._idle_seconds)
                    self.idle -= 1
                    if not woken and not self._waiting:
                        self.threads -= 1
                        return
                work = self._waiting.popleft()
            work()
            del work

    def _begin_anew(self) -> None:
        self.threads = 0
        self.idle = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._here = threading.local()


_pool = Pool()
