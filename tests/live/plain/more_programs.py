"""More small programs: what is plugged in, patched, subclassed, configured from outside, or goes wrong on the way."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any
from unittest import mock

import urllib3
from urllib3.util.retry import Retry

from tests.live.plain.observing import Place, attempt
from tests.live.plain.programs import PROGRAMS as PROGRAMS, program
from tests.processes import free_port

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def environment(**variables: str) -> Any:
    """os.environ with these variables and no others that requests reads; put back afterwards."""
    kept = {name: value for name, value in os.environ.items() if name.upper() not in PROXIES}
    return mock.patch.dict(os.environ, {**kept, **variables}, clear=True)


@program
def proxies(lib: ModuleType, place: Place) -> object:
    """Proxies of the call, of the session and of the environment, with credentials, and NO_PROXY."""
    through = place.there.url("", user="user:pass@")
    answers: list[object] = []
    session = lib.Session()
    session.proxies = {"http": through}
    with environment():
        answers += [session.get(place.here.url()), lib.get("http://unknown.example/x", proxies={"http": through})]
        answers.append(
            lib.get(
                "http://unknown.example/x", proxies={"http://unknown.example": through, "http": "http://127.0.0.1:1"}
            )
        )
        answers.append(attempt(lib.get, place.safe.url(), proxies={"https": through}))
        answers.append(attempt(lib.get, place.here.url(), proxies={"http": "socks5://127.0.0.1:1"}))
    with environment(HTTP_PROXY=place.there.url(""), NO_PROXY="127.0.0.1,.inner.example"):
        answers += [lib.get(place.here.url()), lib.get("http://outer.example/")]
        answers.append(lib.get("http://outer.example/redirect", params={"to": place.here.url()}))
        answers.append(lib.get(place.here.url("/redirect"), params={"to": "http://outer.example/"}))
        untrusting = lib.Session()
        untrusting.trust_env = False
        answers += [untrusting.get(place.here.url()), lib.utils.get_environ_proxies("http://outer.example/")]
    with environment(ALL_PROXY=place.there.url(""), http_proxy=""):
        answers += [lib.get(place.here.url()), attempt(lib.get, place.safe.url(), verify=False)]
        answers.append(session.rebuild_proxies(session.prepare_request(lib.Request("GET", place.here.url())), None))
    return answers


@program
def certificates(lib: ModuleType, place: Place) -> object:
    """verify as True, False, a path, from the environment, kept by a session; a name that does not match."""
    safe, session = place.safe, lib.Session()
    with environment():
        answers = [
            attempt(lib.get, safe.url()),
            lib.get(safe.url(), verify=False),
            lib.get(safe.url(), verify=safe.certificate),
        ]
        session.verify = safe.certificate
        answers += [session.get(safe.url()), attempt(session.get, safe.url(), verify=True)]
        answers.append(attempt(session.get, safe.url(host="localhost")))
        answers.append(attempt(lib.get, safe.url().replace("https", "http"), timeout=5))
        answers.append(type(attempt(lib.get, place.here.url().replace("http", "https"), timeout=0.2)))
        answers.append(attempt(lib.get, safe.url("/redirect"), params={"to": place.here.url()}, verify=False))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        with environment(**{name: safe.certificate}):
            answers += [
                lib.get(safe.url()),
                attempt(lib.get, safe.url(), verify=False),
                session.send(lib.Session().prepare_request(lib.Request("GET", safe.url()))),
            ]
    return answers


@program
def time_limits(lib: ModuleType, place: Place) -> object:
    """timeout for connecting, for reading, as number, pair, object; a body that drips slips through."""
    slow, refused = place.here.url("/slow?before=0.3"), f"http://127.0.0.1:{free_port()}/"
    drip = place.here.url("/slow?between=0.05")
    with environment():
        return [
            [type(attempt(lib.get, slow, timeout=limit)) for limit in (0.1, (1, 0.1), (None, 0.1))],
            type(attempt(lib.get, slow, timeout=urllib3.Timeout(connect=1, read=0.1))),
            str(attempt(lib.get, slow, timeout=0.1)).replace(str(place.here.port), "port"),
            type(attempt(lib.get, refused, timeout=1)),
            lib.get(drip, timeout=0.4),
            type(
                attempt(
                    lambda: list(lib.get(place.here.url("/slow?between=0.3"), timeout=0.1, stream=True).iter_content(1))
                )
            ),
            type(attempt(lib.get, place.here.url("/slow?between=0.3"), timeout=0.1)),
        ]


@program
def hooks(lib: ModuleType, place: Place) -> object:
    """Hooks of the session and of the call: what they get, what they change, what they raise."""
    told: list[object] = []

    def note(response: Any, **keywords: Any) -> None:
        told.append([response.url, sorted(keywords), keywords.get("timeout"), response.elapsed])

    def exchange(response: Any, **keywords: Any) -> Any:
        other = lib.Response()
        other.status_code, other._content, other.raw = 299, b"exchanged", response.raw
        other.request = response.request
        return other

    def fail(response: Any, **keywords: Any) -> None:
        raise RuntimeError("the hook said no")

    session = lib.Session()
    session.hooks["response"].append(note)
    answers = [
        session.get(place.here.url("/redirect"), timeout=5),
        session.get(place.here.url(), hooks={"response": exchange}),
        session.get(place.here.url(), hooks={"response": [note, exchange]}),
        attempt(session.get, place.here.url(), hooks={"response": fail}),
        lib.get(place.here.url(), hooks={"response": []}),
    ]
    request = lib.Request("GET", place.here.url())
    request.register_hook("response", note)
    answers.append(session.send(request.prepare()))
    return [answers, told, request.deregister_hook("response", note), attempt(request.register_hook, "nope", note)]


@program
def adapters(lib: ModuleType, place: Place) -> object:
    """Own adapters at own schemes and prefixes, their order, urllib3's Retry, errors they raise, what they are given."""
    given: list[object] = []

    class Own(lib.adapters.BaseAdapter):  # type: ignore[name-defined, misc]
        def send(self, request: Any, **keywords: Any) -> Any:
            given.append([request.url, sorted(keywords.items(), key=str)])
            response = lib.Response()
            response.status_code, response.url, response.request = 200, request.url, request
            response.raw = io.BytesIO(b"own answer")
            return response

        def close(self) -> None:
            given.append("closed")

    with lib.Session() as session:
        for prefix in ("own://", "service://", "http://127.0.0.1:1", place.here.url("/own"), "HTTP://UPPER"):
            session.mount(prefix, Own())
        urls = [
            "own://x/y",
            "service://identity/teams?x=1",
            "SERVICE://identity",
            "http://127.0.0.1:1/a",
            place.here.url("/own/a"),
        ]
        answers = [session.get(url, params={"p": 1}, timeout=3, verify=False, cookies={"a": "b"}) for url in urls]
        answers += [
            session.get(place.here.url()),
            session.get("http://upper/x"),
            [str(prefix) for prefix in session.adapters],
        ]
        answers.append(type(session.get_adapter("https://x")) is lib.adapters.HTTPAdapter)
        answers.append(session.send(lib.Request("GET", "service://identity/x").prepare()))
    retrying = lib.Session()
    retrying.mount("http://", lib.adapters.HTTPAdapter(max_retries=Retry(2, status_forcelist=[503], backoff_factor=0)))
    answers.append(attempt(retrying.get, place.here.url("/status?code=503")))
    answers.append(attempt(retrying.get, place.here.url("/close")))
    return [answers, given]


