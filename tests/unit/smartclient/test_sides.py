"""A split on the direct route: each call goes to the side that its bucket belongs to."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from atlas.model import Instance, Service
from atlas.splits import bucket_of
from atlas.world import World
from smartclient.peers import Peer
from smartclient.runtime import Mesh, Options


def world_with(split: str, versions: dict[int, str]) -> World:
    """A map with one service and an instance for each port."""
    instances = {
        f"10.0.0.1:{port}": Instance("identity", "10.0.0.1", port, version=versions[port]) for port in versions
    }
    return World(services={"identity": Service("identity", split=split)}, instances={"identity": instances})


VERSIONS = {1: "1.3", 2: "1.3", 3: "1.4", 4: "1.5"}


class Caller:
    """A process with a map that may change."""

    def __init__(self, folder: Path, world: World) -> None:
        self.world = world
        self.mesh = Mesh(Options(state_dir=str(folder)), world=lambda: self.world)

    def peer(self) -> Peer:
        return self.mesh.peer("identity")

    def ports(self, bucket: int) -> set[int]:
        """Where calls of this bucket may go."""
        return {member.socket_address[1] for member in self.peer().side_of(bucket).members}


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    return Caller(tmp_path, world_with("1.4=5%,1.5=10%", VERSIONS))


@pytest.mark.parametrize(
    ("bucket", "ports"), [(0, {3}), (499, {3}), (500, {4}), (1499, {4}), (1500, {1, 2}), (9999, {1, 2})]
)
def test_a_bucket_is_on_one_side(caller: Caller, bucket: int, ports: set[int]) -> None:
    """A share takes the buckets from where the share before it ends up to its limit; the rest goes to the versions of none."""
    assert caller.ports(bucket) == ports


def test_a_split_gives_each_side_its_share(caller: Caller) -> None:
    """Of 2,000 users about five in a hundred reach the first share, and most the rest."""
    reached = Counter(min(caller.ports(bucket_of(f"user-{number}", "local"))) for number in range(2000))
    assert 70 <= reached[3] <= 130
    assert reached[1] > 1500


def test_a_split_may_begin_change_and_end_while_calls_go_on(caller: Caller) -> None:
    """Each change of the map is in force with the next call, and no connection is thrown away for it."""
    caller.world = world_with("", VERSIONS)
    assert caller.ports(0) == {1, 2, 3, 4}
    assert not caller.peer().sides
    caller.world = world_with("1.5=50%", VERSIONS)
    assert (caller.ports(4999), caller.ports(5000)) == ({4}, {1, 2, 3})
    caller.world = world_with("1.5=1%", VERSIONS)
    assert (caller.ports(99), caller.ports(100)) == ({4}, {1, 2, 3})
    assert not caller.mesh.pools._gone


def test_a_side_without_instances_is_answered_by_the_others(caller: Caller) -> None:
    """A version that is not there yet, or not any more, fails nobody."""
    caller.world = world_with("1.9=5%", VERSIONS)
    assert caller.ports(0) == {1, 2, 3, 4}


def test_connections_to_what_has_gone_are_closed_whatever_side_it_was_on(caller: Caller) -> None:
    """An instance that only changed its side keeps them."""
    caller.peer()
    caller.world = world_with("1.3=5%", {1: "1.3", 3: "1.4"})
    caller.peer()
    assert caller.mesh.pools._gone == {("10.0.0.1", 2), ("10.0.0.1", 4)}
