"""Promises of `SmartApi`: resources with the course of plain Flask."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from flask import Blueprint, Flask, Response, abort, got_request_exception
from flask_restful import Resource, abort as restful_abort, fields, marshal_with
from pydantic import BaseModel, Field

from smartrealm import ConfigurationError
from smartservice import errors
from smartservice.api import RequestParser, SmartApi
from smartservice.jsons import SmartJSON, encode


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    when: datetime


class Team(BaseModel):
    team_id: UUID = Field(serialization_alias="id")
    budget: Decimal


class Item(Resource):  # type: ignore[misc]
    def get(self, number: int = 0) -> Any:
        if number == 13:
            raise ZeroDivisionError("unlucky")
        if number == 409:
            restful_abort(409, message="Taken.", key="value")
        return {"number": number}

    def post(self) -> Any:
        return {"made": True}, 201, {"Location": "/made"}


def make_app() -> Flask:
    app = Flask("api_under_test")
    app.json = SmartJSON(app)
    errors.install(app)
    return app


def _refuse() -> None:
    abort(401)


def _nested(app: Flask, hooked: str) -> None:
    """outer (/outer) holds inner (/inner, registered as `renamed`); `hooked` has a hook that refuses everyone."""
    inner, outer = Blueprint("inner", __name__), Blueprint("outer", __name__)
    {"inner": inner, "outer": outer}[hooked].before_request(_refuse)
    SmartApi(inner, prefix="/v1").add_resource(Item, "/items/<int:number>")
    outer.register_blueprint(inner, url_prefix="/inner", name="renamed")
    app.register_blueprint(outer, url_prefix="/outer", name="moved")


@pytest.mark.parametrize("hooked", ["inner", "outer"])
def test_hooks_of_nested_and_renamed_blueprints_run(hooked: str) -> None:
    """Authentication in a before_request of a nested or renamed blueprint guards its resources."""
    app = make_app()
    _nested(app, hooked)
    assert app.test_client().get("/outer/inner/v1/items/1").status_code == 401


def test_one_blueprint_registered_twice() -> None:
    """A blueprint with resources can be registered under two names; url_for finds the one that is asked."""
    app = make_app()
    area = Blueprint("area", __name__)
    api = SmartApi(area)

    class Here(Resource):  # type: ignore[misc]
        def get(self) -> str:
            return api.url_for(Here)

    api.add_resource(Here, "/here")
    app.register_blueprint(area, url_prefix="/a")
    app.register_blueprint(area, url_prefix="/b", name="other")
    assert [app.test_client().get(path).json for path in ("/a/here", "/b/here")] == ["/a/here", "/b/here"]


def test_blueprint_handlers_and_teardown_see_what_plain_flask_shows() -> None:
    """Error handlers of app and blueprint win, and teardown sees the exception of a crash and of no abort."""
    app = make_app()
    torn: list[BaseException | None] = []
    app.teardown_request(lambda error: torn.append(error))
    area = Blueprint("area", __name__)
    area.register_error_handler(409, lambda error: ("own", 409))
    SmartApi(area).add_resource(Item, "/items/<int:number>")
    app.register_blueprint(area)
    client = app.test_client()
    assert client.get("/items/409").data == b"own"
    assert client.get("/items/13").status_code == 500
    assert [type(error) for error in torn] == [type(None), ZeroDivisionError]


@pytest.mark.parametrize("propagate", [None, False])
def test_the_crash_signal_fires_once(propagate: bool | None) -> None:
    """got_request_exception fires once for a crash in a resource and never for an abort."""
    app = make_app()
    if propagate is not None:
        app.config["PROPAGATE_EXCEPTIONS"] = propagate
    SmartApi(app).add_resource(Item, "/items/<int:number>")
    fired: list[BaseException] = []

    def heard(_sender: Flask, exception: BaseException, **_: Any) -> None:
        fired.append(exception)

    got_request_exception.connect(heard, app)
    app.test_client().get("/items/409")
    app.test_client().get("/items/13")
    assert [type(error) for error in fired] == [ZeroDivisionError]


def test_nothing_of_the_app_is_replaced() -> None:
    """Binding an api leaves the app's own methods alone."""
    app = make_app()
    before = dict(vars(app))
    SmartApi(app)
    assert {name for name, value in vars(app).items() if before.get(name) is not value} == set()


