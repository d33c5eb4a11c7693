"""The resources under /v1/: what they take, what they hand on to the map, what they answer."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from atlas import wire
from atlas.model import Author, Lease, Ruling, Service
from atlas.server.app import store_health
from atlas.world import World
from smartservice import SmartService
from tests.live.atlas_api.double import MapDouble, wait_until


@pytest.fixture
def client(open_app: SmartService) -> FlaskClient:
    return open_app.test_client()


BY = Author("local")


@pytest.mark.parametrize(
    ("method", "path", "body", "written"),
    [
        ("PUT", "/v1/services/shop", {"port": 8003}, ("put_service", Service("shop", port=8003), BY)),
        ("PATCH", "/v1/services/shop", {"port": 8003}, ("change_service", "shop", {"port": 8003}, BY)),
        (
            "PUT",
            "/v1/services/shop",
            {"split": "1.4=5%", "callers": "web", "loss_accepted_at": 5},
            ("put_service", Service("shop", split="1.4=5%", callers="web", loss_accepted_at=5.0), BY),
        ),
        (
            "PUT",
            "/v1/leases/sidecar@h",
            {"incarnation": "i", "report": {"revision": 7}},
            ("hold", Lease("sidecar@h", "i", report={"revision": 7})),
        ),
        ("DELETE", "/v1/services/shop?force=true", None, ("remove_service", "shop", BY, True)),
        (
            "POST",
            "/v1/services/shop/port",
            {"ports": "8000-8001,9"},
            ("claim_port", Service("shop"), BY, [8000, 8001, 9]),
        ),
        ("PUT", "/v1/config/*/A", {"value": {"x": [1, None]}}, ("set_override", "*", "A", {"x": [1, None]}, BY, False)),
        ("PUT", "/v1/config/web/A", {"value": "s", "secret": True}, ("set_override", "web", "A", "s", BY, True)),
        ("PUT", "/v1/config/web/A", {"value": None}, ("set_override", "web", "A", None, BY, False)),
        ("DELETE", "/v1/config/web/A", None, ("unset_override", "web", "A", BY)),
        (
            "PUT",
            "/v1/rulings/web/[::1]:80?force=true",
            {"state": "draining", "weight": 5, "expires_at": 9.5},
            ("rule", Ruling("web", "::1", 80, "draining", 5, expires_at=9.5), BY, True),
        ),
        ("POST", "/v1/rollback", {"revision": 3}, ("rollback", 3, BY, None, None)),
        (
            "POST",
            "/v1/rollback",
            {"revision": 3, "kind": "service", "key": "web"},
            ("rollback", 3, BY, "service", "web"),
        ),
        ("PUT", "/v1/leases/host-7", {"incarnation": "i"}, ("hold", Lease("host-7", "i"))),
        ("DELETE", "/v1/leases/web@h:1?incarnation=i", None, ("release", "web@h:1", "i")),
        (
            "POST",
            "/v1/tokens",
            {"role": "host", "subject": "h", "expires_at": 5},
            ("create_token", "host", "h", BY, 5.0),
        ),
        ("DELETE", "/v1/tokens/t1", None, ("revoke_token", "t1", BY)),
    ],
)
def test_a_write_reaches_the_map_as_it_was_said(
    method: str, path: str, body: Any, written: tuple[Any, ...], client: FlaskClient, book: MapDouble
) -> None:
    """Every field arrives, with who and why; the answer tells the revision where there is one."""
    answer = client.open(path, method=method, **({} if body is None else {"json": body}))
    assert answer.status_code in (200, 201, 204), answer.get_data(as_text=True)
    assert book.writes == [written]
    if answer.status_code == 200 and method != "POST":
        assert answer.get_json() == {"revision": 7}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("PUT", "/v1/services/shop", {"prot": 8003}, 422, "#/prot"),
        ("PATCH", "/v1/services/shop", {"prot": 8003}, 422, "#/prot"),
        ("PUT", "/v1/services/shop", {"port": 80030}, 422, "1 to 65535"),
        ("PUT", "/v1/services/shop", {"port": True}, 422, "#/port"),
        ("PUT", "/v1/services/shop", {"split": "1.4=500%"}, 422, "#/split"),
        ("PUT", "/v1/services/shop", {"callers": "No!"}, 422, "#/callers"),
        ("PUT", "/v1/leases/sidecar@h", {"incarnation": "i", "report": 7}, 422, "#/report"),
        ("PUT", "/v1/services/Shop!", {}, 422, "lower-case"),
        ("POST", "/v1/services/shop/port", {"ports": "many"}, 422, "8000-8999"),
        ("PUT", "/v1/config/web/A", {}, 422, "#/value"),
        ("PUT", "/v1/config/web/A", {"value": 1, "secrets": True}, 422, "#/secrets"),
        ("PUT", "/v1/rulings/web/h", {"state": "disabled"}, 422, "host:port"),
        ("PUT", "/v1/rulings/web/::1:80", {"state": "disabled"}, 422, "[::1]:80"),
        ("PUT", "/v1/rulings/web/h:1", {"state": "asleep"}, 422, "#/state"),
        ("PUT", "/v1/leases/h", {"incarnation": "i", "instances": [{"service": "web"}]}, 422, "host"),
        ("DELETE", "/v1/leases/h", None, 422, "incarnation"),
        ("POST", "/v1/tokens", {"role": "king", "subject": "x"}, 422, "#/role"),
        ("GET", "/v1/world?position=nonsense", None, 422, "epoch.revision.presence"),
        ("GET", "/v1/world?wiat=3", None, 422, "wiat"),
        ("GET", "/v1/history?limit=0", None, 422, "limit"),
        ("GET", "/v1/services/wbe", None, 404, "web"),
        ("GET", "/v1/services/wbe/instances", None, 404, "web"),
        ("GET", "/v1/config/web/PAGESIZE", None, 404, "PAGE_SIZE"),
        ("GET", "/v1/config/No!", None, 422, "name of a service"),
        ("POST", "/v1/import", None, 200, "revision"),
    ],
)
def test_wrong_input_is_explained(
    method: str, path: str, body: Any, status: int, said: str, client: FlaskClient
) -> None:
    """The answer names what is wrong and what would be right."""
    answer = client.open(path, method=method, **({} if body is None else {"json": body}))
    assert answer.status_code == status
    assert said in answer.get_data(as_text=True)


def test_the_complete_world_comes_compressed_and_only_when_it_has_changed(client: FlaskClient, book: MapDouble) -> None:
    """gzip where it is accepted, 304 for the same ETag, another tag after a change."""
    plain = client.get("/v1/world")
    zipped = client.get("/v1/world", headers={"Accept-Encoding": "gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.data) == plain.data
    world = wire.read_update(plain.get_json())
    assert isinstance(world, World)
    assert dict(world.services) == dict(book.now.services)
    assert world.instances["web"]["host-1:8000"].lease == "host-1"
    tag = {"If-None-Match": plain.headers["ETag"]}
    assert client.get("/v1/world", headers=tag).status_code == 304
    book.change(Service("shop"))
    assert client.get("/v1/world", headers=tag).status_code == 200


def test_a_poll_without_news_is_answered_204(client: FlaskClient, book: MapDouble) -> None:
    """Without a body."""
    answer = client.get(f"/v1/world?position={book.now.position}&wait=0.01")
    assert (answer.status_code, answer.data) == (204, b"")


def test_a_poll_tells_that_this_instance_is_about_to_stop(
    client: FlaskClient, open_app: SmartService, book: MapDouble
) -> None:
    """So that its reader asks another replica."""
    open_app.extensions["atlas.follower"].release()
    answer = client.get(f"/v1/world?position={book.now.position}&wait=0.01")
    assert answer.headers[wire.DRAINING] == "yes"


def test_services_and_their_instances_are_listed(client: FlaskClient, book: MapDouble) -> None:
    """An instance is shown as callers see it: under the operator's word."""
    book.change(Ruling("web", "host-1", 8000, "disabled", reason="loses requests", author="anna", at=1.0))
    assert [one["name"] for one in client.get("/v1/services").get_json()["services"]] == ["billing", "web"]
    assert client.get("/v1/services/web").get_json() == {"name": "web", "owner": "shop", "port": 8000}
    (instance,) = client.get("/v1/services/web/instances").get_json()["instances"]
    assert (instance["host"], instance["state"], instance["ruling"]["reason"]) == (
        "host-1",
        "disabled",
        "loses requests",
    )


