"""The commands that take HAProxy from one State to another; HAProxy is a few dictionaries here."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import replace

import pytest

from sidecar.diff import CHECK, Command, check_entry, commands, missing_backends, removals, server_words
from sidecar.layout import MAPS
from sidecar.model import Server, State
from smartrealm.errors import ValidationFailed

ONE = Server("10.0.0.1:8000", "10.0.0.1", 8000)
TWO = Server("10.0.0.2:8000", "10.0.0.2", 8000, weight=50)


def state(backends: Mapping[str, Collection[Server]], **maps: Mapping[str, str]) -> State:
    return State(
        {name: {server.name: server for server in servers} for name, servers in backends.items()},
        {name: maps.get(name.replace("-", "_"), {}) for name in MAPS},
    )


def texts(
    known: State, wanted: State, *, leaving: Mapping[str, Collection[str]] | None = None, dynamic: bool = False
) -> list[str]:
    return [command.text for command in commands(known, wanted, leaving=leaving or {}, dynamic=dynamic)]


def test_equal_states_need_no_command() -> None:
    """Whether they are the same objects or not."""
    one = state({"identity": [ONE], "_spare_001": []}, routes={"identity": "identity"})
    assert commands(one, one) == []
    assert commands(one, state({"identity": [ONE], "_spare_001": []}, routes={"identity": "identity"})) == []


def test_a_new_service_has_its_servers_before_a_map_leads_to_it() -> None:
    """And how long it may take is known before it is called."""
    known = state({"_spare_001": []})
    wanted = state({"_spare_001": [ONE]}, routes={"billing": "_spare_001"}, timeouts={"billing": "500"})
    assert commands(known, wanted) == [
        Command(
            f"add server _spare_001/10.0.0.1:8000 10.0.0.1:8000 {CHECK} weight 100",
            "New server registered.",
            "billing",
        ),
        Command("enable health _spare_001/10.0.0.1:8000", "", "billing"),
        Command("enable server _spare_001/10.0.0.1:8000", "", "billing"),
        Command("add map maps/timeouts.map billing 500", "", "billing"),
        Command("add map maps/routes.map billing _spare_001", "", "billing"),
    ]


def test_a_service_that_goes_is_not_led_to_before_its_servers_go() -> None:
    """Its servers take no more calls at once, and are deleted later."""
    known = state({"identity": [ONE]}, routes={"identity": "identity"}, timeouts={"identity": "500"})
    assert texts(known, state({"identity": []})) == [
        "del map maps/routes.map identity",
        "del map maps/timeouts.map identity",
        "set server identity/10.0.0.1:8000 state maint",
    ]


def test_one_instance_takes_the_place_of_another_without_a_gap() -> None:
    """The new one takes calls before the old one stops."""
    known, wanted = state({"identity": [ONE]}), state({"identity": [TWO]})
    assert texts(known, wanted) == [
        f"add server identity/10.0.0.2:8000 10.0.0.2:8000 {CHECK} weight 50",
        "enable health identity/10.0.0.2:8000",
        "enable server identity/10.0.0.2:8000",
        "set server identity/10.0.0.1:8000 state maint",
    ]


CHANGES = [
    (ONE, replace(ONE, weight=7), ["set server b/10.0.0.1:8000 weight 7"]),
    (ONE, replace(ONE, draining=True), ["set server b/10.0.0.1:8000 state drain"]),
    (
        replace(ONE, weight=0),
        replace(ONE, draining=True),
        ["set server b/10.0.0.1:8000 state drain", "set server b/10.0.0.1:8000 weight 100"],
    ),
    (
        replace(ONE, draining=True, weight=1),
        ONE,
        [
            "set server b/10.0.0.1:8000 weight 100",
            "set server b/10.0.0.1:8000 health up",
            "set server b/10.0.0.1:8000 state ready",
        ],
    ),
]


@pytest.mark.parametrize(("had", "wanted", "expected"), CHANGES)
def test_weights_and_drains_change_in_place(had: Server, wanted: Server, expected: list[str]) -> None:
    """In an order in which a server never takes calls that it should not."""
    assert texts(state({"b": [had]}), state({"b": [wanted]})) == expected


def test_one_takes_calls_again_before_another_stops() -> None:
    """So that of two that change places one can always be called."""
    known = state({"b": [replace(ONE, draining=True), TWO]})
    wanted = state({"b": [ONE, replace(TWO, draining=True)]})
    assert texts(known, wanted) == [
        "set server b/10.0.0.1:8000 health up",
        "set server b/10.0.0.1:8000 state ready",
        "set server b/10.0.0.2:8000 state drain",
    ]


def test_a_new_server_that_drains_takes_no_call() -> None:
    """It is never enabled in between."""
    assert texts(state({"b": []}), state({"b": [replace(ONE, draining=True)]}))[1:] == [
        "enable health b/10.0.0.1:8000",
        "set server b/10.0.0.1:8000 state drain",
    ]


def test_a_server_that_comes_back_while_it_is_leaving_is_set_to_work() -> None:
    """HAProxy would refuse to add a second one of its name."""
    leaving = {"b": ["10.0.0.2:8000"]}
    assert texts(state({"b": [ONE]}), state({"b": [ONE, TWO]}), leaving=leaving) == [
        "set server b/10.0.0.2:8000 weight 50",
        "set server b/10.0.0.2:8000 health up",
        "set server b/10.0.0.2:8000 state ready",
    ]


def test_what_is_leaving_and_not_wanted_is_deleted_and_is_no_drift() -> None:
    """And what came back is not."""
    leaving = {"b": ["10.0.0.3:8000", "10.0.0.2:8000"], "_spare_001": ["10.0.0.9:1"]}
    wanted = state({"b": [TWO], "_spare_001": []}, routes={"billing": "b"})
    assert commands(wanted, wanted, leaving=leaving) == []
    assert removals(leaving, wanted) == [
        Command("del server b/10.0.0.3:8000", "Server deleted.", "billing"),
        Command("del server _spare_001/10.0.0.9:1", "Server deleted.", "_spare_001"),
    ]


def test_a_server_that_lies_elsewhere_leaves_first() -> None:
    """HAProxy cannot move it: it comes anew once the old one is deleted."""
    moved = replace(ONE, port=9000)
    assert texts(state({"b": [ONE]}), state({"b": [moved]})) == ["set server b/10.0.0.1:8000 state maint"]


def test_an_ipv6_address_is_the_same_however_it_is_written() -> None:
    """HAProxy writes some in another way than Python."""
    ours, theirs = (Server("v6:1", host, 1) for host in ("::ffff:102:304", "::ffff:1.2.3.4"))
    assert texts(state({"b": [theirs]}), state({"b": [ours]})) == []
    assert server_words(Server("v6:1", "fd00::1", 80, backup=True), "b") == f"[fd00::1]:80 {CHECK} weight 100 backup"


def test_a_map_gets_only_what_differs() -> None:
    """Added when it is not there (a second one would be a duplicate), set when it is another, deleted when it is gone."""
    known = state({"b": []}, timeouts={"stays": "1", "other": "1", "gone": "1"})
    wanted = state({"b": []}, timeouts={"stays": "1", "other": "2", "new": "3"})
    assert texts(known, wanted) == [
        "set map maps/timeouts.map other 2",
        "add map maps/timeouts.map new 3",
        "del map maps/timeouts.map gone",
    ]


def test_a_list_of_callers_is_there_before_it_is_asked_and_goes_after() -> None:
    """Nobody on the list is refused meanwhile, and no side is asked for that is not known."""
    bare = state({"b": [], "b:1": []})
    full = state(
        {"b": [], "b:1": []},
        guarded={"b": "1"},
        callers={"b/x": "1"},
        limits_1={"b": "5"},
        sides_1={"b": "b:1"},
    )
    assert texts(bare, full) == [
        "add map maps/callers.map b/x 1",
        "add map maps/guarded.map b 1",
        "add map maps/sides-1.map b b:1",
        "add map maps/limits-1.map b 5",
    ]
    assert texts(full, bare) == [
        "del map maps/limits-1.map b",
        "del map maps/sides-1.map b",
        "del map maps/guarded.map b",
        "del map maps/callers.map b/x",
    ]


def test_a_backend_that_haproxy_lacks_needs_a_reload() -> None:
    """Neither its servers nor an entry that leads to it are sent."""
    known = state({"identity": [ONE]})
    wanted = state({"identity": [ONE], "billing": [TWO]}, routes={"billing": "billing", "identity": "identity"})
    assert missing_backends(known, wanted) == ("billing",)
    assert texts(known, wanted) == ["add map maps/routes.map identity identity"]


def test_a_newer_haproxy_makes_the_backend_first() -> None:
    """It is published once its servers are there, and led to after that."""
    wanted = state({"billing": [TWO]}, routes={"billing": "billing"})
    found = commands(state({}), wanted, dynamic=True)
    assert [command.text.split(" 10.0.0.2")[0] for command in found] == [
        "add backend billing from _service mode http",
        "add server billing/10.0.0.2:8000",
        "enable health billing/10.0.0.2:8000",
        "enable server billing/10.0.0.2:8000",
        "publish backend billing",
        "add map maps/routes.map billing billing",
    ]
    assert found[0].expects == "New backend registered."
    assert found[4].expects == "Backend published."


def test_servers_of_a_backend_that_nobody_knows_leave() -> None:
    """Somebody else's hand, or another layout."""
    assert texts(state({"stranger": [ONE]}), state({})) == ["set server stranger/10.0.0.1:8000 state maint"]


