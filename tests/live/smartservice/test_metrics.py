"""What is counted, what a scrape shows, and what happens to the numbers of processes that end."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import Counter

from smartservice.cells import Shelf, file_cells, merge_dead, read_file
from smartservice.metrics import Metrics


def samples(metrics: Metrics) -> dict[str, float]:
    """A scrape as `name{labels}` -> value."""
    text = metrics.render()[1].decode()
    return {name: float(value) for name, value in re.findall(r"^([^#\s]\S*(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child that ends without any clean-up, as a killed worker does; gives its pid."""
    with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns when another test left a thread
        pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return pid


def test_requests_are_counted_by_route_method_and_status() -> None:
    """Each answered request adds one to its route template, method and status, and its time to the histogram."""
    metrics = Metrics("hello")
    for _ in range(3):
        metrics.observe("/teams/<id>", "GET", 200, 0.02)
    metrics.observe("/teams/<id>", "GET", 404, 3.0)
    seen = samples(metrics)
    assert seen['http_requests_total{method="GET",route="/teams/<id>",status="200"}'] == 3
    assert seen['http_requests_total{method="GET",route="/teams/<id>",status="404"}'] == 1
    assert seen['http_request_duration_seconds_bucket{le="0.025",method="GET",route="/teams/<id>"}'] == 3
    assert seen['http_request_duration_seconds_bucket{le="+Inf",method="GET",route="/teams/<id>"}'] == 4
    assert seen['http_request_duration_seconds_count{method="GET",route="/teams/<id>"}'] == 4
    assert seen['http_request_duration_seconds_sum{method="GET",route="/teams/<id>"}'] == pytest.approx(3.06)


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, "0.005"), (0.005, "0.005"), (0.0051, "0.01"), (10.0, "10.0")])
def test_a_duration_falls_into_the_bucket_whose_bound_it_does_not_exceed(seconds: float, bucket: str) -> None:
    """Bounds are inclusive, as the format defines them."""
    metrics = Metrics("hello")
    metrics.observe("/", "GET", 200, seconds)
    lowest = next(name for name, value in samples(metrics).items() if "_bucket" in name and value == 1)
    assert f'le="{bucket}"' in lowest


def test_what_a_caller_makes_up_gets_no_label_of_its_own() -> None:
    """Unknown paths, methods and statuses share one label value each, and leave nothing in memory."""
    metrics = Metrics("hello")
    for number in range(50):
        metrics.observe(None, f"MADE{number}", 200, 0.1)
        metrics.observe("/", "GET", 1000 + number, 0.1)
    seen = samples(metrics)
    assert seen['http_requests_total{method="OTHER",route="unmatched",status="200"}'] == 50
    assert seen['http_requests_total{method="GET",route="/",status="other"}'] == 50
    assert len(metrics._known) == 0


def test_two_apps_in_one_process_do_not_touch_each_other() -> None:
    """Each app shows its own requests and its own registry only."""
    one, other = Metrics("one"), Metrics("other")
    one.observe("/", "GET", 200, 0.1)
    Counter("only_of_one", "x", registry=one.registry).inc()
    assert 'http_requests_total{method="GET",route="/",status="200"}' in samples(one)
    assert samples(one)["only_of_one_total"] == 1
    assert not [name for name in samples(other) if name.startswith(("http_requests_total", "only_of_one"))]


def test_the_service_is_named_with_what_is_running() -> None:
    """`smartservice_info` carries service, realm and release; empty ones are left out."""
    assert samples(Metrics("hello", realm="local", release=""))['smartservice_info{realm="local",service="hello"}'] == 1


def test_a_scraper_that_asks_for_openmetrics_gets_it() -> None:
    """The format follows the Accept header; the text format is the default."""
    metrics = Metrics("hello")
    metrics.observe("/", "GET", 200, 0.1)
    plain, _ = metrics.render()
    kind, body = metrics.render("application/openmetrics-text; version=1.0.0")
    assert plain.startswith("text/plain; version=")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")


