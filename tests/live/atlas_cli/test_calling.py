"""`atlas split`, `callers`, `accept-loss`, and where they show."""

from __future__ import annotations

import time

from atlas import Lease
from tests.live.atlas_cli.runs import Runs


def test_a_split_is_set_shown_and_ended(filled: Runs) -> None:
    """It is in the map and in the history, and says who is there for each side; all else that is known of the service stays."""
    before = filled.map.world().services["identity"]
    text = filled.ok("split", "identity", "1.4=5%", "1.5*=0.25%", "--why", "trying")
    assert "identity: 1.4=5%,1.5*=0.25% of the callers (revision 3)" in text
    after = filled.map.world().services["identity"]
    assert (after.split, after.owner, after.description) == ("1.4=5%,1.5*=0.25%", before.owner, before.description)
    assert filled.map.history(limit=1)[0].why == "trying"
    shown = filled.json("split", "identity")["shares"]
    assert [(side["version"], side["percent"], side["taking_calls"]) for side in shown] == [
        ("1.4", 5.0, 1),
        ("1.5*", 0.25, 0),
        ("", 94.75, 1),
    ]
    assert "its callers go to the others" in filled.ok("split", "identity")
    filled.ok("service", "change", "identity", "--owner", "people")
    assert filled.map.world().services["identity"].split == after.split
    assert "no split" in filled.ok("split", "identity", "--end")
    assert filled.map.world().services["identity"].split == ""
    filled.ok("rollback", "3", "identity")
    assert filled.map.world().services["identity"].split == after.split


def test_a_split_to_a_version_that_is_not_there_is_warned_of(filled: Runs) -> None:
    """It is written all the same: the version may be on its way. What is none is refused."""
    result = filled("split", "identity", "1.9=5%", "--dry-run")
    assert result.exit_code == 0
    assert "Warning: no instance of version 1.9 takes calls (0 instances): its 5% go to the others" in result.stderr
    assert filled.map.world().services["identity"].split == ""
    for wrong in (["1.4=5"], ["1.4=60%", "1.5=60%"], ["1.4=5%", "--end"]):
        assert filled("split", "identity", *wrong).exit_code == 2


def test_callers_are_named_and_freed(filled: Runs) -> None:
    """A name that nobody has is warned of."""
    result = filled("callers", "identity", "teams,odrers", "--json")
    assert "no service odrers is in the map" in result.stderr
    assert filled.map.world().services["identity"].callers == "teams,odrers"
    assert "may be called by teams, odrers" in filled.ok("callers", "identity")
    filled.ok("callers", "identity", "--everybody")
    assert filled.map.world().services["identity"].callers == ""
    assert filled("callers", "identity", "No!").exit_code == 2
    assert filled("callers", "identity", ",").exit_code == 2


def test_a_loss_is_accepted_with_a_reason(filled: Runs) -> None:
    """Without one it is wrong use and nothing is written."""
    filled.map.hold(Lease("sidecar@web-9", "i", report={"revision": 2, "holding": 3}))
    result = filled("accept-loss", "identity")
    assert (result.exit_code, filled.revision) == (2, 2)
    assert "--why" in result.stderr
    text = filled.ok("accept-loss", "identity", "--why", "rack 7 is lost")
    assert "3 instances of all services held by web-9" in text
    assert abs(filled.map.world().services["identity"].loss_accepted_at - time.time()) < 5
    assert filled.map.history(limit=1)[0].why == "rack 7 is lost"


def test_a_loss_is_accepted_again_by_one_whose_clock_is_behind(filled: Runs) -> None:
    """The word after another one is the later one, whatever the clocks of the two machines say: sidecars go by the newest."""
    filled.now = 3600
    filled.ok("accept-loss", "identity", "--why", "rack 7 is lost")
    first = filled.map.world().services["identity"].loss_accepted_at
    filled.now = 0
    filled.ok("accept-loss", "identity", "--why", "and rack 8")
    assert filled.map.world().services["identity"].loss_accepted_at > first


def test_sidecars_and_splits_are_seen_everywhere(filled: Runs) -> None:
    """In `ls`, in `show`, in a list of their own; a lease without a report stands out."""
    assert "No sidecar reports" in filled.ok("sidecars")
    filled.ok("split", "identity", "1.4=5%")
    filled.ok("callers", "identity", "teams")
    filled.ok("drain", "identity", "web-1:8010")
    report = {"revision": 5, "sessions": {"identity/web-1:8010": 4}}
    filled.map.hold(Lease("sidecar@web-1", "i", report=report))
    filled.map.hold(Lease("sidecar@web-2", "i", report={"revision": 4, "holding": 2}))
    filled.map.hold(Lease("sidecar@web-3", "i"))
    text = filled.ok("sidecars")
    assert "web-2    4 (behind by 1)" in text
    assert "! overdue, or without a report yet: web-3" in text
    assert [one["calls_under_way"] for one in filled.json("sidecars")["sidecars"]] == [4, 0]
    listed = filled.ok("ls")
    assert "2 sidecars" in listed
    assert "identity is split: 1.4=5%" in listed
    shown = filled.ok("show", "identity")
    assert "4 calls under way" in shown
    assert "callers     teams" in shown
    assert "2 sidecars: web-2 not yet at revision 5" in shown
    assert filled.json("show", "identity")["shares"][0]["version"] == "1.4"
