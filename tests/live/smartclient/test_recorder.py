"""Promises of cassettes: recorded once, keyed by service, without secrets, replayed in both routes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import smartclient
from atlas.model import Edit, Instance
from atlas.world import Delta, Position, World
from smartclient import runtime
from smartclient.recorder import StaleCassette, cassette
from smartclient.testing import UnexpectedCall
from smartrealm.errors import ConfigurationError
from tests.unit.smartclient.echo import Echo, echo

__all__ = ["echo"]

SECRETS = [
    "planted-bearer-1",
    "planted-cookie-2",
    "planted-field-3",
    "planted-param-4",
    "planted-answer-5",
    "planted-mine-6",
]


def world_of(port: int) -> World:
    """A map in which identity runs on one port."""
    instance = Instance("identity", "127.0.0.1", port)
    return World().apply(
        Delta(Position(), Position("e", 1), (Edit("instance", instance.key, None, instance.to_json()),))
    )


@pytest.fixture
def direct(echo: Echo, tmp_path: Path) -> Iterator[runtime.Mesh]:
    """The mesh of this context: the direct route to the echo server."""
    world = world_of(echo.port)
    mesh = runtime.Mesh(runtime.Options(state_dir=str(tmp_path)), world=lambda: world, sleep=lambda seconds: None)
    token = runtime.enter(mesh)
    yield mesh
    runtime.leave(token)
    mesh.close()


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[runtime.Mesh]:
    """A mesh behind a sidecar that is not there."""
    options = runtime.Options(state_dir=str(tmp_path), sidecar_url="http://127.0.0.1:9")
    mesh = runtime.Mesh(options, sleep=lambda seconds: None)
    yield mesh
    mesh.close()


def ask() -> list[Any]:
    """What the tests call, services and a plain URL, with secrets in every place."""
    with smartclient.Session() as session:
        session.headers["Authorization"] = "Bearer planted-bearer-1"
        session.cookies.set("sid", "planted-cookie-2")
        answers = [
            session.get("service://identity/teams", params={"page": "2", "api_key": "planted-param-4"}),
            session.post("service://identity/login", json={"name": "ada", "password": "planted-field-3"}),
            session.get("service://identity/teams", params={"page": 3}),
        ]
    return [(answer.status_code, answer.json()["method"], answer.json()["query"].get("page")) for answer in answers]


def test_recorded_once_and_replayed_in_both_routes(
    echo: Echo, direct: runtime.Mesh, sidecar: runtime.Mesh, tmp_path: Path
) -> None:
    """What was recorded directly is replayed behind a sidecar and with the service gone, and names no host and port."""
    file = tmp_path / "cassettes" / "teams.json"
    with cassette(file) as recorded:
        first = ask()
    assert recorded.recording
    assert len(echo.seen) == 3
    text = file.read_text()
    assert f"{echo.port}" not in text
    assert "127.0.0.1" not in text
    assert json.loads(text)["interactions"][0]["request"]["url"] == "service://identity/teams"
    with cassette(file):
        assert ask() == first
    echo.close()
    token = runtime.enter(sidecar)
    with cassette(file, mode="replay"):
        assert ask() == first
    runtime.leave(token)
    assert len(echo.seen) == 3


def test_no_secret_is_recorded(echo: Echo, direct: runtime.Mesh, tmp_path: Path) -> None:
    """Nothing that was sent or answered under a secret name is in the file, not even where the answer repeats it."""
    file = tmp_path / "c.json"
    with cassette(file, secrets=["planted-mine-6"]):
        ask()
        smartclient.get("service://identity/planted-mine-6")
        smartclient.post("service://identity/form", data={"pin": "planted-field-3", "name": "ada"})
        smartclient.post(
            "service://identity/raw", data="password=planted-field-3", headers={"Content-Type": "text/odd"}
        )
        smartclient.get(f"http://ada:planted-bearer-1@127.0.0.1:{echo.port}/plain?sig=planted-param-4")
    text = file.read_text()
    assert [secret for secret in SECRETS if secret in text] == []
    assert "ada" in text
    assert [path for path, _ in echo.seen if "planted-mine-6" in path] != []
    with cassette(file, mode="replay", secrets=["planted-mine-6"], stale="ignore"):
        assert ask()
        assert smartclient.get("service://identity/planted-mine-6").ok


def test_plain_urls_are_recorded_too(echo: Echo, tmp_path: Path) -> None:
    """With smartclient and with requests itself."""
    file, url = tmp_path / "c.json", f"http://127.0.0.1:{echo.port}/plain"
    with cassette(file):
        assert smartclient.get(url).ok
        assert requests.get(url, params={"a": "b"}).ok
    echo.close()
    with cassette(file, mode="replay"):
        assert requests.get(url, params={"a": "b"}).json()["query"] == {"a": ["b"]}
        assert smartclient.get(url).ok


def test_what_is_not_recorded_fails_loudly(direct: runtime.Mesh, tmp_path: Path) -> None:
    """A call that is not in the cassette, or once more than recorded, is refused with what the cassette holds."""
    file = tmp_path / "c.json"
    with cassette(file):
        smartclient.get("service://identity/teams")
    with pytest.raises(UnexpectedCall, match="holds no answer to GET service://identity/other"), cassette(file):
        smartclient.get("service://identity/other")
    with pytest.raises(UnexpectedCall, match=r"holds 1 answers.*all of them were given"), cassette(file):  # noqa: PT012
        smartclient.get("service://identity/teams")
        try:
            smartclient.get("service://identity/teams")
        except AssertionError:
            pass  # swallowed by the program, told at the end


def test_stale_interactions_are_reported(direct: runtime.Mesh, tmp_path: Path) -> None:
    """Answers that nobody asked for are a warning, an error, or nothing, as wanted."""
    file = tmp_path / "c.json"
    with cassette(file):
        smartclient.get("service://identity/teams")
        smartclient.get("service://identity/old")
    with pytest.warns(StaleCassette, match="GET service://identity/old"), cassette(file):
        smartclient.get("service://identity/teams")
    with pytest.raises(AssertionError, match="service://identity/old"), cassette(file, stale="fail"):
        smartclient.get("service://identity/teams")
    with warnings.catch_warnings(), cassette(file, stale="ignore") as kept:
        smartclient.get("service://identity/teams")
        assert kept.unused == ["GET service://identity/old"]


def test_rewrite_and_replay(echo: Echo, direct: runtime.Mesh, tmp_path: Path) -> None:
    """rewrite records anew, replay never asks the network, and a failed block leaves the file as it was."""
    file = tmp_path / "c.json"
    with pytest.raises(ConfigurationError, match="no cassette"), cassette(file, mode="replay"):
        pass
    with pytest.raises(KeyError), cassette(file):  # noqa: PT012
        smartclient.get("service://identity/teams")
        raise KeyError
    assert not file.exists()
    with cassette(file):
        smartclient.get("service://identity/teams")
    with cassette(file, mode="rewrite"):
        smartclient.get("service://identity/other")
    assert "other" in file.read_text()
    assert "teams" not in file.read_text()
    file.write_text('{"format": 99}')
    with pytest.raises(ConfigurationError, match="remove it"), cassette(file):
        pass
    with pytest.raises(ValueError, match="once, replay or rewrite"), cassette(file, mode="all"):  # type: ignore[arg-type]
        pass


def test_retries_are_recorded_and_replayed(echo: Echo, direct: runtime.Mesh, tmp_path: Path) -> None:
    """Each attempt is an interaction, so that a replay retries as the recording did."""
    file = tmp_path / "c.json"
    echo.failures = 2
    with cassette(file):
        assert len(smartclient.get("service://identity/teams", retries=2).attempts) == 3  # type: ignore[attr-defined]
    with cassette(file):
        assert len(smartclient.get("service://identity/teams", retries=2).attempts) == 3  # type: ignore[attr-defined]


def test_redirects_and_old_texts(echo: Echo, direct: runtime.Mesh, tmp_path: Path) -> None:
    """A redirect to the instance's own address is kept as one within the service; text in an old charset is redacted too."""
    file = tmp_path / "c.json"
    for _ in range(2):
        with cassette(file):
            answer = smartclient.get("service://identity/redirect")
            assert (answer.json()["path"], len(answer.history)) == ("/teams", 1)
            assert smartclient.get("service://identity/latin").text.startswith("grüße")
    assert f"{echo.port}" not in file.read_text()
    assert "planted-answer-5" not in file.read_text()


def test_bodies_cookies_and_compression(direct: runtime.Mesh, tmp_path: Path) -> None:
    """Binary answers come back byte for byte, compressed ones unpacked, cookies by name without their values."""
    file = tmp_path / "c.json"
    for _ in range(2):
        with cassette(file):
            assert smartclient.get("service://identity/binary").content == bytes(range(256))
            assert smartclient.get("service://identity/gzip").json()["path"] == "/gzip"
            cookies = smartclient.get("service://identity/cookies").cookies
            assert sorted(cookies.keys()) == ["one", "two"]
            with smartclient.get("service://identity/teams", stream=True) as streamed:
                assert b"".join(streamed.iter_content(7)).startswith(b"{")
    assert "planted-answer-5" not in file.read_text()
