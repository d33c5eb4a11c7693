"""Host names are looked up in the background, and an answer is kept until there is a better one."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from sidecar.resolve import FORGET_SECONDS, REFRESH_SECONDS, Resolver, look_up
from tests.processes import wait_until


class NameServer:
    """Names under a clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0
        self.names: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.changes = 0

    def look_up(self, name: str) -> Iterable[str]:
        self.asked.append(name)
        if name not in self.names:
            raise OSError("no such name")
        return self.names[name]

    def changed(self) -> None:
        self.changes += 1

    def resolver(self) -> Resolver:
        """One without threads: `turn` does what they do."""
        return Resolver(self.changed, look_up=self.look_up, clock=lambda: self.now, threads=0)


def test_it_gives_none_until_the_name_is_known() -> None:
    """The first answer comes later, and is told; the same one again is not."""
    server = NameServer()
    server.names["web"] = ["10.0.0.1"]
    resolver = server.resolver()
    assert resolver.turn() is None
    assert resolver.resolve("web") is None
    assert resolver.turn() == 0.0
    assert (resolver.resolve("web"), server.changes) == ("10.0.0.1", 1)
    assert resolver.turn() == REFRESH_SECONDS
    server.now += REFRESH_SECONDS
    resolver.turn()
    assert (server.asked, server.changes) == (["web", "web"], 1)


def test_the_last_answer_stays_while_the_name_server_is_away() -> None:
    """No answer is no news; the next one counts, and is asked for soon."""
    server = NameServer()
    server.names["web"] = ["10.0.0.1"]
    resolver = server.resolver()
    resolver.resolve("web")
    resolver.turn()
    del server.names["web"]
    pauses = []
    for _ in range(7):
        server.now += REFRESH_SECONDS
        resolver.turn()
        pauses.append(resolver.turn())
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert resolver.resolve("web") == "10.0.0.1"
    server.names["web"] = ["10.0.0.2"]
    server.now += REFRESH_SECONDS
    resolver.turn()
    assert (resolver.resolve("web"), server.changes) == ("10.0.0.2", 2)


def test_shuffled_answers_change_nothing() -> None:
    """Of several addresses the one in use stays, an IPv4 address is taken first, and what is no address is no answer."""
    server = NameServer()
    server.names["web"] = ["::1", "10.0.0.3", "10.0.0.2", "0.0.0.0", "fe80::1%eth0", "nonsense"]
    resolver = server.resolver()
    resolver.resolve("web")
    resolver.turn()
    assert resolver.resolve("web") == "10.0.0.2"
    server.names["web"] = ["10.0.0.1", "10.0.0.2"]
    server.now += REFRESH_SECONDS
    resolver.turn()
    assert resolver.resolve("web") == "10.0.0.2"
    assert server.changes == 1


def test_a_name_that_nobody_asks_for_is_forgotten() -> None:
    """It is looked up no more."""
    server = NameServer()
    server.names["web"] = ["10.0.0.1"]
    resolver = server.resolver()
    resolver.resolve("web")
    resolver.turn()
    server.now += FORGET_SECONDS + 1
    resolver.turn()
    assert resolver.turn() is None
    assert server.asked == ["web"]
    assert repr(resolver) == "<Resolver of 0 names>"


def test_asking_never_waits() -> None:
    """A name server that hangs on one name holds up neither who asks nor the other names; a callback that raises is logged."""
    hangs, told = threading.Event(), threading.Event()

    def slow(name: str) -> list[str]:
        if name == "slow":
            hangs.wait(10)
        return ["10.0.0.1"]

    def changed() -> None:
        told.set()
        raise RuntimeError("told")

    resolver = Resolver(changed, look_up=slow, threads=2)
    assert resolver.resolve("slow") is None
    assert resolver.resolve("quick") is None
    assert told.wait(30)
    assert resolver.resolve("quick") == "10.0.0.1"
    assert resolver.resolve("slow") is None
    hangs.set()
    wait_until(lambda: resolver.resolve("slow"), 5)
    resolver.close()
    assert resolver.resolve("late") is None


def test_localhost_is_looked_up() -> None:
    """The system knows this one everywhere."""
    assert set(look_up("localhost")) & {"127.0.0.1", "::1"}
