"""Changes through HAProxy's runtime socket, under load."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from sidecar.diff import Command, commands, removals
from sidecar.ejection import Ejections
from sidecar.events import Event, Events
from sidecar.model import Route, Side
from sidecar.repeats import Repeated
from smartrealm.errors import Unavailable
from tests.live.sidecar.steered import MAPS, Clients, Instance, Steered, route
from tests.processes import wait_until

pytestmark = pytest.mark.needs("haproxy")


def test_changes_of_all_kinds_lose_no_call(one: Steered, three: list[Instance]) -> None:
    """Instances come, go, drain, return and change their weight, a service comes and goes, a split begins and ends: with four
    clients calling all the time, every call has its answer."""
    a, b, c = three
    orders = route("orders", a, b, c)
    split = Route("orders", (a.server,), (Side(2_000, (b.server,)), Side(5_000, (c.server,))))
    one.begin(orders)
    with Clients(one, "orders") as clients:
        for _ in range(12):
            for step in (
                [route("orders", a, b)],
                [route("orders", a, b), route("billing", c)],
                [Route("orders", (a.server, replace(b.server, draining=True)))],
                [Route("orders", (replace(a.server, weight=1), b.server, c.server))],
                [split],
                [Route("orders", (b.server, c.server), timeout_ms=2_000, repeatable=False)],
                [orders],
            ):
                assert one.steer(*step) == []
                clients.wait_for(8)
            one.tidy()
    assert clients.lost == []
    assert clients.good.keys() == {str(instance.port) for instance in three}
    assert one.known.backends["orders"] == one.wanted.backends["orders"]


def test_a_server_is_deleted_once_its_calls_are_over(one: Steered, three: list[Instance]) -> None:
    """A server that leaves takes no new call, ends the one it has, and only then goes; the number of its calls is known."""
    slow, other = three[:2]
    slow.answers.clear()
    one.begin(route("orders", slow))
    answer: list[tuple[int, bytes]] = []
    call = threading.Thread(target=lambda: answer.append(one.get("orders")))
    call.start()
    try:
        wait_until(lambda: slow.calls, what="the call at its instance")
        assert one.steer(route("orders", other)) == []
        server = ("orders", slow.server.name)
        assert one.runtime.sessions([server, ("orders", other.server.name)]) == {
            server: 1,
            ("orders", other.server.name): 0,
        }
        assert one.leaving == {"orders": (slow.server.name,)}
        refused = one.runtime.run(removals(one.leaving, one.wanted))
        assert [refusal.about for refusal in refused] == ["orders"]
        assert one.runtime.delete(one.leaving) == one.leaving
        assert one.get("orders") == (200, str(other.port).encode())
    finally:
        slow.answers.set()
        call.join(30)
    assert answer == [(200, str(slow.port).encode())]
    assert one.runtime.sessions([server]) == {server: 0}
    # HAProxy 2.6 keeps the idle connection to it for some seconds, and the server as long; an instance that stops ends that.
    slow.stop()
    wait_until(lambda: one.runtime.delete(one.leaving) == {}, what="the deletion")


def test_a_refused_command_is_reported_with_its_service_and_the_rest_is_done(
    one: Steered, three: list[Instance]
) -> None:
    """HAProxy's own words come back, and what else was to be done is done."""
    one.begin(route("orders", three[0]))
    name = three[0].server.name
    refused = one.runtime.run(
        [
            Command("set server orders/nosuch weight 3", "", "orders"),
            Command("make coffee", "", "kitchen"),
            Command("set server nosuch/a weight 3", "", "nosuch"),
            Command("add server nosuch/a 127.0.0.1:9", "New server registered.", "nosuch"),
            Command("del server orders/nosuch", "Server deleted.", "orders"),
            Command(f"set server orders/{name} weight 30", "", "orders"),
        ]
    )
    assert [(refusal.about, refusal.says[:15]) for refusal in refused] == [
        ("orders", "No such server."),
        ("kitchen", "Unknown command"),
        ("nosuch", "No such backend"),
        ("nosuch", "No such backend"),
        ("orders", "No such server."),
    ]
    one.read()
    assert one.known.backends["orders"][name].weight == 30


def test_ten_thousand_commands_take_seconds(one: Steered) -> None:
    """Each is carried out and each answer is checked; reading it all again takes little time as well."""
    one.begin(*(Route(f"s{number}") for number in range(100)))
    todo = []
    for number in range(3_330):
        server, about = f"s{number % 100}/10.0.{number // 250}.{number % 250 + 1}:8000", f"s{number % 100}"
        address = server.partition("/")[2]
        todo += [
            Command(f"add server {server} {address} check inter 60s weight 100", "New server registered.", about),
            Command(f"enable health {server}", "", about),
            Command(f"enable server {server}", "", about),
        ]
    todo.append(Command("set server s0/nosuch weight 1", "", "s0"))
    began = time.monotonic()
    refused = one.runtime.run(todo)
    took = time.monotonic() - began
    assert [refusal.about for refusal in refused] == ["s0"]
    assert took < 10
    busy = time.thread_time()
    reading = one.runtime.read(MAPS)
    assert sum(len(servers) for servers in reading.state.backends.values()) == 3_330
    assert time.thread_time() - busy < 0.45  # 0.1 on an idle machine


