"""Who may do what: every scope at every route, and everything around a token."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient

from atlas.model import Change, Edit, Instance, Override
from atlas.server.app import check_tokens, make_app
from atlas.world import Delta
from smartrealm import ConfigurationError
from smartservice import SmartService
from tests.live.atlas_api.double import MapDouble, wait_until

LEASE = {"incarnation": "i2", "instances": [{"service": "web", "host": "host-1", "port": 8000}]}

# Each route with what it answers: to an operator, to the service web, to the host host-1, to a reader.
ROUTES: list[tuple[str, str, Any, tuple[int, int, int, int]]] = [
    ("GET", "/v1/world", None, (200, 200, 200, 200)),
    ("GET", "/v1/world?service=web", None, (200, 200, 403, 403)),
    ("GET", "/v1/world?service=billing", None, (200, 403, 403, 403)),
    ("GET", "/v1/services", None, (200, 200, 200, 200)),
    ("GET", "/v1/services/web", None, (200, 200, 200, 200)),
    ("PUT", "/v1/services/web", {"owner": "shop"}, (200, 403, 403, 403)),
    ("PATCH", "/v1/services/web", {"owner": "shop"}, (200, 403, 403, 403)),
    ("DELETE", "/v1/services/web", None, (200, 403, 403, 403)),
    ("POST", "/v1/services/new/port", {}, (200, 403, 403, 403)),
    ("GET", "/v1/services/web/instances", None, (200, 200, 200, 200)),
    ("GET", "/v1/config/*", None, (200, 200, 403, 200)),
    ("GET", "/v1/config/web", None, (200, 200, 403, 200)),
    ("GET", "/v1/config/billing", None, (200, 403, 403, 200)),
    ("GET", "/v1/config/web/PAGE_SIZE", None, (200, 200, 403, 200)),
    ("GET", "/v1/config/billing/CURRENCY", None, (200, 403, 403, 200)),
    ("PUT", "/v1/config/web/PAGE_SIZE", {"value": 1}, (200, 403, 403, 403)),
    ("DELETE", "/v1/config/web/PAGE_SIZE", None, (200, 403, 403, 403)),
    ("PUT", "/v1/rulings/web/host-1:8000", {"state": "disabled"}, (200, 403, 403, 403)),
    ("GET", "/v1/history", None, (200, 403, 403, 403)),
    ("GET", "/v1/history?kind=service", None, (200, 200, 200, 200)),
    ("GET", "/v1/history?kind=ruling&key=web/host-1:8000", None, (200, 200, 200, 200)),
    ("GET", "/v1/history?kind=override", None, (200, 403, 403, 403)),
    ("GET", "/v1/history?kind=token", None, (200, 403, 403, 403)),
    ("POST", "/v1/rollback", {"revision": 1}, (200, 403, 403, 403)),
    ("PUT", "/v1/leases/web@host-1:8000", LEASE, (204, 204, 204, 403)),
    ("DELETE", "/v1/leases/web@host-1:8000?incarnation=i2", None, (204, 204, 204, 403)),
    ("PUT", "/v1/leases/sidecar@host-1", {"incarnation": "i", "report": {"revision": 1}}, (204, 403, 204, 403)),
    ("PUT", "/v1/leases/sidecar@host-2", {"incarnation": "i", "report": {"revision": 1}}, (204, 403, 403, 403)),
    ("PUT", "/v1/leases/sidecar@host-1", LEASE, (204, 403, 204, 403)),
    ("PUT", "/v1/leases/host-1", {**LEASE, "report": {"revision": 1}}, (204, 403, 403, 403)),
    ("DELETE", "/v1/leases/sidecar@host-1?incarnation=i", None, (204, 403, 204, 403)),
    ("GET", "/v1/reports", None, (200, 200, 200, 200)),
    ("GET", "/v1/tokens", None, (200, 403, 403, 403)),
    ("POST", "/v1/tokens", {"role": "reader", "subject": "x"}, (201, 403, 403, 403)),
    ("DELETE", "/v1/tokens/t1", None, (200, 403, 403, 403)),
    ("GET", "/v1/export", None, (200, 403, 403, 403)),
    ("POST", "/v1/import", None, (200, 403, 403, 403)),
    ("GET", "/v1/status", None, (200, 200, 200, 200)),
]
ROLES = (("operator", "anna"), ("service", "web"), ("host", "host-1"), ("reader", "dashboard"))

Asking = Callable[..., FlaskClient]


def test_every_scope_gets_at_every_route_what_the_table_says(asking: Asking) -> None:
    """Nobody gets further than their scope, and a refusal says which scope is needed."""
    for column, (role, subject) in enumerate(ROLES):
        client = asking(role, subject)
        for method, path, body, expected in ROUTES:
            answer = client.open(path, method=method, **({} if body is None else {"json": body}))
            assert answer.status_code == expected[column], f"{role} {method} {path}: {answer.get_data(as_text=True)}"
            if answer.status_code == 403:
                assert answer.get_json()["needed"]
                assert answer.get_json()["needed"] in answer.get_json()["detail"]


def test_a_token_may_be_that_of_all_hosts_of_a_network(asking: Asking) -> None:
    """Pods get their addresses by chance: a token of their network holds the lease of each, and of nobody elsewhere."""
    client = asking("host", "10.42.0.0/16")
    for host, expected in (("10.42.7.1", 204), ("10.43.0.1", 403), ("host-1", 403)):
        instance = {"service": "web", "host": host, "port": 8000}
        body = {"incarnation": "i", "ttl_seconds": 5, "instances": [instance], "report": {"revision": 1}}
        assert client.put(f"/v1/leases/sidecar@{host}", json=body).status_code == expected, host
    elsewhere = {
        "incarnation": "i",
        "ttl_seconds": 5,
        "instances": [{"service": "web", "host": "host-1", "port": 8000}],
    }
    assert client.put("/v1/leases/sidecar@10.42.7.2", json=elsewhere).status_code == 403


def test_the_table_of_scopes_is_complete(app: SmartService) -> None:
    """A route that is added without a line in the table fails here."""
    methods = ("GET", "PUT", "PATCH", "POST", "DELETE")
    known = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in methods
        if rule.rule.startswith("/v1/") and method in (rule.methods or ())
    }
    adapter = app.url_map.bind("localhost")
    listed = set()
    for method, path, _, _ in ROUTES:
        rule, _ = adapter.match(path.partition("?")[0], method, return_rule=True)
        listed.add((method, rule.rule))
    assert listed == known


def test_nothing_is_answered_without_a_token(app: SmartService) -> None:
    """Every route says 401 and names the scheme to authenticate with."""
    for method, path, body, _ in ROUTES:
        answer = app.test_client().open(path, method=method, json=body)
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.get_json()["code"] == "unauthorized"


def _values(data: Any) -> Iterator[tuple[str, Any]]:
    """Every override in an answer of whatever shape: its name and its value (None where it has none)."""
    if isinstance(data, dict):
        if "scope" in data and "key" in data:
            yield f"{data['scope']}/{data['key']}", data.get("value")
        for item in data.values():
            yield from _values(item)
    elif isinstance(data, list):
        for item in data:
            yield from _values(item)


SECRETS = {"*/SHARED_KEY", "web/API_KEY", "billing/BANK_KEY"}
OVERRIDES = {"*/REGION", "web/PAGE_SIZE", "billing/CURRENCY"} | SECRETS
OF_WEB = {"*/REGION", "web/PAGE_SIZE", "*/SHARED_KEY", "web/API_KEY"}
SHOWN = {  # who: the overrides that may appear at all, and those whose value may
    ("operator", "anna"): (OVERRIDES, OVERRIDES - SECRETS),
    ("service", "web"): (OF_WEB, OF_WEB),
    ("host", "host-1"): (set(), set()),
    ("reader", "dashboard"): (OVERRIDES, set()),
}


@pytest.mark.parametrize("who", ROLES, ids=[role for role, _ in ROLES])
def test_overrides_and_secrets_reach_only_those_who_may_see_them(
    who: tuple[str, str], asking: Asking, book: MapDouble
) -> None:
    """Over all routes that read, complete or as news, a scope sees exactly its overrides, and secrets only their service."""
    may_name, may_read = SHOWN[who]
    client = asking(*who)
    position = client.get("/v1/world").get_json()["position"]
    book.change(*book.now.overrides.values())
    paths = [path for method, path, _, _ in ROUTES if method == "GET" and "service=" not in path]
    paths += [f"/v1/world?position={position}&wait=0.3"]
    named, read = set(), set()
    for path in paths:
        answer = client.get(path)
        if answer.status_code != 200 or not answer.is_json:
            continue
        text = answer.get_data(as_text=True)
        for name in SECRETS - may_read:
            assert book.opened[name] not in text, path
        for name, value in _values(json.loads(text)):
            named.add(name)
            if value is not None:
                read.add(name)
    assert (named, read) == (may_name, may_read)


def test_an_operator_reads_on_behalf_of_a_service(asking: Asking) -> None:
    """With `service=` an operator sees that service's secrets, and no others."""
    items = dict(_values(asking("operator").get("/v1/world?service=web").get_json()))
    assert items["web/API_KEY"] == "web-value"
    assert items["*/SHARED_KEY"] == "shared-value"
    assert items["billing/BANK_KEY"] is None


