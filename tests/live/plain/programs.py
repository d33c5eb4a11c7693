"""Small programs as people write them against requests: `lib` is requests, or smartclient in its place.

Each gives what it saw; the docstring says which behaviour it is about.
"""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from tests.live.plain.observing import Place, Program, attempt

PROGRAMS: list[Program] = []


def program(written: Program) -> Program:
    """Put the function on the list."""
    PROGRAMS.append(written)
    return written


@program
def every_verb(lib: ModuleType, place: Place) -> object:
    """Each verb of the module, with what it takes by position."""
    url = place.here.url("/echo?a=1")
    answers = [getattr(lib, verb)(url) for verb in ("get", "options", "head", "delete")]
    answers += [lib.post(url, {"k": "v"}, {"ignored": 1}), lib.put(url, b"raw"), lib.patch(url, "text")]
    return [*answers, lib.request("PROPFIND", url), lib.get(url, {"b": [1, 2], "c": None})]


@program
def every_verb_of_a_session(lib: ModuleType, place: Place) -> object:
    """Each verb of a session, everything by position where requests allows it."""
    url = place.here.url()
    with lib.Session() as session:
        answers = [getattr(session, verb)(url) for verb in ("get", "options", "head", "delete")]
        answers += [session.post(url, {"k": "v"}), session.put(url, b"raw"), session.patch(url, "text")]
        return [*answers, session.request("GET", url, {"p": 1}, None, {"X": "1"}, {"c": "2"}, None, ("u", "p"), 5)]


@program
def ways_to_write_params(lib: ModuleType, place: Place) -> object:
    """Dicts, pairs, bytes and text as params, on URLs that have a query, a fragment or both."""
    urls = [place.here.url(path) for path in ("/echo", "/echo?x=1", "/echo#part", "/echo?x=1#part", "")]
    params: list[Any] = [{"ü": "ö", "b": "a b"}, [("a", 1), ("a", 2)], b"raw=1", "text=a b", {"n": None}, {}]
    return [lib.get(url, params=given) for url in urls for given in params]


@program
def ways_to_write_a_url(lib: ModuleType, place: Place) -> object:
    """Bytes, leading blanks, upper case, objects with a text, unicode and escapes in the path, user and password."""

    class Address:
        def __str__(self) -> str:
            return place.here.url("/echo/object")

    path = "/echo/größe and blank/%7Euser/%2F/a;b?ü=ö&%20"
    urls = [
        place.here.url("/echo/bytes").encode(),
        "  " + place.here.url("/echo/blanks"),
        b"\n " + place.here.url("/echo/blanks").encode(),
        place.here.url("/echo/upper").replace("http", "HTTP"),
        Address(),
        place.here.url(path),
        place.here.url(path).encode(),
        place.here.url("//echo/../up"),
        place.here.url(user="name:pass%20word@"),
        place.here.url(host="LOCALHOST"),
    ]
    return [attempt(lib.get, url) for url in urls]


@program
def urls_that_cannot_be(lib: ModuleType, place: Place) -> object:
    """Every wrong URL fails with the same exception and the same words."""
    wrong: list[Any] = [
        "", " ", "no-scheme", "http://", "http://*bad", "http://.bad", "://x", "ftp://x/y", "mailto:me@x", "service:x",
        "service:/x", "http://[::1", "http://x:99999/", "http://x:port/", "localhost:80/x", None, 5, "http:///path",
        b"\xff\xfe", b"no-scheme", "http://fÖÖ..bar/", "data:,x", "http+unix://%2Fx/y", "file:///etc/hostname",
    ]  # fmt: skip
    session = lib.Session()
    return [[attempt(lib.get, url), attempt(session.get, url)] for url in wrong]


@program
def arguments_that_cannot_be(lib: ModuleType, place: Place) -> object:
    """Wrong arguments fail with the same exception and the same words."""
    url, session = place.here.url(), lib.Session()
    calls: list[Any] = [
        lambda: lib.get(),
        lambda: lib.get(url, unknown=1),
        lambda: lib.get(url, None, None),
        lambda: lib.request("GET"),
        lambda: session.request("GET"),
        lambda: session.request(),
        lambda: session.request("GET", url, unknown=1),
        lambda: session.request("GET", url, method="GET"),
        lambda: session.get(url, timeout="soon"),
        lambda: session.get(url, timeout=(1, 2, 3)),
        lambda: session.get(url, timeout=0),
        lambda: session.get(url, headers={"bad": "line\nbreak"}),
        lambda: session.get(url, headers={"bad": 5}),
        lambda: session.get(url, headers={" bad": "x"}),
        lambda: session.post(url, files={"f": "x"}, data="text"),
        lambda: session.post(url, data=[1, 2]),
        lambda: session.post(url, json=object()),
        lambda: session.post(url, json=float("nan")),
        lambda: session.get(url, hooks={"nope": print}),
        lambda: session.send(lib.Request("GET", url)),
        lambda: session.send(None),
        lambda: session.request(None, url),
        lambda: session.request(b"GET", url),
        lambda: session.get(url, proxies={"http": "bad://proxy:1"}),
        lambda: session.get(url, cert="/no/such/file"),
        lambda: lib.get(place.safe.url(), verify="/no/such/file"),
    ]
    return [attempt(call) for call in calls]


