"""`EnvironmentDump`, as both published libraries promise it, without the secrets."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from healthcheck import EnvironmentDump
from smartrealm.errors import ConfigurationError


def dumped(dump: EnvironmentDump) -> dict[str, Any]:
    body, status, headers = dump.run()
    assert (status, headers) == (200, {"Content-Type": "application/json"})
    whole: dict[str, Any] = json.loads(body)
    return whole


def test_the_sections_have_the_published_members() -> None:
    """os, python and process hold what they always held."""
    whole = dumped(EnvironmentDump())
    assert set(whole) == {"os", "python", "process"}
    assert set(whole["os"]) == {"platform", "name", "uname"}
    assert whole["os"]["uname"] == list(platform.uname())
    assert set(whole["python"]) == {"version", "executable", "pythonpath", "version_info", "packages"}
    assert whole["python"]["version_info"]["minor"] == sys.version_info.minor
    assert {"flask", "PyJWT"} & {name.lower() for name in whole["python"]["packages"]}
    assert set(whole["process"]) == {"argv", "cwd", "user", "pid", "environ"}
    assert whole["process"]["pid"] == os.getpid()
    assert whole["process"]["environ"]["PATH"] == os.environ["PATH"]


def test_a_section_is_a_value_or_a_function() -> None:
    """Both are shown, without their secrets; what JSON cannot hold becomes its text."""
    dump = EnvironmentDump(include_os=False, include_python=False, include_process=False)
    dump.add_section("release", "1.2")
    dump.add_section("application", lambda: {"owner": "teams", "db": {"password": "hunter22"}, "every": timedelta(1)})
    assert dumped(dump) == {
        "release": "1.2",
        "application": {"owner": "teams", "db": {"password": "********"}, "every": "1 day, 0:00:00"},
    }


def test_a_section_has_one_owner() -> None:
    """A name that is taken is refused, a built-in one too."""
    with pytest.raises(ConfigurationError, match=r'^The name "os" is already taken\.$'):
        EnvironmentDump().add_section("os", dict)


def test_a_section_that_fails_says_so() -> None:
    """The rest of the dump is shown; the error does not show a secret."""
    dump = EnvironmentDump(include_python=False, include_process=False)

    def broken() -> None:
        raise OSError("postgresql://app:hunter22@db/x")

    dump.add_section("broken", broken)
    assert dumped(dump)["broken"] == {"error": "OSError: postgresql://app:********@db/x"}


def test_the_configuration_of_the_serving_app_is_a_section() -> None:
    """dump_environment is the view; values that JSON cannot hold are left out, secrets are masked."""
    app = Flask("orders")
    app.config.update(
        DATABASE_URL="postgresql://app:hunter22@db/x", MONKEY="banana", SECRET_KEY=b"hunter22", TOKEN=None
    )
    dump = EnvironmentDump(include_python=False)
    app.add_url_rule("/environment", view_func=dump.dump_environment)
    answer = app.test_client().get("/environment")
    assert answer.mimetype == "application/json"
    config = (answer.json or {})["config"]
    assert config["TOKEN"] == config["SECRET_KEY"] == "********"
    assert (config["DATABASE_URL"], config["MONKEY"]) == ("postgresql://app:********@db/x", "banana")
    assert "PERMANENT_SESSION_LIFETIME" not in config
    assert b"hunter22" not in answer.data


def test_a_section_of_ones_own_may_be_called_config() -> None:
    """As py-healthcheck shows it; putting the dump on an app leaves it alone."""
    app = Flask("orders")
    dump = EnvironmentDump(include_python=False, config={"mine": 1})
    dump.init_app(app, "/environment")
    assert (app.test_client().get("/environment").json or {})["config"] == {"mine": 1}


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container with a numeric user, which has no entry in the password file, the dump works."""
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert EnvironmentDump().get_login() == "54321"


def test_the_shells_directory_is_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """PWD is shown when it is a directory, and masked when it is not."""
    dump = EnvironmentDump(include_python=False)
    monkeypatch.setenv("PWD", os.getcwd())
    assert dumped(dump)["process"]["environ"]["PWD"] == os.getcwd()
    monkeypatch.setenv("PWD", "hunter22")
    assert dumped(dump)["process"]["environ"]["PWD"] == "********"


def test_arguments_show_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """--password=x, --password x and URLs with one."""
    arguments = ["run", "--password=hunter22", "--api-token", "hunter22", "--port", "80", "redis://:hunter22@r/0"]
    monkeypatch.setattr(sys, "argv", arguments)
    argv = EnvironmentDump().get_process()["argv"]
    assert argv == ["run", "--password=********", "--api-token", "********", "--port", "80", "redis://:********@r/0"]