def test_a_new_token_is_shown_once_and_its_digest_never(client: FlaskClient, book: MapDouble) -> None:
    """The list has neither."""
    book.token("reader", "dashboard")
    made = client.post("/v1/tokens", json={"role": "reader", "subject": "x"})
    assert made.get_json() == {
        "id": "t1",
        "role": "reader",
        "subject": "x",
        "created_at": 1.0,
        "token": "the new token",
    }
    assert made.headers["Cache-Control"] == "no-store"
    listed = client.get("/v1/tokens").get_json()["tokens"]
    assert listed == [{"id": "id-reader-dashboard", "role": "reader", "subject": "dashboard"}]


def test_the_map_goes_out_and_in_one_object_a_line(client: FlaskClient, book: MapDouble) -> None:
    """What an export gives, an import takes."""
    exported = client.get("/v1/export")
    lines = [json.loads(line) for line in exported.data.splitlines()]
    assert lines == [{"format": 1}, {"kind": "service", "name": "web"}]
    assert client.post("/v1/import", data=exported.data, content_type="application/x-ndjson").status_code == 200
    assert book.writes == [("import_", lines)]
    for line in (b"nonsense", b"[" * 100_000, b"\xff\xfe"):
        broken = client.post("/v1/import", data=b'{"format":1}\n' + line + b"\n")
        assert broken.status_code == 400
        assert "Line 2" in broken.get_json()["detail"]


