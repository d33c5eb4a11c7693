"""What create_app promises about the app itself."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from flask import current_app

import smartservice
from smartrealm import ConfigurationError, NotConfigured
from smartservice import create_app
from tests.processes import wait_until
from tests.unit.smartservice.making import Make, make

__all__ = ["make"]


def test_the_public_names() -> None:
    """Two names are enough to write a service."""
    assert sorted(smartservice.__all__) == ["SmartService", "create_app"]


def test_everything_is_reached_through_current_app(make: Make) -> None:
    """Code anywhere in a request finds realm, config, health and logger on current_app."""
    app = make()
    with app.app_context():
        assert current_app.realm == "testing"  # type: ignore[attr-defined]
        assert current_app.service == "tests"  # type: ignore[attr-defined]
        assert current_app.config["PAGE_SIZE"] == 20
        assert current_app.health is app.health  # type: ignore[attr-defined]
        assert current_app.logger is app.logger


@pytest.mark.parametrize(("part", "setting"), [("db", "DATABASE_URL"), ("redis", "REDIS_URL")])
def test_a_part_that_is_not_configured_names_its_setting(make: Make, part: str, setting: str) -> None:
    """Asking for what is switched off says which setting switches it on."""
    with pytest.raises(NotConfigured, match=setting):
        getattr(make(), part)


def test_every_mistake_in_the_settings_is_told_at_once(make: Make) -> None:
    """One start shows all mistakes, with key and origin."""
    with pytest.raises(ConfigurationError) as caught:
        make(environ={"PAGE_SIZE": "many", "HEALTH_INTERVAL": "soon"})
    assert len(caught.value.mistakes) == 2
    assert "PAGE_SIZE" in str(caught.value)
    assert "environment" in str(caught.value)
    assert "HEALTH_INTERVAL" in str(caught.value)


def test_two_apps_in_one_process_do_not_touch(make: Make) -> None:
    """Settings, health, metrics and databases of one app are not those of another."""
    one = make(PAGE_SIZE=1, DATABASE_URL="sqlite://")
    two = make(PAGE_SIZE=2, DATABASE_URL="sqlite://")
    one.config["PAGE_SIZE"] = 5
    one.health.add("mine", lambda: True, dependency=False)
    one.test_client().get("/nope")
    assert two.config["PAGE_SIZE"] == 2
    assert "mine" not in two.health.statuses()
    assert one.db.engine is not two.db.engine
    assert one.metrics is not None
    assert two.metrics is not None
    assert two.metrics.requests() == {}
    assert one.metrics.requests() != {}


def test_background_work_keeps_the_request(make: Make) -> None:
    """A thread started through the app has the request's id, an app context and the pinned config."""
    app = make()
    seen: dict[str, object] = {}

    def work(number: int) -> int:
        from smartrealm import current_call

        call = current_call()
        seen.update(id=call.request_id if call else None, app=current_app.name, size=current_app.config["PAGE_SIZE"])
        return number + 1

    @app.get("/start")
    def start() -> dict[str, int]:
        return {"result": app.in_background(work, 1).result(5)}

    reply = app.test_client().get("/start", headers={"X-Request-ID": "abc-1"})
    assert reply.get_json() == {"result": 2}
    assert seen == {"id": "abc-1", "app": app.name, "size": 20}


def test_background_work_that_fails_says_so(make: Make) -> None:
    """Its error is raised by result(), and logged even when nobody asks for it."""
    app = make()

    def fail() -> None:
        raise ValueError("on purpose")

    with app.app_context(), pytest.raises(ValueError, match="on purpose"):
        app.in_background(fail).result(5)


def test_closing_twice_does_no_harm(make: Make) -> None:
    """close() is idempotent, ends every thread that start() began, and an app that was never used can be closed."""
    make().close()
    before = threading.active_count()
    app = make(DATABASE_URL="sqlite://")
    app.start()
    assert threading.active_count() > before
    app.close()
    app.close()
    wait_until(lambda: threading.active_count() <= before, what="the end of the threads")


def test_the_repr_shows_no_secret(make: Make) -> None:
    """An app, its config and its settings can be printed."""
    app = make(SECRET_KEY="planted-one", PARTNER_TOKEN="planted-two", DATABASE_URL="postgresql://u:planted3@h/d")
    assert "planted" not in f"{app!r}{app.config!r}{app.settings!r}{app.settings.snapshot!r}{app.redactor!r}"


def test_a_module_object_works_like_its_name() -> None:
    """`create_app(module)` is `create_app("its.name")`."""
    from tests.unit.smartservice import sample

    app = create_app(sample, environ={"ATLAS_URL": ""})
    assert app.config["PAGE_SIZE"] == 20
    assert app.realm == "local"
    app.close()


def test_a_service_that_calls_nobody_imports_no_client() -> None:
    """Without a map and without calls, neither a client nor the map nor what they need is imported."""
    program = (
        "import sys\n"
        "from types import ModuleType\n"
        "from smartservice import create_app\n"
        "app = create_app(ModuleType('quiet.config'), environ={'REALM': 'production'})\n"
        "app.test_client().get('/healthcheck')\n"
        "print(sorted({'requests', 'urllib3', 'smartclient', 'atlas', 'kazoo', 'boto3'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
