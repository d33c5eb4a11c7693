"""`atlas service claim`: a record and a port for a new service."""

from __future__ import annotations

import socket
from itertools import islice
from pathlib import Path

import pytest

from atlas.model import Service
from atlas.server.commands.claiming import clashing, free_ports, listens
from atlas.world import World
from tests.live.atlas_cli.runs import Runs

FACTS = ("--owner", "accounts", "--description", "Who is who", "--repository", "/srv/identity")


def world(**ports: int | None) -> World:
    return World(services={name: Service(name, port=port) for name, port in ports.items()})


@pytest.mark.parametrize(
    ("known", "taken", "expected"),
    [
        ({}, (), [8000, 8001, 8002]),
        ({"a": 8000, "b": None}, (), [8001, 8002, 8003]),
        ({}, (8000, 8002), [8001, 8003, 8004]),
        ({}, (9001,), [8000, 8002, 8003]),
        ({"a": 9000}, (), [8001, 8002, 8003]),
        ({"a": 7001}, (), [8000, 8002, 8003]),
    ],
)
def test_a_free_port_is_free_for_probes_too(
    known: dict[str, int | None], taken: tuple[int, ...], expected: list[int]
) -> None:
    """Passed over are the ports of services, those 1000 above and below them, and what something listens on."""
    assert list(islice(free_ports(world(**known), taken.__contains__), 3)) == expected


def test_a_clash_names_the_services() -> None:
    """The same port, or one where the other answers probes; not the service itself."""
    present = world(same=8010, below=7010, above=9010, other=8011, me=8010, none=None)
    assert clashing(present, Service("me", port=8010)) == ["above", "below", "same"]
    assert clashing(present, Service("me")) == []


def test_what_listens_is_seen() -> None:
    """A port of this machine is taken while something accepts on it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listens(port)
    assert not listens(port)


def test_a_claim_is_recorded_with_its_facts(atlas: Runs) -> None:
    """The service is in the map with owner, description, repository and a port of its own, and the reason in the history."""
    first = atlas.json("service", "claim", "identity", *FACTS, "--why", "generated")
    second = atlas.json("service", "claim", "teams")
    known = atlas.map.world().services
    assert known["identity"].to_json() == first["service"]
    assert (known["identity"].owner, known["identity"].repository) == ("accounts", "/srv/identity")
    assert first["made"]
    assert first["clashes"] == second["clashes"] == []
    assert {first["service"]["port"], second["service"]["port"]} <= set(range(8000, 9000))
    assert first["service"]["port"] != second["service"]["port"]
    assert (first["revision"], atlas.map.history()[-1].why) == (1, "generated")


def test_a_service_that_is_there_is_told_as_it_is(filled: Runs) -> None:
    """A second claim changes nothing, whatever it asks for; one without a port gets one and keeps the rest."""
    filled.ok("service", "add", "portless", "--owner", "anna")
    before = filled.revision
    told = filled.json("service", "claim", "identity", "--owner", "me", "--port", "8500")
    assert (told["service"]["port"], told["service"]["owner"], told["made"]) == (8010, "accounts", False)
    assert filled.revision == before
    told = filled.json("service", "claim", "portless", "--owner", "me")
    assert (told["made"], told["service"]["owner"]) == (False, "anna")
    assert filled.map.world().services["portless"].port == told["service"]["port"]


def test_a_port_that_is_named_is_recorded_with_a_warning(filled: Runs) -> None:
    """--port is taken as it is; the service that has it is named."""
    result = filled("service", "claim", "billing", "--port", "8010")
    assert result.exit_code == 0
    assert "Warning: port 8010 clashes with identity" in result.stderr
    assert filled.json("service", "claim", "wages", "--port", "9011")["clashes"] == ["teams"]
    assert filled.map.world().services["billing"].port == 8010


def test_a_dry_run_of_a_claim_makes_nothing(filled: Runs, tmp_path: Path) -> None:
    """The port that would be taken is told; the map stays as it is, and where there is no file none is made."""
    before = filled.revision
    told = filled.json("service", "claim", "billing", "--dry-run")
    assert told["dry_run"]
    assert told["made"]
    assert told["service"]["port"] in range(8000, 9000)
    assert filled.revision == before
    for url in ("", f"sqlite:///{tmp_path}/none/realm.db"):
        assert filled.json("service", "claim", "billing", "--dry-run", ATLAS_URL=url)["service"]["port"]
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "state").exists()
