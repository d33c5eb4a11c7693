"""What /greetings promises."""

[% if cookiecutter.redis %]
import os
from collections.abc import Callable

import pytest
[% endif %]
from flask.testing import FlaskClient
[% if cookiecutter.redis %]
from smartservice import SmartService

from [[ cookiecutter.package ]].greetings import say
[% endif %]


[% if cookiecutter.db %]
def test_a_greeting_is_said_and_remembered(client: FlaskClient) -> None:
    """Who is greeted is found in the list afterwards."""
    said = client.post("/greetings", json={"name": "Ada"})
    assert (said.status_code, said.json["message"]) == (201, "Hello, Ada!")
    assert [one["name"] for one in client.get("/greetings").json["greetings"]] == ["Ada"]


def test_nobody_cannot_be_greeted(client: FlaskClient) -> None:
    """A greeting without a name is refused as a problem, and nothing is remembered."""
    refused = client.post("/greetings", json={"name": ""})
    assert (refused.status_code, refused.content_type) == (422, "application/problem+json")
    assert client.get("/greetings").json == {"greetings": []}
[% elif cookiecutter.redis %]
def test_somebody_is_greeted(client: FlaskClient) -> None:
    """The greeting has the name in it."""
    said = client.post("/greetings", json={"name": "Ada"})
    assert (said.status_code, said.json["message"]) == (201, "Hello, Ada!")


def test_nobody_cannot_be_greeted(client: FlaskClient) -> None:
    """A greeting without a name is refused as a problem."""
    refused = client.post("/greetings", json={"name": ""})
    assert (refused.status_code, refused.content_type) == (422, "application/problem+json")
[% else %]
def test_somebody_is_greeted(client: FlaskClient) -> None:
    """The greeting has the name in it."""
    said = client.get("/greetings?name=Ada")
    assert (said.status_code, said.json) == (200, {"message": "Hello, Ada!"})


def test_nobody_cannot_be_greeted(client: FlaskClient) -> None:
    """A greeting without a name is refused as a problem."""
    refused = client.get("/greetings?name=")
    assert (refused.status_code, refused.content_type) == (422, "application/problem+json")
[% endif %]
[% if cookiecutter.redis %]


@pytest.mark.skipif(not os.environ.get("TEST_REDIS_URL"), reason="TEST_REDIS_URL names no Redis to count in")
def test_greetings_are_counted(make_app: Callable[..., SmartService]) -> None:
    """Each greeting of the same name counts one more."""
    app = make_app(REDIS_URL=os.environ["TEST_REDIS_URL"])
    with app.app_context():
        before = say("Grace")["times"]
        assert [say("Grace")["times"] for _ in range(2)] == [before + 1, before + 2]
[% endif %]
