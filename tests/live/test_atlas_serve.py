"""A real `atlas serve`: replicas that are killed, stopped and started, a store that freezes, readers that lose nothing."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import atlas
from atlas.client import HttpDirectory
from atlas.keeper import Keeper
from atlas.model import Author, Instance, Lease, Service
from atlas.reader import Reader
from atlas.world import Delta, Position, World
from smartrealm.errors import SmartError, Unauthorized, Unavailable
from tests.atlas_server import SERVE, ServedAtlas
from tests.processes import Child, free_port, wait_until
from tests.store_servers import StoreServer, etcd_server

BY = Author("anna", "a test")
Serve = Callable[..., ServedAtlas]
SOON = 20.0
"""What takes two seconds at most, on an idle machine; forever, where it is broken."""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve()`: a replica over one SQLite file, or over `store=`."""
    with contextlib.ExitStack() as stack:

        def start(store: str | None = None, **settings: Any) -> ServedAtlas:
            served = ServedAtlas(tmp_path, store or f"sqlite:///{tmp_path / 'realm.db'}", **settings)
            return stack.enter_context(served)

        yield start


@pytest.fixture
def connect() -> Iterator[Callable[..., HttpDirectory]]:
    """`connect(served, ...)`: a client of these replicas."""
    with contextlib.ExitStack() as stack:

        def make(*replicas: ServedAtlas, **options: object) -> HttpDirectory:
            url = "http://" + ",".join(f"127.0.0.1:{one.port}" for one in replicas)
            return stack.enter_context(HttpDirectory(url, **options))  # type: ignore[arg-type]

        yield make


Connect = Callable[..., HttpDirectory]


@contextlib.contextmanager
def following(directory: HttpDirectory) -> Iterator[Reader]:
    """A reader of this directory that has read the map."""
    reader = Reader(directory)
    reader.start()
    wait_until(lambda: reader.ready, what="the first world")
    yield reader
    reader.close()


def within(seconds: float, condition: Callable[[], object], what: str) -> float:
    """How long it took until the condition was true; fails after `seconds`."""
    begun = time.monotonic()
    wait_until(condition, seconds, what=what)
    return time.monotonic() - begun


def test_a_killed_replica_costs_its_clients_one_retry(serve: Serve, connect: Connect) -> None:
    """Reads, writes, renewals and parked polls go on with the next one; nobody sees an error."""
    one, two = serve(), serve()
    directory = connect(one, two, spread=lambda: 0.0)
    directory.put_service(Service("web"), by=BY)
    directory.hold(Lease("host-0", "i1"))  # with the first lease a map gets a new epoch, and readers all of it
    two.wait_followed(1)
    position = directory.world().position
    heard: list[object] = []
    waiting = threading.Thread(target=lambda: heard.append(directory.wait(position, 40)))
    waiting.start()
    wait_until(lambda: one.metric("atlas_readers_waiting") == 1, what="the parked poll")
    begun = time.monotonic()
    one.kill()
    assert directory.put_service(Service("billing"), by=BY) == 2
    directory.hold(Lease("host-1", "i1", instances=(Instance("web", "host-1", 8000),)))
    assert set(directory.world().services) == {"web", "billing"}
    waiting.join(30)
    assert isinstance(heard[0], Delta)
    assert time.monotonic() - begun < 15  # the poll of 20 s was not waited for


def test_a_replica_that_stops_loses_no_poll(serve: Serve, connect: Connect) -> None:
    """Readers that are parked are sent on at once, and hear of the next change from the other replica."""
    one, two = serve(), serve()
    directory = connect(two)
    directory.put_service(Service("web"), by=BY)
    with contextlib.ExitStack() as stack:
        clients = [connect(one, two, spread=lambda: 0.0) for _ in range(10)]
        readers = [stack.enter_context(following(client)) for client in clients]
        wait_until(lambda: one.metric("atlas_readers_waiting") == 10, what="the parked polls")
        assert one.stop() == 0  # polls of half a minute and more did not hold it up
        directory.put_service(Service("billing"), by=BY)
        within(SOON, lambda: all(reader.world.knows("billing") for reader in readers), "the change everywhere")
        assert [reader.failure for reader in readers] == [None] * 10


def test_a_poll_is_released_when_the_drain_begins(serve: Serve, connect: Connect) -> None:
    """Long before the instance ends: it goes on to serve, and says that it is about to stop."""
    one = serve(DRAIN_SECONDS=60)
    directory = connect(one)
    position = directory.world().position
    poll = [
        sys.executable,
        "-c",
        "import sys, urllib.request as r; a = r.urlopen(sys.argv[1]); print(a.status, a.headers['Atlas-Draining'])",
    ]
    asked = subprocess.Popen(
        [*poll, f"{one.url}/v1/world?position={position}&wait=50"], stdout=subprocess.PIPE, text=True
    )
    wait_until(lambda: one.metric("atlas_readers_waiting") == 1, what="the parked poll")
    assert one.child is not None
    one.child.signal(15)
    told, _ = asked.communicate(timeout=30)
    assert told.split() == ["204", "yes"]
    assert directory.put_service(Service("web"), by=BY) == 1
    one.child.signal(15)
    assert one.child.process.wait(30) == 0