@program
def redirect_chains(lib: ModuleType, place: Place) -> object:
    """Each redirect status with GET, POST, PUT and HEAD: methods, bodies and histories."""
    session = lib.Session()
    return [
        session.request(
            method, place.here.url(f"/redirect?code={code}&times=2&cookie=1"), data=data, allow_redirects=True
        )
        for code in (301, 302, 303, 307, 308)
        for method, data in (("GET", None), ("POST", {"a": "b"}), ("PUT", b"raw"), ("HEAD", None))
    ]


@program
def redirects_by_hand(lib: ModuleType, place: Place) -> object:
    """allow_redirects=False, `next`, and sending it oneself."""
    session = lib.Session()
    first = session.get(place.here.url("/redirect?times=2"), allow_redirects=False)
    second = session.send(first.next, allow_redirects=False)
    seen = list(session.resolve_redirects(second, second.request))
    return [
        first,
        second,
        *seen,
        lib.head(place.here.url("/redirect")),
        lib.head(place.here.url("/redirect"), allow_redirects=True),
    ]


@program
def redirects_that_cannot_be(lib: ModuleType, place: Place) -> object:
    """Loops, other schemes, services, broken targets."""
    session = lib.Session()
    session.max_redirects = 3
    targets = [
        "/redirect?to=/redirect",
        "service://identity/x",
        "http://identity.smart-service/",
        "ftp://x/",
        "http://",
        "",
    ]
    return [
        *(attempt(session.get, place.here.url("/redirect"), params={"to": to}) for to in targets),
        attempt(lambda: session.get(place.here.url("/redirect?times=9"))),
    ]


@program
def redirects_to_services_by_hand(lib: ModuleType, place: Place) -> object:
    """A redirect from outside that names a service is no way to it, even when it is sent by hand."""
    session = lib.Session()
    seen = []
    for target in ("service://identity/x", "SERVICE://identity/x", "http://identity.smart-service/x"):
        first = session.get(place.here.url("/redirect"), params={"to": target}, allow_redirects=False)
        seen.append([first.next, attempt(session.send, first.next)])
    return seen


@program
def redirects_to_another_origin(lib: ModuleType, place: Place) -> object:
    """Credentials stay, headers go along, cookies follow the host: as in requests."""
    session = lib.Session()
    session.cookies.set("mine", "1")
    session.auth = ("user", "pass")
    answers = []
    for host in ("127.0.0.1", "localhost"):
        params = {"to": place.there.url("/echo", host=host), "code": "307"}
        answers.append(session.post(place.here.url("/redirect"), params=params, data="body", headers={"X-Own": "1"}))
        answers.append(lib.get(place.here.url("/redirect"), params=params, headers={"Authorization": "Bearer x"}))
    return answers


@program
def cookies_over_a_session(lib: ModuleType, place: Place) -> object:
    """Cookies that are set, sent, changed, passed for one call, removed."""
    session = lib.Session()
    answers = [session.get(place.here.url("/cookies?a=1&b=2")), session.get(place.here.url("/cookies?a=3"))]
    answers.append(session.get(place.here.url("/cookies"), cookies={"only": "here", "a": "mine"}))
    del session.cookies["b"]
    session.cookies.set("c", "4", domain="localhost.local", path="/")
    answers.append(session.get(place.here.url("/cookies")))
    jar = lib.cookies.RequestsCookieJar()
    jar.set("jar", "yes", path="/cookies")
    answers.append(lib.get(place.here.url("/cookies"), cookies=jar))
    answers.append(lib.get(place.here.url("/echo"), cookies=jar))
    return [*answers, session.cookies, session.cookies.get_dict(), lib.utils.dict_from_cookiejar(session.cookies)]


