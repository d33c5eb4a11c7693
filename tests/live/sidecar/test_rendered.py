"""What was rendered, run by a real HAProxy: every answer that it gives itself, buckets, sides, retries, times and changes."""

from __future__ import annotations

import hashlib
import re
import socket
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from atlas.splits import bucket_of
from sidecar.diff import commands, missing_backends
from sidecar.layout import adopt_layout
from sidecar.model import Route, Side
from tests.live.sidecar.rendered import (
    Instance,
    Proxy,
    pipelined,
    quick_instances,
    running,
    seconds,
    server,
)
from tests.processes import free_port, wait_until

pytestmark = pytest.mark.needs("haproxy")

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def instances() -> Iterator[dict[str, Instance]]:
    """A few instances that every test of the module may ask."""
    with Instance("one") as one, Instance("two") as two, Instance("new") as new:
        yield {"one": one, "two": two, "new": new}


@pytest.fixture(scope="module")
def realm(instances: dict[str, Instance]) -> Iterator[Proxy]:
    """Services with everything that a route can say."""
    one, two, new = (server(instances[name].port) for name in ("one", "two", "new"))
    dead = server(free_port())
    routes = [
        Route("identity", (one, two)),
        Route("billing", (one,), callers=("orders", "identity")),
        Route("closed", (one,), callers=()),
        Route("empty"),
        Route("draining", (replace(one, draining=True),)),
        Route("quick", (one,), timeout_ms=200),
        Route("firm", (one,)),
        Route("once", (one, two), repeatable=False),
        Route("half-dead", (dead, one)),
        Route("dead", (dead,)),
        Route("split", (one,), sides=(Side(5000, (new,)), Side(7500, (two,)))),
        Route("side-lost", (one,), sides=(Side(10_000, (dead,)),)),
        Route("side-empty", (one,), sides=(Side(10_000, ()),)),
        Route("near", (replace(server(instances["two"].port, backup=True)), one)),
    ]
    with running({route.service: route for route in routes}) as proxy:
        yield proxy


REFUSED = [
    ("no service", None, [], 400, "bad-request", None),
    ("no name of a service", "Identity", [], 400, "bad-request", None),
    ("two hyphens", "a--b", [], 400, "bad-request", None),
    ("64 letters", "a" * 64, [], 400, "bad-request", None),
    ("markup", '"},"a":{"<b>%[x]', [], 400, "bad-request", None),
    ("not ASCII", "identité", [], 400, "bad-request", None),
    ("twice", "identity", [("Smart-Service", "billing")], 400, "bad-request", None),
    ("a list", "identity, billing", [], 400, "bad-request", None),
    ("nobody's name", "orders", [], 404, "unknown-service", "unknown"),
    ("63 letters", "a" * 63, [], 404, "unknown-service", "unknown"),
    ("no instance", "empty", [], 503, "unavailable", "empty"),
    ("all drain", "draining", [], 503, "unavailable", "empty"),
    ("not on the list", "billing", [("Smart-Caller", "reports")], 403, "forbidden", "refused"),
    ("nobody said to be", "billing", [], 403, "forbidden", "refused"),
    ("a caller with a slash", "billing", [("Smart-Caller", "x/orders")], 403, "forbidden", "refused"),
    ("an empty list", "closed", [("Smart-Caller", "orders")], 403, "forbidden", "refused"),
    ("no time left", "identity", [("Smart-Deadline", "0")], 504, "deadline-exceeded", None),
]


