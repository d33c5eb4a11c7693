"""When an instance of this host is in and when it is out, as a table of answers over time."""

from __future__ import annotations

import random

import pytest

from sidecar.checks import Answer
from sidecar.readiness import FORGIVEN_SECONDS, GONE_SECONDS, SILENT_SECONDS, Readiness

GOOD = Answer(True, "answered 200", 200)
BAD = Answer(False, "answered 503", 503)
REFUSED = Answer(False, "refused the connection", refused=True)


class Watched(Readiness):
    """A readiness with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        super().__init__(lambda: self.now, since=100.0)

    def after(self, *answers: Answer, seconds: float = 1.0) -> str:
        """Its phase after these answers, one each second."""
        for answer in answers:
            self.now += seconds
            self.answered(answer)
            self.passes()
        return self.phase


def test_a_new_instance_is_in_with_its_first_good_answer() -> None:
    """However long it took to start: what was bad before counts for nothing."""
    one = Watched()
    assert one.after(REFUSED, REFUSED, BAD, BAD, BAD) == "starting"
    assert one.after(GOOD) == "ready"
    assert one.losses == 0


def test_one_bad_answer_is_an_accident_and_two_are_not() -> None:
    """Two in a row take an instance out, with the reason."""
    one = Watched()
    assert one.after(GOOD, BAD, GOOD, BAD, GOOD, BAD) == "ready"
    assert one.after(BAD) == "not ready"
    assert one.reason == "answered 503"


def test_a_process_that_has_ended_is_out_at_once() -> None:
    """A refused connection is then no accident; what a survivor answers on its port counts for nothing."""
    one = Watched()
    one.after(GOOD)
    one.gone()
    assert one.phase == "ready"
    assert one.after(REFUSED) == "not ready"
    assert one.after(GOOD, GOOD) == "not ready"
    assert "its process has ended" in one.reason


def test_a_dead_instance_is_dropped_after_a_while() -> None:
    """Half a minute after its process has ended; ten minutes after it was silent when nobody knows its process."""
    one = Watched()
    one.after(GOOD)
    one.gone()
    assert one.after(REFUSED, REFUSED, seconds=GONE_SECONDS / 2) == "gone"
    other = Watched()
    assert other.after(GOOD, REFUSED, REFUSED, seconds=SILENT_SECONDS - 1) == "not ready"
    assert other.after(REFUSED) == "gone"
    assert other.after(GOOD) == "recovering"


def test_draining_is_at_once_and_held_against_nobody() -> None:
    """It stays so whatever it answers, and is in at once when it begins anew."""
    one = Watched()
    one.after(GOOD)
    one.drains()
    assert one.after(GOOD, BAD, BAD) == "draining"
    one.begins()
    assert one.after(BAD, BAD) == "starting"
    assert one.after(GOOD) == "ready"


def test_each_loss_lengthens_the_way_back() -> None:
    """2, 8, 30, 60 seconds of being ready, and 60 for ever after; one bad answer on the way begins it anew."""
    one = Watched()
    one.after(GOOD)
    for expected in (2, 8, 30, 60, 60):
        one.after(BAD, BAD)
        one.after(GOOD, BAD)
        needed = 0
        one.after(GOOD)
        while one.after(GOOD) != "ready":
            needed += 1
        assert 0.85 * expected <= needed + 1 <= expected


def test_good_behaviour_is_rewarded() -> None:
    """After minutes without a loss the next one counts as the first."""
    one = Watched()
    one.after(GOOD, BAD, BAD, *[GOOD] * 3, BAD, BAD, *[GOOD] * 9)
    assert (one.phase, one.losses) == ("ready", 2)
    one.after(GOOD, seconds=FORGIVEN_SECONDS)
    assert one.losses == 0
    one.after(BAD, BAD)
    assert one.losses == 1


@pytest.mark.parametrize("seed", range(20))
def test_flapping_once_a_second_changes_little(seed: int) -> None:
    """Ready for half of each second, for five minutes, asked at random times as the suspect are: at most six changes."""
    one, chance = Watched(), random.Random(seed)
    was_in, changes = False, 0
    while one.now < 400:
        one.now += 0.5 + chance.random() if one.is_suspect else 0.95 + chance.random() / 10
        one.answered(GOOD if one.now % 1.0 < 0.5 else BAD)
        one.passes()
        changes += (one.phase == "ready") != was_in
        was_in = one.phase == "ready"
    assert changes <= 6


def test_a_port_that_is_taken_over_stays_in() -> None:
    """A new process that answers at once goes on where the old one was; the first bad answer takes it out."""
    one = Watched()
    one.after(GOOD)
    one.begins()
    assert one.after(GOOD) == "ready"
    one.begins()
    assert one.after(REFUSED) == "not ready"


def test_an_instance_that_the_map_knows_stays_as_it_is() -> None:
    """A new agent throws nobody out before it has asked twice, and nobody in before it has asked once."""
    ready = Watched()
    ready.inherits(draining=False)
    assert ready.phase == "ready"
    assert ready.after(BAD) == "ready"
    assert ready.after(BAD) == "not ready"
    unready = Watched()
    unready.inherits(draining=True)
    assert unready.phase == "not ready"
    assert unready.after(GOOD) == "ready"
