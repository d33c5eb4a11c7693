"""Probes and scrapes on the management port, while the workers are busy, wedged or replaced."""

from __future__ import annotations

import json
import re
import signal
import statistics
import threading
import time
from pathlib import Path

import pytest

from tests.live.instances import Instance
from tests.processes import free_port, wait_until


@pytest.mark.parametrize("kind", ["gthread", "sync"])
def test_liveness_is_answered_within_100_ms_while_every_thread_is_busy(kind: str, tmp_path: Path) -> None:
    """Eight probes of eight, half of them in time on a busy machine, too, and readiness and metrics; on the app's own port none
    gets through. (The benchmark holds 100 ms for all of them, on a quiet one.)"""
    variables = {"WORKERS": 2, "THREADS": 2, "WORKER_CLASS": kind, "DRAIN_SECONDS": 0}
    with Instance(tmp_path, management=True, variables=variables, smart=True) as instance:
        instance.occupy(4 if kind == "gthread" else 2, seconds=100.0)
        took = []
        for _ in range(8):
            began = time.monotonic()
            assert instance.status("/healthcheck/live", port=instance.management) == 200
            took.append(time.monotonic() - began)
        assert statistics.median(took) < 0.1
        assert instance.status("/healthcheck/ready", port=instance.management) == 200
        assert instance.status("/metrics", port=instance.management) == 200
        assert [instance.status("/healthcheck/live", timeout=0.1) for _ in range(8)] == [0] * 8
        instance.child.signal(signal.SIGINT)


def test_a_wedged_worker_turns_liveness_red_and_is_replaced(tmp_path: Path) -> None:
    """Every thread of one worker hangs: whichever worker is asked says so, then the worker is replaced and all is well."""
    variables = {"WORKERS": 2, "THREADS": 2, "WEDGED_SECONDS": 2, "DRAIN_SECONDS": 0}
    with Instance(tmp_path, management=True, variables=variables, smart=True) as instance:
        for _ in range(8):
            threading.Thread(target=instance.status, args=("/sleep/60.0",), daemon=True).start()
        seen: list[int] = []

        def was_red() -> bool:
            seen.append(instance.status("/healthcheck/live", port=instance.management, timeout=5))
            return 503 in seen

        wait_until(was_red, what="liveness red")
        assert seen[0] == 200
        wait_until(lambda: "in sleep" in instance.child.text(), what="the stacks, which show where it hangs")
        assert "is wedged: all 2 threads busy" in instance.child.text()
        wait_until(lambda: instance.status("/healthcheck/live", port=instance.management) == 200, what="live again")
        assert instance.get("/work")[0] == 200
        instance.child.signal(signal.SIGQUIT)


def test_a_single_long_request_is_not_wedged(tmp_path: Path) -> None:
    """With a thread free nothing is wrong, however long one request takes."""
    variables = {"WORKERS": 1, "THREADS": 2, "WEDGED_SECONDS": 0.5, "DRAIN_SECONDS": 0}
    with Instance(tmp_path, management=True, variables=variables, smart=True) as instance:
        client = threading.Thread(target=instance.status, args=("/sleep/1.8",), daemon=True)
        client.start()
        while client.is_alive():
            assert instance.status("/healthcheck/live", port=instance.management) == 200
            time.sleep(0.1)
        assert "wedged" not in instance.child.text()


def test_no_probe_is_lost_while_workers_are_recycled(tmp_path: Path) -> None:
    """The management socket belongs to the master: a worker that ends takes no waiting probe with it."""
    variables = {"WORKERS": 2, "THREADS": 2, "WORKER_MAX_REQUESTS": 5, "DRAIN_SECONDS": 0}
    with Instance(tmp_path, management=True, variables=variables) as instance:
        for _ in range(60):
            assert instance.status("/work") == 200
            assert instance.status("/healthcheck/live", port=instance.management) == 200
        assert instance.child.text().count("Autorestarting worker") >= 6


def test_a_taken_management_port_is_told_in_one_sentence(tmp_path: Path) -> None:
    """Two services with the same management port would answer for each other: the second one does not start."""
    with Instance(tmp_path / "one", management=True, variables={"DRAIN_SECONDS": 0}) as first:
        second = Instance(tmp_path / "two", ready="", variables={"MANAGEMENT_PORT": first.management})
        with second:
            assert second.child.process.wait(30) == 1
            assert f"MANAGEMENT_PORT {first.management} cannot be bound" in second.child.text()
            assert "Traceback" not in second.child.text()


