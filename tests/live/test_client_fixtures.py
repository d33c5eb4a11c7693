"""The pytest plugin in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import atlas
from atlas import Instance, Lease
from tests.unit.smartclient.echo import Echo

TESTS = """
import pytest
import smartclient

def test_answered(service_calls):
    service_calls.get("service://identity/teams", json=[])
    assert smartclient.get("service://identity/teams").json() == []

def test_swallowed(service_calls):
    try:
        smartclient.get("service://identity/teams")
    except AssertionError:
        pass

@pytest.mark.parametrize("word", ["a/b", "c"])
def test_recorded(service_cassette, word):
    assert smartclient.get("http://127.0.0.1:PORT/teams").json()["path"] == "/teams"
"""

WITHOUT_A_MAP = """
from smartclient import Session
from smartclient.runtime import Mesh, Options

def test_recorded(service_cassette):
    with Session(mesh=Mesh(Options())) as session:
        assert session.get("service://identity/teams").json()["path"] == "/teams"
"""


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


def pytest_of(folder: Path, *options: str) -> str:
    environ = {**os.environ, "ATLAS_URL": f"sqlite:///{folder}/realm.db", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder, env=environ).stdout


def test_the_plugin(tmp_path: Path, echo: Echo) -> None:
    """A swallowed unregistered call is an error of its test; a cassette is recorded once, replayed, and written anew."""
    (tmp_path / "test_it.py").write_text(TESTS.replace("PORT", str(echo.port)))
    shown = pytest_of(tmp_path)
    assert "4 passed, 1 error" in shown, shown
    assert "nothing is registered for GET service://identity/teams" in shown
    folder = tmp_path / "cassettes" / "test_it"
    assert sorted(path.name for path in folder.iterdir()) == ["test_recorded-a-b.json", "test_recorded-c.json"]
    assert len(echo.seen) == 2
    assert "2 passed" in pytest_of(tmp_path, "-k", "recorded", "--record-calls=rewrite")
    assert len(echo.seen) == 4
    echo.close()
    assert "2 passed" in pytest_of(tmp_path, "-k", "recorded", "--record-calls=replay")


def test_a_service_under_test_records_through_the_map_of_the_machine(tmp_path: Path, echo: Echo) -> None:
    """An app in a test has no map; while a cassette is recorded its calls take that of the environment. A replay needs none,
    and a test that fails leaves no cassette behind."""
    (tmp_path / "test_it.py").write_text(WITHOUT_A_MAP)
    assert "1 failed" in (shown := pytest_of(tmp_path)), shown
    assert not (tmp_path / "cassettes").exists()
    with atlas.open(f"sqlite:///{tmp_path}/realm.db") as directory:
        directory.hold(Lease("here", "1", instances=(Instance("identity", "127.0.0.1", echo.port),)))
    assert "1 passed" in (shown := pytest_of(tmp_path)), shown
    echo.close()
    assert "1 passed" in (shown := pytest_of(tmp_path, "--record-calls=replay")), shown
