"""generate-service and a real map: the record is there when the service is, with a port of its own, and only then."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import tomllib
from pathlib import Path

import pytest

import atlas
from atlas.model import Service
from skeleton import generate, repository
from skeleton.errors import NotProven
from tests.skeleton.conftest import Generator
from tests.skeleton.doubles import Silent

STOPS = 5


@pytest.fixture
def mapped(generator: Generator) -> Generator:
    """The command, in a realm that has a map."""
    generator.env["ATLAS_URL"] = f"sqlite:///{generator.folder}/realm.db"
    return generator


def known(generator: Generator) -> dict[str, Service]:
    with atlas.open(generator.env["ATLAS_URL"]) as directory:
        return dict(directory.world().services)


def port_of(folder: Path) -> object:
    return tomllib.loads((folder / ".service.toml").read_text())["port"]


def test_a_new_service_is_recorded_and_has_a_port_of_its_own(mapped: Generator) -> None:
    """Owner, description, place and port are in the map; the next service gets another port, not one that is in use."""
    ended = mapped("hello", "--no-verify", "--owner", "accounts", "--description", "It greets", "--json")
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    record = known(mapped)["hello"]
    assert (record.owner, record.description, record.repository) == (
        "accounts",
        "It greets",
        str(mapped.into / "hello"),
    )
    assert record.port == document["plan"]["port"] == port_of(mapped.into / "hello")
    assert document["warnings"] == []

    following = json.loads(mapped("other", "--dry-run", "--json").stdout)["plan"]["port"]
    assert following not in (None, record.port)
    with socket.create_server(("127.0.0.1", following + 1000)):  # Where its probes would be answered.
        assert mapped("other", "--no-verify").returncode == 0
    assert known(mapped)["other"].port == port_of(mapped.into / "other")
    assert known(mapped)["other"].port not in (following, record.port)


def test_a_port_that_is_named_is_recorded_and_a_clash_is_told(mapped: Generator) -> None:
    """--port is taken as it is; who has it already is named, once, on a line of its own."""
    assert mapped("hello", "--no-verify", "--port", "8123").returncode == 0
    ended = mapped("other", "--no-verify", "--port", "8123")
    assert ended.returncode == 0
    assert ended.stdout.count("Warning: port 8123 clashes in this realm with hello.\n") == 1
    assert known(mapped)["other"].port == port_of(mapped.into / "other") == 8123


def test_no_atlas_leaves_the_map_alone(mapped: Generator) -> None:
    """With --no-atlas there is not even a file of the map afterwards; the port is 8000."""
    assert mapped("hello", "--no-verify", "--no-atlas").returncode == 0
    assert port_of(mapped.into / "hello") == 8000
    assert not (mapped.folder / "realm.db").exists()


def test_without_a_map_that_answers_the_service_is_made(mapped: Generator) -> None:
    """A map that is away costs one line of warning: the service is there, with port 8000."""
    ended = mapped("hello", "--no-verify", ATLAS_URL="http://127.0.0.1:9")
    assert ended.returncode == 0
    (warning,) = (line for line in ended.stdout.splitlines() if line.startswith("Warning: the map"))
    assert "cannot be reached" in warning
    assert port_of(mapped.into / "hello") == 8000


def test_what_is_not_made_is_not_recorded(mapped: Generator, tmp_path: Path) -> None:
    """When the proof is red, the record is taken back; the history shows both, with their reasons."""
    template = tmp_path / "template"
    shutil.copytree(repository.TEMPLATE, template)
    test = template / "[[ cookiecutter.name ]]" / "tests" / "test_service.py"
    test.write_text(test.read_text().replace("== 200", "== 201", 1))
    wanted = generate.plan("hello", into=mapped.into, atlas=True)
    with pytest.raises(NotProven):
        generate.generate(wanted, Silent(), mapped.env, template=template)
    assert known(mapped) == {}
    with atlas.open(mapped.env["ATLAS_URL"]) as directory:
        assert [change.why for change in directory.history()] == ["its generation failed", "generated"]


@pytest.mark.timeout(200)
def test_stopped_at_any_moment_the_map_knows_what_is_there(mapped: Generator) -> None:
    """SIGINT or SIGTERM at any moment: the record is in the map when the service is there, and not otherwise."""
    assert mapped("first", "--no-verify").returncode == 0
    dice = random.Random(11)
    for number in range(STOPS):
        name = f"hello-{number}"
        process = subprocess.Popen(
            mapped.command(name, "--no-verify"),
            cwd=mapped.folder,
            env=mapped.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(dice.uniform(0.15, 0.9))
        except subprocess.TimeoutExpired:
            process.send_signal(dice.choice([signal.SIGINT, signal.SIGTERM]))
            process.wait(60)
        assert (mapped.into / name).exists() == (name in known(mapped)), (number, process.returncode)


def test_of_two_runs_at_once_the_winner_keeps_its_record(mapped: Generator) -> None:
    """Whichever of two runs for one place made the record: the service is there in the end, and so is the record."""
    assert mapped("first", "--no-verify").returncode == 0
    for name in ("hello", "howdy"):
        both = [
            subprocess.Popen(
                mapped.command(name, "--no-verify"),
                cwd=mapped.folder,
                env=mapped.env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(2)
        ]
        assert sorted(process.wait(60) for process in both) == [0, 3]
        assert known(mapped)[name].port == port_of(mapped.into / name)


def test_the_proof_of_a_new_service_meets_no_map(mapped: Generator) -> None:
    """A service that is proven is not registered by its proof: nothing of it runs afterwards."""
    assert mapped("hello").returncode == 0
    with atlas.open(mapped.env["ATLAS_URL"]) as directory:
        assert not directory.world().instances
