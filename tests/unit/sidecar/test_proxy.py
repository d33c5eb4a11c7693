"""What is read from HAProxy's master and from its complaints, and when it may be reloaded; no process is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.files import Problem, alerts, check_files, problems
from sidecar.master import Processes, parse_processes
from sidecar.proxy import Pace, command, version_numbers
from sidecar.render import Files
from sidecar.settings import Settings
from smartrealm.errors import Unavailable

FILE = """global
    maxconn 100
defaults _service
    mode http
backend orders from _service
    # holds orders
    balance leastconn
    nonsense 1

backend billing from _service
    server a 1.2.3.4:zz
frontend x
    more nonsense
"""


def test_the_master_tells_its_workers() -> None:
    """2.6: the one that takes calls and those that end."""
    said = (
        "#<PID>          <type>          <reloads>       <uptime>        <version>      \n"
        "20245           master          2 [failed: 0]   0d00h00m01s     2.6.12-1+deb12u4\n"
        "# workers\n20270           worker          0               0d00h00m01s     2.6.12-1+deb12u4\n"
        "# old workers\n20247           worker          1               0d00h00m09s     2.6.12-1+deb12u4\n# programs\n"
    )
    assert parse_processes(said) == Processes(20245, 2, 0, 20270, (20247,))


def test_after_a_failed_reload_newer_masters_have_old_workers_alone() -> None:
    """3.4: the worker that goes on is called an old one, and the failures are counted."""
    said = (
        "#<PID> <type> <reloads> <uptime> <version>\n19284 master 2 [failed: 1] 0d00h00m11s 3.4.7-1\n"
        "# workers\n# old workers\n19323 worker 1 0d00h00m03s 3.4.7-1\n"
    )
    assert parse_processes(said) == Processes(19284, 2, 1, None, (19323,))
    with pytest.raises(Unavailable):
        parse_processes("Permission denied")


def test_complaints_are_given_with_the_backend_in_which_they_stand() -> None:
    """HAProxy names a line; what stands in no backend has none; its summaries are left out."""
    said = (
        "[NOTICE]   (7) : haproxy version is 2.6.12\n"
        "[ALERT]    (7) : config : parsing [/x/haproxy.cfg:8] : unknown keyword 'nonsense' in 'backend' section\n"
        "[ALERT]    (7) : config : [/x/haproxy.cfg:11] : 'server billing/a' : invalid port\n"
        "[ALERT]    (7) : config : parsing [/x/haproxy.cfg:13] : unknown keyword 'more' in 'frontend' section\n"
        "[ALERT]    (7) : config : backend 'refunds' has no server\n"
        "[ALERT]    (7) : config : Error(s) found in configuration file : /x/haproxy.cfg\n"
        "[ALERT]    (7) : config : Fatal errors found in configuration.\n"
    )
    assert problems(said, FILE, "/x/haproxy.cfg") == (
        Problem("orders", "unknown keyword 'nonsense' in 'backend' section"),
        Problem("billing", "'server billing/a' : invalid port"),
        Problem("", "unknown keyword 'more' in 'frontend' section"),
        Problem("refunds", "backend 'refunds' has no server"),
    )
    assert len(alerts(said)) == 6
    assert str(Problem("orders", "is bad")) == "backend orders: is bad"


def test_versions_compare_as_numbers() -> None:
    """3.10 comes after 3.4; the words of a distribution count nothing."""
    assert version_numbers("2.6.12-1+deb12u4") == (2, 6, 12)
    assert version_numbers("3.10-dev1") > version_numbers("3.4.7")
    assert version_numbers("") == ()


def test_the_first_reload_waits_a_little_and_the_next_one_for_its_time() -> None:
    """A tenth of the time at most, so that not all hosts reload at once; then the whole of it since the last one."""
    pace = Pace(60.0, random=lambda: 0.5)
    assert pace.due_at(100.0) == 103.0
    assert pace.due_at(102.0) == 103.0
    pace.done(103.0)
    assert pace.due_at(110.0) == 163.0
    pace.done(163.0)
    assert pace.due_at(500.0) == 503.0


def test_haproxy_is_run_in_the_foreground_with_a_master() -> None:
    """By systemd too, which is told when it is ready; nothing secret is among its arguments."""
    settings = Settings(directory=Path("/run/s"), state=Path("/var/s"), atlas_token="s3cret")
    words = command(settings)
    assert words == [
        "haproxy", "-W", "-f", "/run/s/haproxy.cfg", "-p", "/run/s/haproxy.pid", "-S", "/run/s/master.sock,mode,600",
    ]  # fmt: skip
    assert command(settings, notify=True)[1] == "-Ws"


def test_a_file_that_cannot_be_tried_changes_nothing(tmp_path: Path) -> None:
    """No room to try HAProxy's file in is told as that, with the place; it is no error that nobody foresaw."""
    (tmp_path / "here").write_text("a file where the folder should be")
    (tmp_path / "here").chmod(0o700)
    settings = Settings(directory=tmp_path / "here", state=tmp_path)
    with pytest.raises(Unavailable, match="cannot be tried in"):
        check_files(Files("", {}), settings)
