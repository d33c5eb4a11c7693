"""app.redis on a real Redis: forks, restarts, hangs, moves."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from smartservice.redis import SmartRedis, open_redis
from tests.changing import ChangingSettings
from tests.processes import wait_until
from tests.servers import RedisServer, redis_server


@contextmanager
def client(url: str) -> Iterator[SmartRedis]:
    made = open_redis(ChangingSettings(REDIS_URL=url))
    yield made
    made.close()


def connections(server: RedisServer) -> int:
    """How many clients of our service are connected."""
    with redis.Redis(port=server.port) as admin:
        return sum(1 for entry in admin.client_list() if entry["name"] == "hello")


def test_commands_pipelines_and_scripts_work(redis_url: str) -> None:
    """The client is redis.Redis with all it can do, and names itself to the server."""
    with client(redis_url) as r:
        r.set("greeting", "hello", ex=60)
        assert r.get("greeting") == b"hello"
        with r.pipeline() as pipeline:
            pipeline.incr("n")
            pipeline.incr("n")
            assert pipeline.execute() == [1, 2]
        assert r.client_getname() in (b"hello", "hello")
        with r.lock("only-one", timeout=5):
            assert r.exists("only-one") == 1


def test_four_workers_after_a_fork_get_their_own_answers(redis_url: str) -> None:
    """A warm pool before the fork: 4 workers ask 1,500 questions and get the right answers; the parent's pool lives."""
    with client(redis_url) as r:
        pool = r.connection_pool
        for connection in [pool.get_connection() for _ in range(5)]:
            pool.release(connection)
        workers = []
        for number in range(4):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                os._exit(_worker(r, number))
            workers.append(pid)
        for _ in range(200):
            assert r.echo("parent") == b"parent"
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]

        assert codes == [0, 0, 0, 0]
        assert r.get("counted") == b"1500"


def _worker(r: SmartRedis, number: int) -> int:
    try:
        for i in range(375):
            if r.echo(f"{number}-{i}") != f"{number}-{i}".encode():
                return 1
            r.incr("counted")
    except Exception:
        return 2
    return 0


@pytest.mark.needs("redis-server")
def test_a_restart_costs_no_command_and_counts_nothing_twice() -> None:
    """After the server was restarted, the first command of a warm pool works: a write too, sent once."""
    with redis_server() as first, client(first.url()) as r:
        assert r.incr("n") == 1
        first.stop()
        with redis_server(first.port):
            assert r.incr("n") == 1
            assert r.get("n") == b"1"


@pytest.mark.needs("redis-server")
def test_a_frozen_server_is_given_up() -> None:
    """A server that hangs costs a new connection and a pooled one about REDIS_TIMEOUT each, then works again."""
    with redis_server() as server, client(server.url()) as warm, client(server.url()) as cold:
        warm.set("x", 1)
        server.child.signal(signal.SIGSTOP)
        try:
            for r in (warm, cold):
                begun = time.monotonic()
                with pytest.raises((redis.TimeoutError, redis.ConnectionError)):
                    r.get("x")
                assert time.monotonic() - begun < 5  # without a limit it would be for ever
        finally:
            server.child.signal(signal.SIGCONT)
        assert warm.get("x") == cold.get("x") == b"1"


def test_blocking_waits_as_long_as_it_is_told(redis_url: str) -> None:
    """blocking(seconds).blpop waits past REDIS_TIMEOUT and gets what is pushed meanwhile."""
    with client(redis_url) as r:
        push = threading.Timer(0.8, lambda: r.rpush("jobs", "work"))
        push.start()
        assert r.blocking(5).blpop(["jobs"], timeout=4) == (b"jobs", b"work")
        push.join()


def test_a_move_under_load_fails_nothing_and_leaves_nothing(redis_server: RedisServer, redis_url: str) -> None:
    """REDIS_URL changes under load: no failed command, no increment lost, no connection stays on the old server."""
    from tests.servers import redis_server as another

    with another() as new:
        settings = ChangingSettings(REDIS_URL=redis_url)
        r = open_redis(settings)
        failures: list[BaseException] = []
        done = [0] * 6
        stop = threading.Event()

        def requests(number: int) -> None:
            while not stop.is_set():
                try:
                    r.incr("n")
                    done[number] += 1
                except BaseException as error:
                    failures.append(error)

        threads = [threading.Thread(target=requests, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        wait_until(lambda: min(done) > 20)
        settings.change(REDIS_URL=new.url())
        with redis.Redis(port=new.port) as admin, redis.Redis(port=redis_server.port) as old_admin:
            wait_until(lambda: int(admin.get("n") or 0) > 100)
            wait_until(lambda: connections(redis_server) == 0, what="no connection left on the old server")
            stop.set()
            for thread in threads:
                thread.join()
            r.close()
            assert failures == []
            assert int(admin.get("n") or 0) + int(old_admin.get("n") or 0) == sum(done)
            wait_until(lambda: connections(new) == 0)
