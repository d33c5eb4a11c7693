"""What everybody may expect of the map, whatever is behind it (`atlas/directory.py`)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from atlas.directory import Directory
from atlas.model import Author, Instance, Lease, Ruling, Service
from atlas.world import Delta, Position, World
from smartrealm.errors import Conflict, NotFound, ValidationFailed
from tests.processes import wait_until
from tests.stores.conftest import OpenDirectory

ANNA = Author("anna", "because")
BEN = Author("ben")
IDENTITY = Service("identity", owner="accounts", description="Who is who — für alle", port=8000, timeout_seconds=2.5)
JSON_VALUES = [None, True, 0, -1.5, "", "text — ü", [1, [2], {}], {"a": {"b": [None]}}, 2**53, "x" * 20_000]


def lease(*ports: int, name: str = "host-1", incarnation: str = "i1", service: str = "identity", **more: Any) -> Lease:
    """A lease with one instance on each port."""
    instances = tuple(Instance(service, "127.0.0.1", port, **more) for port in ports)
    return Lease(name, incarnation, 15.0, instances)


def places(directory: Directory, service: str = "identity") -> list[str]:
    """Where a service runs, by the map."""
    return sorted(directory.world().instances.get(service, {}))


def eventually(read: Callable[[], object], expected: object) -> None:
    """Another client may hear of it a little later."""
    wait_until(lambda: read() == expected, what=f"{expected!r}, not {read()!r},")


# -- the catalogue -----------------------------------------------------------------------------------------------------


def test_a_new_map_is_empty(directory: Directory) -> None:
    """Nothing is in a fresh map, and it has no history."""
    world = directory.world()
    assert (world.services, world.overrides, world.rulings, world.instances) == ({}, {}, {}, {})
    assert directory.history() == []


def test_a_service_is_read_back(open_directory: OpenDirectory) -> None:
    """What one client records of a service, another one reads, field by field."""
    one, two = open_directory(), open_directory()
    assert one.put_service(IDENTITY, by=ANNA) == 1
    assert one.world().services == {"identity": IDENTITY}
    eventually(lambda: two.world().services, {"identity": IDENTITY})
    assert two.world().position.revision == 1


def test_fields_of_a_service_are_changed_alone(open_directory: OpenDirectory) -> None:
    """What two clients change of one service, each without having heard of the other, both stays."""
    one, two = open_directory(), open_directory()
    one.put_service(IDENTITY, by=ANNA)
    one.change_service("identity", {"split": "1.4=5%"}, by=ANNA)
    assert two.change_service("identity", {"callers": "orders"}, by=BEN) == 3
    wanted = replace(IDENTITY, split="1.4=5%", callers="orders")
    eventually(lambda: one.world().services["identity"], wanted)
    assert one.change_service("identity", {"callers": "orders"}, by=ANNA) == 3
    one.change_service("billing", {"port": 8001}, by=ANNA)
    assert one.world().services["billing"] == Service("billing", port=8001)


def test_a_change_of_nothing_makes_no_revision(directory: Directory) -> None:
    """Saying again what is known gives the present revision and leaves no trace."""
    directory.put_service(IDENTITY, by=ANNA)
    directory.set_override("identity", "LIMIT", 5, by=ANNA)
    assert directory.put_service(IDENTITY, by=BEN) == 2
    assert directory.set_override("identity", "LIMIT", 5, by=BEN) == 2
    assert len(directory.history()) == 2


def test_equal_is_equal_as_json(directory: Directory) -> None:
    """1, 1.0 and true are three settings."""
    assert [directory.set_override("identity", "LIMIT", value, by=ANNA) for value in (1, True, 1.0, 1)] == [1, 2, 3, 4]


def test_impossible_things_are_refused(directory: Directory) -> None:
    """What breaks the rules of the model is refused with ValidationFailed, and nothing is written."""
    attempts: list[Callable[[], object]] = [
        lambda: directory.put_service(Service("Not A Name"), by=ANNA),
        lambda: directory.put_service(Service("identity", port=70_000), by=ANNA),
        lambda: directory.change_service("identity", {"port": 70_000}, by=ANNA),
        lambda: directory.change_service("identity", {"colour": "red"}, by=ANNA),
        lambda: directory.set_override("identity", "lower", 1, by=ANNA),
        lambda: directory.set_override("Bad Scope", "KEY", 1, by=ANNA),
        lambda: directory.set_override("identity", "KEY", "x" * 100_000, by=ANNA),
        lambda: directory.hold(Lease("host 1", "i1")),
        lambda: directory.hold(lease(0)),
        lambda: directory.hold(Lease("sidecar@h1", "i1", report={"sessions": {"identity/h1:8000": "many"}})),
        lambda: directory.hold(Lease("sidecar@h1", "i1", report={"newer": "x" * 200_000})),
        lambda: directory.create_token("king", "anna", by=ANNA),
    ]
    for attempt in attempts:
        with pytest.raises(ValidationFailed):
            attempt()
    assert directory.world().position.revision == 0
    assert directory.world().leases == {}


def test_a_service_goes_with_what_belongs_to_it(directory: Directory) -> None:
    """Removing a service takes its overrides and rulings along in one change, and leaves those of others."""
    directory.put_service(IDENTITY, by=ANNA)
    directory.put_service(Service("billing"), by=ANNA)
    directory.set_override("identity", "LIMIT", 5, by=ANNA)
    directory.set_override("*", "LIMIT", 6, by=ANNA)
    directory.rule(Ruling("identity", "127.0.0.1", 8000, "draining"), by=ANNA)
    directory.remove_service("identity", by=BEN)
    world = directory.world()
    assert (set(world.services), set(world.overrides), set(world.rulings)) == ({"billing"}, {"*/LIMIT"}, set())
    assert len(directory.history(limit=1)[0].edits) == 3


def test_a_service_that_runs_is_removed_by_force_only(directory: Directory) -> None:
    """Conflict while it has instances."""
    directory.put_service(IDENTITY, by=ANNA)
    directory.hold(lease(8000))
    with pytest.raises(Conflict, match="identity"):
        directory.remove_service("identity", by=ANNA)
    directory.remove_service("identity", by=ANNA, force=True)
    assert directory.world().services == {}


def test_an_unknown_name_brings_the_near_ones(directory: Directory) -> None:
    """NotFound says what was probably meant."""
    directory.put_service(IDENTITY, by=ANNA)
    directory.set_override("identity", "REQUEST_LIMIT", 5, by=ANNA)
    with pytest.raises(NotFound, match="identity"):
        directory.remove_service("identty", by=ANNA)
    with pytest.raises(NotFound, match="REQUEST_LIMIT"):
        directory.unset_override("identity", "REQEST_LIMIT", by=ANNA)
    with pytest.raises(NotFound, match="identity"):
        directory.rule(Ruling("identiti", "127.0.0.1", 8000, "disabled"), by=ANNA)


def test_ports_are_claimed_once(open_directory: OpenDirectory) -> None:
    """Clients that claim ports at the same moment get different ones; who comes again gets the same."""
    clients = [open_directory() for _ in range(2)]
    found: list[Service] = []

    def claim(client: Directory, name: str) -> None:
        found.append(client.claim_port(Service(name), by=ANNA, ports=range(8000, 8100)))

    threads = [threading.Thread(target=claim, args=(clients[i % 2], f"service-{i}")) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(service.port or 0 for service in found) == [8000, 8001, 8002, 8003, 8004, 8005]
    again = clients[0].claim_port(Service("service-3", owner="new"), by=BEN, ports=range(8000, 8100))
    assert again in found
    with pytest.raises(Conflict):
        clients[0].claim_port(Service("late"), by=ANNA, ports=[8000, 8001])


# -- overrides ---------------------------------------------------------------------------------------------------------


def test_every_json_value_is_kept_as_it_is(directory: Directory) -> None:
    """An override holds any JSON value, with its author, time and revision."""
    begun = time.time()
    for number, value in enumerate(JSON_VALUES):
        directory.set_override("identity", f"KEY_{number}", value, by=ANNA)
    found = directory.world().overrides
    assert [found[f"identity/KEY_{number}"].value for number in range(len(JSON_VALUES))] == JSON_VALUES
    last = found[f"identity/KEY_{len(JSON_VALUES) - 1}"]
    assert (last.author, last.revision) == ("anna", len(JSON_VALUES))
    assert begun - 60 < last.at < time.time() + 60


def test_an_override_is_taken_away(directory: Directory) -> None:
    """Unset leaves no override, and is NotFound the second time."""
    directory.set_override("identity", "LIMIT", 5, by=ANNA)
    assert directory.unset_override("identity", "LIMIT", by=ANNA) == 2
    assert directory.world().overrides == {}
    with pytest.raises(NotFound):
        directory.unset_override("identity", "LIMIT", by=ANNA)


def test_the_shared_scope_comes_before_the_own(directory: Directory) -> None:
    """What is set for a service is listed after what is set for all, so that it wins."""
    directory.set_override("identity", "LIMIT", 5, by=ANNA)
    directory.set_override("*", "LIMIT", 6, by=ANNA)
    directory.set_override("billing", "LIMIT", 7, by=ANNA)
    assert [override.value for override in directory.world().overrides_of("identity")] == [6, 5]


def test_a_secret_is_seen_by_its_service_only(open_directory: OpenDirectory) -> None:
    """The value of a secret is given to its service (a shared one to every service) and to nobody else."""
    nobody, identity, billing = open_directory(), open_directory("identity"), open_directory("billing")
    nobody.set_override("identity", "API_KEY", "s3cret", by=ANNA, secret=True)
    nobody.set_override("*", "SHARED_KEY", ["a", 1], by=ANNA, secret=True)
    expected = {nobody: (None, None), identity: ("s3cret", ["a", 1]), billing: (None, ["a", 1])}
    for directory, (own, shared) in expected.items():
        eventually(lambda directory=directory: directory.world().position.revision, 2)  # type: ignore[misc]
        found = directory.world().overrides
        assert (found["identity/API_KEY"].value, found["*/SHARED_KEY"].value) == (own, shared)
        assert found["identity/API_KEY"].hidden == (own is None)
        assert found["identity/API_KEY"].secret


def test_a_secret_is_told_to_its_service_while_it_waits(open_directory: OpenDirectory) -> None:
    """A delta opens a secret for its service and hides it from others."""
    writer, identity, billing = open_directory(), open_directory("identity"), open_directory("billing")
    writer.put_service(IDENTITY, by=ANNA)
    eventually(lambda: identity.world().position.revision, 1)
    eventually(lambda: billing.world().position.revision, 1)
    positions = [identity.world().position, billing.world().position]
    writer.set_override("identity", "API_KEY", "s3cret", by=ANNA, secret=True)
    for reader, position, value in ((identity, positions[0], "s3cret"), (billing, positions[1], None)):
        world = follow(reader, reader.world() if position.epoch == "" else World(position), 2)
        assert world.overrides["identity/API_KEY"].value == value


def test_history_masks_secrets(directory: Directory) -> None:
    """Neither the history nor an error nor a repr shows a secret."""
    directory.set_override("identity", "API_KEY", "s3cret", by=ANNA, secret=True)
    directory.set_override("identity", "API_KEY", "s4cret", by=ANNA, secret=True)
    told = repr(directory.world()) + repr([(edit.before, edit.after) for c in directory.history() for edit in c.edits])
    assert "3cret" not in told
    assert "4cret" not in told
    assert "sealed" not in told
    assert len(directory.history()) == 2


def test_a_secret_stays_a_secret(directory: Directory) -> None:
    """Setting it again without saying so does not show it to everybody."""
    directory.set_override("identity", "API_KEY", "s3cret", by=ANNA, secret=True)
    directory.set_override("identity", "API_KEY", "s4cret", by=ANNA)
    assert directory.world().overrides["identity/API_KEY"].secret
    assert directory.world().overrides["identity/API_KEY"].value is None


# -- rulings -----------------------------------------------------------------------------------------------------------


def test_the_operators_word_is_above_the_instance(directory: Directory) -> None:
    """A ruling changes state and weight, says who, when and why, survives a restart, and is lifted by `enabled`."""
    directory.put_service(IDENTITY, by=ANNA)
    directory.hold(lease(8000, 8001))
    ruling = Ruling("identity", "127.0.0.1", 8000, "disabled", weight=7, reason="it burns", expires_at=4e9)
    directory.rule(ruling, by=ANNA)
    directory.release("host-1", "i1")
    directory.hold(lease(8000, 8001, incarnation="i2"))
    first, second = sorted(directory.world().places("identity"), key=lambda place: place.instance.port)
    assert (first.state, first.weight, second.state, second.weight) == ("disabled", 7, "enabled", 100)
    assert first.ruling is not None
    assert (first.ruling.author, first.ruling.reason, first.ruling.expires_at) == ("anna", "it burns", 4e9)
    directory.rule(Ruling("identity", "127.0.0.1", 8000), by=ANNA)
    assert directory.world().rulings == {}


def test_the_last_instance_is_disabled_by_force_only(directory: Directory) -> None:
    """Conflict when a service would be left without an enabled instance; so it is with a weight of 0."""
    directory.put_service(IDENTITY, by=ANNA)
    directory.hold(lease(8000, 8001))
    directory.rule(Ruling("identity", "127.0.0.1", 8000, "draining"), by=ANNA)
    for ruling in (Ruling("identity", "127.0.0.1", 8001, "disabled"), Ruling("identity", "127.0.0.1", 8001, weight=0)):
        with pytest.raises(Conflict, match="identity"):
            directory.rule(ruling, by=ANNA)
    directory.rule(Ruling("identity", "127.0.0.1", 8001, "disabled"), by=ANNA, force=True)
    assert directory.world().callable_places("identity") == ()


# -- history and rollback ----------------------------------------------------------------------------------------------


def test_history_says_who_what_when_and_why(directory: Directory) -> None:
    """Each change has its author, time and reason, and from which value to which; the newest comes first."""
    directory.set_override("identity", "LIMIT", 5, by=ANNA)
    directory.set_override("identity", "LIMIT", 6, by=Author("ben — ü", "zu wenig"))
    new, old = directory.history()
    assert [(change.revision, change.author, change.why) for change in (new, old)] == [
        (2, "ben — ü", "zu wenig"),
        (1, "anna", "because"),
    ]
    (edit,) = new.edits
    assert (edit.kind, edit.key) == ("override", "identity/LIMIT")
    assert edit.before is not None
    assert edit.after is not None
    assert (edit.before["value"], edit.after["value"]) == (5, 6)
    assert old.edits[0].before is None
    assert 0 < old.at <= new.at


def test_history_goes_back_to_the_beginning(directory: Directory) -> None:
    """More changes than fit in one document are there, each once, by page, by kind and by key."""
    for number in range(69):
        directory.set_override("identity" if number % 3 else "*", "LIMIT", number, by=ANNA)
    found = directory.history(limit=30)
    while found[-1].revision > 1:
        found += directory.history(limit=30, before=found[-1].revision)
    assert [change.revision for change in found] == list(range(69, 0, -1))
    shared = directory.history(kind="override", key="*/LIMIT", limit=1000)
    assert [change.revision for change in shared] == list(range(67, 0, -3))
    assert directory.history(kind="service") == []


def test_one_key_is_rolled_back(directory: Directory) -> None:
    """Only the key that was named goes back to what it was, as a new change with its author."""
    directory.set_override("identity", "LIMIT", 5, by=ANNA)
    directory.set_override("identity", "LIMIT", 6, by=ANNA)
    directory.set_override("identity", "OTHER", 7, by=ANNA)
    assert directory.rollback(1, by=BEN, kind="override", key="identity/LIMIT") == 4
    found = directory.world().overrides
    assert (found["identity/LIMIT"].value, found["identity/OTHER"].value) == (5, 7)
    assert (found["identity/LIMIT"].author, found["identity/LIMIT"].revision) == ("ben", 4)
    assert directory.rollback(0, by=BEN, kind="override", key="identity/LIMIT") == 5
    assert set(directory.world().overrides) == {"identity/OTHER"}
    assert directory.rollback(4, by=BEN, kind="override", key="identity/LIMIT") == 6
    assert directory.world().overrides["identity/LIMIT"].value == 5


def test_the_map_is_rolled_back(open_directory: OpenDirectory) -> None:
    """The whole catalogue goes back in one change, secrets too; tokens stay as they are."""
    directory = open_directory("identity")
    directory.put_service(IDENTITY, by=ANNA)
    directory.set_override("identity", "API_KEY", "first", by=ANNA, secret=True)
    good = directory.world()
    text, token = directory.create_token("reader", "anna", by=ANNA)
    assert text
    directory.set_override("identity", "API_KEY", "second", by=ANNA, secret=True)
    directory.put_service(Service("billing"), by=ANNA)
    directory.remove_service("identity", by=ANNA)
    directory.rollback(good.position.revision, by=BEN)
    world = directory.world()
    assert world.services == good.services
    assert world.overrides["identity/API_KEY"].value == "first"
    assert directory.rollback(good.position.revision, by=BEN) == world.position.revision
    assert directory.revoke_token(token.id, by=ANNA) == world.position.revision + 1


def test_there_is_no_way_back_to_what_never_was(directory: Directory) -> None:
    """A revision of the future is NotFound."""
    directory.put_service(IDENTITY, by=ANNA)
    with pytest.raises(NotFound):
        directory.rollback(7, by=ANNA)


# -- following ---------------------------------------------------------------------------------------------------------


def follow(directory: Directory, world: World, revision: int, presence: int = 0, seconds: float = 10) -> World:
    """The world as a reader has it that applies what `wait` gives, until it has come so far."""
    end = time.monotonic() + seconds
    while world.position.revision < revision or world.position.presence < presence:
        assert time.monotonic() < end, f"only at {world.position}"
        update = directory.wait(world.position, 2)
        if update is not None:
            world = world.apply(update) if isinstance(update, Delta) else update
    return world


def test_a_reader_that_knows_nothing_gets_everything(directory: Directory) -> None:
    """The first position gives the complete world at once, and so does one of another epoch."""
    directory.put_service(IDENTITY, by=ANNA)
    for position in (Position(), Position("another", 1, 0), Position("another", 10**6, 10**6)):
        update = directory.wait(position, 10)
        assert isinstance(update, World)
        assert update.services == {"identity": IDENTITY}


def test_no_news_is_none(directory: Directory) -> None:
    """Waiting without a change ends with None after its seconds, and at once when it has none."""
    directory.put_service(IDENTITY, by=ANNA)
    position = directory.world().position
    begun = time.monotonic()
    assert directory.wait(position, 0) is None
    assert directory.wait(position, 0.5) is None
    assert time.monotonic() - begun < 10


def test_readers_hear_of_catalogue_and_presence(open_directory: OpenDirectory) -> None:
    """A reader that applies what it is told has the same world as one who reads everything."""
    writer, reader = open_directory(), open_directory()
    writer.put_service(IDENTITY, by=ANNA)
    writer.hold(lease(8000, 8001))
    eventually(lambda: (reader.world().position.revision, reader.world().position.presence), (1, 1))
    world = reader.world()
    writer.set_override("identity", "LIMIT", 5, by=ANNA)
    writer.hold(lease(8001, 8002))
    writer.rule(Ruling("identity", "127.0.0.1", 8001, weight=5), by=ANNA)
    writer.unset_override("identity", "LIMIT", by=ANNA)
    update = reader.wait(world.position, 10)
    assert isinstance(update, Delta)
    assert update.since == world.position
    world = follow(reader, world.apply(update), 4, 2)
    assert list(world.items()) == list(writer.world().items())
    assert world.position == writer.world().position


def test_a_change_is_told_soon(open_directory: OpenDirectory) -> None:
    """Who waits hears within a second of what another client wrote."""
    writer, reader = open_directory(), open_directory()
    writer.put_service(IDENTITY, by=ANNA)
    eventually(lambda: reader.world().position.revision, 1)
    position, told = reader.world().position, []
    thread = threading.Thread(target=lambda: told.append((reader.wait(position, 20), time.monotonic())))
    thread.start()
    time.sleep(0.3)
    begun = time.monotonic()
    writer.set_override("*", "LIMIT", 5, by=ANNA)
    thread.join()
    assert told[0][0] is not None
    assert told[0][1] - begun < 1 + writer.status()["catalogue"]["poll_seconds"]


def test_a_reader_far_behind_catches_up(open_directory: OpenDirectory) -> None:
    """Whatever was missed, with a delta or with everything, the world is the same in the end."""
    writer, reader = open_directory(), open_directory()
    writer.put_service(IDENTITY, by=ANNA)
    eventually(lambda: reader.world().position.revision, 1)
    world = reader.world()
    for number in range(40):
        writer.set_override("identity", f"KEY_{number % 7}", number, by=ANNA)
    world = follow(reader, world, 41)
    assert list(world.items()) == list(writer.world().items())


def test_concurrent_writers_lose_nothing(open_directory: OpenDirectory) -> None:
    """Changes that several clients make at once are all there, one revision each."""
    clients = [open_directory() for _ in range(3)]
    clients[0].put_service(IDENTITY, by=ANNA)
    revisions: list[int] = []

    def write(number: int) -> None:
        client = clients[number]
        revisions.extend(client.set_override("identity", f"KEY_{number}_{step}", step, by=ANNA) for step in range(8))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(revisions) == list(range(2, 26))
    eventually(lambda: len(clients[2].world().overrides), 24)
    assert [change.revision for change in clients[1].history()] == list(range(25, 0, -1))


# -- presence ----------------------------------------------------------------------------------------------------------


def test_a_lease_carries_its_instances(directory: Directory) -> None:
    """Holding a lease puts exactly its instances on the map, each with all that it says of itself."""
    directory.hold(lease(8000, 8001, zone="a", version="1.2", weight=50, draining=True))
    world = directory.world()
    assert world.instances["identity"]["127.0.0.1:8001"] == Instance(
        "identity", "127.0.0.1", 8001, "a", "1.2", 50, True, "", "host-1"
    )
    assert world.leases["host-1"].incarnation == "i1"
    assert world.leases["host-1"].ttl_seconds == 15.0
    directory.hold(lease(8001, 8002))
    assert places(directory) == ["127.0.0.1:8001", "127.0.0.1:8002"]


def test_renewing_changes_nothing(directory: Directory) -> None:
    """A renewal moves neither position, whatever the number of instances."""
    held = lease(*range(8000, 8020))
    directory.hold(held)
    position = directory.world().position
    for _ in range(5):
        directory.hold(held)
    assert directory.world().position == position


def test_a_lease_is_renewed_through_any_replica(open_directory: OpenDirectory) -> None:
    """A holder that asks another client with every renewal is known to each."""
    clients = [open_directory() for _ in range(3)]
    held = lease(8000)
    clients[0].hold(held)
    for client in (clients[1], clients[2], clients[0], clients[1], clients[0]):
        client.hold(held)
    clients[2].release("host-1", "i1")
    eventually(lambda: places(clients[0]), [])
    clients[0].hold(held)
    eventually(lambda: places(clients[1]), ["127.0.0.1:8000"])


def test_leaving_takes_everything_along(directory: Directory) -> None:
    """Release removes the lease and its instances at once; twice is once; it can be held again."""
    directory.hold(lease(8000, 8001))
    directory.hold(lease(9000, name="host-2", service="billing"))
    directory.release("host-1", "i1")
    directory.release("host-1", "i1")
    assert places(directory) == []
    assert places(directory, "billing") == ["127.0.0.1:9000"]
    assert set(directory.world().leases) == {"host-2"}
    directory.hold(lease(8000))
    assert places(directory) == ["127.0.0.1:8000"]


def test_the_old_incarnation_does_not_remove_the_new_one(open_directory: OpenDirectory) -> None:
    """A holder that was restarted keeps its place, whatever the process before it still does."""
    old, new = open_directory(), open_directory()
    old.hold(lease(8000, incarnation="old"))
    new.hold(lease(8000, incarnation="new"))
    old.release("host-1", "old")
    eventually(lambda: places(new), ["127.0.0.1:8000"])
    with pytest.raises(Conflict):
        old.hold(lease(8000, 8001, incarnation="old"))
    assert new.world().leases["host-1"].incarnation == "new"
    assert places(new) == ["127.0.0.1:8000"]


def test_an_address_belongs_to_who_took_it_last(directory: Directory) -> None:
    """Two leases at one address: the newer carries it, and the older one leaves without it."""
    directory.hold(lease(8000, name="process"))
    directory.hold(lease(8000, name="agent"))
    assert directory.world().instances["identity"]["127.0.0.1:8000"].lease == "agent"
    directory.hold(lease(8000, name="process"))
    directory.release("process", "i1")
    assert places(directory) == ["127.0.0.1:8000"]
    directory.release("agent", "i1")
    assert places(directory) == []


def test_a_holder_may_carry_nothing_yet(directory: Directory) -> None:
    """A lease without instances is a lease."""
    directory.hold(lease())
    assert set(directory.world().leases) == {"host-1"}
    directory.hold(lease(8000))
    directory.hold(lease())
    assert places(directory) == []


def test_every_lease_id_has_its_own_place(directory: Directory) -> None:
    """Ids that differ in one character are different leases."""
    ids = ["a", "A", "a.b", "a-b", "a_b", "a_2d_b", "a@b:80", "a@[::1]:80"]
    for number, name in enumerate(ids):
        directory.hold(lease(8000 + number, name=name))
    assert set(directory.world().leases) == set(ids)
    assert len(places(directory)) == len(ids)
    for name in ids[1:]:
        directory.release(name, "i1")
    assert places(directory) == ["127.0.0.1:8000"]


def test_a_report_is_read_by_everybody_and_wakes_nobody(open_directory: OpenDirectory) -> None:
    """What a sidecar says of itself with each renewal is there for every client, and moves neither position; a lease without
    instances may have one, and one that is given back has none."""
    sidecar, other = open_directory(), open_directory()
    told: dict[str, Any] = {"revision": 3, "presence": 7, "epoch": "e", "sessions": {"identity/127.0.0.1:8000": 2}}
    sidecar.hold(Lease("sidecar@h1", "i1", 20.0, report={**told, "newer": "word"}))
    sidecar.hold(lease(8000, name="host-2"))
    eventually(lambda: set(other.world().leases), {"sidecar@h1", "host-2"})
    position = other.world().position
    found = other.reports()["sidecar@h1"]
    assert set(other.reports()) == {"sidecar@h1"}
    assert (found.host, found.revision, found.presence, found.epoch, found.ttl_seconds) == ("h1", 3, 7, "e", 20.0)
    assert found.sessions == {"identity/127.0.0.1:8000": 2}
    assert abs(found.at - time.time()) < 60
    sidecar.hold(Lease("sidecar@h1", "i1", 20.0, report={**told, "revision": 4, "sessions": {}, "holding": 1}))
    found = other.reports()["sidecar@h1"]
    assert (found.revision, found.sessions, found.holding) == (4, {}, 1)
    assert other.wait(position, 0.1) is None
    assert other.world().leases["sidecar@h1"].report == {}
    sidecar.release("sidecar@h1", "i1")
    assert other.reports() == {}


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_is_shown_once(directory: Directory) -> None:
    """The text is given to its maker, only a digest is kept, and neither is in the history."""
    text, token = directory.create_token("service", "identity", by=ANNA, expires_at=4e9)
    assert len(text) > 40
    assert (token.role, token.subject, token.expires_at) == ("service", "identity", 4e9)
    told = repr([(edit.before, edit.after) for change in directory.history() for edit in change.edits])
    assert "identity" in told
    assert text not in told
    assert token.digest not in told
    directory.revoke_token(token.id, by=ANNA)
    with pytest.raises(NotFound):
        directory.revoke_token(token.id, by=ANNA)


# -- moving ------------------------------------------------------------------------------------------------------------


def fill(directory: Directory) -> None:
    """Something of everything, and more history than fits in one document."""
    directory.put_service(IDENTITY, by=ANNA)
    directory.claim_port(Service("billing"), by=BEN)
    directory.hold(lease(8000, 8001, zone="b"))
    directory.hold(lease(9000, name="host-2", service="billing"))
    directory.rule(Ruling("identity", "127.0.0.1", 8000, "draining", reason="ü"), by=ANNA)
    directory.create_token("reader", "anna", by=ANNA)
    directory.set_override("identity", "API_KEY", "s3cret", by=ANNA, secret=True)
    for number in range(34):
        directory.set_override("*", "LIMIT", number, by=ANNA)
    directory.unset_override("*", "LIMIT", by=Author("ben — ü", "zu viel"))


def test_a_map_is_moved_whole(open_directory: OpenDirectory, open_other: OpenDirectory) -> None:
    """What an export gives makes the same map elsewhere: history, revisions, authors, times, tokens, leases, secrets."""
    source, target = open_directory("identity"), open_other("identity")
    fill(source)
    records = list(source.export())
    assert "s3cret" not in repr(records)
    assert target.import_(records) == source.world().position.revision
    assert list(target.export())[1:] == records[1:]
    assert list(target.world().items()) == list(source.world().items())
    assert target.history(limit=1000) == source.history(limit=1000)
    assert target.world().position.epoch != source.world().position.epoch
    assert target.world().overrides["identity/API_KEY"].value == "s3cret"


def test_a_moved_map_lives_on(open_directory: OpenDirectory, open_other: OpenDirectory) -> None:
    """Holders renew at the new place without a change, history goes on, and rollback reaches behind the move."""
    source, target = open_other(), open_directory()
    fill(source)
    target.import_(source.export())
    position = target.world().position
    target.hold(lease(8000, 8001, zone="b"))
    assert target.world().position == position
    assert target.set_override("*", "LIMIT", "new", by=ANNA) == position.revision + 1
    target.rollback(20, by=ANNA, kind="override", key="*/LIMIT")
    assert target.world().overrides["*/LIMIT"].value == 14
    target.release("host-1", "i1")
    assert places(target) == []


def test_only_an_empty_map_is_filled(open_directory: OpenDirectory, open_other: OpenDirectory) -> None:
    """Importing over something is a Conflict, and leaves it as it was."""
    source, target = open_other(), open_directory()
    fill(source)
    target.put_service(Service("here"), by=ANNA)
    with pytest.raises(Conflict):
        target.import_(source.export())
    assert set(target.world().services) == {"here"}


def test_a_damaged_export_is_refused(open_directory: OpenDirectory, open_other: OpenDirectory) -> None:
    """Records that are missing or were never an export leave the map empty."""
    source, target = open_other(), open_directory()
    fill(source)
    records = list(source.export())
    cut: list[list[Mapping[str, Any]]] = [[], [{}], records[1:], records[:-1], records[:5] + records[6:]]
    for damaged in (*cut, [records[0], {"change": {}}]):
        with pytest.raises(ValidationFailed):
            target.import_(damaged)
    assert target.world().position.revision == 0
    assert target.import_(records) == source.world().position.revision


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_the_status_names_store_position_and_leases(directory: Directory) -> None:
    """What `atlas doctor` needs is there: guarantees, position, each lease and whether it is overdue."""
    directory.put_service(IDENTITY, by=ANNA)
    directory.hold(lease(8000, 8001))
    status = directory.status()
    assert status["catalogue"]["name"]
    assert status["presence"]["survives"]
    assert status["position"] == str(directory.world().position)
    (told,) = status["leases"]
    assert (told["id"], told["instances"], told["overdue"]) == ("host-1", 2, False)
    assert (status["held_back"], status["overdue"]) == (False, [])


def test_a_map_that_was_used_before_a_fork_works_in_the_child(open_directory: OpenDirectory) -> None:
    """Parent and child write and wait on, each with connections of its own."""
    directory = open_directory()
    directory.put_service(IDENTITY, by=ANNA)
    position = directory.world().position
    directory.wait(position, 0.1)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            directory.set_override("*", "CHILD", 1, by=ANNA)
            update = directory.wait(position, 10)
            directory.hold(lease(8000))
            code = 0 if update is not None else 2
        finally:
            os._exit(code)
    directory.set_override("*", "PARENT", 1, by=ANNA)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    world = follow(directory, directory.world(), 3, 1)
    assert set(world.overrides) == {"*/CHILD", "*/PARENT"}
    assert len(world.callable_places("identity")) == 1