@program
def patches(lib: ModuleType, place: Place) -> object:
    """mock.patch of requests' own classes is seen, by verbs and by sessions, with the arguments that requests gives."""
    url, seen = place.here.url(), []
    canned = lib.Response()
    canned.status_code, canned._content, canned.url = 203, b"canned", url
    canned.request = lib.Request("GET", url).prepare()
    targets = ["requests.Session.request", "requests.sessions.Session.send", "requests.adapters.HTTPAdapter.send"]
    for target in [*targets, f"{lib.__name__}.Session.request", f"{lib.__name__}.sessions.Session.send"]:
        with mock.patch(target, return_value=canned) as patched:
            answers = [lib.get(url, timeout=3), lib.Session().post(url, {"a": "b"}, headers={"X": "1"}), lib.head(url)]
            seen.append([answers, [[call.args, call.kwargs] for call in patched.call_args_list]])
    for target in (
        f"{lib.__name__}.get",
        f"{lib.__name__}.api.request",
        f"{lib.__name__}.adapters.HTTPAdapter.get_connection_with_tls_context",
    ):
        with mock.patch(target, side_effect=lib.ConnectionError("patched")):
            seen.append(attempt(lib.get, url))
    with mock.patch.object(lib.sessions, "merge_setting", side_effect=ValueError("patched")):
        seen.append(attempt(lib.get, url))
    with mock.patch.object(lib.Session, "send", autospec=True, side_effect=lib.Timeout("patched")):
        seen.append(attempt(lib.get, url))
    return seen