def test_readers_keep_their_map_and_holders_their_instances_while_every_atlas_is_away(
    serve: Serve, connect: Connect
) -> None:
    """An outage longer than the leases removes nobody; what changed meanwhile is right soon after the return."""
    served = serve(ATLAS_SWEEP_SECONDS=0.2)
    directory = connect(served)
    directory.put_service(Service("web"), by=BY)
    instances = [Instance("web", "host-1", 8000)]
    keeper = Keeper(directory, lambda: Lease("host-1", "i1", 1.5, tuple(instances)))
    with following(connect(served)) as reader:
        keeper.start()
        within(SOON, lambda: reader.world.places("web"), "the registration")
        served.kill()
        time.sleep(2)
        instances.append(Instance("web", "host-1", 8001))
        assert len(reader.world.places("web")) == 1
        served.start()
        ready = time.monotonic()
        within(SOON, lambda: len(reader.world.places("web")) == 2, "the registration of what started meanwhile")
        while time.monotonic() - ready < 2:  # beyond the ttl: nobody is taken for dead
            assert len(reader.world.places("web")) == 2
            time.sleep(0.05)
    keeper.close()


def test_a_holder_that_dies_is_gone_after_its_time(serve: Serve, connect: Connect) -> None:
    """The server sweeps; nobody else has to."""
    directory = connect(serve(ATLAS_SWEEP_SECONDS=0.2))
    directory.hold(Lease("host-1", "i1", ttl_seconds=1, instances=(Instance("web", "host-1", 8000),)))
    assert directory.world().knows("web")
    taken = within(SOON, lambda: not directory.world().knows("web"), "the end of the lease")
    assert taken > 0.5


@pytest.fixture(scope="module")
def running_etcd() -> Iterator[StoreServer]:
    """An etcd server of its own, which the tests freeze and kill."""
    with etcd_server() as server:
        yield server


@pytest.fixture
def etcd(running_etcd: StoreServer) -> Iterator[StoreServer]:
    """That server, alive and awake after each test too."""
    yield running_etcd
    running_etcd.thaw()
    if running_etcd.child.process.poll() is not None:
        running_etcd.start()


@pytest.mark.needs("etcd")
def test_reads_go_on_while_the_store_is_frozen(serve: Serve, connect: Connect, etcd: StoreServer) -> None:
    """From memory, with readiness green; writes say that nothing is known; soon after the thaw all is right again."""
    served = serve(f"{etcd.url('frozen')}?timeout_seconds=1", ATLAS_SWEEP_SECONDS=0.2)
    directory = connect(served)
    directory.put_service(Service("web"), by=BY)
    lease = Lease("host-1", "i1", ttl_seconds=1.5, instances=(Instance("web", "host-1", 8000),))
    directory.hold(lease)
    with following(connect(served)) as reader:
        within(SOON, lambda: reader.world.places("web"), "the registration")
        served.wait_followed(1)
        etcd.freeze()
        with pytest.raises(Unavailable):
            directory.put_service(Service("billing"), by=BY)
        end = time.monotonic() + 2  # beyond the ttl
        while time.monotonic() < end:
            assert directory.world().places("web")
            assert isinstance(directory.wait(directory.world().position, 0.1), type(None))
            assert served.status("/healthcheck/ready") == 200
        assert reader.world.places("web")
        etcd.thaw()

        def registered() -> bool:
            with contextlib.suppress(Unavailable):
                directory.hold(Lease("host-2", "i1", instances=(Instance("web", "host-2", 8000),)))
            return len(reader.world.places("web")) == 2

        within(SOON, registered, "a new registration")


@pytest.mark.needs("etcd")
def test_a_store_that_was_restarted_is_followed_again(serve: Serve, connect: Connect, etcd: StoreServer) -> None:
    """Readers hear of the next change soon after its return."""
    served = serve(f"{etcd.url('restarted')}?timeout_seconds=1")
    directory = connect(served)
    directory.put_service(Service("web"), by=BY)
    with following(connect(served)) as reader:
        served.wait_followed(1)
        etcd.kill()
        time.sleep(1)
        assert reader.world.knows("web")
        assert directory.world().knows("web")
        etcd.start()

        def changed() -> bool:
            with contextlib.suppress(Unavailable):
                directory.put_service(Service("billing"), by=BY)
            return reader.world.knows("billing")

        within(SOON, changed, "the change")


def test_forty_readers_hear_of_an_override_within_a_second(serve: Serve, connect: Connect) -> None:
    """Twenty instances with two workers each; every one of ten changes reaches all of them, and half of them hear in time on a busy
    machine, too. (The benchmark holds it for 99 in 100, on a quiet one.)"""
    served = serve()
    directory = connect(served)
    directory.put_service(Service("web"), by=BY)
    taken: list[float] = []
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(following(connect(served, service="web"))) for _ in range(40)]
        wait_until(lambda: served.metric("atlas_readers_waiting") == 40, what="the parked polls")
        for size in range(10):
            begun = time.monotonic()
            directory.set_override("web", "PAGE_SIZE", size, by=BY)
            left = list(readers)
            while left:
                assert time.monotonic() - begun < 30
                heard = [
                    one for one in left if (seen := one.world.overrides.get("web/PAGE_SIZE")) and seen.value == size
                ]
                taken += [time.monotonic() - begun] * len(heard)
                left = [one for one in left if one not in heard]
                time.sleep(0.002)
    assert statistics.median(taken) <= 1.0, sorted(taken)[-5:]


