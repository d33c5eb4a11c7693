"""Makes the request of a call to a service: what `Session.prepare_request` makes, for a fraction of the work.

The usual call has no cookies, no authentication, no parameters; each of those is left to requests itself where it occurs. The
environment is not looked at: proxies, certificates and .netrc are for the world outside.
"""

from __future__ import annotations

import http.cookiejar
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import requests
from requests.cookies import RequestsCookieJar, cookiejar_from_dict, merge_cookies
from requests.sessions import merge_hooks, merge_setting
from requests.structures import CaseInsensitiveDict
from requests.utils import check_header_validity, to_native_string

from smartclient.routing import VIRTUAL_SUFFIX, to_virtual


@lru_cache(maxsize=2048)
def parse(url: str) -> str:
    """The virtual URL, quoted as requests quotes it."""
    return _quoted(to_virtual(url), None)


def path_of(url: str) -> str:
    """What stands in the first line of a request for a virtual URL: path and query."""
    rest = url[url.index(VIRTUAL_SUFFIX) + len(VIRTUAL_SUFFIX) :].partition("#")[0]
    return rest if rest.startswith("/") else f"/{rest}"


def prepare(
    session: requests.Session,
    method: str,
    url: str,
    *,
    params: Any = None,
    data: Any = None,
    headers: Mapping[str, Any] | None = None,
    cookies: Any = None,
    files: Any = None,
    auth: Any = None,
    hooks: Any = None,
    json: Any = None,
) -> requests.PreparedRequest:
    """The prepared request for a `service://` URL, with everything that the session adds to it."""
    prepared = requests.PreparedRequest()
    prepared.method = to_native_string(method.upper())  # type: ignore[no-untyped-call]
    parameters = merge_setting(params, session.params) if params and session.params else params or session.params  # type: ignore[no-untyped-call]
    prepared.url = _quoted(to_virtual(url), parameters) if parameters else parse(url)
    prepared.headers = _headers(session.headers, headers)
    _add_cookies(prepared, session.cookies, cookies)
    if data or files or json is not None:
        prepared.prepare_body(data, files, json)
    elif prepared.method not in ("GET", "HEAD"):
        prepared.prepare_content_length(None)
    auth = auth or session.auth
    if auth or hooks:
        _allow_resending(prepared)
    if auth:
        prepared.prepare_auth(auth, prepared.url)
    if hooks or session.hooks.get("response"):
        prepared.prepare_hooks(merge_hooks(hooks or {}, session.hooks))  # type: ignore[no-untyped-call]
    return prepared


def _allow_resending(prepared: Any) -> None:
    """Whoever sends it again, as HTTPDigestAuth does, adds new cookies to those that are kept here."""
    prepared._cookies = prepared._cookies or RequestsCookieJar()


def _quoted(url: str, params: Any) -> str:
    made = requests.PreparedRequest()
    made.prepare_url(url, params)
    assert made.url is not None
    return made.url


def _headers(of_session: Any, given: Mapping[str, Any] | None) -> CaseInsensitiveDict[Any]:
    headers: CaseInsensitiveDict[Any] = CaseInsensitiveDict(of_session or {})
    for name, value in (given or {}).items():
        if value is None:
            headers.pop(name, None)
        else:
            check_header_validity((name, value))
            headers[to_native_string(name)] = value  # type: ignore[no-untyped-call]
    for name in [name for name, value in headers.items() if value is None]:
        del headers[name]
    return headers


def _add_cookies(prepared: requests.PreparedRequest, of_session: Any, given: Any) -> None:
    if not given and next(iter(of_session), None) is None:
        return
    if not isinstance(given or {}, http.cookiejar.CookieJar):
        given = cookiejar_from_dict(given or {})  # type: ignore[no-untyped-call]
    jar = merge_cookies(merge_cookies(RequestsCookieJar(), of_session), given or RequestsCookieJar())  # type: ignore[no-untyped-call]
    prepared.prepare_cookies(jar)