@pytest.mark.parametrize(
    ("role", "subject", "lease", "instances", "status"),
    [
        ("service", "web", "web@h:1", [("web", "anywhere")], 204),
        ("service", "web", "web@h:1", [("web", "h"), ("billing", "h")], 403),
        ("service", "web", "web@h:1", [], 204),
        ("service", "billing", "host-1", [], 403),
        ("service", "billing", "host-1", [("billing", "h")], 403),
        ("host", "host-1", "host-1", [("web", "host-1"), ("billing", "host-1")], 204),
        ("host", "host-1", "host-1", [("web", "host-2")], 403),
        ("host", "host-2", "host-1", [("web", "host-2")], 403),
        ("operator", "anna", "host-1", [("web", "host-9"), ("billing", "host-8")], 204),
    ],
)
def test_a_holder_carries_only_what_is_its_own(
    role: str, subject: str, lease: str, instances: list[tuple[str, str]], status: int, asking: Asking
) -> None:
    """Neither the instances that it names nor those that the lease carries already may be somebody else's."""
    body = {
        "incarnation": "i9",
        "instances": [{"service": name, "host": host, "port": 9} for name, host in instances],
    }
    assert asking(role, subject).put(f"/v1/leases/{lease}", json=body).status_code == status


@pytest.mark.parametrize("who", ROLES[1:], ids=[role for role, _ in ROLES[1:]])
def test_of_a_change_of_several_things_only_the_open_ones_are_told(
    who: tuple[str, str], asking: Asking, book: MapDouble
) -> None:
    """A service that was removed is told without the settings that went with it."""
    edits = (
        Edit("service", "web", {"name": "web"}, None),
        Edit("override", "web/PAGE_SIZE", {"scope": "web", "key": "PAGE_SIZE", "value": "planted"}, None),
    )
    book.changes = [Change(3, 6.0, "anna", "", edits[1:], "c2"), Change(2, 5.0, "anna", "", edits, "c1")]
    answer = asking(*who).get("/v1/history?kind=service")
    assert "planted" not in answer.get_data(as_text=True)
    (change,) = answer.get_json()["changes"]
    assert (change["revision"], [edit["kind"] for edit in change["edits"]]) == (2, ["service"])
    assert asking(*who).get("/v1/history?kind=service&key=other").get_json() == {"changes": []}


