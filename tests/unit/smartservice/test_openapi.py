"""Promises of `/openapi.json`: the description of a service in OpenAPI 3.1."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import pytest
from flask import Blueprint, Flask, Response
from flask_restful import Resource
from pydantic import BaseModel, ConfigDict, Field

from smartservice import openapi
from smartservice.api import SmartApi, validated
from tests.unit.smartservice.making import Make, make

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = ["make"]

_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Member(BaseModel):
    """Somebody in a team."""

    email: str = Field(min_length=3)
    boss: Member | None = None


class TeamIn(BaseModel):
    name: str = Field(alias="teamName")
    members: list[Member] = []


class Team(TeamIn):
    id: UUID
    made_at: datetime = datetime(2026, 1, 2, tzinfo=UTC)


class Page(BaseModel):
    page: int = Field(default=1, ge=1, description="Which page.")
    tag: list[str] = []
    order: Literal["name", "age"]


@dataclass
class Total:
    count: int


class Odd(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    lock: Callable[[], None]


class Problem(BaseModel):
    """A model of the service with the name of ours."""

    severity: int


class Teams(Resource):  # type: ignore[misc]
    @validated(query=Page)
    def get(self, query: Page, number: int = 0) -> list[Team]:
        """The teams, one page of them.

        Sorted as asked for.
        Newest last.
        """
        return []

    @validated(body=TeamIn)
    def post(self, body: TeamIn) -> tuple[Team, Literal[201]]:
        """Found a team."""
        raise NotImplementedError

    def delete(self, number: int = 0) -> tuple[str, Literal[204]]:
        return "", 204


class AllTeams(Resource):  # type: ignore[misc]
    def get(self) -> list[int]:
        return []


@pytest.fixture
def app() -> Flask:
    app = Flask("described")
    api = SmartApi(app)
    api.add_resource(Teams, "/teams", "/teams/<int:number>")
    api.add_resource(AllTeams, "/all-teams")

    @app.route("/plain/<uuid:key>/<path:rest>", methods=["GET", "POST"])
    def plain(key: UUID, rest: str) -> str:
        return "text"

    @app.get("/shops/<any(red, blue):colour>/<float:size>")
    @validated(returns=list[Total])
    def shops(colour: str, size: float) -> Response:
        raise NotImplementedError

    @app.get("/amount")  # type: ignore[type-var]
    def amount() -> Decimal:
        raise NotImplementedError

    @app.put("/odd")
    @validated(body=Odd)
    def odd(body: Odd) -> dict[str, int]:
        raise NotImplementedError

    @app.patch("/problems")
    @validated(body=Problem, query=dict[str, int])
    async def problems(body: Problem, query: dict[str, int]) -> Total:
        raise NotImplementedError

    first, second = Blueprint("first", "first"), Blueprint("second", "second")
    first.add_url_rule("/<name>", "thing", lambda name: {}, methods=["GET"])
    second.add_url_rule("/<other>", "thing", lambda other: {}, methods=["GET", "DELETE"])
    app.register_blueprint(first, url_prefix="/things")
    app.register_blueprint(second, url_prefix="/things")
    return app


@pytest.fixture
def document(app: Flask) -> dict[str, Any]:
    return openapi.describe(app, title="shop", version="1.2")


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def check(document: dict[str, Any]) -> None:
    """The rules of OpenAPI 3.1 that can be checked without a library."""
    assert set(document) <= {"openapi", "info", "paths", "components"}
    assert document["openapi"].startswith("3.1.")
    assert all(isinstance(document["info"][name], str) and document["info"][name] for name in ("title", "version"))
    for reference in references(document):
        place = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    assert all(name.isidentifier() for name in names)
    shapes = [re.sub(r"\{[^}]+\}", "{}", path) for path in document["paths"]]
    assert len(shapes) == len(set(shapes))
    for path, method, operation in operations(document):
        assert path.startswith("/")
        assert method in ("get", "put", "post", "delete", "patch", "trace")
        parameters = operation.get("parameters", [])
        keys = [(told["in"], told["name"]) for told in parameters]
        assert len(keys) == len(set(keys))
        assert all("schema" in told for told in parameters)
        in_path = [told["name"] for told in parameters if told["in"] == "path"]
        assert sorted(in_path) == sorted(re.findall(r"\{([^}]+)\}", path))
        assert all(told["required"] is True for told in parameters if told["in"] == "path")
        assert operation["responses"]
        for status, answer in operation["responses"].items():
            assert re.fullmatch(r"[1-5](\d\d|XX)|default", status)
            assert "$ref" in answer or "description" in answer
    for kind in document["components"].values():
        assert all(_NAME.fullmatch(name) for name in kind)


def test_it_keeps_the_rules_of_openapi(document: dict[str, Any]) -> None:
    """References lead somewhere, names are unique, each path parameter is declared, whatever the service looks like."""
    check(document)
    assert document["info"] == {"title": "shop", "version": "1.2"}


def test_docstrings_become_summary_and_description(document: dict[str, Any]) -> None:
    """The first line of a docstring is the summary, the rest the description."""
    told = document["paths"]["/teams"]["get"]
    assert told["summary"] == "The teams, one page of them."
    assert told["description"] == "Sorted as asked for.\nNewest last."
    assert "summary" not in document["paths"]["/teams"]["delete"]


def test_names_of_operations(document: dict[str, Any]) -> None:
    """An operation is named by endpoint and method; the same with a parameter says by which; blueprints come first."""
    named = {(path, method): operation["operationId"] for path, method, operation in operations(document)}
    assert named[("/teams", "get")] == "teams_get"
    assert named[("/teams/{number}", "get")] == "teams_get_by_number"
    assert named[("/plain/{key}/{rest}", "post")] == "plain_post"
    assert named[("/things/{name}", "get")] == "first_thing_get"
    assert named[("/things/{name}", "delete")] == "second_thing_delete"
    assert named[("/all-teams", "get")] == "all_teams_get"


def test_converters_become_schemas(document: dict[str, Any]) -> None:
    """What a converter of the URL takes is said in the schema of the path parameter."""
    schemas = {told["name"]: told["schema"] for _, _, one in operations(document) for told in one.get("parameters", [])}
    assert schemas["number"] == {"type": "integer", "minimum": 0}
    assert schemas["key"] == {"type": "string", "format": "uuid"}
    assert schemas["colour"] == {"type": "string", "enum": ["blue", "red"]}
    assert schemas["size"] == {"type": "number", "minimum": 0}
    assert schemas["rest"] == {"type": "string"}


def test_models_of_validated(document: dict[str, Any]) -> None:
    """The body is a reference to its model by aliases, each field of the query a parameter, mistakes answer 422."""
    teams = document["paths"]["/teams"]
    body = teams["post"]["requestBody"]
    assert body["required"] is True
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/TeamIn"}
    assert "teamName" in document["components"]["schemas"]["TeamIn"]["properties"]
    query = {told["name"]: told for told in teams["get"]["parameters"]}
    assert {name: told["required"] for name, told in query.items()} == {"page": False, "tag": False, "order": True}
    assert query["page"]["description"] == "Which page."
    assert query["tag"]["schema"]["type"] == "array"
    assert teams["post"]["responses"]["422"] == {"$ref": "#/components/responses/ValidationFailed"}
    assert "422" not in teams["delete"]["responses"]
    invalid = document["components"]["responses"]["ValidationFailed"]["content"]
    assert list(invalid) == ["application/problem+json"]


def test_answers(document: dict[str, Any]) -> None:
    """The answer is read from the return annotation with its status, or from `returns=`; text and the unknown are open."""
    paths = document["paths"]
    listed = paths["/teams"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert listed == {"type": "array", "items": {"$ref": "#/components/schemas/Team"}}
    assert "content" in paths["/teams"]["post"]["responses"]["201"]
    assert "content" not in paths["/teams"]["delete"]["responses"]["204"]
    shops = paths["/shops/{colour}/{size}"]["get"]["responses"]["200"]
    assert shops["content"]["application/json"]["schema"]["items"] == {"$ref": "#/components/schemas/Total"}
    assert "content" not in paths["/plain/{key}/{rest}"]["get"]["responses"]["2XX"]
    assert "content" not in paths["/amount"]["get"]["responses"]["2XX"]
    total = paths["/problems"]["patch"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert total == {"$ref": "#/components/schemas/Total"}


def test_a_model_that_cannot_be_described_is_any_value(document: dict[str, Any]) -> None:
    """One odd type does not take the description of everything else away."""
    assert document["paths"]["/odd"]["put"]["requestBody"]["content"]["application/json"]["schema"] == {}


def test_equal_names_stay_apart(document: dict[str, Any]) -> None:
    """A model named as ours is keeps its name, and ours steps aside."""
    schemas = document["components"]["schemas"]
    assert "severity" in schemas["Problem"]["properties"]
    assert "code" in schemas["Problem_"]["properties"]


def test_a_service_publishes_it(make: Make) -> None:
    """It answers with its name and release and without its probes, revalidated by ETag."""
    app = make(RELEASE="2.5")
    app.api.add_resource(Teams, "/teams")
    answer = app.test_client().get("/openapi.json")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    document: dict[str, Any] = json.loads(answer.data)
    check(document)
    assert document["info"] == {"title": "tests", "version": "2.5"}
    assert list(document["paths"]) == ["/teams"]
    same = app.test_client().get("/openapi.json", headers={"If-None-Match": answer.headers["ETag"]})
    assert (same.status_code, same.data) == (304, b"")


def test_it_is_made_once(make: Make) -> None:
    """Every request gets the same bytes, and the second one costs no description."""
    app = make()
    client = app.test_client()
    assert client.get("/openapi.json").data == client.get("/openapi.json").data
    assert client.head("/openapi.json").content_length == len(client.get("/openapi.json").data)


def test_it_can_be_elsewhere_or_nowhere(make: Make) -> None:
    """OPENAPI_PATH moves it; empty leaves it out."""
    assert make(OPENAPI_PATH="/v1/api.json").test_client().get("/v1/api.json").status_code == 200
    assert make(OPENAPI_PATH="").test_client().get("/openapi.json").status_code == 404


def test_annotated_types_and_deprecation() -> None:
    """Annotated answers are described; what is marked as deprecated says so."""
    app = Flask("old")

    def old() -> Annotated[list[int], Field(max_length=3)]:
        raise NotImplementedError

    old.__deprecated__ = "use new"  # type: ignore[attr-defined]
    app.add_url_rule("/old", "old", old)
    told = openapi.describe(app, title="old")["paths"]["/old"]["get"]
    assert told["deprecated"] is True
    assert told["responses"]["200"]["content"]["application/json"]["schema"]["maxItems"] == 3