@program
def headers_merged(lib: ModuleType, place: Place) -> object:
    """Headers of the session and of the call, None to remove, case, order, bytes."""
    session = lib.Session()
    session.headers.update({"X-One": "1", "Accept": "text/x", "User-Agent": "mine"})
    session.params = {"s": "1"}
    return [
        session.get(place.here.url(), headers={"x-one": "2", "ACCEPT": None, "B": b"bytes"}, params={"p": "2"}),
        session.get(place.here.url(), headers=None),
        lib.get(place.here.url()),
        lib.get(place.here.url(), headers={"Host": "other.example", "Accept-Encoding": None, "Connection": "close"}),
        lib.utils.default_user_agent(),
        dict(lib.utils.default_headers()),
    ]


class OneWay:
    """A stream that can be read once and not be asked for its length."""

    def __init__(self) -> None:
        self.rest = io.BytesIO(b"streamed " * 10)

    def read(self, size: int = -1) -> bytes:
        return self.rest.read(size)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.rest)


@program
def bodies(lib: ModuleType, place: Place) -> object:
    """Forms, text, bytes, generators, files, streams, JSON, empty ones: the bytes and the headers."""

    def pieces() -> Iterator[bytes]:
        yield from (b"one", b"two", b"three")

    url = place.here.url()
    with tempfile.TemporaryFile() as file:
        file.write(b"from a file")
        file.seek(5)
        data: list[Any] = [{"a": ["1", "2"], "ü": "ö"}, [("a", "1")], "text ü", b"\xff", pieces(), iter([b"x", b"y"]), file,
                           io.BytesIO(b"bytes"), io.StringIO("text"), OneWay(), "", b"", {}, None, bytearray(b"array")]  # fmt: skip
        answers = [attempt(lib.post, url, data=body) for body in data]
    values: list[Any] = [{"a": "ü"}, [], None, 0, "text", False]
    answers += [lib.post(url, json=value) for value in values]
    answers.append(lib.post(url, json={"a": 1}, headers={"Content-Type": "application/vnd+json"}))
    return [*answers, lib.get(url, data={"a": "1"}), lib.delete(url, json={"a": 1})]


@program
def uploads(lib: ModuleType, place: Place) -> object:
    """Multipart bodies in each form of `files`."""
    url = place.here.url()
    given: list[Any] = [
        {"file": io.BytesIO(b"content")},
        {"file": ("name.txt", io.BytesIO(b"content"), "text/plain", {"X-Part": "1"})},
        {"file": ("ümlaut.txt", b"content")},
        [("many", ("a", "1")), ("many", ("b", "2"))],
        {"file": ""},
        {"file": None},
    ]
    answers = [attempt(lib.post, url, files=files) for files in given]
    return [*answers, lib.post(url, files={"f": ("a", "b")}, data={"field": ["1", "2"]})]


@program
def bodies_sent_again(lib: ModuleType, place: Place) -> object:
    """A file is rewound for a 307; a generator cannot be."""
    url = place.here.url("/redirect?code=307")
    return [
        lib.post(url, data=io.BytesIO(b"rewound")),
        attempt(lambda: lib.post(url, data=(piece for piece in [b"a", b"b"]))),
        attempt(lambda: lib.post(url, data=OneWay())),
    ]


@program
def reading_bodies(lib: ModuleType, place: Place) -> object:
    """Packed, chunked, streamed, line by line, raw, twice, broken."""
    here, session = place.here, lib.Session()
    answers = [
        attempt(session.get, here.url(f"/encoded?how={how}")) for how in ("gzip", "deflate", "raw-deflate", "broken")
    ]
    answers.append(session.get(here.url("/chunked")))
    streamed = session.get(here.url("/chunked?count=3"), stream=True)
    seen: list[object] = [
        list(streamed.iter_lines()),
        attempt(lambda: streamed.content),
        attempt(lambda: list(streamed.iter_content(1))),
    ]
    with session.get(here.url("/encoded"), stream=True) as response:
        seen.append([response.raw.headers["Content-Encoding"], list(response.iter_content(50))])
    with session.get(here.url("/encoded"), stream=True) as response:
        seen.append([response.raw.read(10), response.raw.tell()])
    with session.get(here.url("/text?type=text/plain;charset=utf-8"), stream=True) as response:
        seen.append(list(response.iter_content(3, decode_unicode=True)))
    with session.get(here.url("/chunked"), stream=True) as response:
        seen.append([list(response.iter_lines(chunk_size=3, decode_unicode=True)), response.raw.closed])
    seen += [attempt(session.get, here.url(path)) for path in ("/chunked?broken", "/short", "/close", "/garbage")]
    return [answers, seen]