def test_a_lease_of_others_is_not_released(asking: Asking) -> None:
    """Who may not hold it may not end it."""
    answer = asking("service", "billing").delete("/v1/leases/host-1?incarnation=i1")
    assert answer.status_code == 403


def test_a_revoked_token_is_refused_and_a_new_one_is_let_in_at_once(asking: Asking, book: MapDouble) -> None:
    """Tokens follow the map, without a restart."""
    client = asking("reader", "dashboard")
    assert client.get("/v1/services").status_code == 200
    book.change(remove=[("token", "id-reader-dashboard")])
    wait_until(lambda: client.get("/v1/services").status_code == 401)
    assert asking("reader", "another").get("/v1/services").status_code == 200


def test_a_reader_that_waits_is_told_nothing_once_its_token_is_gone(asking: Asking, book: MapDouble) -> None:
    """News that come after the token was revoked are for others, also when the question was asked before."""
    client = asking("service", "web")
    position = client.get("/v1/world").get_json()["position"]
    waiting = ThreadPoolExecutor(1).submit(client.get, f"/v1/world?position={position}&wait=5")
    wait_until(lambda: client.application.extensions["atlas.follower"].waiting)
    book.change(remove=[("token", "id-service-web")])
    book.change(Override("web", "PAGE_SIZE", "only for web"))
    answer = waiting.result(5)
    assert answer.status_code == 401
    assert "only for web" not in answer.get_data(as_text=True)


def test_a_reader_that_waits_is_told_nothing_once_its_token_has_expired(book: MapDouble) -> None:
    """The end of a token is the end of what it may see, not only of what it may ask."""
    app = make_app(book=book, environ={}, TESTING=True, ATLAS_OPEN=False)
    headers = {"Authorization": f"Bearer {book.token('service', 'web', expires_at=time.time() + 0.5)}"}
    position = app.test_client().get("/v1/world", headers=headers).get_json()["position"]
    url = f"/v1/world?position={position}&wait=5"
    waiting = ThreadPoolExecutor(1).submit(app.test_client().get, url, headers=headers)
    time.sleep(0.6)
    book.change(Override("web", "PAGE_SIZE", "only for web"))
    answer = waiting.result(5)
    app.close()
    assert answer.status_code == 401
    assert "only for web" not in answer.get_data(as_text=True)


def test_a_lease_that_was_opened_elsewhere_a_moment_ago_is_not_taken_over(asking: Asking, book: MapDouble) -> None:
    """A worker that has not heard of a lease asks the store before it gives it away."""
    client = asking("service", "billing")
    assert client.get("/v1/services").status_code == 200
    book.now = book.now.apply(  # the store has it, and no worker was told of it
        Delta(book.now.position, book.now.position, (_carries("fresh", Instance("web", "h", 8000, lease="fresh")),))
    )
    body = {"incarnation": "i9", "instances": []}
    assert client.put("/v1/leases/fresh", json=body).status_code == 403
    assert client.delete("/v1/leases/fresh?incarnation=i9").status_code == 403