@program
def subclasses(lib: ModuleType, place: Place) -> object:
    """Sessions that override one step each, with and without super()."""

    class Base(lib.Session):  # type: ignore[name-defined, misc]
        def request(self, method: str, url: str, *arguments: Any, **keywords: Any) -> Any:
            return super().request(method, place.here.url(url), *arguments, **keywords)

    class Signed(lib.Session):  # type: ignore[name-defined, misc]
        def prepare_request(self, request: Any) -> Any:
            prepared = super().prepare_request(request)
            prepared.headers["X-Signed"] = "yes"
            return prepared

    class Canned(lib.Session):  # type: ignore[name-defined, misc]
        def send(self, request: Any, **keywords: Any) -> Any:
            response = lib.Response()
            response.status_code, response._content, response.request = 200, repr(sorted(keywords)).encode(), request
            return response

    class Bare(lib.Session):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            self.__setstate__(lib.sessions.Session().__getstate__())

    class Trusting(lib.Session):  # type: ignore[name-defined, misc]
        def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
            return

        def should_strip_auth(self, old_url: str, new_url: str) -> bool:
            return False

        def rebuild_method(self, prepared_request: Any, response: Any) -> None:
            prepared_request.method = "PUT"

        def get_redirect_target(self, response: Any) -> Any:
            return super().get_redirect_target(response)

    class OneAdapter(lib.Session):  # type: ignore[name-defined, misc]
        def get_adapter(self, url: str) -> Any:
            return lib.adapters.HTTPAdapter()

        def merge_environment_settings(self, *arguments: Any) -> Any:
            return {"verify": False, "stream": False, "proxies": {}, "cert": None}

    params = {"to": place.there.url("/echo", host="localhost")}
    auth = {"Authorization": "Bearer x"}
    return [
        [
            Base().get("/echo?x=1"),
            Base().post("/echo", {"a": "b"}),
            Signed().get(place.here.url()),
            Canned().get("http://x/"),
        ],
        [Bare().get(place.here.url("/redirect")), OneAdapter().get(place.here.url())],
        Trusting().get(place.here.url("/redirect"), params=params, headers=auth),
        [issubclass(lib.Session, lib.sessions.SessionRedirectMixin), isinstance(lib.session(), lib.Session)],
    ]


@program
def prepared_requests(lib: ModuleType, place: Place) -> object:
    """Requests prepared by hand, changed, copied, sent with settings; Request objects and their reprs."""
    session = lib.Session()
    session.headers["X-Session"] = "1"
    request = lib.Request(
        "post", place.here.url(), data={"a": "1"}, params={"p": "ü"}, cookies={"c": "d"}, auth=("u", "p")
    )
    alone, with_session = request.prepare(), session.prepare_request(request)
    changed = with_session.copy()
    changed.prepare_url(place.here.url("/echo/changed"), {"q": 1})
    changed.prepare_body("other", None)
    changed.headers["X-Late"] = "1"
    settings = session.merge_environment_settings(changed.url, {}, None, None, None)
    byhand = lib.models.PreparedRequest()
    byhand.prepare("get", place.here.url(), headers={})
    sent = [session.send(each) for each in (alone, with_session, changed, byhand)]
    return [
        alone,
        with_session,
        changed,
        settings,
        sent,
        session.send(changed, **settings),
        repr(request),
        repr(alone),
        changed.path_url,
    ]


@program
def connections(lib: ModuleType, place: Place) -> object:
    """A session keeps its connection, verbs do not, closing ends it, streams hold theirs."""

    def numbers() -> list[int]:
        first = place.here.seen[0].connection
        return [seen.connection - first for seen in place.here.seen]

    with lib.Session() as session:
        for _ in range(3):
            session.get(place.here.url())
        lib.get(place.here.url())
        with session.get(place.here.url("/chunked"), stream=True) as held:
            session.get(place.here.url())
            next(held.iter_content(2))
        session.get(place.here.url())
    session.get(place.here.url())
    return numbers()


@program
def threads(lib: ModuleType, place: Place) -> object:
    """A session shared by threads, and verbs in an event loop's executor."""
    session = lib.Session()
    with ThreadPoolExecutor(4) as pool:
        bodies = list(pool.map(lambda number: session.get(place.here.url(f"/echo/{number}")).json()["line"], range(20)))

    async def both() -> list[Any]:
        return await asyncio.gather(
            *(asyncio.to_thread(lib.get, place.here.url(f"/echo/{number}")) for number in range(3))
        )

    in_loop = [response.json()["line"] for response in asyncio.run(both())]
    place.here.seen.sort(key=lambda seen: seen.line)
    return [bodies, in_loop, threading.active_count() > 0]


@program
def logs(lib: ModuleType, place: Place) -> object:
    """The log lines of urllib3, and a quiet `requests` logger."""
    kept: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(f"{record.name} {record.levelname} {record.getMessage()}")

    handler, logger = Keep(), logging.getLogger("urllib3")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        lib.get(place.here.url("/redirect"))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return [kept, [type(each) for each in logging.getLogger("requests").handlers]]


@program
def helpers(lib: ModuleType, place: Place) -> object:
    """Names that programs use beside the verbs."""
    return [
        lib.__version__, lib.__title__, lib.__build__, sorted(lib.__all__), lib.utils.quote("ü"), lib.compat.urlparse("http://x/y"),
        lib.structures.CaseInsensitiveDict(A=1)["a"], lib.status_codes.codes is lib.codes, lib.hooks.default_hooks(),
        lib.packages.urllib3 is urllib3, lib.certs.where(), lib.models.REDIRECT_STATI, lib.utils.requote_uri("http://x/ü %"),
        lib.sessions.DEFAULT_REDIRECT_LIMIT, lib.cookies.cookiejar_from_dict({"a": "b"}), lib.adapters.DEFAULT_POOLSIZE,
        issubclass(lib.exceptions.ConnectTimeout, lib.Timeout), lib.exceptions.InvalidSchema.__mro__, lib.JSONDecodeError.__mro__,
        repr(lib.Response()), lib.utils.parse_header_links("<a>; rel=b"), lib.utils.get_encoding_from_headers({}),
    ]  # fmt: skip
