"""The attempts of one leg of a call: who takes the next one, what it carries, what is learned from how it ends."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import requests
import requests.adapters
from requests.exceptions import UnrewindableBodyError
from requests.utils import rewind_body

from smartclient import answers, runtime
from smartclient.balance import Balancer, Member
from smartclient.errors import Attempt, CallError, CallRefused, LimitReached, NoInstances
from smartclient.identity import Identity
from smartclient.peers import Peer, Route
from smartclient.prepare import path_of
from smartclient.retry import NEVER_SENT, REPEATABLE_STATUSES, Failure, Rules, read_retry_after
from smartclient.routing import VIRTUAL_SUFFIX, from_virtual
from smartclient.runtime import unknown
from smartclient.sidecar import Way
from smartclient.transport import Failed, Lease, exchange
from smartrealm import headers as words
from smartrealm.buckets import BUCKETS

if TYPE_CHECKING:
    from smartclient.calls import Call

FAILING_STATUSES = frozenset([502, 503, 504])
"""Answers that speak against the instance. 500 does not: it is a mistake in the program, the same on every instance."""

OVERLOADED = frozenset([429, 503])

OF_THE_SIDECAR = frozenset([401, 403, 404])
"""Answers that may be those of the sidecar itself; `Smart-Service` says so."""

_REFUSALS = {
    "unauthorized": "{service} was not called: the sidecar of this host asks who calls. Set SIDECAR_TOKEN to the token of "
    "{caller}, which is in the tokens file of the sidecar.",
    "refused": "{service} was not called: {caller} is not on its allow list. The operator of {service} can let it call with "
    "`atlas callers`.",
}

FAIR_SECONDS = 0.02
"""An attempt that was given less time than this says nothing about the service when the time is up."""


@dataclass(frozen=True, slots=True)
class Body:
    """What is known of the body of a request."""

    replayable: bool
    """Whether it can be sent twice: nothing, text, bytes, or a file that can be wound back."""


def body_of(request: requests.PreparedRequest) -> Body:
    """Judge the body of a request."""
    body: Any = request.body
    if body is None or isinstance(body, str | bytes | bytearray):
        return Body(True)
    return Body(isinstance(getattr(request, "_body_position", None), int) and hasattr(body, "seek"))


def failure_of(ended: requests.Response | Failed, attempts: Attempts) -> Failure | None:
    """How an attempt failed, for the decision about the next one; None when it did not."""
    if isinstance(ended, Failed):
        return Failure(
            attempts.number - attempts.detours,
            ended.outcome,
            body_touched=ended.outcome not in NEVER_SENT,
            elsewhere=attempts.elsewhere(),
        )
    if ended.status_code not in REPEATABLE_STATUSES:
        return None
    elsewhere = attempts.elsewhere()
    asked = read_retry_after(ended.headers.get(words.RETRY_AFTER), time.time())
    if ended.status_code == 503 and elsewhere:
        asked = None  # the instance spoke for itself; another one may be well
    return Failure(
        attempts.number - attempts.detours,
        "status",
        body_touched=True,
        retry_after_seconds=asked,
        told_not_to=_told_not_to(ended),
        elsewhere=elsewhere,
    )


def _told_not_to(response: requests.Response) -> bool:
    return response.headers.get(words.RETRY, "").lower() == "no"


class Attempts:
    """The attempts at one URL. `next` makes one; between two, `prepare_again` and `may_go` say whether there can be one."""

    def __init__(self, call: Call, route: Route, request: requests.PreparedRequest, rules: Rules) -> None:
        self.number = 0
        self.detours = 0
        """How many of them went to a sidecar that took no connection: they count for nothing."""
        self._call = call
        self._mesh = call.mesh
        self._peer = peer = route.peer
        self._way = route.way
        self._balancer = self._balancer_of(route, request)
        self._request = request
        self._rules = rules
        self._tried: set[str] = set()
        self._permit: str | None = None
        self._head = Identity(call, peer, request)

    def next(self) -> requests.Response:
        """The answer of the next attempt. Raises Failed, or an error of ours when none may be made."""
        hedge = self._call.hedge
        seconds = self._hedge_seconds(hedge) if hedge and self._rules.idempotent and self._rules.replayable else 0.0
        permit = self._permit or self._admit()
        self._permit = None
        if seconds:
            return _Race(self, permit, seconds).run()
        return _Runner(self, permit, self._request).run()

    def elsewhere(self) -> bool:
        """Whether another instance can be tried."""
        return self._balancer.others(self._tried)

    def goes_around(self, failed: Failed) -> bool:
        """Whether the next attempt goes directly at once: the sidecar took no connection, so nothing was sent, and there is a map.
        Raises UnknownService and NoInstances."""
        way = self._way
        if way is None or not is_refusal(failed.outcome):
            return False
        way.sidecar.refused(way)
        if not self._mesh.has_map:
            return False
        route = self._mesh.route(self._peer.name, self._call.until, detour=True)
        self._way = None
        self._tried = set()
        self._balancer = self._balancer_of(route, self._request)
        self.detours += 1
        return True

    def _balancer_of(self, route: Route, request: requests.PreparedRequest) -> Balancer:
        """Who draws the instance: that of the sidecar, or of the side of a split that this call is on."""
        peer, call = route.peer, self._call
        if route.way is not None:
            assert peer.through is not None
            return peer.through
        if not peer.sides:
            return peer.balancer
        if call.bucket is None:  # outside of any request: one for the whole call
            given = str(request.headers.get(words.BUCKET, ""))
            drawn = min(BUCKETS - 1, int(self._mesh.spread() * BUCKETS))
            call.bucket = int(given) if given.isascii() and given.isdecimal() and len(given) <= 4 else drawn
        return peer.side_of(call.bucket)

    def prepare_again(self) -> bool:
        """Wind the body back; False when that fails."""
        if self._request._body_position is None or not self._rules.replayable:  # type: ignore[attr-defined]
            return True
        try:
            rewind_body(self._request)
        except UnrewindableBodyError:
            return False
        return True

    def may_go(self) -> bool:
        """Whether breaker, limit and deadline let another attempt go."""
        if self._call.until <= self._mesh.clock():
            return False
        try:
            self._permit = self._admit()
        except CallError:
            return False
        return True

    def _admit(self) -> str:
        """Pass the breaker and take a place within the limit. Raises BreakerOpen and LimitReached."""
        peer, observer = self._peer, self._mesh.observer
        permit = peer.breaker.enter(self._mesh.clock())
        if permit is None:
            observer.refused(peer.name, "breaker")
            raise self._call.stopped(peer)
        if not peer.limit.enter():
            peer.breaker.cancel(permit)
            observer.refused(peer.name, "limit")
            raise LimitReached(
                f"{peer.name} was not called: {peer.limit.under_way} calls of this process to it are under way, and not more "
                "are allowed. See the option `limit`.",
                service=peer.name,
                attempts=tuple(self._call.attempts),
            )
        if permit == "probe":
            observer.breaker(peer.name, "half-open")
        return permit

    def _hedge_seconds(self, hedge: float | bool) -> float:
        return max(0.01, 2 * self._balancer.usual_seconds) if hedge is True else float(hedge)


class _Runner:
    """One attempt."""

    def __init__(self, attempts: Attempts, permit: str, request: requests.PreparedRequest) -> None:
        attempts.number += 1
        self.number = attempts.number
        self._attempts = attempts
        self._call = attempts._call
        self._mesh = attempts._mesh
        self._peer = attempts._peer
        self._request = request
        self._permit = permit
        self._cancelled = False
        self._way = attempts._way
        self._balancer = attempts._balancer
        self._begun = self._mesh.clock()
        self._allowed = 0.0
        self.member: Member | None = self._balancer.pick(self._begun, attempts._tried)
        if self.member is None:
            self._peer.limit.leave()
            self._peer.breaker.cancel(permit)
            raise NoInstances(
                f"{self._peer.name} has no instance that takes calls now.",
                service=self._peer.name,
                attempts=tuple(self._call.attempts),
            )
        attempts._tried.add(self.member.address)
        self._lease = Lease(self._mesh.pools, partial(_done, self._peer, self._balancer, self.member))

    def run(self) -> requests.Response:
        """The answer, its body read unless the call streams. Raises Failed, or what is wrong with the call itself."""
        assert self.member is not None
        try:
            limits = self._divide()
            self._allowed = limits[1] - self._begun
            self._attempts._head.write(self._request, self.number, limits[2] - self._begun)
            response = self._exchange(self.member, *limits)
            if self._way is not None:
                self._hear(response, self._way)
        except Failed as failed:
            self._lease.drop()
            self._ended("cancelled" if self._cancelled else failed.outcome, None, str(failed.cause))
            raise
        except BaseException as error:
            self._lease.drop()
            self._ended("error", None, type(error).__name__)
            raise
        told_not_to = response.status_code in REPEATABLE_STATUSES and _told_not_to(response)
        outcome = "status" if response.status_code in REPEATABLE_STATUSES else "ok"
        self._ended(outcome, response.status_code, "", told_not_to=told_not_to)
        if response.status_code in OF_THE_SIDECAR:
            self._refuse(response)
        return response

    def _hear(self, response: requests.Response, way: Way) -> None:
        """Note that the sidecar answers. Raises Failed when it says itself that no instance got the request."""
        way.sidecar.answered(way)
        if response.status_code == 503 and (word := response.headers.get(words.SERVICE)) in ("empty", "unreached"):
            response.close()
            raise Failed(word, OSError("said the sidecar"), sent=False)

    def _refuse(self, response: requests.Response) -> None:
        """Raise what it means when this is the word of a sidecar, and not the service's."""
        word = response.headers.get(words.SERVICE)
        if word not in ("unknown", *_REFUSALS) or (self._way is None and word != "unknown"):
            return
        response.close()
        peer, attempts = self._peer, tuple(self._call.attempts)
        if word == "unknown":
            raise unknown(peer.name, self._mesh.options.realm, peer.world or peer.world_beside)
        told = _REFUSALS[word].format(service=peer.name, caller=self._mesh.options.caller or "this process")
        raise CallRefused(told, service=peer.name, attempts=attempts, response=response)

    def cancel(self) -> None:
        """End it, from another thread: nobody waits for its answer any more."""
        self._cancelled = True
        wire = self._lease.wire
        if wire is not None:
            wire.shut()

    def _exchange(
        self, member: Member, connect_until: float, answer_until: float, body_until: float
    ) -> requests.Response:
        stand_in, lease = self._mesh.stand_in(), self._lease
        if stand_in is not None:
            return self._through(stand_in, lease)
        answer = exchange(
            self._mesh.pools,
            member.socket_address,
            self._request,
            path_of(self._request.url or ""),
            lease,
            host=self._peer.name + VIRTUAL_SUFFIX,
            connect_until=connect_until,
            answer_until=answer_until,
            body_until=body_until,
            once=not (self._attempts._rules.idempotent and self._attempts._rules.replayable),
            headers=self._attempts._head.for_way(self._request, self._way),
        )
        response = answers.make(self._request, answer, self._mesh.clock() - self._begun)
        if not self._call.stream:
            answers.read(response)
            lease.release()
        if runtime.recording is not None:
            runtime.recording(self._request, response, member.address)
        return response

    def _through(self, stand_in: Any, lease: Lease) -> requests.Response:
        try:
            response: requests.Response = stand_in(self._request, service=self._peer.name, seconds=self._allowed)
        except CallError:
            raise
        except requests.exceptions.ConnectTimeout as error:
            raise Failed("connect-timeout", error, sent=False) from error
        except requests.exceptions.Timeout as error:
            raise Failed("timeout", error, sent=True) from error
        except requests.exceptions.ChunkedEncodingError as error:
            raise Failed("body", error, sent=True) from error
        except requests.exceptions.SSLError as error:
            raise Failed("tls", error, sent=False) from error
        except requests.exceptions.ConnectionError as error:
            raise Failed("reset", error, sent=True) from error
        finally:
            lease.release()
        response.url = from_virtual(self._request.url or "")
        response.request = self._request
        return response

    def _divide(self) -> tuple[float, float, float]:
        """Until when this attempt may connect, wait for an answer, and read the body. The last is what the service is told."""
        call, options, rules, now = self._call, self._mesh.options, self._attempts._rules, self._begun
        connect, answer = split_timeout(call.timeout)
        connect_until = min(call.until, now + (options.connect_seconds if connect is None else connect))
        if answer is not None:
            return connect_until, min(call.until, now + answer), call.until
        repeatable = rules.idempotent and rules.replayable
        if repeatable and options.attempt_seconds is not None:
            answer_until = min(call.until, now + options.attempt_seconds)
        elif repeatable and self.number - self._attempts.detours <= rules.retries:
            answer_until = now + (call.until - now) / 2
        else:
            answer_until = call.until
        return connect_until, answer_until, call.until if call.stream else answer_until

    def _ended(self, outcome: str, status: int | None, reason: str, *, told_not_to: bool = False) -> None:
        """Keep, learn and tell how it ended."""
        assert self.member is not None
        mesh, peer, member = self._mesh, self._peer, self.member
        now = mesh.clock()
        seconds = now - self._begun
        attempt = Attempt(self.number, member.address, outcome, seconds, status, reason)
        self._call.attempts.append(attempt)
        mesh.observer.attempt(peer.name, attempt)
        unfair = outcome in ("timeout", "connect-timeout") and self._allowed < FAIR_SECONDS
        around = self._way is not None and is_refusal(outcome) and mesh.has_map  # says nothing about the service
        if outcome in ("cancelled", "error", "name", "empty") or unfair or told_not_to or around:
            peer.breaker.cancel(self._permit)
            if outcome == "cancelled":
                self._balancer.learn(member, False, seconds, now)
            return
        failed = status in FAILING_STATUSES if status is not None else True
        state = peer.breaker.leave(self._permit, failed, now)
        if state is not None:
            mesh.observer.breaker(peer.name, state)
        ejected = self._balancer.learn(member, failed, seconds, now)
        if ejected is not None:
            mesh.observer.ejected(peer.name, member.address, ejected)
        peer.limit.learn(outcome == "timeout" or status in OVERLOADED, now)
        if not failed and status not in REPEATABLE_STATUSES:
            peer.bucket.pay_in()