def _carries(lease: str, instance: Instance) -> Edit:
    return Edit("instance", instance.key, None, {**instance.to_json(), "lease": lease})


def test_an_expired_token_is_refused(app: SmartService, book: MapDouble) -> None:
    """The answer says that it has expired, and for whom it was."""
    token = book.token("reader", "dashboard", expires_at=1.0)
    answer = app.test_client().get("/v1/services", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert "dashboard has expired" in answer.get_json()["detail"]


@pytest.mark.parametrize("header", ["Bearer nobody", "Bearer ", "Basic YTpi", "nobody", "Bearer \xff\xfe"])
def test_a_wrong_header_is_refused_without_repeating_it(header: str, app: SmartService) -> None:
    """What was sent is in no answer."""
    answer = app.test_client().get("/v1/services", headers={"Authorization": header})
    assert answer.status_code == 401
    assert "nobody" not in answer.get_data(as_text=True)


def test_the_author_is_the_one_whose_token_it_is(asking: Asking, book: MapDouble) -> None:
    """A name in a header does not count beside a token; the reason does."""
    headers = {"Atlas-Author": "mallory", "Atlas-Why": "a line%0Abreak, 100% so"}
    asking("operator", "anna").put("/v1/config/web/A", json={"value": 1}, headers=headers)
    by = book.writes[-1][4]
    assert (by.name, by.why) == ("anna", "a line\nbreak, 100% so")


def test_the_local_realm_is_open_to_its_own_machine(open_app: SmartService, book: MapDouble) -> None:
    """No token is asked for, and everybody says their own name."""
    answer = open_app.test_client().put("/v1/services/web", json={}, headers={"Atlas-Author": "J%C3%BCrgen"})
    assert answer.status_code == 200
    assert book.writes[-1][2].name == "Jürgen"


@pytest.mark.parametrize(
    "sent",
    [
        {"headers": {"Origin": "https://elsewhere.example"}},
        {"headers": {"Origin": "http://[::1"}},
        {"headers": {"Host": "atlas.elsewhere.example"}},
        {"environ_overrides": {"REMOTE_ADDR": "192.0.2.7"}},
    ],
    ids=["another site's page", "a page of nowhere", "a name bent to loopback", "another machine"],
)
def test_the_open_realm_is_closed_to_everybody_else(sent: dict[str, Any], open_app: SmartService) -> None:
    """A web page that the owner of the machine looks at is not its owner."""
    assert open_app.test_client().get("/v1/services", **sent).status_code == 403


def test_a_page_of_the_server_itself_may_ask(open_app: SmartService) -> None:
    """The same origin is no stranger."""
    answer = open_app.test_client().get("/v1/services", headers={"Origin": "http://localhost", "Host": "localhost"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("realm", "settings"),
    [("local", {"HOST": "0.0.0.0"}), ("local", {"HOST": "::"}), ("local", {"HOST": "atlas.example"}), ("testing", {})],
)
def test_strangers_are_never_let_in_without_tokens(
    realm: str, settings: dict[str, Any], book: MapDouble, tmp_path: Any
) -> None:
    """Switched open in public it refuses to be made; not switched open it asks for tokens, and refuses to be served while
    there is none; both say how to make the first one."""
    environ = {"REALM": realm}
    with pytest.raises(ConfigurationError, match="token create operator"):
        make_app(book=book, environ=environ, ATLAS_OPEN=True, **settings)
    app = make_app(book=book, environ=environ, TESTING=True, **settings)
    with pytest.raises(ConfigurationError, match="token create operator"):
        check_tokens(app, book)
    assert app.test_client().get("/v1/services").status_code == 401
    book.token("operator", "anna")
    check_tokens(app, book)
    app.close()


def test_a_store_that_does_not_answer_is_no_reason_not_to_start(book: MapDouble) -> None:
    """Whether there are tokens is not known then; nobody is let in without one anyway."""
    app = make_app(book=book, environ={"REALM": "testing"}, TESTING=True)
    book.away = "the store is away"
    check_tokens(app, book)
    assert app.test_client().get("/v1/services").status_code == 401
    app.close()


def test_the_store_of_an_atlas_is_no_other_atlas() -> None:
    """ATLAS_STORE names a store; outside of the local realm it must be set."""
    with pytest.raises(ConfigurationError, match="name the store itself"):
        make_app(environ={"ATLAS_STORE": "http://elsewhere:7070"})
    with pytest.raises(ConfigurationError, match="ATLAS_STORE is empty"):
        make_app(environ={"REALM": "testing"})
