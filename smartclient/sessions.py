"""`requests.sessions` with a Session that also takes `service://` URLs and our keywords.

Names that are not here are read from `requests.sessions`, and names that are set here are set there (but for Session and
session): a program that patches the module patches what runs.
"""

from __future__ import annotations

import copy
import inspect
import sys
from contextvars import ContextVar
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard

import requests.sessions
from requests import PreparedRequest, Request, Response
from requests.sessions import (
    SessionRedirectMixin as SessionRedirectMixin,
    merge_hooks as merge_hooks,
    merge_setting as merge_setting,
    preferred_clock as preferred_clock,
)

from smartclient.keywords import OURS
from smartclient.routing import VIRTUAL_SUFFIX, is_service_url, service_of, to_virtual
from smartclient.signatures import TypedSession
from smartrealm.headers import current_call

if TYPE_CHECKING:
    from smartclient.runtime import Mesh
else:
    __all__ = [name for name in dir(requests.sessions) if not name.startswith("_")]

_SIGNATURE = inspect.signature(requests.Session.request)
_NAMES = tuple(_SIGNATURE.parameters)[1:]


class Session(TypedSession):
    """A requests.Session that also takes `service://` URLs and the keywords of `smartclient.keywords.CallKeywords`.

    A call with a plain URL, without our keywords and outside of any deadline is handed to requests as it came.
    `mesh` is what calls to services go through; without one it is that of the running service or of the process.
    """

    mesh: Mesh | None = None  # on the class, for subclasses that skip __init__ and for unpickled sessions

    def __init__(self, *, mesh: Mesh | None = None) -> None:
        super().__init__()
        if mesh is not None:
            self.mesh = mesh

    if not TYPE_CHECKING:  # what type checkers see is in TypedSession

        def request(self, *args, **keywords):
            """Send a request, as in requests; to a service when the URL is `service://name/path`."""
            url = args[1] if len(args) > 1 else keywords.get("url")
            if (
                OURS.isdisjoint(keywords)
                and not _deadline_in_force()
                and (_is_http(url) or not self._calls_service(url))
            ):
                return super().request(*args, **keywords)
            return self._perform(url, args, keywords)

        request.__signature__ = _SIGNATURE.replace(
            parameters=[
                *_SIGNATURE.parameters.values(),
                *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in sorted(OURS)),
            ]
        )

    def _perform(self, url: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if keywords.pop("background", False):
            from smartclient import parallel

            return parallel.start(partial(self.request, *args, **keywords))
        used = {name: keywords.pop(name) for name in OURS & keywords.keys()}
        ours = {name: value for name, value in used.items() if value is not None}
        if not ours and not _deadline_in_force() and not self._calls_service(url):
            return super().request(*args, **keywords)
        given = {**dict(zip(_NAMES, args, strict=False)), **keywords}
        fits = len(given) == len(args) + len(keywords) and {"method", "url"} <= given.keys() <= set(_NAMES)
        if not fits or (_names_service(url) and not self._calls_service(url)):
            return super().request(*args, **{**keywords, **ours})  # which says what is wrong, or has an adapter for it
        from smartclient import calls

        token = _within_call.set(True)
        try:
            return calls.perform(self, given.pop("method"), given.pop("url"), **given, **ours)
        finally:
            _within_call.reset(token)

    def _calls_service(self, url: object) -> bool:
        """Whether the URL names a service, and the program has no adapter of its own for such URLs."""
        if not _names_service(url):
            return False
        return not any(prefix.lower().startswith("service:") for prefix in self.adapters)

    def prepare_request(self, request: Request) -> PreparedRequest:
        """As in requests; a request to a service is prepared for the origin of that service, without .netrc."""
        if _is_http(request.url) or not self._calls_service(request.url):
            return super().prepare_request(request)
        virtual = copy.copy(request)
        virtual.url = to_virtual(_text(request.url))
        if not request.auth and not self.auth:
            virtual.auth = _nobody
        return super().prepare_request(virtual)

    def send(self, request: PreparedRequest, **keywords: Any) -> Response:
        """As in requests; a request that was prepared for a service goes to that service.

        Our keywords are taken here too, and a deadline that is in force bounds it.
        """
        url = getattr(request, "url", None)
        is_plain = _is_http(url) and VIRTUAL_SUFFIX not in url
        if is_plain and OURS.isdisjoint(keywords) and not _deadline_nobody_keeps():
            return super().send(request, **keywords)
        if not isinstance(request, PreparedRequest) or not (is_plain or self._is_for_service(request)):
            return super().send(request, **keywords)  # which says why not
        if keywords.pop("background", False):
            from smartclient import parallel

            return parallel.start(partial(self.send, request, **keywords))  # type: ignore[return-value]
        from smartclient import calls

        token = _within_call.set(True)
        try:
            return calls.perform_prepared(self, request, **keywords)
        finally:
            _within_call.reset(token)

    def _is_for_service(self, request: object) -> bool:
        """Whether this was prepared for a service, and not by a redirect from outside."""
        url = getattr(request, "url", None)
        if not isinstance(url, str) or not (service_of(url) or self._calls_service(url)):
            return False
        return not hasattr(request, _OUTSIDE)

    def rebuild_method(self, prepared_request: PreparedRequest, response: Response) -> None:
        """As in requests; and mark a redirect by which the world outside points at a service: it is not followed there.

        requests calls this for each redirect before it sends or hands out the next request.
        """
        target, origin = prepared_request.url or "", response.url or ""
        if (_names_service(target) or service_of(target)) and not (_names_service(origin) or service_of(origin)):
            setattr(prepared_request, _OUTSIDE, True)
        super().rebuild_method(prepared_request, response)


_OUTSIDE = "_smartclient_redirected_from_outside"


def session() -> Session:
    """A Session, as `requests.session()`."""
    return Session()


def _names_service(url: object) -> bool:
    if isinstance(url, str | bytes):
        return is_service_url(url)
    return url is not None and is_service_url(str(url))


def _text(url: object) -> str:
    return url.decode("utf-8") if isinstance(url, bytes) else str(url)


def _is_http(url: object) -> TypeGuard[str]:
    """Whether this is certainly no service URL: the quick answer for nearly every call."""
    return type(url) is str and url[:4] == "http"


def _deadline_in_force() -> bool:
    context = current_call()
    return context is not None and context.deadline is not None


_within_call: ContextVar[bool] = ContextVar("smartclient_within_call", default=False)
"""Whether a call of ours is being made, whose redirects come to `send` again: that one keeps the time."""


def _deadline_nobody_keeps() -> bool:
    return _deadline_in_force() and not _within_call.get()


def _nobody(prepared: PreparedRequest) -> PreparedRequest:
    """Authentication that adds nothing: keeps requests from looking the host up in .netrc."""
    return prepared


class _Forwarding(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(requests.sessions, name)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name not in ("Session", "session") and hasattr(requests.sessions, name):
            setattr(requests.sessions, name, value)


sys.modules[__name__].__class__ = _Forwarding