def test_hundreds_of_parked_readers_hear_of_every_change(serve: Serve, connect: Connect) -> None:
    """Nothing is lost among changes in quick succession, and writers find a thread meanwhile."""
    served = serve(THREADS=300)
    directory = connect(served)
    directory.put_service(Service("first"), by=BY)
    wanted = ",".join(f"s{number}" for number in range(5))
    command = [
        sys.executable,
        "-m",
        "tests.many_readers",
        str(served.port),
        "200",
        str(directory.world().position),
        wanted,
    ]
    readers = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert readers.stdout is not None
    readers.stdout.readline()
    wait_until(lambda: served.metric("atlas_readers_waiting") == 200, what="the parked polls")
    for name in wanted.split(","):
        directory.put_service(Service(name), by=BY)
    out, _ = readers.communicate(timeout=90)
    told = json.loads(out)
    assert told["mistakes"] == []
    assert {name: len(moments) for name, moments in told["heard"].items()} == dict.fromkeys(wanted.split(","), 200)


def test_a_reader_that_cannot_continue_takes_the_complete_map_again(serve: Serve, connect: Connect) -> None:
    """From another epoch, or from so long ago that nobody remembers."""
    directory = connect(serve())
    directory.put_service(Service("web"), by=BY)
    here = directory.world().position
    for position in (Position("elsewhere", 7, 7), Position(here.epoch, 0, 0)):
        update = directory.wait(position, 5)
        assert isinstance(update, World | Delta)
        if position.epoch != here.epoch:
            assert isinstance(update, World)
            assert update.knows("web")


def test_a_client_that_was_used_before_a_fork_works_in_both_processes(serve: Serve, connect: Connect) -> None:
    """The child never reads what was meant for the parent."""
    directory = connect(serve())
    for number in range(5):
        directory.put_service(Service(f"s{number}"), by=BY)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            if all(len(directory.world().services) == 5 for _ in range(50)):
                code = 0
        os._exit(code)
    for _ in range(50):
        assert directory.history(limit=1)[0].revision == 5
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_tokens_are_asked_for_and_appear_nowhere(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """Neither in the log of the server, nor in an error, nor in a repr of the client."""
    store = f"sqlite:///{tmp_path / 'realm.db'}"
    with atlas.open(store, environ={}) as book:
        operator, _ = book.create_token("operator", "anna", by=BY)
    served = serve(store, ATLAS_OPEN="false")
    directory = connect(served, token=operator)
    host, kept = directory.create_token("host", "host-1", by=BY)
    directory.put_service(Service("web"), by=BY)
    assert directory.history(limit=1)[0].author == "anna"
    agent = connect(served, token=host)
    agent.hold(Lease("host-1", "i1", instances=(Instance("web", "host-1", 8000),)))
    with pytest.raises(Unauthorized):
        connect(served).world()
    directory.revoke_token(kept.id, by=BY)
    with pytest.raises(Unauthorized) as refused:
        wait_until(lambda: agent.world() and None, what="the refusal")
    served.stop()
    with pytest.raises(Unavailable) as away:
        directory.world()
    for shown in (served.text(), repr(directory), str(away.value), str(refused.value), repr(vars(refused.value))):
        assert operator not in shown
        assert host not in shown


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"HOST": "0.0.0.0"}, "token create operator"),
        ({"REALM": "production"}, "token create operator"),
        ({"ATLAS_OPEN": "true", "HOST": "0.0.0.0"}, "ATLAS_OPEN is on"),
    ],
)
def test_it_refuses_to_be_open_to_strangers(settings: dict[str, str], said: str, tmp_path: Path) -> None:
    """The process ends with a sentence that says what to do, and has listened to nobody."""
    program = SERVE.replace("'127.0.0.1', int(sys.argv[2])", "port=int(sys.argv[2])")
    port = free_port()
    command = [sys.executable, "-c", program, f"sqlite:///{tmp_path / 'realm.db'}", str(port)]
    with Child(command, output=tmp_path / "log", env={**os.environ, **settings}) as child:
        assert child.process.wait(30) != 0
        assert said in child.text()


def test_every_error_of_the_client_is_one_of_ours(connect: Connect) -> None:
    """Nobody there: Unavailable at once, naming the address."""
    nobody = ServedAtlas(Path(), "")
    directory = connect(nobody, token="not-to-be-shown")
    for ask in (directory.world, lambda: directory.wait(Position(), 5), lambda: list(directory.export())):
        with pytest.raises(SmartError, match=str(nobody.port)) as caught:
            ask()
        assert "not-to-be-shown" not in str(caught.value)
