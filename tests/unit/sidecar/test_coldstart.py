"""What is decided before HAProxy starts; that it then serves is in tests/live/sidecar/test_up.py."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from atlas.world import World
from sidecar.barred import Barred
from sidecar.coldstart import BEGUN, JUST_SECONDS, prepare, refuse_a_second
from sidecar.model import Route, Server
from sidecar.settings import Settings
from smartrealm.errors import Conflict


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of a host with a file for HAProxy."""
    made = Settings(tmp_path, tmp_path / "state")
    made.proxy_config.write_text("as the agent left it\n")
    return made


def test_a_living_haproxy_is_never_joined_by_another(settings: Settings) -> None:
    """After two seconds of waiting for its end the second one gives up, and names the directory."""
    slept: list[float] = []
    with pytest.raises(Conflict, match=str(settings.directory)):
        refuse_a_second(settings, is_alive=lambda path: path == settings.master_socket, sleep=slept.append)
    assert sum(slept) == pytest.approx(2.0, abs=0.05)


def test_one_that_is_ending_is_waited_for(settings: Settings) -> None:
    """The master of a crashed worker takes a moment to go: that is no conflict."""
    looks = iter([True, True, False])
    refuse_a_second(settings, is_alive=lambda path: next(looks), sleep=lambda seconds: None)
    assert list(looks) == []


def test_what_is_there_is_better_than_nothing(settings: Settings) -> None:
    """HAProxy has just failed with its file and no map is kept: an empty file would answer 404 to everybody, so it stays."""
    (settings.directory / BEGUN).touch()
    assert prepare(settings, World()) == ""
    assert settings.proxy_config.read_text() == "as the agent left it\n"


def test_a_file_that_served_for_a_while_is_not_touched(settings: Settings) -> None:
    """HAProxy was started longer ago than a moment: it ran, whatever ended it."""
    begun = settings.directory / BEGUN
    begun.touch()
    os.utime(begun, (1000.0, 1000.0))
    assert prepare(settings, World(), now=1000.0 + JUST_SECONDS) == ""


def test_one_route_that_cannot_be_written_costs_nobody_but_itself() -> None:
    """It is left out, the rest is written."""
    good = Route("identity", (Server("10.0.0.7:8000", "10.0.0.7", 8000),))
    bad = replace(good, service="billing", servers=(Server("x y", "10.0.0.8", 8000),))
    assert Barred().writable({"identity": good, "billing": bad}) == {"identity": good}