def test_a_token_is_no_service() -> None:
    """Whose it is, is not told in a message."""
    digest = "a" * 64
    assert commands(state({}), state({}, tokens={digest: "orders"})) == [
        Command(f"add map maps/tokens.map {digest} orders", "", "tokens")
    ]


HOSTILE = ["a b", "a\nb", "a;b", "a'b", 'a"b', "a%b", "a#b", "a{b", "é", "", "a\\b", "a\tb", "a\x00b"]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_hostile_is_said_to_the_socket(text: str) -> None:
    """Neither as a name, nor as an address, a key or a value; the message says which service and field it is."""
    for bad in (replace(ONE, name=text), replace(ONE, host=text)):
        with pytest.raises(ValidationFailed, match="billing") as caught:
            commands(state({"b": []}), state({"b": [bad]}, routes={"billing": "b"}))
        assert caught.value.details["service"] == "billing"
        assert str(caught.value.details["field"]).startswith("servers.")
    for name in MAPS:
        for key, value in ((text, "1"), ("identity", text), (f"identity/{text}", "1")):
            with pytest.raises(ValidationFailed):
                commands(state({}), state({}, **{name.replace("-", "_"): {key: value}}))
    with pytest.raises(ValidationFailed):
        commands(state({}), state({text: []}), dynamic=True)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("routes", "identity", "_spare_001"),
        ("sides-2", "identity", "identity:2"),
        ("timeouts", "identity", "10000"),
        ("limits-3", "identity", "10000"),
        ("once", "identity", "1"),
        ("callers", "identity/billing", "1"),
        ("tokens", "0" * 64, "billing"),
    ],
)
def test_every_map_takes_what_it_is_for(name: str, key: str, value: str) -> None:
    """And no map takes what is another's."""
    check_entry(name, key, value)
    with pytest.raises(ValidationFailed):
        check_entry(name, key, "٣" if value.isdigit() else value.upper() + "/x")