@program
def encodings(lib: ModuleType, place: Place) -> object:
    """How the text is decoded, guessed and overridden; JSON and its errors."""
    answers = [
        lib.get(place.here.url(f"/text?codec={codec}{kind}"))
        for codec in ("utf-8", "latin1", "utf-16")
        for kind in (
            "",
            "&type=text/plain",
            "&type=text/html;charset=latin1",
            "&type=application/json",
            "&type=text/x;charset=none",
        )
    ]
    answers[0].encoding = "latin1"
    broken = lib.get(place.here.url("/status?body={broken"))
    return [
        answers,
        attempt(broken.json),
        lib.get(place.here.url()).json(),
        attempt(lib.get(place.here.url("/cookies")).json),
    ]


@program
def statuses(lib: ModuleType, place: Place) -> object:
    """Status lines, raise_for_status, links, codes, truth and repr."""
    answers = []
    for code in (200, 201, 204, 304, 400, 404, 418, 500, 503):
        response = lib.get(place.here.url(f"/status?code={code}&reason=Größe"))
        answers.append([attempt(response.raise_for_status), bool(response), repr(response), response.ok])
    linked = lib.get(place.here.url("/status"), params={"Link": '<http://x/2>; rel="next", </1>; rel=prev'})
    return [answers, linked, lib.codes.ok, lib.codes["not_found"], lib.codes.teapot, attempt(lambda: lib.codes.nothing)]


@program
def authentication(lib: ModuleType, place: Place) -> object:
    """Basic, digest, own classes and functions, credentials in the URL, of the session, for a proxy."""
    here = place.here

    class Own(lib.auth.AuthBase):  # type: ignore[name-defined, misc]
        def __call__(self, request: Any) -> Any:
            request.headers["X-Signed"] = f"{request.method} {request.url} {request.body!r}"
            return request

    session = lib.Session()
    session.auth = lib.auth.HTTPDigestAuth("user", "pass")
    answers = [session.get(here.url("/digest?x=1")), session.post(here.url("/digest"), data=io.BytesIO(b"again"))]
    for algorithm in ("MD5-sess", "SHA", "SHA-256", "SHA-512", "NONE"):
        auth = lib.auth.HTTPDigestAuth("ü", "pass")
        answers.append(attempt(lib.get, here.url(f"/digest?algorithm={algorithm}"), auth=auth))
    answers += [
        lib.get(here.url("/basic"), auth=("user", "pässword")),
        lib.get(here.url("/basic", user="us%40er:pa:ss@")),
        lib.get(here.url("/basic"), auth=lib.auth.HTTPBasicAuth(b"user", b"pass")),
        attempt(lambda: lib.get(here.url("/basic"), auth=(1, 2))),
        lib.get(here.url("/basic"), auth=lib.auth.HTTPProxyAuth("user", "pass")),
        lib.post(here.url(), auth=Own(), data={"a": "b"}),
        lib.get(here.url(), auth=lambda request: request),
        lib.get(here.url("/basic")),
    ]
    return [*answers, lib.auth.HTTPBasicAuth("a", "b") == lib.auth.HTTPBasicAuth("a", "b")]


@program
def netrc(lib: ModuleType, place: Place) -> object:
    """.netrc gives credentials to its hosts, unless trust_env is off; also on a redirect."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "netrc")
        path.write_text("machine 127.0.0.1 login me password secret\nmachine localhost login you password other\n")
        with mock.patch.dict(os.environ, NETRC=str(path)):
            untrusting = lib.Session()
            untrusting.trust_env = False
            redirect = {"to": place.there.url("/echo", host="localhost")}
            return [
                lib.get(place.here.url()),
                lib.get(place.here.url(), auth=("own", "word")),
                lib.get(place.here.url("/redirect"), params=redirect),
                untrusting.get(place.here.url()),
                lib.Session().prepare_request(lib.Request("GET", place.here.url())),
            ]


@program
def pickles(lib: ModuleType, place: Place) -> object:
    """Sessions, responses, prepared requests and exceptions go through pickle."""
    session = lib.Session()
    session.headers["X"] = "1"
    session.cookies.set("c", "1")
    session.params = {"p": "1"}
    session.verify = False
    copied = pickle.loads(pickle.dumps(session))
    response = pickle.loads(pickle.dumps(copied.get(place.here.url("/redirect"))))
    error = attempt(
        lambda: pickle.loads(pickle.dumps(attempt(lib.get(place.here.url("/status?code=404")).raise_for_status)))
    )
    state = sorted(session.__getstate__())
    prepared = pickle.loads(pickle.dumps(session.prepare_request(lib.Request("POST", place.here.url(), data="x"))))
    return [state, sorted(vars(copied)), response, error, prepared, copied.send(prepared), session.__attrs__]
