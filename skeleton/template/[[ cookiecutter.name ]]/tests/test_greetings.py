"""What /greetings promises."""

[% if cookiecutter.redis %]
import os

import pytest
[% endif %]
from flask.testing import FlaskClient
[% if cookiecutter.redis %]
from smartservice import SmartService
[% endif %]


[% if cookiecutter.db %]
def test_a_greeting_is_said_and_remembered(client: FlaskClient, db_session: object) -> None:
    """Who is greeted is found in the list afterwards."""
    said = client.post("/greetings", json={"name": "Ada"})
    assert (said.status_code, said.json["message"]) == (201, "Hello, Ada!")
    assert [one["name"] for one in client.get("/greetings").json["greetings"]] == ["Ada"]


def test_nobody_cannot_be_greeted(client: FlaskClient, db_session: object) -> None:
    """A greeting without a name is refused as a problem, and nothing is remembered."""
    refused = client.post("/greetings", json={"name": ""})
    assert (refused.status_code, refused.content_type) == (422, "application/problem+json")
    assert client.get("/greetings").json == {"greetings": []}
[% else %]
def test_somebody_is_greeted(client: FlaskClient) -> None:
    """The greeting has the name in it."""
    said = client.get("/greetings?name=Ada")
    assert (said.status_code, said.json["message"]) == (200, "Hello, Ada!")


def test_nobody_cannot_be_greeted(client: FlaskClient) -> None:
    """A greeting without a name is refused as a problem."""
    refused = client.get("/greetings?name=")
    assert (refused.status_code, refused.content_type) == (422, "application/problem+json")
[% endif %]
[% if cookiecutter.redis %]


@pytest.mark.skipif(not os.environ.get("REDIS_URL"), reason="REDIS_URL names no Redis to count in")
[% if cookiecutter.db %]
def test_greetings_are_counted(app: SmartService, client: FlaskClient, db_session: object) -> None:
[% else %]
def test_greetings_are_counted(app: SmartService, client: FlaskClient) -> None:
[% endif %]
    """Each greeting of the same name counts one more."""
    app.redis.delete("greeted:Grace")
[% if cookiecutter.db %]
    times = [client.post("/greetings", json={"name": "Grace"}).json["times"] for _ in range(3)]
[% else %]
    times = [client.get("/greetings?name=Grace").json["times"] for _ in range(3)]
[% endif %]
    assert times == [1, 2, 3]
[% endif %]
