"""Stopping: what happens to requests between SIGTERM and the end of the process."""

from __future__ import annotations

import http.client
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.balancer import Balancer, Load
from tests.live.instances import Instance
from tests.processes import accepts, free_port, wait_until

DRAIN = {"DRAIN_SECONDS": 60, "GRACEFUL_SECONDS": 60, "WORKERS": 2, "THREADS": 4}
"""Longer than any test waits: a drain that is over begins its end by another SIGTERM."""


@pytest.mark.parametrize("kind", ["gthread", "sync"])
def test_no_request_is_lost_when_an_instance_behind_a_prober_is_told_to_stop(kind: str, tmp_path: Path) -> None:
    """GET and POST, on fresh and kept connections, all get their answer across two stops."""
    ports = [free_port(), free_port()]
    workers = {**DRAIN, "WORKER_CLASS": kind}
    with Instance(tmp_path / "steady", port=ports[1], variables=workers), Balancer(ports, interval=0.2) as balancer:
        for number in range(2):
            with Instance(tmp_path / f"stopped{number}", port=ports[0], variables=workers) as stopped:
                wait_until(lambda: len(balancer.up) == 2, what="both backends up")
                with Load(balancer.port) as load:
                    load.wait_for(20)
                    stopped.child.signal(signal.SIGTERM)
                    wait_until(lambda: balancer.up == [ports[1]], what="the stopped backend out")
                    load.wait_for(40)  # whoever had a connection there has moved on
                    stopped.child.signal(signal.SIGTERM)
                    assert stopped.child.process.wait(30) == 0
                    load.wait_for(20)
                assert load.lost == []
                assert set(load.good) == {"GET fresh", "GET kept", "POST fresh", "POST kept"}


def test_draining_turns_every_worker_unready_at_once_and_goes_on_serving(tmp_path: Path) -> None:
    """After the first SIGTERM readiness is red on the app and the management port, liveness green, work answered."""
    with Instance(tmp_path, management=True, variables={**DRAIN, "WORKERS": 3}) as instance:
        instance.child.signal(signal.SIGTERM)
        wait_until(lambda: instance.status("/healthcheck/ready") == 503)
        for _ in range(12):
            assert instance.status("/healthcheck/ready") == 503
            assert instance.status("/healthcheck/ready", port=instance.management) == 503
        assert instance.status("/healthcheck/live", port=instance.management) == 200
        assert instance.get("/work") == (200, "done")
        text = instance.child.text()
        assert "draining: readiness is red, serving on for 60 s" in text
        instance.child.signal(signal.SIGTERM)
        assert instance.child.process.wait(30) == 0


def test_kept_connections_are_told_to_close_while_draining(tmp_path: Path) -> None:
    """A client on a kept connection gets `Connection: close` with its next answer, so it moves on by itself."""
    with Instance(tmp_path, variables=DRAIN) as instance:
        connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=5)
        connection.request("GET", "/pid")
        first = connection.getresponse()
        first.read()
        instance.child.signal(signal.SIGTERM)
        wait_until(lambda: instance.status("/healthcheck/ready") == 503)
        connection.request("GET", "/pid")
        second = connection.getresponse()
        second.read()
        assert (first.will_close, second.will_close) == (False, True)
        connection.close()


def test_a_second_sigterm_ends_the_drain_at_once(tmp_path: Path) -> None:
    """Who cannot wait sends SIGTERM again."""
    with Instance(tmp_path, variables=DRAIN) as instance:
        instance.child.signal(signal.SIGTERM)
        wait_until(lambda: "draining" in instance.child.text())
        instance.child.signal(signal.SIGTERM)
        assert instance.child.process.wait(30) == 0
        assert "before the drain is over" in instance.child.text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_ctrl_c_ends_quickly_even_in_the_middle_of_a_request(number: signal.Signals, tmp_path: Path) -> None:
    """No drain, no waiting for a request of 60 seconds; the app is closed all the same."""
    with Instance(tmp_path, variables=DRAIN) as instance:
        pids: set[str] = set()
        while len(pids) < 2:  # both have their app
            pids.add(instance.get("/pid")[1])
        threading.Thread(target=instance.status, args=("/sleep/60.0",), daemon=True).start()
        wait_until(lambda: instance.metrics()["http_requests_in_flight"] >= 2, what="the long request")
        instance.child.signal(number)
        instance.child.process.wait(30)
        assert instance.child.text().count("closed in") == 2


