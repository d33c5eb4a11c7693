"""app.config is Flask's mapping, read through the snapshot of the request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smartrealm import ConfigurationError
from tests.unit.smartservice.making import Make, make

__all__ = ["make"]


def test_it_behaves_as_a_dict_does(make: Make) -> None:
    """Everything an extension does with app.config works."""
    config = make().config
    config["MINE"] = 1
    config.update(OTHER=2)
    assert config.setdefault("MINE", 9) == 1
    assert config.setdefault("THIRD", 3) == 3
    assert dict(config)["OTHER"] == 2
    config |= {"OTHER": 4}
    assert config["OTHER"] == 4
    assert {**config}["THIRD"] == 3
    assert "MINE" in config
    assert config.pop("MINE") == 1
    assert "MINE" not in config
    assert config.pop("MINE", None) is None
    assert config.get("MINE", "x") == "x"
    assert len(config) == len(list(config)) == len(config.keys()) == len(config.values()) == len(config.items())
    assert config.copy() == config
    assert config.get_namespace("HEALTH_")["path"] == "/healthcheck"
    with pytest.raises(KeyError):
        config["MINE"]
    with pytest.raises(KeyError):
        del config["MINE"]


def test_flasks_own_defaults_lie_below(make: Make) -> None:
    """What nobody sets is as in plain Flask; attributes such as app.testing forward to it."""
    app = make()
    assert app.config["MAX_CONTENT_LENGTH"] is None
    app.testing = True
    assert app.config["TESTING"] is True
    assert make(TESTING=True).testing is True


def test_writing_a_declared_setting_is_checked(make: Make) -> None:
    """A write to the mapping is an override like any other: converted, or refused."""
    config = make().config
    config["PAGE_SIZE"] = 7
    assert config["PAGE_SIZE"] == 7
    with pytest.raises(ConfigurationError, match="PAGE_SIZE"):
        config["PAGE_SIZE"] = "many"
    assert config["PAGE_SIZE"] == 7


def test_what_a_test_wrote_can_be_undone(make: Make) -> None:
    """The pytest plugin puts the config back after each test."""
    config = make().config
    before = config.written()
    config["PAGE_SIZE"] = 7
    config["MINE"] = 1
    config.restore(before)
    assert config["PAGE_SIZE"] == 20
    assert "MINE" not in config


def test_one_request_sees_one_version(make: Make, tmp_path: Path) -> None:
    """A change that arrives in the middle of a request is seen by the next one only."""
    path = tmp_path / "overrides.json"
    path.write_text(json.dumps({"PAGE_SIZE": 1}))
    app = make(environ={"CONFIG_FILE": str(path)})

    @app.get("/twice")
    def twice() -> list[int]:
        first = app.config["PAGE_SIZE"]
        path.write_text(json.dumps({"PAGE_SIZE": 2}))
        app.settings.refresh()
        return [first, app.config["PAGE_SIZE"]]

    client = app.test_client()
    assert client.get("/twice").get_json() == [1, 1]
    assert client.get("/twice").get_json() == [2, 2]
