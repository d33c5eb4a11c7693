"""Promises of `validated`: pydantic models for what comes in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_restful import Resource
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from smartservice import errors
from smartservice.api import SmartApi, validated
from smartservice.jsons import SmartJSON


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Member(BaseModel):
    email: str = Field(min_length=3)
    password: UUID | None = None
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None


class TeamIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(alias="teamName")
    members: list[Member] = []
    pin_code: SecretStr | None = None
    note: str = ""

    @field_validator("pin_code")
    @classmethod
    def talks_too_much(cls, value: SecretStr) -> SecretStr:
        raise ValueError(f"{value.get_secret_value()} is bad")

    @field_validator("note")
    @classmethod
    def echoes(cls, value: str) -> str:
        if value:
            raise ValueError(f"{value} is bad")
        return value


class Page(BaseModel):
    page: int = 1
    tag: list[str] | None = None
    wanted: bool = Field(default=False, alias="only-wanted")


@pytest.fixture
def client() -> FlaskClient:
    app = Flask("validated_under_test")
    app.json = SmartJSON(app)
    errors.install(app)

    @app.post("/teams")
    @validated(body=TeamIn, query=Page)
    def make(body: TeamIn, query: Page) -> Any:
        return {"name": body.name, "page": query.page, "tag": query.tag}, 201

    @app.get("/page")
    @validated(query=Page)
    def page(query: Page) -> Page:
        return query

    @app.post("/list")
    @validated(body=list[int])
    def add(body: list[int]) -> Any:
        return {"sum": sum(body)}

    class Teams(Resource):  # type: ignore[misc]
        @validated(body=TeamIn)
        def post(self, number: int, body: TeamIn) -> Any:
            return body, 201

    SmartApi(app).add_resource(Teams, "/resource/<int:number>")
    return app.test_client()


def mistakes(client: FlaskClient, url: str, body: Any) -> list[dict[str, str]]:
    answer = client.post(url, json=body)
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
    found: list[dict[str, str]] = json.loads(answer.data)["errors"]
    return found


def test_view_and_resource_get_models(client: FlaskClient) -> None:
    """Plain views and methods of resources get instances, beside what the URL gives them."""
    assert client.post("/teams?page=2", json={"teamName": "blue"}).json == {"name": "blue", "page": 2, "tag": None}
    assert client.post("/resource/1", json={"teamName": "blue"}).status_code == 201


def test_models_as_answers(client: FlaskClient) -> None:
    """A plain view may return a model; it is written by its aliases."""
    assert client.get("/page?only-wanted=yes").json == {"page": 1, "tag": None, "only-wanted": True}


def test_repeated_keys_are_lists(client: FlaskClient) -> None:
    """A repeated key is a list, one key is a list where the model wants one, and a number given twice is refused."""
    assert client.get("/page?tag=a&tag=b").json == {"page": 1, "tag": ["a", "b"], "only-wanted": False}
    assert client.get("/page?tag=a").json == {"page": 1, "tag": ["a"], "only-wanted": False}
    assert client.get("/page?page=1&page=2").status_code == 422


def test_any_type_that_pydantic_checks(client: FlaskClient) -> None:
    """The body may be a list."""
    assert client.post("/list", json=[1, 2]).json == {"sum": 3}
    assert mistakes(client, "/list", [1, "x"])[0]["pointer"] == "#/1"


def test_all_mistakes_at_once(client: FlaskClient) -> None:
    """Body and query are reported together: pointers for the body, parameters for the query."""
    found = mistakes(client, "/teams?page=x&only-wanted=maybe", {"members": [{"email": "a"}, {}], "a/b c~": 1})
    assert [{**mistake, "detail": ""} for mistake in found] == [
        {"parameter": "page", "detail": ""},
        {"parameter": "only-wanted", "detail": ""},
        {"pointer": "#/teamName", "detail": ""},
        {"pointer": "#/members/0/email", "detail": ""},
        {"pointer": "#/members/1/email", "detail": ""},
        {"pointer": "#/a~1b%20c~0", "detail": ""},
    ]


def test_pointers_lead_into_the_document(client: FlaskClient) -> None:
    """The members of a union that pydantic names are no part of a pointer."""
    body = {"teamName": "a", "members": [{"email": "abc", "pet": {"kind": "cat"}}]}
    assert mistakes(client, "/teams", body) == [{"pointer": "#/members/0/pet/lives", "detail": "Field required"}]


def test_secret_values_are_not_repeated(client: FlaskClient) -> None:
    """A value under a secret name or of a secret type is in no message, not even in that of another field."""
    body = {"teamName": "a", "members": [{"email": "abc", "password": "hunter2!"}], "pin_code": "4711-0815"}
    text = json.dumps(mistakes(client, "/teams", body))
    assert "hunter2!" not in text
    assert "4711" not in text
    text = json.dumps(mistakes(client, "/teams", {**body, "note": "hunter2!"}))
    assert "hunter2!" not in text


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        ("{}", "text/plain", 415),
        ("a=b", "application/x-www-form-urlencoded", 415),
        ("", None, 415),
        ("{", "application/json", 400),
        ("", "application/json", 400),
        (b"\xff", "application/json", 400),
        ("[" * 5000, "application/json", 400),
        ('{"teamName": "a"}', "application/json; charset=utf-8", 201),
        ('{"teamName": "a"}', "application/vnd.team+json", 201),
    ],
)
def test_bodies_that_cannot_be_read(client: FlaskClient, data: Any, content_type: str | None, status: int) -> None:
    """Another content type is 415, JSON that cannot be read is 400."""
    assert client.post("/teams", data=data, content_type=content_type).status_code == status


def test_metadata_for_tools() -> None:
    """What a view takes can be read from outside, and its name and docstring stay."""

    @validated(body=TeamIn, query=Page)
    def view(body: TeamIn, query: Page) -> None:
        """Docs."""

    metadata = view.__validated__  # type: ignore[attr-defined]
    assert (metadata.body, metadata.query, view.__name__, view.__doc__) == (TeamIn, Page, "view", "Docs.")


def test_an_async_view_is_awaited() -> None:
    """By the app, as Flask awaits every other async view."""

    class Awaiting(Flask):
        def async_to_sync(self, func: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
            return lambda *args, **kwargs: asyncio.run(func(*args, **kwargs))

    app = Awaiting(__name__)

    @app.post("/dogs")
    @validated(body=Dog)
    async def view(body: Dog) -> Dog:
        return body

    assert app.test_client().post("/dogs", json={"kind": "dog", "name": "Rex"}).get_json()["name"] == "Rex"