class Double:
    """An HAProxy that keeps what it is told, and refuses what HAProxy refuses."""

    def __init__(self) -> None:
        self.servers: dict[str, dict[str, Server]] = {"b": {}, "c": {}}
        self.maint: dict[str, dict[str, Server]] = {"b": {}, "c": {}}
        self.maps: dict[str, dict[str, str]] = {name: {} for name in MAPS}

    @property
    def state(self) -> State:
        return State(
            {name: dict(servers) for name, servers in self.servers.items()},
            {name: dict(entries) for name, entries in self.maps.items()},
        )

    def run(self, command: Command) -> None:
        assert self.answer(command.text.split()) == command.expects, command

    def answer(self, words: list[str]) -> str:
        if words[1] == "map":
            entries = self.maps[words[2].removeprefix("maps/").removesuffix(".map")]
            if (words[0] == "add") == (words[3] in entries):
                return "duplicate, or not found"
            if words[0] == "del":
                del entries[words[3]]
            else:
                entries[words[3]] = words[4]
            return ""
        backend, _, name = words[2].partition("/")
        here, out = self.servers[backend], self.maint[backend]
        if words[:2] == ["add", "server"]:
            if name in here or name in out:
                return "Already exists a server with the same name in backend."
            host, _, port = words[3].rpartition(":")
            weight = int(words[words.index("weight") + 1])
            out[name] = Server(name, host, int(port), weight, "backup" in words)
            return "New server registered."
        if words[:2] == ["del", "server"]:
            return "Server deleted." if out.pop(name, None) else "Only servers in maintenance can be deleted."
        if words[:2] == ["enable", "health"]:
            return "" if name in out or name in here else "No such server."
        if words[:2] == ["enable", "server"]:
            here[name] = out.pop(name)
        elif words[3] == "weight":
            place = here if name in here else out
            place[name] = replace(place[name], weight=int(words[4]))
        elif words[4] == "maint":
            out[name] = replace(here.pop(name), draining=False)
        else:
            server = here.pop(name, None) or out.pop(name)
            here[name] = replace(server, draining=words[4] == "drain")
        return ""


def test_any_state_is_reached_from_any_other_and_no_command_is_refused() -> None:
    """Whether those that leave are deleted at once, later, or come back before."""
    chance = random.Random(3)
    haproxy = Double()
    for _ in range(500):
        wanted = _some_state(chance)
        leaving = {name: list(servers) for name, servers in haproxy.maint.items()}
        for command in commands(haproxy.state, wanted, leaving=leaving):
            haproxy.run(command)
        assert haproxy.state == wanted
        assert commands(haproxy.state, wanted) == []
        if chance.random() < 0.5:
            for command in removals({name: list(servers) for name, servers in haproxy.maint.items()}, wanted):
                haproxy.run(command)
            assert not any(haproxy.maint.values())


def _some_state(chance: random.Random) -> State:
    backends = {}
    for backend in ("b", "c"):
        servers = []
        for number in chance.sample(range(1, 6), chance.randint(0, 5)):
            backup = chance.random() < 0.3
            name = f"10.0.0.{number}:80" + (".b" if backup else "")
            draining = chance.random() < 0.3
            servers.append(Server(name, f"10.0.0.{number}", 80, chance.choice([1, 100, 256]), backup, draining))
        backends[backend] = servers
    services = chance.sample(["identity", "billing", "orders"], 2)
    return state(
        backends,
        routes={service: chance.choice("bc") for service in services},
        timeouts={service: chance.choice(["1", "2"]) for service in services},
        callers={f"{services[0]}/{caller}": "1" for caller in chance.sample(["x", "y", "z"], 2)},
    )
