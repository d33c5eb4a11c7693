"""An instance in the map of its realm."""

from __future__ import annotations

import os
import signal
from typing import Any, cast

import pytest

from atlas.directory import Directory
from atlas.model import Instance
from smartrealm import NotConfigured
from smartservice.lifecycle import Desk
from smartservice.registration import Registration, address_of_this_host, instance_of
from tests.processes import wait_until
from tests.unit.atlas.scripted import ScriptedDirectory
from tests.unit.smartservice.making import PLACE, Make, make

__all__ = ["make"]


class Side:
    """One worker's registration over a scripted directory."""

    def __init__(self, desk: Desk | None = None) -> None:
        self.directory = ScriptedDirectory()
        self.draining = False
        self.registration = Registration(
            cast(Directory, self.directory),
            lambda: instance_of(PLACE, service="identity", incarnation="one", draining=self.draining),
            desk=desk or Desk(),
            ttl_seconds=300,
            is_draining=lambda: self.draining,
        )


def test_an_instance_says_what_its_settings_say() -> None:
    """Address, zone, release and weight come from the settings."""
    found = instance_of(PLACE, service="identity", incarnation="one", draining=False)
    assert found == Instance("identity", "127.0.0.1", 8000, "a", "1.2", 50, False, "one")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"HOST": "0.0.0.0"}, "192.0.2.7:8000"),
        ({"HOST": "::"}, "192.0.2.7:8000"),
        ({"HOST": "10.1.1.1"}, "10.1.1.1:8000"),
        ({"HOST": "0.0.0.0", "ADVERTISE_HOST": "web1", "ADVERTISE_PORT": 80}, "web1:80"),
        ({"HOST": "::1"}, "[::1]:8000"),
    ],
)
def test_others_are_told_an_address_that_they_can_reach(settings: dict[str, Any], expected: str) -> None:
    """A service that listens on every address tells its host's own; ADVERTISE_HOST and ADVERTISE_PORT win."""
    found = instance_of(
        {**PLACE, **settings}, service="identity", incarnation="", draining=False, own_address=lambda: "192.0.2.7"
    )
    assert found.address == expected


def test_the_address_of_a_host_is_one() -> None:
    """It is an IPv4 address, whatever networks there are."""
    assert len(address_of_this_host().split(".")) == 4


def test_it_registers_drains_and_leaves() -> None:
    """The lease carries the instance from the start, says at once that it drains, and is given back at the end."""
    side = Side()
    side.registration.start()
    lease = side.directory.held.get(timeout=5)
    assert (lease.id, lease.incarnation, lease.ttl_seconds) == ("identity@127.0.0.1:8000", "one", 300)
    assert not lease.instances[0].draining
    side.draining = True
    side.registration.beat()
    side.registration.beat()
    assert side.directory.held.get(timeout=5).instances[0].draining
    side.registration.close(stopping=True)
    assert side.directory.released.get(timeout=5) == ("identity@127.0.0.1:8000", "one")
    assert side.directory.held.empty()


def test_a_worker_that_is_replaced_leaves_the_instance_registered() -> None:
    """Only the end of the whole instance takes it out of the map."""
    side = Side()
    side.registration.start()
    side.directory.held.get(timeout=5)
    side.registration.close(stopping=False)
    assert side.directory.released.empty()


def test_one_worker_speaks_for_the_instance_and_another_takes_over() -> None:
    """Of two processes with one desk the first holds the lease; when it has ended the other one does."""
    desk = Desk()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"1" if desk.is_mine() else b"0")
        signal.pause()
    assert os.read(reading, 1) == b"1"
    side = Side(desk)
    try:
        assert side.registration.lease() is None
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        wait_until(lambda: side.registration.lease() is not None)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_service_without_a_map_says_what_to_set(make: Make) -> None:
    """`app.atlas` names ATLAS_URL; there is nothing to register in."""
    app = make()
    assert not app.has_atlas
    assert not isinstance(app.register(Desk()), Registration)
    with pytest.raises(NotConfigured, match="ATLAS_URL"):
        _ = app.atlas
