"""`atlas drain --wait`: it returns when every sidecar goes by it and no call is under way, and not before."""

from __future__ import annotations

import json
import threading
import time

from atlas import Lease
from atlas.book import Book
from atlas.stores.sqlite import SqliteStore
from tests.live.atlas_cli.doubles import Sidecar
from tests.live.atlas_cli.runs import Runs
from tests.processes import wait_until

KEY = "identity/web-1:8010"


def begin(runs: Runs, *words: str) -> tuple[threading.Thread, list[object]]:
    """Run a command in a thread; its result comes into the list."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(runs(*words)))
    thread.start()
    return thread, found


def report(runs: Runs, host: str, revision: int, *, calls: int = 0) -> None:
    """A sidecar that stands still: its last report, with calls under way to the instance KEY."""
    told = {"revision": revision, "sessions": {KEY: calls}}
    runs.map.hold(Lease(f"sidecar@{host}", "i", 60.0, report=told))


def test_drain_returns_when_all_go_by_it_and_all_calls_have_ended(filled: Runs) -> None:
    """Neither a sidecar that is behind nor a call that is under way is forgotten; what is awaited is shown."""
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(time.monotonic())
        time.sleep(seconds)

    def awhile() -> None:
        """Until it has looked for long enough to have told what it waits for."""
        since = time.monotonic()
        wait_until(lambda: bool(looks) and looks[-1] > since + 0.35, 10)

    filled.sleep = sleep
    with Sidecar(filled, "web-1"), Sidecar(filled, "web-2", {KEY: 3, "identity/web-2:8010": 9}) as slow:
        slow.stops_at = 2
        thread, found = begin(filled, "drain", "identity", "web-1:8010", "--wait")
        wait_until(lambda: bool(looks), 10)
        awhile()
        slow.stops_at = 10**9
        wait_until(lambda: filled.map.reports()["sidecar@web-2"].revision == 3, 10)
        awhile()
        assert thread.is_alive(), found
        slow.sessions = {"identity/web-2:8010": 9}
        thread.join(30)
    (result,) = found
    assert result.exit_code == 0, result.output  # type: ignore[attr-defined]
    text = result.output  # type: ignore[attr-defined]
    assert "waiting for web-2 to apply revision 3" in text
    assert "waiting for 3 calls under way (web-2 3)" in text
    assert "2 sidecars go by it, no call is under way" in text


def test_a_drain_that_takes_too_long_says_who_is_missing(filled: Runs) -> None:
    """Exit code 7; the instance goes on draining, and how that ends is said. A script gets it as a document."""
    report(filled, "web-1", 2)
    report(filled, "web-2", 3, calls=1)
    result = filled("drain", "identity", "web-1:8010", "--wait", "--timeout", "0.1s", "--json")
    assert result.exit_code == 7
    assert "still waiting for web-1 to apply revision 3; 1 call under way (web-2 1)" in result.stderr
    assert "atlas enable identity web-1:8010" in result.stderr
    waited = json.loads(result.stdout)["waited"]
    assert (waited["in_time"], waited["behind"], waited["calls"]) == (False, ["web-1"], {"web-2": 1})
    assert filled.map.world().rulings[KEY].state == "draining"


def test_everything_at_an_address_is_drained(filled: Runs) -> None:
    """Without a service, whatever runs there; an address at which nothing runs is answered with the near ones."""
    filled.ok("service", "add", "admin")
    world = filled.map.world()
    both = (*world.instances["identity"].values(), *world.instances["teams"].values())
    filled.hold("web-1", *(one for one in both if one.host == "web-1"), type(both[0])("admin", "web-1", 8010))
    report(filled, "web-1", 99)
    document = filled.json("drain", "web-1:8010", "--wait", "--force")
    assert [one["ruling"]["service"] for one in document["rulings"]] == ["admin", "identity"]
    assert document["waited"]["in_time"]
    result = filled("drain", "web-1:8012", "--wait")
    assert result.exit_code == 3
    assert "did you mean" in result.stderr
    assert filled("drain", "identity").exit_code == 2


def test_without_a_sidecar_it_says_what_is_not_known(filled: Runs) -> None:
    """Nobody is awaited, at once."""
    text = filled.ok("drain", "identity", "web-1:8010", "--wait")
    assert "no sidecar in realm" in text
    assert "whether their calls under way have ended is not known" in text


def test_a_sidecar_that_is_overdue_is_not_awaited(filled: Runs) -> None:
    """It is named; one that lives and has not reported yet is awaited."""
    with Book(SqliteStore.from_url(filled.url), now=lambda: time.time() - 60) as earlier:
        earlier.hold(Lease("sidecar@web-8", "i", 15.0, report={"revision": 1}))
    filled.map.hold(Lease("sidecar@web-9", "i", 15.0))
    report(filled, "web-1", 99)
    result = filled("drain", "identity", "web-1:8010", "--wait", "--timeout", "0.1s")
    assert result.exit_code == 7
    assert "still waiting for the first report of web-9:" in result.stderr
    assert "not waiting for the sidecar of web-8: its lease is overdue" in result.stderr
    filled.map.release("sidecar@web-9", "i")
    text = filled.ok("drain", "identity", "web-1:8010", "--wait")
    assert "1 sidecar goes by it" in text
    assert "not awaited: web-8" in text


def test_ctrl_c_leaves_the_drain_in_place(filled: Runs) -> None:
    """It ends the waiting, says so, and how the drain is undone."""

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    report(filled, "web-1", 99, calls=1)
    filled.sleep = interrupted
    result = filled("drain", "identity", "web-1:8010", "--wait")
    assert result.exit_code == 130
    assert "Not waiting any more: identity web-1:8010 stays draining" in result.stderr
    assert "atlas enable identity web-1:8010" in result.stderr
    assert filled.map.world().rulings[KEY].state == "draining"
