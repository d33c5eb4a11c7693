"""The constructors of both published libraries, read as one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Blueprint, Flask
from werkzeug.local import LocalProxy

from healthcheck import EnvironmentDump, HealthCheck


def well(results: Any, **sections: Any) -> str:
    return "well"


def unwell(results: Any, **sections: Any) -> str:
    return "unwell"


def excuse(checker: Any, error: Any) -> tuple[bool, str]:
    return False, "excused"


def check() -> tuple[bool, str]:
    return True, "fine"


EXPECTED = {
    "success_status": 201,
    "success_headers": {"a": "b"},
    "success_handler": well,
    "success_ttl": 1.0,
    "failed_status": 501,
    "failed_headers": {"c": "d"},
    "failed_handler": unwell,
    "failed_ttl": 2.0,
    "exception_handler": excuse,
    "checkers": [check],
}


@pytest.mark.parametrize(
    ("arguments", "further"),
    [
        (
            (None, None, 201, {"a": "b"}, well, 1, 501, {"c": "d"}, unwell, 2, excuse, [check], False),
            {"log_on_failure": False, "error_timeout": 0.0},
        ),
        (
            (201, {"a": "b"}, well, 1, 501, {"c": "d"}, unwell, 2, 3, excuse, [check]),
            {"log_on_failure": True, "error_timeout": 3.0},
        ),
    ],
)
def test_positional_arguments_are_read_in_either_order(arguments: tuple[Any, ...], further: dict[str, Any]) -> None:
    """An app or None first is the order with an app; anything else is the order without."""
    health = HealthCheck(*arguments)
    for name, value in {**EXPECTED, **further}.items():
        assert getattr(health, name) == value, name


def test_the_defaults_are_those_of_both() -> None:
    """27 and 9 seconds, 200 and 500, JSON, no limit, no checks."""
    health = HealthCheck()
    assert (health.success_ttl, health.failed_ttl, health.success_status, health.failed_status) == (27.0, 9.0, 200, 500)
    assert health.success_headers == health.failed_headers == {"Content-Type": "application/json"}
    assert (health.error_timeout, health.checkers, health.cache, health.log_on_failure) == (0, [], {}, True)


def test_a_list_of_checks_stays_the_callers() -> None:
    """Checks appended to the list that was handed in are run."""
    checkers = [check]
    health = HealthCheck(checkers=checkers)
    health.add_check(check)
    assert len(checkers) == 2


def test_options_of_a_route_go_to_the_route() -> None:
    """On an app, endpoint, methods and the like are the route's, at once or with init_app; the rest are sections."""
    app = Flask("orders")
    HealthCheck(app, "/a", endpoint="first", methods=["GET", "POST"], version="1")
    later = HealthCheck(endpoint="second", strict_slashes=False)
    later.init_app(app, "/b/")
    client = app.test_client()
    assert {"first", "second"} <= app.view_functions.keys()
    assert client.post("/a").json["version"] == "1"  # type: ignore[index]
    answer = client.get("/b").json or {}
    assert set(answer) == {"hostname", "status", "timestamp", "results"}


def test_without_a_route_every_further_keyword_is_a_section() -> None:
    """Also one that a route would have taken, and also `app` and `path`."""
    health = HealthCheck(host="db1", app="orders", path="/srv/orders", endpoint=lambda: "e")
    whole = json.loads(health.run()[0])
    assert (whole["host"], whole["app"], whole["path"], whole["endpoint"]) == ("db1", "orders", "/srv/orders", "e")


def test_an_apps_own_rule_class_has_its_options() -> None:
    """What add_url_rule of this app takes is taken from the rule class that it uses."""
    from werkzeug.routing import Rule

    class Versioned(Rule):
        def __init__(self, string: str, *, since: str = "", **options: Any) -> None:
            super().__init__(string, **options)
            self.since = since

    app = Flask("orders")
    app.url_rule_class = Versioned  # type: ignore[assignment]
    HealthCheck(app, "/h", since="1.2")
    assert [rule.since for rule in app.url_map.iter_rules("check")] == ["1.2"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["keyword", "blueprint", "proxy"])
def test_an_app_is_what_takes_routes(kind: str) -> None:
    """A keyword, a blueprint and a proxy of an app are apps."""
    app = Flask("orders")
    blueprint = Blueprint("b", "b")
    if kind == "keyword":
        HealthCheck(app=app, path="/h")
    elif kind == "blueprint":
        HealthCheck(blueprint, path="/h")
        app.register_blueprint(blueprint)
    else:
        HealthCheck(LocalProxy(lambda: app), "/h")
    assert app.test_client().get("/h").status_code == 200


def test_too_much_and_twice_are_type_errors() -> None:
    """As in any call."""
    with pytest.raises(TypeError, match="at most 11"):
        HealthCheck(*([200] * 12))
    with pytest.raises(TypeError, match="twice"):
        HealthCheck(200, success_status=201)


@pytest.mark.parametrize(
    ("arguments", "sections"),
    [
        ((), {"os", "python", "process"}),
        ((False, True, True), {"python", "process"}),
        ((True, False, False), {"os"}),
        ((None, None, False, True, False, True), {"python", "process"}),
    ],
)
def test_sections_of_a_dump_are_chosen_in_either_order(arguments: tuple[Any, ...], sections: set[str]) -> None:
    """include_os, include_python and include_process first, or after an app and a path."""
    assert set(EnvironmentDump(*arguments).functions) == sections


def test_a_dump_on_an_app_has_its_configuration() -> None:
    """With an app the config section is there, unless include_config=False."""
    app = Flask("orders")
    EnvironmentDump(app, "/environment", include_python=False)
    assert "config" in (app.test_client().get("/environment").json or {})
    other = Flask("other")
    EnvironmentDump(other, "/environment", include_python=False, include_config=False)
    assert "config" not in (other.test_client().get("/environment").json or {})


def test_keywords_of_a_dump_are_sections() -> None:
    """Further keywords are sections; one that names a section that is there already is passed over."""
    dump = EnvironmentDump(application={"owner": "teams"}, os="mine", app=lambda: "orders")
    whole = json.loads(dump.run()[0])
    assert (whole["application"], whole["app"]) == ({"owner": "teams"}, "orders")
    assert whole["os"] != "mine"