def test_bad_settings_end_the_start_with_one_message(tmp_path: Path) -> None:
    """No traceback: the list of mistakes, and exit code 1."""
    with Instance(tmp_path, ready="", variables={"WORKERS": "many", "THREADS": "x"}, smart=True) as instance:
        assert instance.child.process.wait(30) == 1
        text = instance.child.text()
        assert "WORKERS" in text
        assert "THREADS" in text
        assert "Traceback" not in text


def test_lines_of_gunicorn_come_out_once_and_as_the_services_own(tmp_path: Path) -> None:
    """JSON like everything else, not doubled, and one access line for a request."""
    with Instance(tmp_path, variables={"DRAIN_SECONDS": 0, "LOG_FORMAT": "json"}, smart=True) as instance:
        assert instance.get("/work")[0] == 200
        wait_until(lambda: "/work" in instance.child.text())
        lines = [json.loads(line) for line in instance.child.text().splitlines()]
        messages = [line["message"] for line in lines]
        assert len([text for text in messages if text.startswith("Listening at")]) == 1
        assert len([text for text in messages if "/work" in text]) == 1
        assert {line["service"] for line in lines} == {"smart"}


def test_a_reload_keeps_the_instance_whole(tmp_path: Path) -> None:
    """After SIGHUP the new workers answer on both ports and all earlier requests are still counted."""
    variables = {"WORKERS": 2, "DRAIN_SECONDS": 0.2}
    with Instance(tmp_path, management=True, variables=variables) as instance:
        for _ in range(10):
            instance.get("/work")
        before = set(re.findall(r"Booting worker with pid: (\d+)", instance.child.text()))
        instance.child.signal(signal.SIGHUP)
        wait_until(lambda: all(f"Worker exiting (pid: {pid})" in instance.child.text() for pid in before))
        wait_until(lambda: instance.status("/healthcheck/live", port=instance.management) == 200)
        assert instance.metrics()['http_requests_total{method="GET",route="/work",status="200"}'] == 10
        instance.child.signal(signal.SIGTERM)
        assert instance.child.process.wait(30) == 0


@pytest.mark.parametrize("by_module", [False, True])
def test_a_new_master_takes_the_management_port_over(by_module: bool, tmp_path: Path) -> None:
    """SIGUSR2 (a second master beside the first) works with the management port, as it does with gunicorn's own, however
    gunicorn was started."""
    variables = {"DRAIN_SECONDS": 0}
    with Instance(tmp_path, management=True, port=free_port(), variables=variables, by_module=by_module) as instance:
        instance.child.signal(signal.SIGUSR2)
        wait_until(lambda: instance.child.text().count("Starting gunicorn") == 2)
        wait_until(lambda: instance.child.text().count("Booting worker") >= 4)
        instance.child.signal(signal.SIGTERM)
        instance.child.process.wait(30)
        for _ in range(4):
            assert instance.status("/healthcheck/live", port=instance.management) == 200
            assert instance.get("/work") == (200, "done")


def test_the_module_itself_can_be_the_configuration(tmp_path: Path) -> None:
    """`gunicorn -c python:smartservice.gunicorn APP` drains and answers probes like any other."""
    with Instance(
        tmp_path, conf="python:smartservice.gunicorn", management=True, variables={"DRAIN_SECONDS": 1}
    ) as instance:
        assert instance.status("/healthcheck/live", port=instance.management) == 200
        instance.child.signal(signal.SIGTERM)
        wait_until(lambda: instance.status("/healthcheck/ready", port=instance.management) == 503)
        assert instance.get("/work") == (200, "done")
        assert instance.child.process.wait(30) == 0


def test_a_smart_service_shows_all_of_its_workers_numbers(tmp_path: Path) -> None:
    """The gauges and counters that create_app makes are there on both ports."""
    with Instance(tmp_path, smart=True, management=True, variables={"DRAIN_SECONDS": 0, "WORKERS": 3}) as instance:
        for _ in range(9):
            instance.get("/work")
        for port in (instance.port, instance.management):
            seen = instance.metrics(port=port)
            assert seen['http_requests_total{method="GET",route="/work",status="200"}'] == 9
            assert seen['smartservice_info{realm="local",service="smart"}'] == 1
            assert seen["smartservice_config_version"] == seen["smartservice_config_version_oldest"]