BUSY_HANDING_OVER = """
import time
from concurrent.futures import ThreadPoolExecutor
_start_thread = ThreadPoolExecutor._adjust_thread_count
def _adjust_thread_count(pool):
    with open("handing-over", "a"):
        time.sleep(1.5)
    _start_thread(pool)
ThreadPoolExecutor._adjust_thread_count = _adjust_thread_count
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_ctrl_c_ends_a_worker_that_is_just_handing_a_request_over(number: signal.Signals, tmp_path: Path) -> None:
    """The signal meets the worker while it holds the lock of its thread pool: it ends within seconds all the same."""
    with Instance(tmp_path, ready="", more=BUSY_HANDING_OVER, variables=DRAIN) as instance:
        instance.child.wait_ready(lambda: accepts(instance.port))
        threading.Thread(target=instance.status, args=("/work",), daemon=True).start()
        wait_until((tmp_path / "handing-over").exists, what="a request")
        instance.child.signal(number)
        instance.child.process.wait(30)
        assert "SIGKILL" not in instance.child.text()


SLOW_FORK = """
import time
_post_fork = post_fork
def post_fork(server, worker):
    time.sleep(0.7)
    _post_fork(server, worker)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_is_still_starting_ends_too(number: signal.Signals, tmp_path: Path) -> None:
    """A signal that comes before a worker has a handler for it is not lost: nobody waits for the kill."""
    with Instance(tmp_path, ready="", more=SLOW_FORK, variables=DRAIN) as instance:
        wait_until(lambda: instance.child.text().count("Booting worker") == 2, what="the workers")
        instance.child.signal(number)
        instance.child.process.wait(30)
        assert "SIGKILL" not in instance.child.text()


def test_a_request_in_flight_at_the_end_of_the_drain_is_finished(tmp_path: Path) -> None:
    """A request that takes longer than the drain, and less than GRACEFUL_SECONDS more, gets its answer."""
    with Instance(tmp_path, variables={**DRAIN, "DRAIN_SECONDS": 0.3}) as instance:
        answers: list[tuple[int, str]] = []
        client = threading.Thread(target=lambda: answers.append(instance.get("/sleep/1.0")))
        client.start()
        wait_until(lambda: instance.metrics()["http_requests_in_flight"] >= 2, what="the request")
        instance.child.signal(signal.SIGTERM)
        client.join(30)
        assert answers == [(200, "done")]
        assert instance.child.process.wait(30) == 0
        assert "stopping: requests in flight may take up to 60 s" in instance.child.text()


def test_the_drain_holds_while_workers_are_recycled(tmp_path: Path) -> None:
    """Workers that come up during the drain are unready from their first answer, and every request is served."""
    with Instance(tmp_path, variables={**DRAIN, "WORKER_MAX_REQUESTS": 10}) as instance:
        instance.child.signal(signal.SIGTERM)
        wait_until(lambda: instance.status("/healthcheck/ready") == 503)
        pids: set[str] = set()
        while len(pids) <= 3:  # two that were there, and two that came
            pids.add(instance.get("/pid")[1])
            assert instance.status("/healthcheck/ready") == 503
        instance.child.signal(signal.SIGTERM)
        assert instance.child.process.wait(30) == 0


@pytest.mark.parametrize("more", ["", SLOW_FORK], ids=["loading", "forking"])
def test_nothing_is_drained_before_the_app_is_loaded(more: str, tmp_path: Path) -> None:
    """Stopped while its workers are forked or load the app, an instance that served nobody ends, and loads nothing."""
    variables = {**DRAIN, "SLOW_START": 100}
    with Instance(tmp_path, ready="", more="preload_app = False" + more, variables=variables) as instance:
        wait_until(lambda: "Booting worker" in instance.child.text())
        instance.child.signal(signal.SIGTERM)
        instance.child.process.wait(30)  # well before the app is loaded
        assert "SIGKILL" not in instance.child.text()


def test_the_drain_works_without_preload(tmp_path: Path) -> None:
    """Each worker loads the app by itself and still sees the one flag."""
    with Instance(tmp_path, more="preload_app = False", variables=DRAIN) as instance:
        instance.child.signal(signal.SIGTERM)
        wait_until(lambda: instance.status("/healthcheck/ready") == 503)
        assert {instance.status("/healthcheck/ready") for _ in range(8)} == {503}
        assert instance.get("/work") == (200, "done")
        instance.child.signal(signal.SIGTERM)
        assert instance.child.process.wait(30) == 0


def test_a_sigterm_to_the_whole_group_loses_nothing_that_was_queued(tmp_path: Path) -> None:
    """Some supervisors signal every process: workers that went early are replaced, and the drain goes on."""
    with Instance(tmp_path, variables=DRAIN) as instance, Load(instance.port) as load:
        load.wait_for(20)
        os.killpg(instance.child.pid, signal.SIGTERM)
        wait_until(lambda: instance.status("/healthcheck/ready") == 503)
        load.wait_for(20)
        assert load.lost == []
