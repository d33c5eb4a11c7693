"""What a sidecar says over HTTP: everything on its control socket, reading alone on a loopback port, where the page is.

The port is open to every process of the host and to every browser on it: it takes GET only, answers no request that names
another host than this one (a name bent to point here), and none that a page from elsewhere makes.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import pwd
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from atlas.model import is_service_name, is_text
from atlas.pages import HEADERS, TYPES, find_file
from sidecar import metrics
from sidecar.audit import Audit
from sidecar.facts import Facts, Rate
from sidecar.http_server import Handler, Listener, Request, Response, json_answer, problem
from sidecar.model import Plan
from sidecar.rates import FreshRates
from sidecar.settings import Settings
from sidecar.status import health_document, rates_document, routes_document, service_document, status_document
from sidecar.why import explain
from smartrealm.errors import BadRequest, Forbidden, NotFound, SmartError, Unavailable, ValidationFailed

PAGE = Path(__file__).with_name("page")
EXPORTER_SECONDS = 2.0

_OURS = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)


class Source(Protocol):
    """What the server asks of the agent. Every method may be called from any thread."""

    settings: Settings

    def plan(self) -> Plan:
        """What is to be routed now; the same object while nothing changed."""
        ...

    def facts(self) -> Facts: ...

    def accept(self, service: str, *, by: str, why: str) -> tuple[str, ...]:
        """Let the instances go that the guard holds; gives their addresses."""
        ...

    def reload(self, *, why: str) -> object: ...

    def rates(self) -> Mapping[str, Rate]:
        """What passes through each service, asked of HAProxy now. Raises Unavailable when it does not answer."""
        ...

    def backends(self) -> Mapping[str, str]:
        """What each backend of HAProxy holds: a service, or a side of one (`identity:1`)."""
        ...


class Admin:
    """The HTTP side of an agent. `start` opens the control socket and the port, `close` ends both."""

    def __init__(
        self,
        source: Source,
        *,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        exporter: Callable[[Path, str], str] | None = None,
    ) -> None:
        self._source = source
        self._wall_clock = wall_clock
        self._exporter = exporter or read_exporter
        self._audit = Audit(source.settings.state, wall_clock=wall_clock)
        self._listeners: list[Listener] = []
        self._rates = FreshRates(source.rates, clock=clock)
        self._routes_version = _RoutesVersion()
        # Large answers are made one at a time: the agent's own work is then held up by one of them at most, however many ask.
        self._making = threading.Lock()

    def start(self) -> Admin:
        """Listen. Raises ConfigurationError when the socket or the port cannot be had."""
        settings = self._source.settings
        try:
            self._listen(local=True).listen_on_path(settings.control_socket)
            if settings.admin_port:
                self._listen(local=False).listen_on_port(settings.admin_port)
        except BaseException:
            self.close()
            raise
        return self

    def _listen(self, *, local: bool) -> Listener:
        listener = Listener(self.answer, local=local)
        self._listeners.append(listener)
        return listener

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    # -- answering -----------------------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Response:
        """The answer to one request; every error of the tree is a problem."""
        try:
            if not request.local:
                _admit(request)
            return self._route(request)
        except ValidationFailed as error:
            return problem(error.status, error.code, error.message, errors=error.errors)
        except TimeoutError:
            told = "The agent is busy and has not done it yet; it may still do it. `sidecar status` says how it stands."
            return problem(504, "deadline-exceeded", told)
        except SmartError as error:
            return problem(error.status, error.code, error.message, **error.details)

    def _route(self, request: Request) -> Response:
        parts = [_decoded(part) for part in request.path.split("/")[1:]]
        writes = _WRITES.get(request.path)
        if writes is not None:
            if not request.local:
                raise Forbidden("This is done through the control socket: use the command `sidecar` on this host.")
            if request.method != "POST":
                return _not_allowed(request, "POST")
            return writes(self, request)
        reads = self._reader(parts, request)
        if reads is None:
            raise NotFound(
                f"There is nothing at {request.path}: see /v1/status, /v1/routes, /metrics, /healthcheck or /."
            )
        if request.method not in ("GET", "HEAD"):
            return _not_allowed(request, "GET, HEAD")
        return reads(request)

    def _reader(self, parts: list[str], request: Request) -> Handler | None:
        match parts:
            case [""]:
                return lambda asked: _file("index.html", asked)
            case ["page", name]:
                return lambda asked: _file(name, asked)
            case ["v1", "status"]:
                return lambda _: self._status()
            case ["v1", "routes"]:
                return lambda _: self._routes()
            case ["v1", "routes", service]:
                return lambda _: self._service(service)
            case ["v1", "rates"]:
                return lambda _: json_answer(rates_document(self._rates.get()))
            case ["v1", "why", service]:
                return lambda _: self._why(service, None)
            case ["v1", "why", service, address]:
                return lambda _: self._why(service, address)
            case ["metrics"]:
                return self._metrics
            case ["healthcheck"]:
                return lambda _: self._health(None)
            case ["healthcheck", group]:
                return lambda _: self._health(group)
        return None

    def _status(self) -> Response:
        facts, plan = self._source.facts(), self._source.plan()
        document = status_document(facts, plan, self._source.settings, self._wall_clock())
        return json_answer({**document, "routes_version": self._routes_version.of(facts, plan)})

    def _routes(self) -> Response:
        facts, plan = self._source.facts(), self._source.plan()
        with self._making:
            return json_answer(routes_document(facts, plan))

    def _service(self, service: str) -> Response:
        facts, plan = self._source.facts(), self._source.plan()
        if service not in plan.routes and service not in plan.quarantined and service not in plan.decisions:
            raise NotFound(explain(service, None, facts, plan, self._wall_clock())["says"])
        return json_answer(service_document(service, facts, plan))

    def _why(self, service: str, address: str | None) -> Response:
        return json_answer(explain(service, address, self._source.facts(), self._source.plan(), self._wall_clock()))

    def _health(self, group: str | None) -> Response:
        facts, plan = self._source.facts(), self._source.plan()
        found = health_document(facts, plan, self._wall_clock(), group=group, hostname=socket.gethostname())
        if found is None:
            raise NotFound("The groups of checks are live and ready.")
        return json_answer(found[1], found[0])

    def _metrics(self, request: Request) -> Response:
        """Ours, and HAProxy's of `?scope=` (global, frontend and backend unless told; `none` for ours alone)."""
        scopes = request.query.get("scope", ["global", "frontend", "backend"])
        unknown = [scope for scope in scopes if scope not in _SCOPES]
        if unknown:
            raise BadRequest(f"{unknown[0]!r} is no scope: known are {', '.join(sorted(_SCOPES))}.")
        text = metrics.exposition(self._source.facts(), self._source.plan(), self._wall_clock())
        wanted = "&".join(f"scope={scope}" for scope in scopes if scope != "none")
        if wanted:
            theirs = None
            with suppress(Unavailable):
                theirs = self._exporter(self._source.settings.exporter_socket, f"/metrics?{wanted}")
            with self._making:
                text += metrics.joined(theirs, self._source.backends())
        return Response(200, text.encode(), metrics.CONTENT_TYPE)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _accept(self, request: Request) -> Response:
        data = _body(request, {"service": _is_name, "why": _is_reason, "by": _is_author}, optional=("by",))
        service, by = data["service"], _author(request, data.get("by"))
        guard = self._source.plan().guards.get(service)
        if guard is None:
            raise NotFound(f"The guard holds nothing of {service}: there is nothing to accept.")
        # On record before it is done: an override that nobody can be asked about is worse than one that failed.
        self._audit.write("accept", by=by, why=data["why"], service=service, addresses=list(guard.addresses))
        let_go = self._source.accept(service, by=by, why=data["why"])
        return json_answer({"service": service, "let_go": list(let_go), "by": by})

    def _reload(self, request: Request) -> Response:
        data = _body(request, {"why": _is_reason, "by": _is_author}, optional=("by",))
        by = _author(request, data.get("by"))
        self._audit.write("reload", by=by, why=data["why"])
        self._source.reload(why=f"{data['why']} ({by})")
        return json_answer({"reload": "asked for", "by": by})


