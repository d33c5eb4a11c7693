"""The example: greet somebody. Put what this service is for in its place."""

[% if cookiecutter.db or cookiecutter.redis %]
from typing import Any

[% endif %]
from flask import current_app
from flask_restful import Resource
from pydantic import BaseModel, Field
from smartservice.api import validated
[% if cookiecutter.db %]
from sqlalchemy import select

from [[ cookiecutter.package ]].models import Greeting
[% endif %]


class Somebody(BaseModel):
    """Who is to be greeted."""

    name: str = Field(min_length=1, max_length=100)


class Greetings(Resource):
    """/greetings"""

[% if cookiecutter.db %]
    def get(self) -> dict[str, Any]:
        """The newest twenty greetings."""
        newest = select(Greeting).order_by(Greeting.id.desc()).limit(20)
        found = current_app.db.session.scalars(newest)
        return {"greetings": [{"id": one.id, "name": one.name, "said_at": one.said_at} for one in found]}

    @validated(body=Somebody)
    def post(self, body: Somebody) -> tuple[dict[str, Any], int]:
        """Greet somebody and remember it."""
        current_app.db.session.add(Greeting(name=body.name))
        current_app.db.session.commit()
        return say(body.name), 201
[% elif cookiecutter.redis %]
    @validated(query=Somebody)
    def get(self, query: Somebody) -> dict[str, Any]:
        """How many times somebody was greeted: /greetings?name=Ada"""
        times = current_app.redis.get(_key(query.name)) if current_app.config["REDIS_URL"] else 0
        return {"name": query.name, "times": int(times or 0)}

    @validated(body=Somebody)
    def post(self, body: Somebody) -> tuple[dict[str, Any], int]:
        """Greet somebody and count it."""
        return say(body.name), 201
[% else %]
    @validated(query=Somebody)
    def get(self, query: Somebody) -> dict[str, str]:
        """Greet somebody: /greetings?name=Ada"""
        return {"message": f"{current_app.config['SALUTATION']}, {query.name}!"}
[% endif %]
[% if cookiecutter.db or cookiecutter.redis %]


def say(name: str) -> dict[str, Any]:
[% if cookiecutter.redis %]
    """The greeting itself, and how many times it was said where there is a Redis to count."""
    message = f"{current_app.config['SALUTATION']}, {name}!"
    if not current_app.config["REDIS_URL"]:
        return {"message": message}
    return {"message": message, "times": current_app.redis.incr(_key(name))}


def _key(name: str) -> str:
    return f"[[ cookiecutter.name ]]:greeted:{name}"
[% else %]
    """The greeting itself."""
    return {"message": f"{current_app.config['SALUTATION']}, {name}!"}
[% endif %]
[% endif %]