def test_what_was_told_during_a_reload_is_found_and_told_again(one: Steered, three: list[Instance]) -> None:
    """A change that the old worker has taken is refused afterwards, and comparing finds exactly what is missing."""
    a, b, _ = three
    one.begin(route("orders", a))
    before = one.runtime.worker
    one.proxy.reload()
    # The agent has not heard of this reload: somebody else asked for it.
    with pytest.raises(Unavailable, match=f"worker {before} was read"):
        one.steer(route("orders", a, b))
    one.read()
    assert one.known.backends["orders"].keys() == {a.server.name}
    assert one.tell() == []
    assert one.known.backends["orders"] == one.wanted.backends["orders"]


class Watched:
    """The events of one HAProxy, with the time of each."""

    def __init__(self, one: Steered) -> None:
        self.seen: list[tuple[float, Event]] = []
        self.events = Events(one.settings.events_socket, lambda event: self.seen.append((time.monotonic(), event)))

    def downs(self) -> list[tuple[float, Event]]:
        return [(at, event) for at, event in self.seen if not event.up and event.cause == "answers"]


def test_a_bad_instance_is_out_at_once_and_comes_back_when_it_is_due(one: Steered, three: list[Instance]) -> None:
    """An instance that begins to answer 500 is out within half a second and ten bad answers, its event says why; when its time
    has come it is set up again, and once it is well it stays."""
    bad = three[0]
    orders = route("orders", *three)
    one.proxy.write(one.files(orders))
    watched = Watched(one)
    watched.events.start()
    try:
        assert one.proxy.start()
        one.read()
        ejections = Ejections()
        with Clients(one, "orders") as clients:
            began, bad.status = time.monotonic(), 500
            wait_until(watched.downs, what="the ejection")
            at, event = watched.downs()[0]
            assert at - began < 2.5  # half a second on an idle machine
            clients.wait_for(50)
            assert 1 <= len(clients.lost) <= 10
            assert (event.backend, event.server) == ("orders", bad.server.name)
            assert "500" in event.reason or "Wrong http response" in event.reason
            ejections.take(event, at)
            assert ejections.due(at + 4, one.wanted.backends) == ()
            bad.status = 200
            (due,) = ejections.due(at + 5, one.wanted.backends)
            assert one.runtime.run([Command(f"set server {due[0]}/{due[1]} health up", "", "orders")]) == []
            wait_until(lambda: watched.seen[-1][1].up, what="the event that it is up")
            ejections.take(watched.seen[-1][1], at + 6)
            assert ejections.all() == ()
            calls = bad.calls
            wait_until(lambda: bad.calls > calls + 3, 10, what="calls to the instance that is well again")
    finally:
        watched.events.stop()


def test_an_instance_whose_requests_are_repeated_elsewhere_is_found(one: Steered, three: list[Instance]) -> None:
    """It ends connections without an answer. HAProxy repeats what may be repeated, so that no caller notices, and would call it
    for ever: its counters tell which one it is."""
    bad = three[0]
    one.begin(route("orders", *three))
    repeated = Repeated(one.runtime.repeats, clock=time.monotonic)
    repeated.look()
    bad.status = 0
    for _ in range(60):
        assert one.get("orders")[0] == 200
    assert one.runtime.conditions()["orders"][bad.server.name] != "down"
    repeated.look()
    assert repeated.follow() == []
    for _ in range(30):
        assert one.get("orders")[0] == 200
    assert [(found.backend, found.server) for found in repeated.follow()] == [("orders", bad.server.name)]


def test_conditions_tell_an_ejected_server_from_one_that_works(one: Steered, three: list[Instance]) -> None:
    """What no event told is read: the ejected one is down."""
    a, b, _ = three
    a.status = 500
    one.begin(route("orders", a, b))
    wait_until(
        lambda: one.get("orders") and one.runtime.conditions()["orders"][a.server.name] == "down",
        10,
        what="the ejection",
    )
    assert one.runtime.conditions()["orders"][b.server.name] in ("up", "starting")
    ejections = Ejections()
    ejections.compare(one.runtime.conditions(), 0.0)
    assert [(ejected.backend, ejected.server) for ejected in ejections.all()] == [("orders", a.server.name)]


def test_nothing_differs_in_a_haproxy_that_was_just_started(one: Steered, three: list[Instance]) -> None:
    """What the file says is what the socket tells: the compare finds no drift where there is none."""
    one.begin(
        Route(
            "orders",
            (three[0].server, replace(three[1].server, name=f"{three[1].server.name}.b", backup=True)),
            (Side(500, (three[2].server,)),),
            timeout_ms=700,
            repeatable=False,
            callers=("billing",),
        )
    )
    assert one.known.backends == one.wanted.backends
    assert {name: entries for name, entries in one.known.maps.items() if entries} == {
        name: entries for name, entries in one.wanted.maps.items() if entries
    }
    assert commands(one.known, one.wanted) == []