def test_abort_keeps_its_data() -> None:
    """`abort(409, key=...)` of flask-restful ends in the problem body."""
    app = make_app()
    SmartApi(app).add_resource(Item, "/items/<int:number>")
    body = app.test_client().get("/items/409").json
    assert body is not None
    assert (body["code"], body["detail"], body["key"]) == ("conflict", "Taken.", "value")


def test_status_and_headers_of_a_tuple() -> None:
    """A resource may return data, status and headers, a Content-Type among them."""
    app = make_app()

    class Typed(Resource):  # type: ignore[misc]
        def get(self) -> Any:
            return {"a": 1}, 203, {"Content-Type": "application/hal+json", "X-Own": "1"}

    api = SmartApi(app)
    api.add_resource(Item, "/items")
    api.add_resource(Typed, "/typed")
    made, typed = app.test_client().post("/items"), app.test_client().get("/typed")
    assert (made.status_code, made.headers["Location"], made.data) == (201, "/made", b'{"made":true}\n')
    assert (typed.status_code, typed.content_type, typed.headers["X-Own"]) == (203, "application/hal+json", "1")


def test_values_that_json_does_not_know() -> None:
    """Dates, UUID, Decimal, Enum, dataclasses, pydantic models and sets have one written form."""
    value = {
        "utc": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "zone": datetime(2026, 1, 2, 3, 4, 5, 600000, tzinfo=timezone(timedelta(hours=2))),
        "naive": datetime(2026, 1, 2, 3, 4, 5),
        "day": date(2026, 1, 2),
        "length": timedelta(minutes=1, milliseconds=500),
        "decimal": Decimal("1.10"),
        "enum": Colour.RED,
        "point": Point(1, datetime(2026, 1, 2, tzinfo=UTC)),
        "team": Team(team_id=UUID(int=1), budget=Decimal("0.30")),
        "set": {1},
        UUID(int=2): Colour.RED,
    }
    assert encode(value) == (
        '{"utc":"2026-01-02T03:04:05Z","zone":"2026-01-02T03:04:05.600000+02:00","naive":"2026-01-02T03:04:05",'
        '"day":"2026-01-02","length":"PT60.5S","decimal":"1.10","enum":"red",'
        '"point":{"x":1,"when":"2026-01-02T00:00:00Z"},'
        '"team":{"id":"00000000-0000-0000-0000-000000000001","budget":"0.30"},"set":[1],'
        '"00000000-0000-0000-0000-000000000002":"red"}'
    )


def test_numbers_that_json_does_not_know() -> None:
    """NaN and infinity are null, wherever they are."""
    assert encode([float("nan"), {"up": float("inf")}, 1.5]) == '[null,{"up":null},1.5]'