def is_refusal(outcome: str) -> bool:
    """Whether nobody took the connection, so that nothing was sent."""
    return outcome in ("refused", "connect-timeout")


def _done(peer: Peer, balancer: Balancer, member: Member) -> None:
    peer.limit.leave()
    balancer.leave(member)


def split_timeout(timeout: Any) -> tuple[float | None, float | None]:
    """The seconds for connecting and for the answer of requests' `timeout` keyword."""
    if timeout is None:
        return None, None
    if isinstance(timeout, tuple):
        connect, answer = timeout
        return connect, answer
    if hasattr(timeout, "connect_timeout"):
        return _number(timeout.connect_timeout), _number(timeout.read_timeout)
    return float(timeout), float(timeout)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


class _Race:
    """An attempt that gets a rival at another instance when it is slow. The first answer wins, the other is closed."""

    def __init__(self, attempts: Attempts, permit: str, seconds: float) -> None:
        self._attempts = attempts
        self._seconds = seconds
        self._ends: queue.SimpleQueue[tuple[_Runner, requests.Response | None, BaseException | None]] = (
            queue.SimpleQueue()
        )
        self._runners = [_Runner(attempts, permit, attempts._request)]

    def run(self) -> requests.Response:
        """The answer of whoever is first. Raises the last failure when nobody has one."""
        self._start(self._runners[0])
        try:
            ended = self._ends.get(timeout=self._seconds)
        except queue.Empty:
            self._start_rival()
            ended = self._ends.get()
        waiting = len(self._runners) - 1
        while waiting and (ended[1] is None or ended[1].status_code in REPEATABLE_STATUSES):
            ended, waiting = self._ends.get(), waiting - 1
        winner, response, error = ended
        for runner in self._runners:
            if runner is not winner:
                runner.cancel()
        if response is not None:
            return response
        assert error is not None
        raise error

    def _start_rival(self) -> None:
        attempts, peer = self._attempts, self._attempts._peer
        if not attempts.elsewhere() and len(attempts._balancer.members) > 1:
            return
        if attempts.number - attempts.detours > attempts._rules.retries or not peer.bucket.take():
            return
        try:
            rival = _Runner(attempts, attempts._admit(), attempts._request.copy())
        except CallError:
            return
        self._runners.append(rival)
        self._start(rival)

    def _start(self, runner: _Runner) -> None:
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run, runner), name="smartclient-hedge", daemon=True).start()

    def _run(self, runner: _Runner) -> None:
        try:
            response = runner.run()
        except BaseException as error:
            self._ends.put((runner, None, error))
            return
        if runner._cancelled:
            response.close()
        self._ends.put((runner, response, None))
