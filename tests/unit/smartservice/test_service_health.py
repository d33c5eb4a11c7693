"""Which health checks create_app attaches, and what the health routes and metrics of a service say."""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import text

from smartservice.health import version_number
from tests.processes import wait_until
from tests.unit.smartservice.making import Make, make

__all__ = ["make"]


def test_what_is_configured_is_checked(make: Make, tmp_path: Path) -> None:
    """A check for each thing that has a setting, and none for what is switched off."""
    assert set(make().health.statuses()) == {"disk"}
    path = tmp_path / "overrides.json"
    path.write_text("{}")
    app = make(
        DATABASE_URL="sqlite://",
        REDIS_URL="redis://127.0.0.1:1",
        environ={"CONFIG_FILE": str(path)},
        HEALTH_DISK_FREE=0,
    )
    assert set(app.health.statuses()) == {"database", "redis", "config"}


def test_a_database_that_is_configured_later_is_checked_from_then_on(make: Make) -> None:
    """A setting that arrives at run time brings its check along."""
    app = make()
    app.config["DATABASE_URL"] = "sqlite://"
    assert "database" in app.health.statuses()


def test_health_tells_the_truth_about_the_database(make: Make, tmp_path: Path) -> None:
    """Green while it answers, red when it does not; live stays green: a restart would not heal it."""
    good = make(DATABASE_URL=f"sqlite:///{tmp_path}/a.db").test_client()
    assert good.get("/healthcheck").status_code == 200
    bad = make(DATABASE_URL="postgresql://u:planted@127.0.0.1:1/d").test_client()
    reply = bad.get("/healthcheck")
    assert reply.status_code == 500
    assert "planted" not in reply.text
    assert bad.get("/healthcheck/ready").status_code == 503
    assert bad.get("/healthcheck/live").status_code == 200


def test_a_health_check_undoes_nothing_in_a_memory_database(make: Make) -> None:
    """Its one connection is shared by all sessions: what one of them has not committed yet stays."""
    app = make(DATABASE_URL="sqlite://")
    with app.db.session_scope() as session:
        session.execute(text("CREATE TABLE team (name TEXT)"))
    with app.db.session_scope() as session:
        session.execute(text("INSERT INTO team VALUES ('reds')"))
        assert app.test_client().get("/healthcheck/ready").status_code == 200
    with app.db.session_scope() as session:
        assert session.execute(text("SELECT name FROM team")).scalars().all() == ["reds"]


def test_a_database_that_cannot_be_followed_is_a_warning(make: Make, tmp_path: Path) -> None:
    """The old server serves on after a change to one that is away; health says so and names no password."""
    app = make(DATABASE_URL=f"sqlite:///{tmp_path}/a.db")
    app.db.ping()
    app.config["DATABASE_URL"] = "postgresql://u:planted@127.0.0.1:1/d"
    wait_until(lambda: app.db.problem, what="the move to be refused")
    reply = app.test_client().get("/healthcheck")
    row = next(row for row in reply.get_json()["results"] if row["checker"] == "database")
    assert (reply.status_code, row["status"]) == (200, "warn")
    assert "planted" not in reply.text


def test_a_refused_update_shows_in_health(make: Make, tmp_path: Path) -> None:
    """A bad override leaves the service serving and its config check at warn."""
    path = tmp_path / "overrides.json"
    path.write_text(json.dumps({"PAGE_SIZE": 3}))
    app = make(environ={"CONFIG_FILE": str(path)})
    path.write_text(json.dumps({"PAGE_SIZE": "many"}))
    app.settings.refresh()
    reply = app.test_client().get("/healthcheck")
    assert reply.status_code == 200
    row = next(row for row in reply.get_json()["results"] if row["checker"] == "config")
    assert row["status"] == "warn"
    assert app.config["PAGE_SIZE"] == 3


def test_an_unknown_group_is_a_problem_that_names_its_request(make: Make) -> None:
    """404, with the id of the request as in every problem."""
    reply = make().test_client().get("/healthcheck/nothing", headers={"X-Request-ID": "r1"})
    assert (reply.status_code, reply.content_type) == (404, "application/problem+json")
    assert reply.get_json()["instance"] == "r1"


def test_the_routes_can_be_switched_off(make: Make) -> None:
    """An empty path is no route."""
    client = make(HEALTH_PATH="", METRICS_PATH="").test_client()
    assert client.get("/healthcheck").status_code == 404
    assert client.get("/metrics").status_code == 404


def test_a_service_may_call_its_own_views_so(make: Make) -> None:
    """`healthcheck` and `metrics` are free names for the functions of a service."""
    app = make()

    @app.get("/my/health")
    def healthcheck() -> str:
        return "mine"

    @app.get("/my/metrics")
    def metrics() -> str:
        return "mine"

    assert [app.test_client().get(f"/my/{name}").text for name in ("health", "metrics")] == ["mine", "mine"]


def test_metrics_show_the_parts(make: Make) -> None:
    """Health, requests in flight, config version and pool use are there for Prometheus."""
    app = make(DATABASE_URL="sqlite://")
    app.db.ping()
    app.health.report()
    text = app.test_client().get("/metrics").text
    for name in (
        "http_requests",
        "smartservice_requests_in_flight",
        "smartservice_health",
        "smartservice_config_version",
    ):
        assert name in text
    assert 'smartservice_health{check="database"} 1.0' in text
    assert "smartservice_database_connections_in_use" in text


def test_equal_versions_are_equal_numbers() -> None:
    """Workers that agree show one number; a revision is itself."""
    assert version_number("17") == 17.0
    assert version_number("deadbeefcafe") == version_number("deadbeefcafe") != version_number("deadbeefcaff")
    assert version_number("defaults") == version_number("defaults")
