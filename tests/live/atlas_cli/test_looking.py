"""`atlas ls`, `show`: what is, with what is wrong first."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from atlas import Author, Instance, Lease, Ruling, Service, World
from atlas.model import Override
from atlas.server.cli import atlas as command
from atlas.server.rendering import Glance, listing, showing
from atlas.server.terminal import Session, Tools
from smartrealm.errors import Unavailable
from tests.live.atlas_cli.runs import Runs

WORLD = World(
    services={"identity": Service("identity", owner="accounts", port=8010), "teams": Service("teams")},
    instances={
        "identity": {
            "web-1:8010": Instance("identity", "web-1", 8010, version="1.4", lease="web-1"),
            "web-2:8010": Instance("identity", "web-2", 8010, version="1.4", lease="web-2"),
            "web-3:8010": Instance("identity", "web-3", 8010, version="1.3", draining=True, lease="web-3"),
        }
    },
    leases={name: Lease(name, "x") for name in ("web-1", "web-2", "web-3")},
    rulings={
        "identity/web-2:8010": Ruling("identity", "web-2", 8010, "disabled", reason="slow", author="anna", at=400.0)
    },
)
GLANCE = Glance(WORLD, realm="testing", now=1000.0)


def test_the_first_lines_say_how_the_realm_is() -> None:
    """Numbers first, then what needs a look, then a line for each service."""
    lines = listing(replace(GLANCE, overdue={"web-1": 44.0}))
    text = "\n".join(lines)
    assert "2 services, 3 instances (1 enabled, 1 draining, 1 disabled), 3 leases" in lines[0]
    assert "lease web-1 is overdue: no sign of life for 44 s; it carries 1 instance" in lines[1]
    assert "- no instance runs of teams" in lines[2]
    assert "identity web-2:8010 disabled 10 min ago by anna: slow" in lines[3]
    assert "1.4 (2), 1.3" in text
    assert text.index("overdue") < text.index("versions")


def test_a_service_that_takes_no_calls_stands_out() -> None:
    """Instances run, none is enabled: that is said before the table."""
    ruling = Ruling("teams", "web-1", 8011, "disabled")
    world = World(instances={"teams": {"web-1:8011": Instance("teams", "web-1", 8011)}}, rulings={ruling.key: ruling})
    assert any(
        "teams takes no calls: its only instance is not enabled" in line
        for line in listing(replace(GLANCE, world=world))
    )


def test_what_does_not_run_on_a_laptop_is_nothing_to_tell() -> None:
    """A service that is generated and not started is as it should be in the local realm."""
    assert not any("no instance" in line for line in listing(replace(GLANCE, realm="local")))


def test_a_server_without_its_store_is_still_looked_at(filled: Runs) -> None:
    """`ls` and `show` tell what the server remembers, and why it has nothing newer, when the history cannot be read."""

    class FromMemory:
        def __getattr__(self, name: str) -> Any:
            return getattr(filled.map, name)

        def history(self, **asked: Any) -> Any:
            raise Unavailable("away")

        def status(self) -> Any:
            return {**filled.map.status(), "server": {"store_problem": "etcd://a did not answer"}}

    tools = Tools(environ=filled.environ, open=lambda *given, **named: nullcontext(FromMemory()))  # type: ignore[arg-type]
    told = CliRunner().invoke(command, ["ls"], obj=tools)
    assert "! Atlas serves from memory, and nothing can be changed: etcd://a did not answer" in told.output
    assert CliRunner().invoke(command, ["show", "identity"], obj=tools).exit_code == 0


def test_a_word_whose_time_is_over_is_no_trouble() -> None:
    """What has expired but was not swept away yet is not shown as if it held."""
    over = replace(WORLD.rulings["identity/web-2:8010"], expires_at=999.0)
    text = "\n".join(listing(replace(GLANCE, world=replace(WORLD, rulings={over.key: over}))))
    assert "disabled by" not in text
    assert "2 enabled, 1 draining)" in text


def test_show_tells_who_disabled_what() -> None:
    """State, reason, author and end stand beside the instance; secrets are masked."""
    override = Override("identity", "KEY", None, secret=True, hidden=True, author="bert", at=900.0)
    ruling = replace(WORLD.rulings["identity/web-2:8010"], expires_at=4600.0)
    world = replace(WORLD, overrides={override.name: override}, rulings={ruling.key: ruling})
    text = "\n".join(showing(replace(GLANCE, world=world), "identity"))
    assert "disabled 10 min ago by anna: slow, until" in text
    assert "(for another 60 min)" in text
    assert "(secret)" in text
    assert "about to stop" in text


def test_a_ruling_on_what_does_not_run_is_shown() -> None:
    """A word that waits for an instance to come back is not forgotten."""
    world = replace(WORLD, instances={})
    assert any(
        "web-2:8010, which does not run: disabled" in line for line in showing(replace(GLANCE, world=world), "identity")
    )


def test_descriptions_cannot_steer_the_terminal(atlas: Runs) -> None:
    """What somebody wrote into the map is shown without its control characters."""
    atlas.map.put_service(Service("identity", owner="a\x1b[2J", description="x\x1b]0;evil\x07y"), by=Author("a\x1bb"))
    for words in (["ls"], ["show", "identity"], ["history"]):
        assert "\x1b" not in atlas.ok(*words)


def test_ls_over_a_real_map(filled: Runs) -> None:
    """Both services with their instances and the last change."""
    text = filled.ok("ls")
    assert f"realm local at {filled.url}: 2 services, 3 instances (3 enabled), 2 leases" in text
    assert "last change" in text
    assert "1.3, 1.4" in text


def test_ls_on_an_empty_map_says_how_to_begin(atlas: Runs) -> None:
    """Nobody stares at nothing."""
    assert "atlas service add" in atlas.ok("ls")


def test_ls_for_programs(filled: Runs) -> None:
    """--json has the services with their counts and the leases."""
    document = filled.json("ls")
    counts = {service["name"]: service["instances"]["enabled"] for service in document["services"]}
    assert counts == {"identity": 2, "teams": 1}
    assert [lease["overdue"] for lease in document["leases"]] == [False, False]
    assert document["last_change"]["author"] == "anna"


def test_a_silent_lease_is_overdue_in_ls(filled: Runs) -> None:
    """A holder that has not renewed within its ttl is named, with how long it has been silent."""
    filled.now = 44.0
    text = filled.ok("ls")
    assert "lease web-1 is overdue: no sign of life for 44 s; it carries 2 instances" in text


def test_show_over_a_real_map(filled: Runs) -> None:
    """Instances, overrides and the changes of this service only."""
    filled.ok("set", "identity", "PAGE_SIZE", "50", "--why", "slow import")
    filled.ok("set", "teams", "PAGE_SIZE", "60")
    text = filled.ok("show", "identity")
    assert "web-1:8010" in text
    assert "slow import: identity PAGE_SIZE = 50" in text
    assert "60" not in text
    assert [one["address"] for one in filled.json("show", "identity")["instances"]] == ["web-1:8010", "web-2:8010"]


@pytest.mark.parametrize(
    "words", [["show", "identiy"], ["set", "identiy", "A", "1"], ["disable", "identiy", "web-1:1"], ["get", "identiy"]]
)
def test_an_unknown_service_is_answered_with_near_names(filled: Runs, words: list[str]) -> None:
    """A typing mistake costs one look."""
    result = filled(*words)
    assert result.exit_code == 3
    assert result.stderr == "atlas: identiy is not registered in realm local; did you mean identity?\n"
    assert result.stdout == ""


def test_where_the_map_is_is_told_without_what_is_secret(tmp_path: Path) -> None:
    """Whoever looks at another map than they think sees it in the first line; a password in its URL stays hidden."""
    own = Session(Tools(environ={"STATE_DIR": str(tmp_path)}), url=None, as_json=False)
    assert own.place == f"sqlite:///{tmp_path}/atlas.db"
    elsewhere = Session(Tools(environ={"ATLAS_URL": "etcd://anna:hidden-1@a,b/x"}), url=None, as_json=False)
    elsewhere.status = {"catalogue": {"name": "etcd"}}
    assert elsewhere.place == "etcd://anna:********@a,b/x"
    elsewhere.url = "https://atlas-1,atlas-2"
    assert elsewhere.place == "https://atlas-1,atlas-2 (etcd)"