class _RoutesVersion:
    """Another one when /v1/routes says something else: the page asks for that only then."""

    def __init__(self) -> None:
        self._looking = threading.Lock()
        self._seen: tuple[Any, ...] = ()
        self._number = 0

    def of(self, facts: Facts, plan: Plan) -> str:
        with self._looking:
            seen = self._seen
            if not seen or seen[0] is not plan or seen[1] != facts.ejected or seen[2] != facts.conditions:
                self._seen = (plan, facts.ejected, facts.conditions)
                self._number += 1
            return f"{facts.pid}-{self._number}"


_WRITES: Mapping[str, Callable[[Admin, Request], Response]] = {
    "/v1/accept": Admin._accept,
    "/v1/reload": Admin._reload,
}
_SCOPES = frozenset({"global", "frontend", "backend", "server", "none"})


def _admit(request: Request) -> None:
    """Refuse what a web page from elsewhere, or a name bent to point to this machine, could ask through a browser."""
    host = request.headers.get("host")
    if host is None:
        raise BadRequest("The request names no host: send `Host: 127.0.0.1`.")
    if not _OURS.fullmatch(host):
        raise Forbidden("This address answers to 127.0.0.1 and localhost only.")
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        raise Forbidden("Pages from elsewhere are not answered here.")
    site = request.headers.get("sec-fetch-site", "none")
    visits = request.headers.get("sec-fetch-mode") == "navigate" and request.headers.get("sec-fetch-dest") == "document"
    if site not in ("none", "same-origin") and not visits:
        raise Forbidden("Pages from elsewhere are not answered here.")