@pytest.mark.parametrize(
    ("service", "headers", "status", "code", "word"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_haproxy_answers_itself_with_a_problem_that_names_the_service(
    realm: Proxy, service: str | None, headers: list[tuple[str, str]], status: int, code: str, word: str | None
) -> None:
    """The body is a problem in the shape of every service's errors, and a name that is none is never echoed."""
    answer = realm.ask(service, headers=[*headers, ("X-Request-ID", "id:1/2=3@a.b_c+d-e")])
    assert answer.status == status
    assert answer.headers["content-type"] == PROBLEM
    assert answer.headers.get("smart-service") == word
    body = answer.body
    assert list(body) == [
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "code",
        *(["service"] if status != 400 else []),
    ]
    assert (body["type"], body["status"], body["code"]) == ("about:blank", status, code)
    assert body["instance"] == "id:1/2=3@a.b_c+d-e"
    if status == 400:
        assert service is None or service not in answer.content.decode("latin-1")
    else:
        assert body["service"] == service
        assert service is not None
        assert service in body["detail"]
    if code == "unknown-service":
        assert body["detail"].endswith("is not registered in realm local.")


@pytest.mark.parametrize(
    ("service", "headers", "status", "code", "word"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_a_call_that_has_its_bucket_is_refused_as_well(
    realm: Proxy, service: str | None, headers: list[tuple[str, str]], status: int, code: str, word: str | None
) -> None:
    """The way past most of the rules is open to those alone that no rule behind it would hold up."""
    answer = realm.ask(service, headers=[*headers, ("Smart-Bucket", "7")])
    assert (answer.status, answer.body["code"], answer.headers.get("smart-service")) == (status, code, word)


@pytest.mark.parametrize("value", ['a"b', "a b", "", "x" * 129, "%[env(HOME)]"])
def test_a_request_id_that_is_none_is_left_out_of_the_answer(realm: Proxy, value: str) -> None:
    """The header is anybody's text; the body stays what it is."""
    body = realm.ask("orders", headers=[("X-Request-ID", value)]).body
    assert list(body) == ["type", "title", "status", "detail", "code", "service"]


@pytest.mark.parametrize(
    ("service", "status"), [(None, 400), ("orders", 404), ("empty", 503), ("dead", 503), ("identity", 200)]
)
def test_a_head_request_gets_the_same_answer_without_its_body(realm: Proxy, service: str | None, status: int) -> None:
    """And the next request on the connection is answered as well."""
    answer = realm.ask(service, method="HEAD")
    assert answer.status == status
    assert answer.content == b""


def test_haproxys_own_failures_name_the_service(realm: Proxy) -> None:
    """502, 503 and 504 of HAProxy's making are problems too, and those that no instance took say so."""
    ended = realm.ask("identity", "/empty", method="POST", body=b"x", headers=[("X-Request-ID", "r1")])
    assert (ended.status, ended.body["code"], ended.body["service"]) == (502, "bad-gateway", "identity")
    assert ended.body["instance"] == "r1"
    dead = realm.ask("dead", method="POST", body=b"x")
    assert (dead.status, dead.body["code"], dead.body["service"]) == (503, "unavailable", "dead")
    # The one until HAProxy has found out by itself that nobody is there, the other from then on.
    assert dead.headers["smart-service"] in ("unreached", "empty")
    slow = realm.ask("quick", "/slow")
    assert (slow.status, slow.body["code"], slow.body["service"]) == (504, "gateway-timeout", "quick")
    assert {answer.headers["content-type"] for answer in (ended, dead, slow)} == {PROBLEM}


def test_what_is_no_request_is_answered_400(realm: Proxy) -> None:
    """HAProxy answers it before any of our rules, in words of its own, and repeats nothing of it."""
    with socket.create_connection(("127.0.0.1", realm.port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 400 ")
    assert "bad header" not in answer


def test_a_caller_that_leaves_is_not_held_against_the_instance(realm: Proxy, instances: dict[str, Instance]) -> None:
    """Callers that give up early, ten in a row, get no instance ejected;"""
    for number in range(10):
        with socket.create_connection(("127.0.0.1", realm.port), timeout=5) as connection:
            connection.sendall(_get("firm", "Smart-Deadline: 20").replace(b"GET /", b"GET /left"))
            wait_until(lambda: instances["one"].asked.count("GET /left") > number, what="the call being under way")  # noqa: B023
    assert realm.ask("firm").status == 200


def test_callers_on_the_list_come_through(realm: Proxy) -> None:
    """Each of them, and only to the service whose list it is on."""
    assert realm.ask("billing", headers=[("Smart-Caller", "orders")]).status == 200
    assert realm.ask("billing", headers=[("Smart-Caller", "identity")]).status == 200


def test_what_belongs_to_the_hop_stays_there(realm: Proxy) -> None:
    """The instance sees its caller's headers, a bucket and the service that was meant, and neither token nor hop headers."""
    hop = [
        ("Connection", "keep-alive"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
    ]
    seen = realm.ask(
        "identity",
        headers=[("Smart-Sidecar-Token", "s3cret"), ("Smart-Caller", "orders"), ("traceparent", "00-1"), *hop],
    ).seen
    assert seen["smart-caller"] == "orders"
    assert seen["traceparent"] == "00-1"
    assert seen["smart-service"] == "identity"
    assert seen.keys().isdisjoint(["smart-sidecar-token", "connection", "keep-alive", "proxy-connection", "te"])
    assert "x-forwarded-for" not in seen


@pytest.fixture(scope="module")
def guarded(instances: dict[str, Instance]) -> Iterator[Proxy]:
    """A sidecar that asks for tokens."""
    tokens = {hashlib.sha256(f"token of {name}".encode()).hexdigest(): name for name in ("orders", "reports")}
    one = server(instances["one"].port)
    routes = {"identity": Route("identity", (one,)), "billing": Route("billing", (one,), callers=("orders",))}
    with running(routes, tokens=tokens) as proxy:
        yield proxy


@pytest.mark.parametrize("service", ["identity", "orders", None])
@pytest.mark.parametrize("token", [None, "token of nobody", ""])
def test_without_a_known_token_nobody_learns_anything(guarded: Proxy, service: str | None, token: str | None) -> None:
    """401 whatever is asked for, before it is said whether there is such a service."""
    answer = guarded.ask(service, headers=[] if token is None else [("Smart-Sidecar-Token", token)])
    assert (answer.status, answer.body["code"]) == (401, "unauthorized")
    assert answer.headers["content-type"] == PROBLEM
    assert answer.body.get("service") == service
    assert answer.headers["www-authenticate"] == "Smart-Sidecar-Token"


@pytest.mark.parametrize("service", ["identity", "billing", "orders"])
def test_a_bucket_is_no_token(guarded: Proxy, service: str) -> None:
    """A call that has everything else gets no further without one, and with one only where its caller may go."""
    everything = [("Smart-Bucket", "7"), ("Smart-Caller", "orders"), ("Smart-Deadline", "900")]
    assert guarded.ask(service, headers=everything).status == 401
    refused = guarded.ask("billing", headers=[*everything, ("Smart-Sidecar-Token", "token of reports")])
    assert (refused.status, refused.body["code"]) == (403, "forbidden")


def test_no_caller_gets_out_of_sight_by_an_upgrade(guarded: Proxy) -> None:
    """What speaks HTTP/2 in clear text would take the connection over, and any Smart-Caller after that; other upgrades pass."""
    token = ("Smart-Sidecar-Token", "token of orders")
    for upgrade in ("h2c", "chat/1, H2C", "chat/1"):
        seen = guarded.ask("identity", headers=[token, ("Connection", "Upgrade"), ("Upgrade", upgrade)]).seen
        assert "h2c" not in seen.get("upgrade", "").lower()  # newer ones take it off the list, and leave the rest
    assert seen["upgrade"] == "chat/1"


def test_the_token_decides_who_calls(guarded: Proxy) -> None:
    """Whatever the request says of its caller, under whatever spelling, is overwritten; the token itself goes no further."""
    claims = [("Smart-Caller", "orders"), ("Smart_Caller", "orders"), ("smart-caller", "orders")]
    reports = ("Smart-Sidecar-Token", "token of reports")
    assert guarded.ask("billing", headers=[reports, *claims]).status == 403
    seen = guarded.ask("identity", headers=[reports, *claims]).seen
    assert seen["smart-caller"] == "reports"
    assert seen.keys().isdisjoint(["smart-sidecar-token", "smart_caller"])
    assert guarded.ask("billing", headers=[("Smart-Sidecar-Token", "token of orders")]).status == 200


@pytest.mark.parametrize("bucket", ["0", "7", "9999"])
def test_a_bucket_that_is_one_is_kept(realm: Proxy, bucket: str) -> None:
    """Whoever is named beside it: it was computed where the request entered the realm."""
    assert (
        realm.ask("identity", headers=[("Smart-Bucket", bucket), ("Smart-User", "anna")]).seen["smart-bucket"] == bucket
    )


@pytest.mark.parametrize("given", ["10000", "0042", "-1", "+7", "1.5", "x", "", "7 8", "0x10", "\uff14\uff12"])
def test_a_bucket_that_is_none_is_replaced(realm: Proxy, given: str) -> None:
    """By the one of the key that is there."""
    seen = realm.ask("identity", headers=[("Smart-Bucket", given), ("Smart-User", "anna")]).seen
    assert seen["smart-bucket"] == str(bucket_of("anna", "local"))


KEYS = [
    ([("Smart-User", "anna"), ("X-User-Id", "7"), ("Cookie", "session=s1")], "anna"),
    ([("X-User-Id", "7"), ("Cookie", "session=s1")], "7"),
    ([("Cookie", "a=b; session=s1; c=d")], "s1"),
    ([("Smart-User", ""), ("X-User-Id", "7")], "7"),
    ([("Smart-User", 'Zoë "the, one" 100%[x];{}#\\')], 'Zoë "the, one" 100%[x];{}#\\'),
]


def test_a_bucket_that_is_there_twice_is_replaced(realm: Proxy) -> None:
    """By a single one."""
    twice = [("Smart-Bucket", "1"), ("Smart-Bucket", "2"), ("Smart-User", "anna")]
    assert realm.ask("identity", headers=twice).seen["smart-bucket"] == str(bucket_of("anna", "local"))


@pytest.mark.parametrize(("headers", "key"), KEYS)
def test_the_first_key_that_is_there_gives_the_bucket(realm: Proxy, headers: list[tuple[str, str]], key: str) -> None:
    """The headers in their order, then the cookies."""
    assert realm.ask("identity", headers=headers).seen["smart-bucket"] == str(bucket_of(key, "local"))


def _get(service: str, *lines: str) -> bytes:
    more = "".join(f"{line}\r\n" for line in lines)
    return f"GET / HTTP/1.1\r\nHost: x\r\nSmart-Service: {service}\r\n{more}\r\n".encode()


def test_haproxy_and_python_compute_the_same_bucket_of_20_000_keys() -> None:
    """And who is on the side of 5 % there is on it here: 5 % of the keys, the same ones each time."""
    keys = [f"user-{number}" if number % 2 else f"{number * 7919:x}@example.org" for number in range(20_000)]
    with quick_instances(2) as (old, new):
        route = Route("identity", (server(old),), sides=(Side(500, (server(new),)),))
        with running({"identity": route}, salt="release-7") as proxy:
            answers = pipelined(proxy.port, [_get("identity", f"Smart-User: {key}") for key in keys])
            again = pipelined(proxy.port, [_get("identity", f"Smart-User: {key}") for key in keys[:2000]])
    expected = [bucket_of(key, "release-7") for key in keys]
    assert answers == [f"{new if bucket < 500 else old} {bucket}" for bucket in expected]
    assert answers[:2000] == again
    assert 0.045 < sum(bucket < 500 for bucket in expected) / len(keys) < 0.055


def test_a_bucket_by_lot_is_uniform() -> None:
    """Where nobody is named, each bucket is as likely as another, so that a split of 5 % gets 5 %."""
    with quick_instances(1) as (only,), running({"identity": Route("identity", (server(only),))}) as proxy:
        buckets = [int(said.split()[1]) for said in pipelined(proxy.port, [_get("identity")] * 5000)]
    assert 0 <= min(buckets) < 50
    assert 9950 <= max(buckets) < 10_000
    tenths = Counter(bucket // 1000 for bucket in buckets)
    assert all(380 < tenths[tenth] < 620 for tenth in range(10)), tenths  # 500 each, with a deviation of 21


@pytest.mark.parametrize(
    ("bucket", "side"), [(0, "new"), (4999, "new"), (5000, "two"), (7499, "two"), (7500, "one"), (9999, "one")]
)
def test_a_side_takes_the_buckets_below_its_limit(realm: Proxy, bucket: int, side: str) -> None:
    """And not those of the side before it; the rest goes to the versions of no side."""
    assert realm.ask("split", headers=[("Smart-Bucket", str(bucket))]).body["instance"] == side


def test_weights_count_however_few_calls_there_are() -> None:
    """One caller, one call after the other: 1 to 3 to 6 is what the instances get, within a call or two of a hundred."""
    with quick_instances(3) as ports:
        weighted = tuple(
            replace(server(port), weight=weight) for port, weight in zip(ports, (30, 90, 180), strict=True)
        )
        with running({"identity": Route("identity", weighted)}) as proxy:
            answers = pipelined(proxy.port, [_get("identity", "X: y") for _ in range(1000)])
    found = Counter(int(answer.split()[0]) for answer in answers)
    assert [round(found[port] / 10) for port in ports] == [10, 30, 60]


def test_a_side_that_cannot_take_calls_leaves_them_to_the_others(realm: Proxy) -> None:
    """Whether it never had a server, or the last one was found bad."""
    assert realm.ask("side-empty").body["instance"] == "one"
    dead = next(iter(realm.state.backends["side-lost:1"]))
    realm.runtime.ask(f"set server side-lost:1/{dead} health down")
    assert realm.ask("side-lost").body["instance"] == "one"


def test_a_backup_takes_calls_only_when_no_nearer_one_can(realm: Proxy, instances: dict[str, Instance]) -> None:
    """Zones are made of that."""
    assert {realm.ask("near").body["instance"] for _ in range(6)} == {"one"}
    near = f"near/127.0.0.1:{instances['one'].port}"
    realm.runtime.ask(f"set server {near} state maint")
    assert realm.ask("near").body["instance"] == "two"
    realm.runtime.ask(f"set server {near} state ready")


def test_a_connection_that_fails_is_made_elsewhere_at_once(realm: Proxy) -> None:
    """Whatever the method: nothing has been sent."""
    begun = time.monotonic()
    for number in range(8):
        answer = realm.ask("half-dead", method="POST" if number % 2 else "GET", body=b"x" if number % 2 else None)
        assert (answer.status, answer.body["instance"]) == (200, "one")
    assert seconds(begun) < 3  # without the pause of a second before the same server is tried again, half of the times


def _heal(realm: Proxy, service: str) -> None:
    """Set the servers of a service up again, which a test may have had ejected by its bad answers."""
    for name in realm.state.backends[service]:
        realm.runtime.ask(f"set server {service}/{name} health up")
    for _ in range(6):  # a good answer of each ends what was counted
        assert realm.ask(service).status == 200


REPEATED = [
    ("identity", "GET", [], 4),
    ("identity", "PUT", [], 4),
    ("identity", "DELETE", [], 4),
    ("identity", "POST", [], 1),
    ("identity", "POST", [("Idempotency-Key", "k1")], 4),
    ("once", "GET", [], 1),
    ("once", "POST", [("Idempotency-Key", "k1")], 1),
]


@pytest.mark.parametrize(("service", "method", "headers", "times"), REPEATED)
def test_only_what_may_be_repeated_is(
    realm: Proxy, instances: dict[str, Instance], service: str, method: str, headers: list[tuple[str, str]], times: int
) -> None:
    """A request that got no answer at all is repeated when its method, its key and its service allow it."""
    before = sum(each.asked.count(f"{method} /empty") for each in instances.values())
    _heal(realm, service)
    assert realm.ask(service, "/empty", method=method, headers=headers).status == 502
    assert sum(each.asked.count(f"{method} /empty") for each in instances.values()) - before == times


def test_a_call_that_was_upgraded_may_be_silent(realm: Proxy) -> None:
    """A websocket outlives the time that an answer of its service may take: 200 ms."""
    with socket.create_connection(("127.0.0.1", realm.port), timeout=5) as connection:
        words = (
            "GET /tunnel HTTP/1.1\r\nHost: x\r\nSmart-Service: quick\r\nConnection: Upgrade\r\nUpgrade: lines\r\n\r\n"
        )
        connection.sendall(words.encode())
        answers = connection.makefile("rb")
        assert answers.readline().split()[1] == b"101"
        while answers.readline().strip():
            pass
        for _ in range(2):
            time.sleep(0.8)
            connection.sendall(b"there?\n")
            assert answers.readline() == b"there?\n"


@pytest.mark.parametrize("path", ["/500", "/slow"])
def test_neither_an_answer_of_500_nor_a_timeout_is_repeated(
    realm: Proxy, instances: dict[str, Instance], path: str
) -> None:
    """That is for the caller, within its budget: here it would hide a bad instance."""
    before = len(instances["one"].asked)
    assert realm.ask("quick", path).status in (500, 504)
    assert instances["one"].asked[before:] == [f"GET {path}"]


@pytest.mark.parametrize(
    ("service", "deadline", "least", "most"),
    [
        ("quick", None, 0.15, 1.0),
        ("quick", "60000", 0.15, 1.0),
        ("identity", "300", 0.45, 2.0),
        ("firm", "50", 0.2, 1.2),
        ("quick", "soon", 0.15, 1.0),
    ],
)
def test_a_call_takes_no_longer_than_the_map_and_the_caller_allow(
    realm: Proxy, service: str, deadline: str | None, least: float, most: float
) -> None:
    """The shorter of both counts; a deadline that cannot be read counts as none."""
    _heal(realm, service)
    begun = time.monotonic()
    answer = realm.ask(service, "/slow", headers=[] if deadline is None else [("Smart-Deadline", deadline)])
    assert answer.status == 504
    assert least < seconds(begun) < most


def test_sockets_are_as_open_as_they_should_be(realm: Proxy) -> None:
    """Calls for the group, the rest for the owner alone; HAProxy's own metrics are read there."""
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in realm.settings.directory.iterdir()
        if stat.S_ISSOCK(path.stat().st_mode)
    }
    assert modes == {"calls.sock": 0o660, "haproxy.sock": 0o600, "metrics.sock": 0o600}
    for path, request, expected in (
        (realm.settings.calls_socket, b"GET / HTTP/1.0\r\nSmart-Service: identity\r\n\r\n", b'"instance":'),
        (realm.settings.exporter_socket, b"GET /metrics HTTP/1.0\r\n\r\n", b"haproxy_backend_http_responses_total"),
    ):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(request)
            assert expected in connection.makefile("rb").read()


def test_what_haproxy_says_it_knows_is_what_was_rendered(realm: Proxy) -> None:
    """So that nothing looks like drift; only a server that drains is to be told so again."""
    reading = realm.runtime.read(realm.settings.proxy_maps)
    assert missing_backends(reading.state, realm.state) == ()
    about = {command.about for command in commands(reading.state, realm.state)}
    assert about <= {"draining"}
    assert adopt_layout(reading.state) == realm.layout


@pytest.mark.parametrize("tokens", [None, {}])
def test_haproxy_has_nothing_to_complain_about(tokens: dict[str, str] | None) -> None:
    """Neither an error nor a warning, in a file with routes and in one without any."""
    with running({}, tokens=tokens) as proxy:
        checked = subprocess.run(["haproxy", "-c", "-f", proxy.settings.proxy_config], capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")
        said = [line for line in proxy.child.text().splitlines() if "WARNING" in line]
        assert [line for line in said if not re.search("started as (the )?root", line)] == []
