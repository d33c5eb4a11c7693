"""One logical call: its deadline, its attempts, its redirects, and what is given back in the end.

`perform` is what every verb comes to for a `service://` URL. A call is made of legs (one, and one more for each redirect),
a leg of attempts (`smartclient/attempts.py`), and `smartclient/retry.py` decides between two attempts.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin

import requests
from requests.cookies import extract_cookies_to_jar
from requests.hooks import dispatch_hook
from requests.utils import requote_uri, rewind_body

from smartclient import answers, plain, runtime
from smartclient.attempts import Attempts, body_of, failure_of
from smartclient.deadlines import moment_of
from smartclient.errors import (
    Attempt,
    AttemptTimedOut,
    BodyBroken,
    BreakerOpen,
    CallError,
    ConnectionFailed,
    ConnectTimedOut,
    DeadlineExceeded,
    NoInstances,
)
from smartclient.peers import Peer, Route
from smartclient.prepare import prepare
from smartclient.retry import IDEMPOTENT, REPEATABLE_STATUSES, Rules, decide
from smartclient.routing import SCHEME, from_virtual, is_service_url, service_of, to_virtual
from smartclient.runtime import Mesh
from smartclient.transport import Failed
from smartrealm import headers as words
from smartrealm.headers import current_call, new_request_id
from smartrealm.redaction import is_secret_name

_ERRORS: dict[str, type[CallError]] = {
    "connect-timeout": ConnectTimedOut,
    "timeout": AttemptTimedOut,
    "body": BodyBroken,
    "empty": NoInstances,
}
_TOLD = {
    "refused": "the connection was refused",
    "connect-timeout": "no connection came about in time",
    "name": "the name of its host is not known",
    "reset": "the connection ended before an answer",
    "timeout": "it did not answer in time",
    "body": "its answer broke off",
    "empty": "the sidecar says that no instance of it takes calls now",
    "unreached": "the sidecar could reach no instance of it",
}


def perform(
    session: requests.Session,
    method: str,
    url: Any,
    *,
    deadline: float | None = None,
    retries: int | None = None,
    idempotency_key: str | bool | None = None,
    fallback: Any = None,
    hedge: float | bool | None = None,
    stream: bool | None = None,
    timeout: Any = None,
    allow_redirects: bool = True,
    verify: Any = None,
    cert: Any = None,
    proxies: Any = None,
    **parts: Any,
) -> requests.Response:
    """Call a service and give its answer, or raise; both carry `attempts`.

    `parts` are the keywords of requests that make the request. `timeout` bounds each attempt, `deadline` the whole call.
    A plain URL is requests' own call under the deadline.
    """
    text = url.decode("utf-8") if isinstance(url, bytes) else str(url)
    if not is_service_url(text):
        keywords = {"stream": stream, "timeout": timeout, "allow_redirects": allow_redirects, "verify": verify}
        keywords |= {"cert": cert, "proxies": proxies, **parts}
        given = plain.Ours(deadline, retries, idempotency_key, fallback, hedge)
        return plain.perform(session, method, text, given, keywords)
    request = prepare(session, method, text, **parts)
    call = Call(
        session, text, deadline, retries, idempotency_key, hedge, bool(session.stream if stream is None else stream)
    )
    call.timeout = timeout
    return call.finish(request, allow_redirects, fallback)


def perform_prepared(
    session: requests.Session,
    request: requests.PreparedRequest,
    *,
    deadline: float | None = None,
    retries: int | None = None,
    idempotency_key: str | bool | None = None,
    fallback: Any = None,
    hedge: float | bool | None = None,
    stream: bool | None = None,
    timeout: Any = None,
    allow_redirects: bool = True,
    **keywords: Any,
) -> requests.Response:
    """`Session.send` of a request that was prepared for a service; of any other, requests' own under the deadline."""
    url = request.url or ""
    if not is_service_url(url) and service_of(url) is None:
        keywords |= {"stream": stream, "timeout": timeout, "allow_redirects": allow_redirects}
        given = plain.Ours(deadline, retries, idempotency_key, fallback, hedge)
        return plain.perform_prepared(session, request, given, keywords)
    request = request.copy()
    if is_service_url(url):
        request.prepare_url(to_virtual(url), None)
    call = Call(
        session,
        from_virtual(url),
        deadline,
        retries,
        idempotency_key,
        hedge,
        bool(session.stream if stream is None else stream),
    )
    call.timeout = timeout
    return call.finish(request, allow_redirects, fallback)


