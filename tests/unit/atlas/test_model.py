"""The words of the map: their JSON, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from atlas.model import Instance, Lease, Override, Ruling, Service, Token, address
from smartrealm.errors import ValidationFailed

VALUES = [
    Service("identity"),
    Service("identity", "accounts", "who is who", "git:x", 8000, "/up", 0.5, "none", "2.*"),
    Instance("identity", "10.0.0.1", 8000),
    Instance("identity", "::1", 8000, "a", "1.2", 0, True, "i1", "host-1"),
    Ruling("identity", "h", 8000, "disabled", 5, "why", "anna", 1.5, 2.5),
    Override("identity", "KEY", {"a": None}, True, False, "anna", 1.5, 7),
    Token("t", "reader", "anna", "d", 1.5, 2.5),
    Lease("host-1", "i1", 15.0, (Instance("identity", "h", 8000),), 1.5),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_json_and_back(value: Any) -> None:
    """What `to_json` gives makes the same value, and defaults are left away."""
    assert type(value).from_json(value.to_json()) == value


def test_defaults_are_left_away() -> None:
    """A map of thousands of instances stays small."""
    assert Instance("identity", "h", 8000).to_json() == {"service": "identity", "host": "h", "port": 8000}


@pytest.mark.parametrize(
    ("kind", "data", "pointers"),
    [
        (Service, {"name": "Bad Name", "port": 0, "health_path": "up"}, ["#/name", "#/port", "#/health_path"]),
        (Service, {"timeout_seconds": 5}, ["#/name"]),
        (Service, {"name": "a", "prot": 8000}, ["#/prot"]),
        (Service, {"name": "a", "port": True, "retry_class": "all"}, ["#/port", "#/retry_class"]),
        (Instance, {"service": "a", "host": "h h", "port": 65536, "weight": 1001}, ["#/host", "#/port", "#/weight"]),
        (Ruling, {"service": "a", "host": "h", "port": 1, "state": "off", "weight": -1}, ["#/state", "#/weight"]),
        (Ruling, {"service": "a", "host": "h", "port": 1, "expires_at": "soon"}, ["#/expires_at"]),
        (Override, {"scope": "**", "key": "key"}, ["#/scope", "#/key"]),
        (Lease, {"id": "a b", "incarnation": "", "ttl_seconds": 0}, ["#/incarnation", "#/id", "#/ttl_seconds"]),
        (Lease, {"id": ".", "incarnation": "i"}, ["#/id"]),
    ],
)
def test_every_mistake_is_named(kind: Any, data: dict[str, Any], pointers: list[str]) -> None:
    """All of them together, each with its field."""
    with pytest.raises(ValidationFailed) as caught:
        kind.from_json(data)
    assert [error["pointer"] for error in caught.value.errors] == pointers


@pytest.mark.parametrize("kind", [Service, Instance, Ruling, Override, Lease])
@pytest.mark.parametrize("data", [None, 1, "text", [], [["name", "a"]]])
def test_what_is_no_object_is_refused(kind: Any, data: Any) -> None:
    """Whatever JSON comes in, the error is ValidationFailed."""
    with pytest.raises(ValidationFailed):
        kind.from_json(data)


@pytest.mark.parametrize(
    ("host", "expected"), [("h", "h:80"), ("10.0.0.1", "10.0.0.1:80"), ("::1", "[::1]:80"), ("fe80::2", "[fe80::2]:80")]
)
def test_an_address(host: str, expected: str) -> None:
    """IPv6 goes in brackets."""
    assert address(host, 80) == expected
    assert Instance("a", host, 80).key == f"a/{expected}"


def test_no_repr_shows_a_value_or_a_digest() -> None:
    """What may be secret is not printed by accident."""
    assert "s3cret" not in repr(Override("a", "KEY", "s3cret", True))
    assert "s3cret" not in repr(Token("t", "reader", "anna", "s3cret"))
