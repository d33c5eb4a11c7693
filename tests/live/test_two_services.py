"""Two services in one realm: found by name, configured from the map, there and gone as they start and stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from atlas import Author
from tests.atlas_server import ServedAtlas
from tests.processes import wait_until
from tests.realm import IDENTITY, ORDERS, Realm, Running
from tests.store_servers import shared


@contextmanager
def shared_file(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder / 'atlas.db'}"


@contextmanager
def served_over_zookeeper_and_dynamodb(folder: Path) -> Iterator[str]:
    """An `atlas serve` whose catalogue is in DynamoDB and whose presence is in ZooKeeper."""
    with ServedAtlas(folder / "atlas", f"{shared.url('dynamodb')} + {shared.url('zookeeper')}") as served:
        yield served.url


ONE_FILE = pytest.param(shared_file, id="one file")
SERVED = pytest.param(
    served_over_zookeeper_and_dynamodb,
    id="atlas serve over dynamodb and zookeeper",
    marks=[pytest.mark.needs("zookeeper", "dynalite")],
)


@pytest.fixture
def realm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Realm]:
    with ExitStack() as stack:
        made = Realm(tmp_path, stack.enter_context(request.param(tmp_path)))
        stack.callback(made.close)
        yield made


@pytest.mark.parametrize("realm", [ONE_FILE, SERVED], indirect=True)
def test_the_second_calls_the_first_by_name_and_both_follow_the_map(realm: Realm) -> None:
    """The same two services on one file and on a served map: calls by name, context passed on, overrides at run time."""
    identity = realm.start("identity", IDENTITY)
    orders = realm.start("orders", ORDERS)
    wait_until(lambda: realm.addresses("identity") and realm.addresses("orders"), what="both are in the map")
    assert realm.addresses("identity") == [identity.address]

    found = orders.json("/orders", **{"X-Request-ID": "abc-1", "Smart-Deadline": "20000"})["identity"]
    assert (found["salutation"], found["name"], found["caller"], found["request"]) == (
        "Hello",
        "Ada",
        "orders",
        "abc-1",
    )
    assert 0 < found["milliseconds"] <= 5000
    unknown = orders.get("/nobody")
    assert unknown.status_code >= 500
    assert "identiti is not registered in realm local; did you mean identity?" in orders.child.text()

    by = Author("anna", "a warmer tone")
    realm.directory.set_override("identity", "SALUTATION", "Good evening", by=by)
    realm.directory.set_override("*", "CURRENCY", "SEK", by=by)
    for _ in range(10):  # every worker of both, each within its second
        wait_until(lambda: _tone(orders) == ("SEK", "Good evening"))


def _tone(orders: Running) -> tuple[str, str]:
    answer = orders.json("/orders")
    return answer["currency"], answer["identity"]["salutation"]


@pytest.mark.parametrize("realm", [ONE_FILE], indirect=True)
def test_an_instance_drains_and_leaves_while_its_callers_lose_nothing(realm: Realm) -> None:
    """One of two instances is stopped under load: it drains in the map first, then it is gone; no call fails."""
    first = realm.start("identity", IDENTITY)
    second = realm.start("identity", IDENTITY)
    orders = realm.start("orders", ORDERS)
    wait_until(lambda: len(realm.addresses("identity")) == 2, what="both instances are in the map")
    assert [orders.get("/orders").status_code for _ in range(20)] == [200] * 20
    first.child.signal(signal.SIGTERM)
    seen_draining, statuses = False, []
    while first.child.process.poll() is None:
        statuses.append(orders.get("/orders").status_code)
        seen_draining = seen_draining or realm.addresses("identity", "draining") == [first.address]
    statuses += [orders.get("/orders").status_code for _ in range(20)]
    assert set(statuses) == {200}
    assert seen_draining
    wait_until(lambda: realm.addresses("identity") == [second.address], what="the stopped instance is gone")
    assert not realm.addresses("identity", "draining")


@pytest.mark.parametrize("realm", [SERVED], indirect=True)
def test_an_instance_that_dies_is_gone_when_its_lease_is_over(realm: Realm) -> None:
    """kill -9 leaves an instance in the map for its lease at most; meanwhile its callers are served by the other one."""
    first = realm.start("identity", IDENTITY)
    second = realm.start("identity", IDENTITY)
    orders = realm.start("orders", ORDERS)
    wait_until(lambda: len(realm.addresses("identity")) == 2, what="both instances are in the map")
    os.killpg(first.child.pid, signal.SIGKILL)
    first.child.process.wait(30)
    assert {orders.get("/orders").status_code for _ in range(30)} == {200}
    wait_until(lambda: realm.addresses("identity") == [second.address], what="the lease is over")


@pytest.mark.parametrize("realm", [ONE_FILE], indirect=True)
def test_a_worker_that_is_replaced_leaves_the_registration_untouched(realm: Realm) -> None:
    """Killing the worker that speaks for the instance changes nothing in the map: another one takes over."""
    identity = realm.start("identity", IDENTITY)
    wait_until(lambda: realm.addresses("identity"), what="it is in the map")
    before = {lease.id: lease.opened_at for lease in realm.directory.world().leases.values()}
    for pid in _children(identity.child.pid):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(_children(identity.child.pid)) == 2 and identity.is_ready())
    time.sleep(4.5)  # longer than the lease: somebody has renewed it
    assert realm.addresses("identity") == [identity.address]
    assert {lease.id: lease.opened_at for lease in realm.directory.world().leases.values()} == before


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