class Call:
    """One logical call, from its first attempt to its last byte."""

    def __init__(
        self,
        session: requests.Session,
        url: str,
        deadline: float | None,
        retries: int | None,
        idempotency_key: str | bool | None,
        hedge: float | bool | None,
        stream: bool,
    ) -> None:
        self.session = session
        self.mesh: Mesh = getattr(session, "mesh", None) or runtime.current()
        self.url = url
        self.context = current_call()
        self.begun = self.mesh.clock()
        self.deadline = deadline
        self.until = moment_of(deadline, self.mesh.options.deadline_seconds, self.context, self.begun)
        self.retries = retries
        self.idempotency_key = new_request_id() if idempotency_key is True else idempotency_key or None
        self.hedge = hedge
        self.stream = stream
        self.timeout: Any = None
        self.traced_by_caller = False
        self.attempts: list[Attempt] = []
        self._peer_is_first = True
        context = self.context
        self.request_id = new_request_id() if context is None else context.request_id
        self.bucket = None if context is None else context.bucket
        parent = None if context is None else context.traceparent
        self.trace = (new_request_id(), "01") if parent is None else (parent[3:35], parent[53:55])

    # -- the whole call ------------------------------------------------------------------------------------------------

    def finish(self, request: requests.PreparedRequest, allow_redirects: bool, fallback: Any) -> requests.Response:
        """Make the call and give its answer; `fallback` stands in for a final failure."""
        service = service_of(request.url or "") or ""
        self.traced_by_caller = words.TRACEPARENT in request.headers
        observer, method = self.mesh.observer, request.method or ""
        try:
            if self.idempotency_key is not None:
                request.headers[words.IDEMPOTENCY_KEY] = self.idempotency_key
            response = self._follow(request, allow_redirects)
        except requests.exceptions.RequestException as error:
            if isinstance(error, CallError):
                error.request = error.request or request
            error.attempts = tuple(self.attempts)  # type: ignore[attr-defined]
            outcome = "fallback" if fallback is not None else getattr(error, "code", type(error).__name__)
            observer.call(service, method, outcome, self.mesh.clock() - self.begun, len(self.attempts))
            if fallback is None:
                self._failed_for_good(service)
                raise
            return self._fall_back(fallback, error)
        failed = response.status_code in REPEATABLE_STATUSES or response.status_code >= 500
        outcome = "failed" if failed else "ok"
        if fallback is not None and response.status_code in REPEATABLE_STATUSES:
            outcome = "fallback"
        observer.call(service, method, outcome, self.mesh.clock() - self.begun, len(self.attempts))
        if outcome == "fallback":
            response.close()
            return self._fall_back(
                fallback, requests.exceptions.HTTPError(f"{response.status_code}", response=response)
            )
        if response.status_code in REPEATABLE_STATUSES:
            self._failed_for_good(service)
        return answers.with_attempts(response, self.attempts)

    def _failed_for_good(self, service: str) -> None:
        """Note it in the request that is being served: whoever sent that is told not to repeat it."""
        if self.context is not None:
            self.context.failed_calls.append(service)

    def _fall_back(self, fallback: Any, error: Exception) -> requests.Response:
        return answers.with_attempts(answers.from_fallback(fallback, error, self.url), self.attempts)

    def _follow(self, request: requests.PreparedRequest, allow_redirects: bool) -> requests.Response:
        """The call with its redirects, which stay within the service unless they name another one or leave the mesh."""
        history: list[requests.Response] = []
        while True:
            response = self._leg(request)
            if "set-cookie" in response.headers:
                extract_cookies_to_jar(self.session.cookies, request, response.raw)  # type: ignore[no-untyped-call]
            target = self.session.get_redirect_target(response)
            if not target:
                response.history = list(history)
                return response
            following = self._redirected(request, response, target)
            if not allow_redirects:
                response._next = following  # type: ignore[attr-defined]
                response.history = list(history)
                return response
            if len(history) >= self.session.max_redirects:
                raise requests.exceptions.TooManyRedirects(
                    f"Exceeded {self.session.max_redirects} redirects.", response=response
                )
            self._discard(response)
            response.history = list(history)
            history.append(response)
            if service_of(following.url or "") is None:
                return self._leave_mesh(following, history)
            request = following

    def _redirected(
        self, request: requests.PreparedRequest, response: requests.Response, target: str
    ) -> requests.PreparedRequest:
        """The request that a redirect asks for. To another service or out of the mesh nothing secret goes along."""
        following = request.copy()
        here = request.url or ""
        if target.startswith("//"):
            target = f"http:{target}"
        if is_service_url(target):
            target = to_virtual(target)
        elif (instance := self.attempts[-1].instance if self.attempts else "") and target.startswith(
            f"http://{instance}/"
        ):
            target = target[len(f"http://{instance}") :]  # the instance spoke of itself by its own address
        try:
            url = requote_uri(urljoin(here, target))
        except ValueError as error:
            raise requests.exceptions.InvalidURL(
                f"The answer redirects to no URL: {error}.", response=response
            ) from error
        fragment = here.partition("#")[2]
        following.url = url if "#" in url or not fragment else f"{url}#{fragment}"
        self.session.rebuild_method(following, response)
        gone = ["Cookie"]
        if response.status_code not in (307, 308):
            gone += ["Content-Length", "Content-Type", "Transfer-Encoding"]
            following.body = None
        stays = service_of(following.url) == service_of(here)
        if not stays:
            gone += ["Host", words.IDEMPOTENCY_KEY, *_OUR_HEADERS, *filter(is_secret_name, following.headers)]
        for name in gone:
            following.headers.pop(name, None)
        if stays or service_of(following.url) is not None:
            following.prepare_cookies(self.session.cookies)
        body: Any = following.body
        if body is not None:
            if not body_of(following).replayable:
                raise requests.exceptions.UnrewindableBodyError(
                    "A redirect asks for the body once more, and it can be read only once.", response=response
                )
            if not isinstance(body, str | bytes):
                rewind_body(following)
        return following

    def _leave_mesh(self, request: requests.PreparedRequest, history: list[requests.Response]) -> requests.Response:
        given = plain.Ours(self.left(), None, None, None, None)
        response = plain.perform_prepared(
            self.session, request, given, {"stream": self.stream, "timeout": self.timeout}
        )
        response.history = [*history, *response.history]
        return response

    def _discard(self, response: requests.Response) -> None:
        """Read what little a redirect says, so that its connection can be used again."""
        try:
            response.content  # noqa: B018
        except (requests.exceptions.RequestException, OSError, RuntimeError):
            response.raw.read(decode_content=False)
        response.close()

    # -- one leg -------------------------------------------------------------------------------------------------------

    def left(self) -> float:
        """Seconds until the deadline. Raises DeadlineExceeded when there are none."""
        seconds = self.until - self.mesh.clock()
        if seconds <= 0:
            raise self.too_late()
        return seconds

    def too_late(self) -> DeadlineExceeded:
        """The error for a call whose time is used up."""
        service = self.url[len(SCHEME) :].partition("/")[0].partition("?")[0]
        given = self.until - self.begun
        told = f"; tried: {'; '.join(map(str, self.attempts))}" if self.attempts else "; nothing was sent"
        return DeadlineExceeded(
            f"The deadline of {max(given, 0):.3g} s for the call to {service} passed{told}.",
            service=service,
            attempts=tuple(self.attempts),
        )

    def _leg(self, request: requests.PreparedRequest) -> requests.Response:
        """Attempts at one URL until one succeeds or no further one is allowed; its hooks are run."""
        name = service_of(request.url or "") or ""
        if self.until <= self.mesh.clock():
            self.mesh.observer.refused(name, "deadline")
            raise self.too_late()
        route = self.mesh.route(name, self.until)
        peer = route.peer
        if self._peer_is_first:
            self._peer_is_first = False
            if self.deadline is None and peer.service is not None:
                self.until = moment_of(None, peer.service.timeout_seconds, self.context, self.begun)
        response = self._try(route, request)
        response.connection = _Again(self, request)  # type: ignore[assignment]
        if request.hooks.get("response"):
            response = dispatch_hook("response", request.hooks, response, stream=self.stream, timeout=self.timeout)  # type: ignore[no-untyped-call]
        return response

    def _rules(self, peer: Peer, request: requests.PreparedRequest) -> Rules:
        wanted = self.mesh.options.retries if self.retries is None else self.retries
        if peer.service is not None and peer.service.retry_class == "none":
            wanted = 0
        idempotent = (request.method or "") in IDEMPOTENT or words.IDEMPOTENCY_KEY in request.headers
        return Rules(wanted, idempotent, body_of(request).replayable)

    def _try(self, route: Route, request: requests.PreparedRequest) -> requests.Response:
        mesh, peer = self.mesh, route.peer
        rules = self._rules(peer, request)
        attempts = Attempts(self, route, request, rules)
        while True:
            response: requests.Response | None = None
            failed: Failed | None = None
            try:
                response = attempts.next()
                failure = failure_of(response, attempts)
                if failure is None:
                    return response
            except Failed as error:
                failed = error
                if attempts.goes_around(error):
                    continue
                failure = failure_of(error, attempts)
                assert failure is not None
            decision = decide(rules, failure, self.until - mesh.clock(), spread=mesh.spread)
            if decision.again and not peer.bucket.take():
                mesh.observer.refused(peer.name, "budget")
            elif decision.again and attempts.prepare_again():
                if response is not None:
                    response.close()
                if decision.pause:
                    mesh.sleep(decision.pause)
                if attempts.may_go():
                    continue
            if response is not None:
                return response
            assert failed is not None
            raise self._error(peer, failed)

    def _error(self, peer: Peer, failed: Failed) -> Exception:
        if failed.outcome == "error":
            return failed.cause if isinstance(failed.cause, Exception) else failed
        if self.until <= self.mesh.clock():
            return self.too_late()
        kind = _ERRORS.get(failed.outcome, ConnectionFailed)
        count = len(self.attempts)
        error = kind(
            f"{peer.name} could not be called: {_TOLD.get(failed.outcome, failed.outcome)} "
            f"({count} attempt{'s' * (count != 1)}: {'; '.join(map(str, self.attempts))}).",
            service=peer.name,
            attempts=tuple(self.attempts),
        )
        error.__cause__ = failed.cause
        return error

    def stopped(self, peer: Peer) -> BreakerOpen:
        """The error for a call that the breaker does not let through."""
        seconds = peer.breaker.seconds_left(self.mesh.clock())
        return BreakerOpen(
            f"{peer.name} was not called: most calls of the last seconds failed. It is tried again in {seconds:.1f} s.",
            service=peer.name,
            attempts=tuple(self.attempts),
            retry_after_seconds=max(1, round(seconds)),
        )


_OUR_HEADERS = (
    words.REQUEST_ID,
    words.CALLER,
    words.DEADLINE,
    words.TRACEPARENT,
    words.TRACESTATE,
    words.DEBUG,
    words.SERVICE,
    words.ATTEMPT,
    words.BAGGAGE,
    words.BUCKET,
    words.SIDECAR_TOKEN,
)


class _Again:
    """The `connection` of a response, through which authentication handlers send a request once more."""

    def __init__(self, call: Call, request: requests.PreparedRequest) -> None:
        self._call = call

    def send(self, request: requests.PreparedRequest, **keywords: Any) -> requests.Response:
        """One more leg of the same call, under the same deadline."""
        hooks, request.hooks = request.hooks, {"response": []}
        try:
            return self._call._leg(request)
        finally:
            request.hooks = hooks

    def close(self) -> None:
        """Nothing is held."""


__all__ = ["Call", "perform", "perform_prepared"]