def test_no_count_is_lost_between_threads() -> None:
    """Concurrent requests on the same route are all counted."""
    metrics = Metrics("hello")

    def work() -> None:
        for _ in range(5000):
            metrics.observe("/", "GET", 200, 1.0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert samples(metrics)['http_requests_total{method="GET",route="/",status="200"}'] == 20000


def test_a_gauge_that_cannot_be_read_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """One broken gauge costs its own line, not the scrape."""
    metrics = Metrics("hello")
    metrics.gauge("broken", "x", lambda: 1 / 0)
    metrics.gauge("sound", "x", lambda: {(("pool", "database"),): 3.0})
    with caplog.at_level(logging.WARNING):
        seen = samples(metrics)
    assert seen['sound{pool="database"}'] == 3
    assert not [name for name in seen if name.startswith("broken")]
    assert "broken could not be read" in caplog.text


def test_a_label_that_is_no_longer_reported_disappears() -> None:
    """A gauge shows what was read last, not what there once was."""
    metrics, now = Metrics("hello"), {"version": "1"}
    metrics.gauge("config", "x", lambda: {(("version", now["version"]),): 1.0})
    assert 'config{version="1"}' in samples(metrics)
    now["version"] = "2"
    assert [name for name in samples(metrics) if name.startswith("config")] == ['config{version="2"}']


def test_counting_does_not_import_prometheus_client() -> None:
    """The import, a tenth of a second, is paid by the first scrape."""
    code = "import sys; from smartservice.metrics import Metrics; m = Metrics('a'); m.observe('/', 'GET', 200, 1); "
    code += "assert 'prometheus_client' not in sys.modules; m.render(); assert 'prometheus_client' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_scrape_adds_up_all_processes(tmp_path: Path) -> None:
    """Counters of every process are summed; gauges are joined as they were declared."""
    metrics, value = Metrics("hello", directory=str(tmp_path)), [2.0]
    metrics.gauge("in_use", "x", lambda: value[0])
    metrics.gauge("worst", "x", lambda: value[0], over_workers="min")

    def work() -> None:
        value[0] = 1.0
        metrics.observe("/", "GET", 200, 0.1)
        metrics.publish()

    metrics.observe("/", "GET", 200, 0.1)
    in_child(work)
    in_child(work)
    seen = samples(metrics)
    assert seen['http_requests_total{method="GET",route="/",status="200"}'] == 3
    assert (seen["in_use"], seen["worst"]) == (4, 1)


def test_services_that_share_a_directory_are_kept_apart(tmp_path: Path) -> None:
    """One name that begins with another is another service."""
    one, other = Metrics("hello", directory=str(tmp_path)), Metrics("hello-world", directory=str(tmp_path))
    one.observe("/", "GET", 200, 0.1)
    other.observe("/", "GET", 200, 0.1)
    assert samples(one)['http_requests_total{method="GET",route="/",status="200"}'] == 1


def test_counts_of_ended_processes_stay_and_their_files_go(tmp_path: Path) -> None:
    """However many workers come and go, no counter goes back, gauges of the dead vanish, and files stay few."""
    metrics = Metrics("hello", directory=str(tmp_path))
    metrics.gauge("in_use", "x", lambda: 1.0)

    def work() -> None:
        metrics.observe("/", "GET", 200, 0.1)
        metrics.publish()

    for number in range(1, 6):
        in_child(work)
        assert merge_dead(str(tmp_path), {os.getpid()}) == 1
        assert metrics.requests()["/", "GET", "200"][2:5] == [0, 0, float(number)]
    own = f"hello.{os.getpid()}.0.cells"
    assert {path.name for path in tmp_path.glob("*.cells")} == {own, "hello.dead.cells"}
    assert samples(metrics)["in_use"] == 1


def test_a_living_process_keeps_its_file(tmp_path: Path) -> None:
    """Only files of processes that are gone are merged, whether or not they are known as workers."""
    metrics = Metrics("hello", directory=str(tmp_path))
    metrics.observe("/", "GET", 200, 0.1)
    assert merge_dead(str(tmp_path), set()) == 0
    assert len(list(tmp_path.glob("*.cells"))) == 1


def test_nothing_is_merged_while_a_scrape_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A scrape sees each number once; what could not be merged is merged the next time."""
    metrics = Metrics("hello", directory=str(tmp_path))
    in_child(lambda: metrics.observe("/", "GET", 200, 0.1))
    with (tmp_path / "lock").open("w") as scrape:
        fcntl.flock(scrape, fcntl.LOCK_SH)
        assert merge_dead(str(tmp_path), set(), seconds=0.05) == 0
    assert "merged later" in caplog.text
    assert merge_dead(str(tmp_path), set()) == 1
    assert metrics.requests()["/", "GET", "200"][4] == 1


def test_a_new_process_with_an_old_pid_does_not_overwrite_counts(tmp_path: Path) -> None:
    """A file that is already there is another process's, even under the same pid."""
    file_cells(str(tmp_path), "hello").new(("request", "/", "GET", "200"), 13)[0] = 5.0
    metrics = Metrics("hello", directory=str(tmp_path))
    metrics.observe("/", "GET", 200, 0.001)
    assert metrics.requests()["/", "GET", "200"][0] == 6


def test_many_rows_go_to_further_pages_and_are_all_read(tmp_path: Path) -> None:
    """A file grows by whole pages; no row is split and none is lost."""
    cells = file_cells(str(tmp_path), "hello")
    for number in range(2000):
        cells.new(("request", f"/route/{number}/<id>", "GET", "200"), 13)[12] = float(number)
    (path,) = tmp_path.glob("*.cells")
    rows = dict(read_file(path))
    assert path.stat().st_size > 65536
    assert [rows["request", f"/route/{number}/<id>", "GET", "200"][12] for number in range(2000)] == list(range(2000))


def test_a_damaged_file_costs_its_page_only(tmp_path: Path) -> None:
    """Garbage in a file is skipped, not raised."""
    cells = file_cells(str(tmp_path), "hello")
    cells.new(("request", "/", "GET", "200"), 13)
    (path,) = tmp_path.glob("*.cells")
    path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "hello.1.0.cells").write_bytes(b"\xff" * 70000)
    metrics = Metrics("hello", directory=str(tmp_path))
    metrics.observe("/", "GET", 200, 0.1)
    assert metrics.requests()["/", "GET", "200"][4] == 1