def test_what_no_json_can_hold() -> None:
    """An unknown type and a structure that holds itself are refused with a sentence."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="holds itself"):
        encode(loop)
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        encode(object())


def test_method_decorators_and_marshal_with() -> None:
    """`method_decorators` and `marshal_with` work as in flask-restful."""
    app = make_app()

    def loud(method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: {**method(*args, **kwargs), "loud": True}

    class Decorated(Resource):  # type: ignore[misc]
        method_decorators = {"get": [loud]}

        @marshal_with({"name": fields.String})  # type: ignore[untyped-decorator]
        def get(self) -> Any:
            return {"name": "a", "hidden": 1}

    SmartApi(app).add_resource(Decorated, "/")
    assert app.test_client().get("/").json == {"name": "a", "loud": True}


def test_decorators_of_the_api() -> None:
    """`decorators` wrap every resource and need not keep its attributes."""
    app = make_app()
    api = SmartApi(app, decorators=[lambda view: lambda **values: abort(403)])
    api.add_resource(Item, "/items")
    assert app.test_client().post("/items").status_code == 403


@pytest.mark.parametrize(
    ("accept", "status"),
    [(None, 200), ("*/*", 200), ("application/json", 200), ("text/html,*/*;q=0.1", 200), ("application/xml", 406)],
)
def test_accept(accept: str | None, status: int) -> None:
    """A GET that accepts no representation is answered 406 with the list of them."""
    app = make_app()
    SmartApi(app).add_resource(Item, "/items")
    answer = app.test_client().get("/items", headers={} if accept is None else {"Accept": accept})
    assert answer.status_code == status
    assert status == 200 or b"application/json" in answer.data


def test_a_change_is_never_answered_406() -> None:
    """What a POST has done is answered in JSON, whatever the caller accepts."""
    app = make_app()
    SmartApi(app).add_resource(Item, "/items")
    assert app.test_client().post("/items", headers={"Accept": "application/xml"}).status_code == 201


def test_a_default_mediatype_instead_of_406() -> None:
    """With `default_mediatype` an unknown Accept gets that."""
    app = make_app()
    SmartApi(app, default_mediatype="application/json").add_resource(Item, "/items")
    assert app.test_client().get("/items", headers={"Accept": "application/xml"}).json == {"number": 0}


def test_further_representations() -> None:
    """`@api.representation` adds a media type, chosen by Accept."""
    app = make_app()
    api = SmartApi(app)
    api.add_resource(Item, "/items")

    @api.representation("text/csv")  # type: ignore[untyped-decorator]
    def csv(data: Any, status: int, headers: Any = None) -> Response:
        return Response(",".join(data), status)

    answer = app.test_client().get("/items", headers={"Accept": "text/csv"})
    assert (answer.data, answer.mimetype) == (b"number", "text/csv")
    assert app.test_client().get("/items").json == {"number": 0}


def test_resources_that_come_too_late() -> None:
    """After the first request, or after the blueprint is registered, the message says where a resource belongs."""
    app = make_app()
    api = SmartApi(app)
    app.test_client().get("/")
    with pytest.raises(ConfigurationError, match="Item comes too late: this app serves"):
        api.add_resource(Item, "/items")
    area = Blueprint("area", __name__)
    late = SmartApi(area)
    make_app().register_blueprint(area)
    with pytest.raises(ConfigurationError, match="before its blueprint is registered"):
        late.add_resource(Item, "/items")


def test_resources_before_and_after_init_app() -> None:
    """One api serves several apps, with the resources added before and after `init_app`."""
    api, first, second = SmartApi(), make_app(), make_app()
    api.add_resource(Item, "/before")
    api.init_app(first)
    api.init_app(second)
    api.add_resource(Item, "/after/<int:number>", endpoint="after")
    for app in (first, second):
        assert [app.test_client().get(path).status_code for path in ("/before", "/after/1")] == [200, 200]


def test_a_taken_endpoint() -> None:
    """Two classes under one endpoint are refused, one class under two urls is not."""
    api = SmartApi(make_app())
    api.add_resource(Item, "/a")
    api.add_resource(Item, "/b")
    with pytest.raises(ValueError, match="already taken by Item"):
        api.add_resource(type("Other", (Resource,), {}), "/c", endpoint="item")


def test_an_api_does_not_outlive_its_app() -> None:
    """A resource class keeps neither the api nor the app alive."""
    app = make_app()
    SmartApi(app).add_resource(Item, "/items")
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None


def test_request_parser_on_a_request_without_json() -> None:
    """Our RequestParser reads the query of a GET, and JSON where there is some."""
    app = make_app()
    parser = RequestParser(trim=True).add_argument("name")

    class Parsed(Resource):  # type: ignore[misc]
        def get(self) -> Any:
            return parser.copy().parse_args()

        post = get

    SmartApi(app).add_resource(Parsed, "/")
    assert app.test_client().get("/?name=%20a").json == {"name": "a"}
    assert app.test_client().post("/", json={"name": "b"}).json == {"name": "b"}
