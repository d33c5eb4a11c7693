"""The retry budget: what it allows, and that it is one for all processes of a host."""

from __future__ import annotations

import fcntl
import os
import select
import stat
from pathlib import Path

import pytest

from smartclient.budget import FIRST_TOKENS, MOST_TOKENS, Bucket, Budget, filled


def taken(bucket: Bucket) -> int:
    count = 0
    while bucket.take():
        count += 1
    return count


def test_a_fresh_bucket_allows_a_few_retries() -> None:
    """Before anything succeeded there are three, and then none."""
    assert taken(Budget.own_bucket(lambda: 0.0)) == FIRST_TOKENS == 3


def test_ten_successes_pay_for_one_retry() -> None:
    """In the long run there is at most a tenth more attempts than calls."""
    bucket = Budget.own_bucket(lambda: 0.0)
    taken(bucket)
    for _ in range(100):
        bucket.pay_in()
    assert taken(bucket) == 10


def test_wealth_is_bounded() -> None:
    """A million successes do not pay for a storm."""
    bucket = Budget.own_bucket(lambda: 0.0)
    for _ in range(10_000):
        bucket.pay_in()
    assert bucket.tokens == MOST_TOKENS
    assert taken(bucket) == MOST_TOKENS


def test_time_alone_brings_back_the_first_few_and_no_more() -> None:
    """A service that is called once an hour can be retried; an outage of a day saves nothing up."""
    assert filled(0.0, 0.0, 30.0) == 1.0
    assert filled(0.0, 0.0, 86_400.0) == FIRST_TOKENS
    assert filled(1.0, 500.0, 20.0) == 1.0  # the clock began anew with the machine


def test_wealth_follows_the_last_seconds() -> None:
    """Above the first few a bucket shrinks to 37 % in two seconds: an outage meets little, whatever was earned before."""
    assert filled(13.0, 0.0, 2.0) == pytest.approx(3 + 10 * 0.3679, abs=0.01)
    assert filled(20.0, 0.0, 60.0) == pytest.approx(FIRST_TOKENS)


def test_what_was_not_written_yet_is_nobodys() -> None:
    """Nine successes of each of a hundred processes do not pay for ninety retries."""
    bucket = Budget.own_bucket(lambda: 0.0)
    taken(bucket)
    for _ in range(9):
        bucket.pay_in()
    assert not bucket.take()
    bucket.pay_in()
    assert bucket.take()


def test_all_processes_of_a_host_share_one_bucket(tmp_path: Path) -> None:
    """What a forked child and another opener of the file spend is gone for everybody."""
    budget = Budget(tmp_path / "state", "testing", clock=lambda: 0.0)
    bucket = budget.bucket("identity")
    child = os.fork()
    if child == 0:
        budget.begin_anew()
        os._exit(0 if bucket.take() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    other = Budget(tmp_path / "state", "testing", clock=lambda: 0.0)
    assert other.bucket("identity").take()
    assert taken(bucket) == 1
    assert taken(other.bucket("billing")) == 3
    budget.close()
    other.close()


def test_two_processes_never_spend_the_same_token(tmp_path: Path) -> None:
    """Whoever changes a bucket holds its lock; everybody else waits."""
    bucket = Budget(tmp_path / "state", "testing").bucket("identity")
    held = os.open(tmp_path / "state" / "budget-testing", os.O_RDWR)
    fcntl.lockf(held, fcntl.LOCK_EX)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        bucket.begin_anew()
        os.write(writing, b"t" if bucket.take() else b"f")
        os._exit(0)
    assert select.select([reading], [], [], 0.2)[0] == []
    fcntl.lockf(held, fcntl.LOCK_UN)
    assert os.read(reading, 1) == b"t"
    os.waitpid(child, 0)
    for descriptor in (held, reading, writing):
        os.close(descriptor)


def test_the_file_belongs_to_its_user_alone(tmp_path: Path) -> None:
    """The file is 0600 in a folder of 0700, one for each realm."""
    budget = Budget(tmp_path / "state", "testing")
    assert budget.shared
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "budget-testing").stat().st_mode) == 0o600
    budget.close()


def test_a_folder_that_others_may_write_to_is_not_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The process then counts for itself, and says so once."""
    tmp_path.chmod(0o777)
    budget = Budget(tmp_path, "testing", clock=lambda: 0.0)
    assert not budget.shared
    assert taken(budget.bucket("identity")) == 3
    assert budget.bucket("identity") is budget.bucket("identity")
    assert len(caplog.records) == 1


def test_a_symlink_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """Whoever may write to the folder cannot turn the file into another one."""
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "state" / "budget-testing").symlink_to(tmp_path / "precious")
    assert not Budget(tmp_path / "state", "testing").shared
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_spoilt_file_is_begun_anew(tmp_path: Path) -> None:
    """What is not a budget is overwritten, and every bucket is fresh."""
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "budget-testing").write_bytes(b"something else")
    budget = Budget(tmp_path / "state", "testing", clock=lambda: 0.0)
    assert taken(budget.bucket("identity")) == 3
    budget.close()