def test_a_directory_that_cannot_be_written_is_no_reason_to_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker counts in memory and says so once."""
    missing = tmp_path / "gone"
    cells = file_cells(str(missing), "hello")
    cells.new(("a",), 1)[0] = 3.0
    assert dict(cells.items())[("a",)][0] == 3
    assert caplog.text.count("kept apart") == 1


OWN_COUNTERS = """
import os, sys
from prometheus_client import Counter, Gauge, Histogram
from smartservice.cells import merge_dead
from smartservice.metrics import Metrics
directory = os.environ["PROMETHEUS_MULTIPROC_DIR"]
orders = Counter("orders", "x", ["kind"])
took = Histogram("took", "x", buckets=[1, 2])
most = Gauge("most", "x", multiprocess_mode="max")
last = Gauge("last", "x", multiprocess_mode="mostrecent")
each = Gauge("each", "x")
metrics = Metrics("hello")
for number in (3, 9, 4):
    pid = os.fork()
    if pid == 0:
        orders.labels("a").inc(number); took.observe(number / 4); most.set(number); last.set(number)
        each.set(1)
        os._exit(0)
    os.waitpid(pid, 0)
    merge_dead(directory, {os.getpid()})
sys.stdout.write(metrics.render()[1].decode())
"""


def test_a_service_sees_its_own_counters_right_across_ended_workers(tmp_path: Path) -> None:
    """Counters, histograms and gauges made with prometheus-client are merged as its own collector would have read them."""
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    output = subprocess.run(
        [sys.executable, "-c", OWN_COUNTERS], env=environ, capture_output=True, text=True, check=True
    )
    lines = output.stdout.splitlines()
    for line in (
        'orders_total{kind="a"} 16.0',
        'took_bucket{le="1.0"} 2.0',
        'took_bucket{le="2.0"} 2.0',
        'took_bucket{le="+Inf"} 3.0',
        "took_sum 4.0",
        "most 9.0",
        "last 4.0",
    ):
        assert line in lines
    assert len([line for line in lines if line.startswith("each{")]) <= 1
    assert len(list(tmp_path.glob("*.db"))) <= 10


def test_an_instance_has_a_directory_of_its_own_and_removes_it(tmp_path: Path) -> None:
    """Two masters never share one; what a killed master left is removed by the next, what is in use is not."""
    before = os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    try:
        one = Shelf.make("hello", uid=os.geteuid(), gid=os.getegid(), base=str(tmp_path))
        assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == one.directory
        left = tmp_path / f"smartservice-metrics-{os.geteuid()}-hello.left"
        left.mkdir()
        (left / "owner").touch()
        for path in (left, Path(one.directory)):
            os.utime(path, (1, 1))
        other = Shelf.make("hello", uid=os.geteuid(), gid=os.getegid(), base=str(tmp_path))
        assert {path.name for path in tmp_path.iterdir()} == {Path(one.directory).name, Path(other.directory).name}
        one.remove()
        other.remove()
        assert list(tmp_path.iterdir()) == []
    finally:
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        if before is not None:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = before
