"""The way through the sidecar: which one, when it is taken, when it is left alone."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from atlas.announcement import Carrier, Sidecar as Told
from smartclient.runtime import Mesh, Options
from smartclient.sidecar import LOOK_SECONDS, PAUSE_SECONDS, STALE_SECONDS, Sidecar, Way, place_of
from smartrealm.errors import ConfigurationError

URL = "http://127.0.0.1:4000"


class Host:
    """A host whose sidecar may come and go, and a process that looks for it."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self.carrier = Carrier(folder)
        self.sidecar = Sidecar(directory=str(folder), realm="local", clock=lambda: self.now)

    def way(self, *, alone: bool = False) -> str | None:
        found = self.sidecar.way(self.now, alone=alone)
        return None if found is None else found.url

    def comes(self, told: Told | None = None) -> None:
        self.carrier.take()
        self.carrier.tell(told or Told(URL, realm="local"))
        self.now += LOOK_SECONDS


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize(
    ("url", "where", "shown"),
    [
        ("http://127.0.0.1:4000", ("127.0.0.1", 4000), "127.0.0.1:4000"),
        ("http://[::1]/", ("::1", 80), "[::1]:80"),
        (
            "unix:///run/smartservice/local/calls.sock",
            ("/run/smartservice/local/calls.sock", 0),
            "unix:/run/smartservice/local/calls.sock",
        ),
    ],
)
def test_a_sidecar_is_a_port_or_a_socket(url: str, where: tuple[str, int], shown: str) -> None:
    """Both are places like those of the map."""
    place = place_of(url)
    assert (place.instance.host, place.instance.port) == where
    assert place.instance.address == shown


@pytest.mark.parametrize("url", ["https://h:1", "unix://calls.sock", "http://h:x", "h:4000", "unix:"])
def test_another_url_is_no_sidecar(url: str) -> None:
    """The message says what to write."""
    with pytest.raises(ConfigurationError, match="unix:///path"):
        place_of(url)


def test_the_first_calls_wait_for_the_first_look(host: Host, tmp_path: Path) -> None:
    """Many threads call at once before anybody has looked: none of them goes directly because another one is still looking."""
    host.comes()
    for _ in range(30):
        fresh = Sidecar(directory=str(tmp_path), realm="local", clock=lambda: host.now)
        start = threading.Barrier(8)

        def first_call(fresh: Sidecar = fresh, start: threading.Barrier = start) -> Way | None:
            start.wait()
            return fresh.way(host.now, alone=False)

        with ThreadPoolExecutor(8) as threads:
            found = [one.result() for one in [threads.submit(first_call) for _ in range(8)]]
        assert None not in found


def test_the_sidecar_of_the_host_is_found_without_a_setting(host: Host) -> None:
    """One that comes while the process runs is taken within a second; one that leaves for good is not taken any more."""
    assert host.way() is None
    host.comes()
    assert host.way() == URL
    host.carrier.close(leave=True)
    host.now += LOOK_SECONDS
    assert host.way() is None


def test_one_looks_once_a_second(host: Host) -> None:
    """Between two looks a call costs no system call."""
    assert host.way() is None
    host.comes()
    host.now -= LOOK_SECONDS / 2
    assert host.way() is None
    host.now += LOOK_SECONDS / 2
    assert host.way() == URL


def test_a_sidecar_with_nothing_but_a_socket_is_taken_too(host: Host) -> None:
    """Where the loopback port is not open."""
    host.comes(Told("", "/run/s/calls.sock", "local"))
    assert host.way() == "unix:///run/s/calls.sock"


def test_the_sidecar_of_another_realm_is_none(host: Host) -> None:
    """Whatever a folder that was mixed up says, nothing crosses from realm to realm."""
    host.comes(Told(URL, realm="production"))
    assert host.way() is None


def test_haproxy_is_taken_on_while_the_agent_is_away_for_a_moment(host: Host) -> None:
    """An agent that restarts changes nothing; what HAProxy knew before a long time is left to those without a map."""
    host.comes()
    assert host.way() == URL
    host.carrier.close()
    host.now += STALE_SECONDS - 1
    assert host.way() == URL
    host.now += 2
    assert host.way() is None
    host.now += LOOK_SECONDS
    assert host.way(alone=True) == URL


def test_an_agent_that_never_lived_here_is_not_waited_for(host: Host) -> None:
    """What a dead one has left behind is no way, except for whoever has no other."""
    host.comes()
    host.carrier.close()
    assert host.way() is None
    host.now += LOOK_SECONDS
    assert host.way(alone=True) == URL


def test_a_file_that_says_nothing_is_no_sidecar(host: Host, tmp_path: Path) -> None:
    """Half a file, another format: as if it was not there."""
    host.carrier.take()
    for text in ("", "{", json.dumps([1]), json.dumps({"url": 7})):
        (tmp_path / "sidecar.json").write_text(text)
        host.now += LOOK_SECONDS
        assert host.way() is None


def test_one_that_refuses_is_tried_by_one_call_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """The others go directly meanwhile. It is told once, and once more when it answers again."""
    now = 100.0
    sidecar = Sidecar(URL, clock=lambda: now)
    way = sidecar.way(now, alone=False)
    assert isinstance(way, Way)
    with caplog.at_level(logging.INFO, "smartclient"):
        sidecar.refused(way)
        sidecar.refused(way)
        assert sidecar.way(now, alone=False) is None
        now += PAUSE_SECONDS
        assert [sidecar.way(now, alone=False) for _ in range(3)] == [way, None, None]
        sidecar.answered(way)
        sidecar.answered(way)
        assert [sidecar.way(now, alone=False) for _ in range(3)] == [way] * 3
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_who_has_no_other_way_always_takes_it() -> None:
    """Without a map a sidecar that refuses is tried by every call."""
    sidecar = Sidecar(URL)
    way = sidecar.way(0, alone=True)
    assert way is not None
    sidecar.refused(way)
    assert sidecar.way(0, alone=True) is way


@pytest.mark.parametrize(("url", "directory"), [("", "/run/s"), (None, None)])
def test_calls_may_be_kept_away_from_every_sidecar(url: str | None, directory: str | None) -> None:
    """An empty SIDECAR_URL, and options that name no folder: nobody looks."""
    assert Mesh(Options(sidecar_url=url, sidecar_dir=directory)).sidecar is None


def test_the_environment_says_where_the_sidecar_is() -> None:
    """Without a variable it is that of the host; an empty one means none. The token is in no repr."""
    environ = {"SIDECAR_DIR": "/run/s", "SIDECAR_TOKEN": "very-secret", "REALM": "staging"}
    options = Options.from_environment(environ)
    assert (options.sidecar_url, options.sidecar_dir, options.sidecar_token) == (None, "/run/s", "very-secret")
    assert "very-secret" not in repr(options) + repr(Mesh(options))
    assert Options.from_environment({**environ, "SIDECAR_URL": ""}).sidecar_url == ""
