"""When ejected servers are tried again: times and panic, without a clock."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sidecar.ejection import FORGIVEN_SECONDS, Doubt, Ejections
from sidecar.events import Event
from sidecar.model import Server


def wanted(*names: str, **fields: Mapping[str, object]) -> dict[str, dict[str, Server]]:
    """One backend of servers with these names; `fields` of one of them."""
    servers = {name: Server(name, "10.0.0.1", 8000) for name in names}
    servers.update({name: Server(name, "10.0.0.1", 8000, **given) for name, given in fields.items()})  # type: ignore[arg-type]
    return {"orders": servers}


FOUR = wanted("a", "b", "c", "d")


def test_an_ejected_server_is_tried_after_five_seconds() -> None:
    """Not before, and once."""
    ejections = Ejections()
    ejections.down("orders", "a", 100.0, "bad")
    assert ejections.next_at(FOUR) == 105.0
    assert ejections.due(104.9, FOUR) == ()
    assert ejections.due(105.0, FOUR) == (("orders", "a"),)
    assert ejections.due(105.0, FOUR) == ()


def test_each_ejection_waits_twice_as_long_up_to_a_minute() -> None:
    """5, 10, 20, 40, 60, 60: a server that stays bad costs ever fewer calls."""
    ejections, now, pauses = Ejections(), 0.0, []
    for _ in range(6):
        ejections.down("orders", "a", now)
        at = ejections.next_at(FOUR)
        assert at is not None
        pauses.append(at - now)
        assert ejections.due(at, FOUR) == (("orders", "a"),)
        ejections.up("orders", "a", at)
        now = at + 1
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_what_was_ejected_of_late_stays_in_doubt() -> None:
    """A server that is set up again is not well by that: it is told with how often and why, until it has behaved for minutes."""
    ejections = Ejections()
    ejections.down("orders", "a", 0.0, "bad")
    assert ejections.doubts(1.0) == ()
    ejections.up("orders", "a", 5.0)
    assert ejections.doubts(6.0) == (Doubt("orders", "a", 5.0, 1, "bad"),)
    ejections.down("orders", "a", 7.0, "worse")
    ejections.up("orders", "a", 17.0)
    assert ejections.doubts(18.0) == (Doubt("orders", "a", 17.0, 2, "worse"),)
    assert ejections.doubts(17.0 + FORGIVEN_SECONDS) == ()


def test_after_minutes_of_good_behaviour_the_count_begins_anew() -> None:
    """A server that was bad yesterday is no worse than another today."""
    ejections = Ejections()
    for now in (0.0, 20.0):
        ejections.down("orders", "a", now)
        ejections.up("orders", "a", now + 10)
    ejections.down("orders", "a", 30 + FORGIVEN_SECONDS)
    assert ejections.next_at(FOUR) == 35 + FORGIVEN_SECONDS


def test_a_server_that_does_not_come_up_is_tried_again() -> None:
    """The command may have been lost: after another pause it is due once more."""
    ejections = Ejections()
    ejections.down("orders", "a", 0.0)
    ejections.due(5.0, FOUR)
    assert ejections.next_at(FOUR) == 10.0
    assert ejections.due(10.0, FOUR) == (("orders", "a"),)


def test_more_than_half_ejected_are_all_tried_at_once_then_each_second() -> None:
    """Calling bad ones beats calling none; it costs one command a second at most."""
    ejections = Ejections()
    ejections.down("orders", "a", 0.0)
    ejections.down("orders", "b", 0.0)
    assert ejections.due(0.0, FOUR) == ()
    ejections.down("orders", "c", 1.0)
    assert {("orders", "a"), ("orders", "b"), ("orders", "c")} == set(ejections.due(1.0, FOUR))
    for name in "abc":
        ejections.up("orders", name, 1.0)
        ejections.down("orders", name, 1.1)
    assert ejections.due(1.5, FOUR) == ()
    assert len(ejections.due(2.0, FOUR)) == 3


def test_dead_servers_are_no_reason_for_haste() -> None:
    """All of a backend refuse connections: each waits for its time, since calling a dead one is of no use to anybody."""
    ejections = Ejections()
    for name in "abcd":
        ejections.down("orders", name, 0.0, "Layer4 connection problem", "check")
    assert ejections.due(4.9, FOUR) == ()
    assert len(ejections.due(5.0, FOUR)) == 4
    assert ejections.due(7.0, FOUR) == ()


UNREACHED = "Detected 5 consecutive errors, last one was: L4 unsuccessful connection"


def test_servers_that_calls_cannot_reach_wait_while_another_is_left() -> None:
    """Three of four are dead: setting them up each second would send calls from one to the next, and past the one that lives."""
    ejections = Ejections()
    for name in "abc":
        ejections.down("orders", name, 0.0, UNREACHED)
    assert ejections.due(4.9, FOUR) == ()
    assert len(ejections.due(5.0, FOUR)) == 3


def test_when_no_server_is_left_those_that_calls_cannot_reach_are_tried_each_second() -> None:
    """All of a service start anew at once: the first that listens is called within a second."""
    ejections = Ejections()
    for name in "abcd":
        ejections.down("orders", name, 0.0, UNREACHED)
    assert len(ejections.due(0.0, FOUR)) == 4
    for name in "abcd":
        ejections.up("orders", name, 0.0)
        ejections.down("orders", name, 0.1, UNREACHED)
    assert ejections.due(0.9, FOUR) == ()
    assert len(ejections.due(1.0, FOUR)) == 4


def test_servers_that_should_take_no_calls_are_left_alone_and_do_not_count() -> None:
    """One that drains, has no weight or is gone is never set up, and the half is that of the others."""
    state = wanted("a", "b", drains={"draining": True}, light={"weight": 0})
    ejections = Ejections()
    for name in ("drains", "light", "gone", "a"):
        ejections.down("orders", name, 0.0)
    assert ejections.due(4.9, state) == ()
    assert ejections.due(60.0, state) == (("orders", "a"),)


def test_only_what_haproxy_decides_by_itself_is_an_ejection() -> None:
    """A server that we put into maintenance or drain is not set up behind our back, even when it was ejected before."""
    ejections = Ejections()
    ejections.take(Event("orders", "a", False, "answers", "bad"), 0.0)
    assert len(ejections.all()) == 1
    ejections.take(Event("orders", "a", False, "command"), 1.0)
    ejections.take(Event("orders", "b", False, "command"), 1.0)
    assert ejections.all() == ()


def test_a_server_that_is_down_twice_is_ejected_once() -> None:
    """A repeated message neither counts nor moves its time."""
    ejections = Ejections()
    for now in (0.0, 4.0):
        ejections.take(Event("orders", "a", False, "answers", "bad"), now)
    assert [(one.times, one.since, one.due_at) for one in ejections.all()] == [(1, 0.0, 5.0)]


def test_comparing_finds_what_no_message_told() -> None:
    """Servers that went down or came up while nobody listened are known afterwards."""
    ejections = Ejections()
    ejections.down("orders", "a", 0.0)
    ejections.down("orders", "gone", 0.0)
    ejections.compare({"orders": {"a": "up", "b": "down", "c": "starting", "d": "maint"}}, 1.0)
    assert [(one.backend, one.server, one.cause) for one in ejections.all()] == [("orders", "b", "check")]


@pytest.mark.parametrize("ejected", ["a", "b"])
def test_nothing_is_due_while_nothing_is_ejected(ejected: str) -> None:
    """There is no next time once all are up."""
    ejections = Ejections()
    ejections.down("orders", ejected, 0.0)
    ejections.up("orders", ejected, 1.0)
    assert ejections.next_at(FOUR) is None


def test_a_server_with_bad_answers_is_kept_down_until_its_time() -> None:
    """HAProxy would take it in again as soon as it can be connected to; once it is tried, that is left to HAProxy."""
    ejections = Ejections()
    ejections.down("orders", "a", 0.0, "Detected 5 consecutive errors, last one was: Wrong http response")
    assert ejections.kept_down(FOUR) == (("orders", "a"),)
    ejections.due(5.0, FOUR)
    assert ejections.kept_down(FOUR) == ()


def test_a_server_that_could_not_be_connected_to_may_come_back_by_itself() -> None:
    """As may one that a check found dead, one that drains, and one that is gone: nothing is said of these."""
    ejections = Ejections()
    ejections.down("orders", "a", 0.0, UNREACHED)
    ejections.down("orders", "b", 0.0, "Layer4 connection problem", "check")
    ejections.down("orders", "gone", 0.0, "bad")
    assert ejections.kept_down(FOUR) == ()
