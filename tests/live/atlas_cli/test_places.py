"""`atlas enable`, `drain`, `disable`, `weight`."""

from __future__ import annotations

import time

import pytest

from tests.live.atlas_cli.runs import Runs


def states(runs: Runs) -> dict[str, str]:
    return {place.instance.host: place.state for place in runs.map.world().places("identity", time.time())}


def test_disable_for_a_while(filled: Runs) -> None:
    """The instance takes no calls, with reason, author and end; the reason is in the history too."""
    text = filled.ok("disable", "identity", "web-1:8010", "--reason", "loses requests", "--for", "2h")
    assert "identity web-1:8010 disabled: loses requests, until" in text
    ruling = filled.map.world().rulings["identity/web-1:8010"]
    assert (ruling.state, ruling.reason, ruling.author) == ("disabled", "loses requests", "anna")
    assert ruling.expires_at == pytest.approx(time.time() + 7200, abs=5)
    assert filled.map.history(limit=1)[0].why == "loses requests"
    assert states(filled) == {"web-1": "disabled", "web-2": "enabled"}


def test_enable_brings_it_back(filled: Runs) -> None:
    """The word is taken away."""
    filled.ok("drain", "identity", "web-1:8010")
    assert states(filled)["web-1"] == "draining"
    filled.ok("enable", "identity", "web-1:8010")
    assert not filled.map.world().rulings


def test_the_last_enabled_instance_is_guarded(filled: Runs) -> None:
    """Exit code 4 and nothing written, unless it is forced; the dry run says the same."""
    filled.ok("disable", "identity", "web-1:8010")
    for more in ([], ["--dry-run"]):
        result = filled("disable", "identity", "web-2:8010", *more)
        assert result.exit_code == 4
        assert "last instance" in result.stderr
    assert states(filled)["web-2"] == "enabled"
    filled.ok("disable", "identity", "web-2:8010", "--force")
    assert states(filled)["web-2"] == "disabled"


def test_a_weight_survives_disable_and_enable(filled: Runs) -> None:
    """The share that was set is still there afterwards; reset gives the instance its own."""
    filled.ok("weight", "identity", "web-1:8010", "5")
    filled.ok("disable", "identity", "web-1:8010")
    assert "enabled, weight 5" in filled.ok("enable", "identity", "web-1:8010")
    filled.ok("weight", "identity", "web-1:8010", "reset")
    assert not filled.map.world().rulings


def test_a_weight_leaves_a_disabled_instance_disabled(filled: Runs) -> None:
    """Changing the share is no way to switch something on."""
    filled.ok("disable", "identity", "web-1:8010", "--reason", "slow", "--for", "1h")
    filled.ok("weight", "identity", "web-1:8010", "5")
    ruling = filled.map.world().rulings["identity/web-1:8010"]
    assert (ruling.state, ruling.weight, ruling.reason) == ("disabled", 5, "slow")
    assert ruling.expires_at is not None


@pytest.mark.parametrize("weight", ["-5", "1001", "many"])
def test_a_weight_that_cannot_be_is_refused(filled: Runs, weight: str) -> None:
    """Wrong numbers are wrong use."""
    result = filled("weight", "identity", "web-1:8010", weight)
    assert result.exit_code == 2
    assert "0 to 1000" in result.stderr


def test_a_host_alone_will_do(filled: Runs) -> None:
    """When only one instance fits; when several do, they are listed."""
    filled.ok("disable", "identity", "web-1")
    assert states(filled)["web-1"] == "disabled"
    result = filled("disable", "identity", "8010")
    assert result.exit_code == 3
    assert "web-1:8010, web-2:8010" in result.stderr


def test_an_unknown_instance_is_answered_with_those_that_are(filled: Runs) -> None:
    """Nobody has to look them up."""
    result = filled("disable", "identity", "web-9:8010")
    assert result.exit_code == 3
    assert result.stderr == "atlas: identity has no instance web-9:8010; its instances are: web-1:8010, web-2:8010.\n"


def test_several_at_once(filled: Runs) -> None:
    """One command, one line for each; programs get one document."""
    document = filled.json("disable", "identity", "web-1:8010", "web-2:8010", "--force")
    assert [one["ruling"]["state"] for one in document["rulings"]] == ["disabled", "disabled"]


def test_an_instance_that_is_away_can_be_enabled(filled: Runs) -> None:
    """A word outlives the instance, and can be taken away while it does not run."""
    filled.ok("disable", "identity", "web-1:8010")
    filled.map.release("web-1", "first")
    filled.ok("enable", "identity", "web-1:8010")
    assert not filled.map.world().rulings


def test_a_dry_run_leaves_the_instance_alone(filled: Runs) -> None:
    """It sees what runs, and changes nothing."""
    assert "Would be done: identity web-1:8010 disabled" in filled.ok("disable", "identity", "web-1:8010", "--dry-run")
    assert not filled.map.world().rulings


def test_a_time_that_is_none_is_explained(filled: Runs) -> None:
    """--for takes lengths of time."""
    result = filled("disable", "identity", "web-1:8010", "--for", "tomorrow")
    assert result.exit_code == 2
    assert "2h" in result.stderr