def _decoded(part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("The path of the request is no UTF-8.") from None


def _not_allowed(request: Request, allowed: str) -> Response:
    told = problem(405, "method-not-allowed", f"{request.path} takes {allowed}.")
    return Response(told.status, told.body, told.content_type, {"Allow": allowed})


def _file(name: str, request: Request) -> Response:
    """A file of the page."""
    path = find_file(PAGE, name)
    if path is None:
        raise NotFound("The page has no such file.")
    body = path.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {**HEADERS, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(304, b"", TYPES[path.suffix], headers)
    return Response(200, body, f"{TYPES[path.suffix]}; charset=utf-8", headers)


# -- bodies ------------------------------------------------------------------------------------------------------------

_Rule = tuple[Callable[[Any], bool], str]
_is_name: _Rule = (is_service_name, "the name of a service")
_is_reason: _Rule = (lambda value: is_text(value, 2000) and bool(value.strip()), "why, in 1 to 2000 characters")
_is_author: _Rule = (lambda value: is_text(value, 200) and value.isprintable(), "who, in at most 200 characters")


def _object(request: Request) -> Mapping[str, Any]:
    try:
        data = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body of the request is no JSON.") from error
    if not isinstance(data, Mapping):
        raise ValidationFailed("The body of the request is to be a JSON object.")
    return data


def _body(request: Request, rules: Mapping[str, _Rule], optional: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """The members of the body, each checked. Raises ValidationFailed with every mistake."""
    data = _object(request)
    errors = [
        {"pointer": f"#/{name}", "detail": f"unknown; known are {', '.join(rules)}"}
        for name in data
        if name not in rules
    ]
    for name, (fits, detail) in rules.items():
        if name not in data:
            if name not in optional:
                errors.append({"pointer": f"#/{name}", "detail": f"missing: {detail}"})
        elif not fits(data[name]):
            errors.append({"pointer": f"#/{name}", "detail": detail})
    if errors:
        told = "; ".join(f"{error['pointer'][2:]}: {error['detail']}" for error in errors)
        raise ValidationFailed(f"The request cannot be done: {told}.", errors=errors)
    return data


def _author(request: Request, told: str | None) -> str:
    """Who asks: what they call themselves, and the login that the system vouches for."""
    login = "unknown"
    if request.uid is not None:
        login = f"uid {request.uid}"
        with suppress(KeyError):
            login = pwd.getpwuid(request.uid).pw_name
    elif request.local:
        with suppress(OSError, KeyError):
            login = getpass.getuser()
    return login if not told or told == login else f"{told} (as {login})"


# -- HAProxy's exporter ------------------------------------------------------------------------------------------------


def read_exporter(path: Path, target: str) -> str:
    """What HAProxy's exporter answers on its socket. Raises Unavailable; takes at most `EXPORTER_SECONDS`."""
    from http.client import HTTPException, HTTPResponse

    end = time.monotonic() + EXPORTER_SECONDS
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(EXPORTER_SECONDS)
            asking.connect(str(path))
            asking.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = HTTPResponse(asking)
            answer.begin()
            chunks = []
            while chunk := answer.read1(1 << 20):
                chunks.append(chunk)
                asking.settimeout(max(0.001, end - time.monotonic()))
    except (OSError, HTTPException) as error:
        raise Unavailable("HAProxy's exporter does not answer.") from error
    if answer.status != 200:
        raise Unavailable(f"HAProxy's exporter answered {answer.status}.")
    return b"".join(chunks).decode("utf-8", "replace")