def test_an_export_that_cannot_be_begun_is_an_error(client: FlaskClient, book: MapDouble) -> None:
    """Not half an answer with status 200."""
    client.get("/v1/status")
    book.away = "the store is away"
    assert client.get("/v1/export").status_code == 503


def test_history_tells_who_what_when_and_why(client: FlaskClient) -> None:
    """Each change as the client reads it back."""
    (change,) = client.get("/v1/history").get_json()["changes"]
    assert wire.read_change(change).author == "anna"
    assert wire.read_change(change).edits[0].after == {"name": "web"}


def test_status_is_told_also_while_the_store_is_away(client: FlaskClient, book: MapDouble) -> None:
    """Then it says what this worker knows, and what is wrong."""
    client.get("/v1/world")
    assert client.get("/v1/status").get_json()["store"] == {"name": "double"}
    book.away = "the store is away"
    server = client.get("/v1/status").get_json()["server"]
    assert server["store_problem"] == "the store is away"
    assert server["position"] == str(book.now.position)


def test_readiness_is_red_without_a_map_and_warns_while_it_is_served_from_memory(
    open_app: SmartService, book: MapDouble
) -> None:
    """A store that is away takes no replica out of service that has the map in memory."""
    client = open_app.test_client()
    follower = open_app.extensions["atlas.follower"]
    book.away = "the store is away"
    assert client.get("/healthcheck/ready").status_code == 503
    book.away = None
    follower.known()
    book.away = "the store is away"
    with book.news:
        book.news.notify_all()
    wait_until(lambda: follower.problem is not None)
    result = store_health(follower)
    assert result.status == "warn"
    assert "the store is away" in str(result.output)


def test_metrics_tell_the_position_and_who_waits(client: FlaskClient, book: MapDouble) -> None:
    """What an operator of the server looks at."""
    client.get("/v1/services")
    text = client.get("/metrics").get_data(as_text=True)
    assert f"atlas_revision {float(book.now.position.revision)}" in text
    assert "atlas_readers_waiting 0.0" in text
    assert "atlas_leases 1.0" in text


def test_the_description_leaves_nothing_out(client: FlaskClient) -> None:
    """What is taken and what is answered, the new with the old: the split of a service, the report of a lease, the revision."""
    schemas = client.get("/openapi.json").get_json()["components"]["schemas"]
    assert {"split", "callers", "loss_accepted_at"} <= schemas["ServiceIn"]["properties"].keys()
    assert "report" in schemas["LeaseIn"]["properties"]
    assert schemas["Revision"]["properties"].keys() == {"revision"}
