"""The bucket of a request that enters the realm here."""

from __future__ import annotations

from typing import Any

import pytest
from flask import jsonify

from smartrealm import headers
from smartrealm.buckets import bucket_of
from smartrealm.headers import current_call
from smartservice.splits import Edge
from tests.unit.smartservice.making import Make, make

__all__ = ["make"]

EDGE = Edge(headers=["Smart-User", "X-User-Id"], cookies=["session", "visitor"], salt="local", spread=lambda: 0.12345)


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"HTTP_SMART_USER": "alice", "HTTP_X_USER_ID": "7"}, b"alice"),
        ({"HTTP_X_USER_ID": "7", "HTTP_COOKIE": "session=abc"}, b"7"),
        ({"HTTP_SMART_USER": "", "HTTP_X_USER_ID": "7"}, b"7"),
        ({"HTTP_COOKIE": "a=b; session=abc=; visitor=v"}, b"abc="),
        ({"HTTP_COOKIE": "session=; visitor=v"}, b"v"),
        ({"HTTP_COOKIE": "session=old; session=new; session"}, b"new"),
        ({"HTTP_COOKIE": "a=1,session=abc,def"}, b"abc"),
        ({"HTTP_SMART_USER": "zo\u00c3\u00ab"}, "zo\u00eb".encode()),
    ],
)
def test_the_first_key_that_is_there_decides(environ: dict[str, str], key: bytes) -> None:
    """Headers in their order, then cookies, of the bytes as they came; what is empty counts as absent."""
    assert EDGE.bucket(environ) == bucket_of(key, "local")


@pytest.mark.parametrize("environ", [{}, {"HTTP_COOKIE": "other=1; xsession=2"}])
def test_without_a_key_chance_decides(environ: dict[str, Any]) -> None:
    """Each request by itself."""
    assert EDGE.bucket(environ) == 1234


def test_a_request_keeps_its_bucket_or_gets_one(make: Make) -> None:
    """What came in a header counts; else it is that of the user, with the realm as salt, and it goes on with every call."""
    app = make()

    @app.get("/bucket")
    def bucket() -> Any:
        call = current_call()
        assert call is not None
        return jsonify(call.to_headers()[headers.BUCKET])

    client = app.test_client()
    assert client.get("/bucket", headers={"Smart-Bucket": "77", "Smart-User": "alice"}).json == "77"
    assert client.get("/bucket", headers={"Smart-User": "alice"}).json == str(bucket_of("alice", "testing"))
    salted = make(SPLIT_SALT="october", SPLIT_KEY_HEADERS=["X-Team"])
    salted.add_url_rule("/bucket", view_func=bucket)
    asked = salted.test_client().get("/bucket", headers={"Smart-User": "alice", "X-Team": "red"})
    assert asked.json == str(bucket_of("red", "october"))
