"""Which backend holds which service, and what HAProxy is to know."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from sidecar.layout import MAPS, Layout, adopt_layout, fresh_layout, lay_out, map_file
from sidecar.model import Route, Server, Side, State
from smartrealm.errors import ValidationFailed


def server(number: int, port: int = 8000) -> Server:
    return Server(f"10.0.0.{number}:{port}", f"10.0.0.{number}", port)


def routes_of(*routes: Route) -> dict[str, Route]:
    return {route.service: route for route in routes}


SPLIT = Route("identity", (server(1),), (Side(500, (server(2),)), Side(600, (server(3),))))


def test_every_service_and_side_of_a_new_file_has_a_backend_of_its_own_name() -> None:
    """And a tenth of the services, but at least forty backends, are spare."""
    layout = fresh_layout(routes_of(SPLIT, Route("billing")))
    assert layout.names == {name: name for name in ("identity", "identity:1", "identity:2", "billing")}
    assert layout.spares == tuple(f"_spare_{number:03}" for number in range(1, 41))
    assert len(fresh_layout({f"s{number}": Route(f"s{number}") for number in range(401)}).spares) == 41
    assert len(fresh_layout({}, 3).spares) == 3
    assert fresh_layout({}, dynamic=True).spares == ()


def test_the_state_says_all_that_routes_say() -> None:
    """Every backend, the empty ones too, and every map."""
    routes = routes_of(
        SPLIT, replace(Route("billing"), repeatable=False, callers=("orders", "identity"), timeout_ms=250)
    )
    layout, state, reload = lay_out(routes, fresh_layout(routes, 1), tokens={"a" * 64: "orders"})
    assert not reload
    assert state.backends == {
        "identity": {"10.0.0.1:8000": server(1)},
        "identity:1": {"10.0.0.2:8000": server(2)},
        "identity:2": {"10.0.0.3:8000": server(3)},
        "billing": {},
        "_spare_001": {},
    }
    assert state.maps == {
        "routes": {"identity": "identity", "billing": "billing"},
        "timeouts": {"billing": "250"},
        "once": {"billing": "1"},
        "guarded": {"billing": "1"},
        "callers": {"billing/orders": "1", "billing/identity": "1"},
        "limits-1": {"identity": "500"},
        "limits-2": {"identity": "600"},
        "limits-3": {},
        "sides-1": {"identity": "identity:1"},
        "sides-2": {"identity": "identity:2"},
        "sides-3": {},
        "tokens": {"a" * 64: "orders"},
        "newer": {},
    }
    assert set(state.maps) == set(MAPS)
    assert layout.spares == ("_spare_001",)


def test_nothing_changed_gives_the_very_same_objects() -> None:
    """So that whoever compares is done at once."""
    routes = routes_of(SPLIT)
    layout, state, _ = lay_out(routes, fresh_layout(routes))
    again, same, reload = lay_out(dict(routes), layout)
    assert again is layout
    assert same is state
    assert not reload


def test_what_does_not_change_stays_the_same_object() -> None:
    """A changed server of one service touches neither the maps nor the backends of the others."""
    routes = routes_of(SPLIT, Route("billing", (server(4),)))
    layout, before, _ = lay_out(routes, fresh_layout(routes))
    routes["billing"] = Route("billing", (server(4), server(5)))
    _, after, _ = lay_out(routes, layout)
    assert all(after.maps[name] is before.maps[name] for name in MAPS)
    assert all(after.backends[name] is before.backends[name] for name in before.backends if name != "billing")
    assert before.backends["billing"] == {"10.0.0.4:8000": server(4)}


def test_a_new_service_moves_into_a_spare_backend_and_gives_it_back() -> None:
    """Nobody else's place changes; what was given back is the last to be used again, unless by its own service."""
    routes = routes_of(SPLIT)
    layout, _, _ = lay_out(routes, fresh_layout(routes, 2))
    routes["billing"] = Route("billing", (server(4),), timeout_ms=7)
    layout, state, reload = lay_out(routes, layout)
    assert not reload
    assert layout.names["billing"] == "_spare_001"
    assert layout.names["identity"] == "identity"
    assert state.maps["routes"]["billing"] == "_spare_001"
    del routes["billing"]
    layout, state, _ = lay_out(routes, layout)
    assert layout.spares == ("_spare_002", "_spare_001")
    assert state.backends["_spare_001"] == {}
    assert "billing" not in state.maps["routes"]
    assert "billing" not in state.maps["timeouts"]


def test_a_service_that_comes_back_gets_the_backend_of_its_name() -> None:
    """Others take it only when nothing else is left: a stranger under its name would be hard to understand."""
    routes = routes_of(Route("billing"), Route("identity"))
    layout, _, _ = lay_out(routes, fresh_layout(routes, 1))
    layout, _, _ = lay_out(routes_of(Route("identity")), layout)
    assert layout.spares == ("_spare_001", "billing")
    layout, _, _ = lay_out(routes_of(Route("identity"), Route("orders")), layout)
    assert layout.names["orders"] == "_spare_001"
    layout, _, reload = lay_out(routes_of(Route("identity"), Route("orders"), Route("billing")), layout)
    assert layout.names["billing"] == "billing"
    assert not reload


def test_of_spare_backends_those_are_taken_first_that_bear_nobodys_name() -> None:
    """In whatever order they were given back."""
    layout, _, _ = lay_out(routes_of(Route("orders")), Layout({}, ("billing", "_spare_001")))
    assert layout.names == {"orders": "_spare_001"}


def test_a_backend_in_which_servers_are_leaving_is_not_given_to_a_stranger() -> None:
    """A request that is repeated in it would reach another service."""
    layout, _, _ = lay_out({}, fresh_layout({}, 2))
    layout, state, reload = lay_out(routes_of(Route("orders")), layout, busy=["_spare_001", "_spare_002"])
    assert reload
    assert state.maps["routes"] == {}
    layout, state, reload = lay_out(routes_of(Route("orders")), layout, busy=["_spare_001"])
    assert not reload
    assert state.maps["routes"] == {"orders": "_spare_002"}


def test_without_a_spare_backend_a_reload_is_asked_for_until_it_came() -> None:
    """The others are routed on, and the new file has a place for everybody."""
    routes = routes_of(Route("identity", (server(1),)))
    layout, _, _ = lay_out(routes, fresh_layout(routes, 1))
    routes |= routes_of(Route("billing"), Route("orders"))
    for _ in range(2):
        layout, state, reload = lay_out(routes, layout)
        assert reload
        assert set(state.maps["routes"]) == {"identity", "billing"}
    layout, state, reload = lay_out(routes, fresh_layout(routes, 1))
    assert not reload
    assert state.maps["routes"] == {name: name for name in routes}


def test_a_side_without_a_backend_leaves_its_calls_to_the_others() -> None:
    """Where there are no others, its servers answer in the place of the service, until the reload."""
    routes = routes_of(replace(SPLIT, sides=()), Route("billing", (server(7),)))
    layout, _, _ = lay_out(routes, fresh_layout(routes, 1))
    routes = routes_of(SPLIT, Route("billing", (), (Side(10_000, (server(8),)),)))
    layout, state, reload = lay_out(routes, layout)
    assert reload
    assert state.maps["sides-1"] == {"identity": "_spare_001"}
    assert state.maps["limits-2"] == {}
    assert state.backends["identity"] == {"10.0.0.1:8000": server(1)}
    assert state.backends["billing"] == {"10.0.0.8:8000": server(8)}
    _, state, reload = lay_out(routes, fresh_layout(routes))
    assert not reload
    assert state.backends["billing"] == {}
    assert state.maps["limits-2"] == {"identity": "600"}


def test_a_split_that_ends_gives_its_backends_back() -> None:
    """And nothing leads to them any more."""
    routes = routes_of(SPLIT)
    layout, _, _ = lay_out(routes, fresh_layout(routes, 1))
    layout, state, _ = lay_out(routes_of(replace(SPLIT, sides=SPLIT.sides[:1])), layout)
    assert layout.spares == ("_spare_001", "identity:2")
    assert state.maps["limits-2"] == state.maps["sides-2"] == {}
    assert state.maps["sides-1"] == {"identity": "identity:1"}
    assert state.backends["identity:2"] == {}


def test_where_backends_are_made_at_run_time_no_reload_is_ever_needed() -> None:
    """Every service gets the backend of its name, which stays for when it comes back."""
    layout, _, _ = lay_out({}, fresh_layout({}, dynamic=True), dynamic=True)
    layout, state, reload = lay_out(routes_of(SPLIT), layout, dynamic=True)
    assert not reload
    assert set(state.backends) == {"identity", "identity:1", "identity:2"}
    layout, state, reload = lay_out(routes_of(Route("billing")), layout, dynamic=True)
    assert not reload
    assert layout.names == {"billing": "billing"}
    assert set(state.backends) == {"identity", "identity:1", "identity:2", "billing"}
    layout, state, reload = lay_out(routes_of(SPLIT), layout, dynamic=True)
    assert not reload
    assert layout.names["identity:2"] == "identity:2"


def test_the_layout_of_a_running_haproxy_is_read_from_what_it_knows() -> None:
    """An agent that starts beside one goes on where the last one stopped."""
    routes = routes_of(SPLIT, Route("billing", (server(4),)))
    layout, _, _ = lay_out(routes, fresh_layout(routes, 3))
    routes["orders"] = Route("orders", (server(5),))
    layout, state, _ = lay_out(routes, layout)
    adopted = adopt_layout(State(dict(state.backends), {name: dict(entries) for name, entries in state.maps.items()}))
    assert adopted.names == layout.names
    assert adopted.spares == ("_spare_002", "_spare_003")
    assert lay_out(routes, adopted)[1] == state
    del routes["orders"]
    kept, state, _ = lay_out(routes, adopted)
    assert "orders" not in state.maps["routes"]
    assert kept.spares == ("_spare_002", "_spare_003", "_spare_001")


def test_a_route_to_a_backend_that_is_not_there_is_not_adopted() -> None:
    """It gets another one."""
    adopted = adopt_layout(State({"_spare_001": {}}, {"routes": {"identity": "identity"}}))
    assert adopted == Layout({}, ("_spare_001",))


def test_one_change_of_any_kind_is_the_same_as_laying_all_of_it_out() -> None:
    """Whatever came before, the State says what the routes of now say."""
    chance = random.Random(7)
    layout = fresh_layout({}, 60)
    for _ in range(200):
        routes = {}
        for name in chance.sample(["a", "b", "c", "d", "e", "f"], chance.randint(0, 6)):
            sides = tuple(Side(limit, (server(limit % 9),)) for limit in sorted(chance.sample(range(1, 99), 3)))
            routes[name] = Route(
                name,
                tuple(server(number) for number in range(chance.randint(0, 3))),
                sides[: chance.randint(0, 3)],
                callers=chance.choice([None, (), ("x",), ("x", "y")]),
                repeatable=chance.random() < 0.5,
            )
        layout, state, reload = lay_out(routes, layout)
        assert not reload
        _, expected, _ = lay_out(routes, fresh_layout(routes))
        assert _by_service(state, layout) == _by_service(expected, fresh_layout(routes))
        assert len({*layout.names.values(), *layout.spares}) == len(layout.names) + len(layout.spares) == 60
        assert all(state.backends[spare] == {} for spare in layout.spares)


def _by_service(state: State, layout: Layout) -> object:
    """What a State says, whatever the names of its backends are."""
    services = {backend: key for key, backend in layout.names.items()}
    return (
        {services[backend]: servers for backend, servers in state.backends.items() if backend in services},
        {
            name: {key: services.get(value, value) for key, value in entries.items()}
            for name, entries in state.maps.items()
        },
    )


def test_one_changed_service_of_a_thousand_takes_less_than_a_millisecond() -> None:
    """What did not change is not looked into."""
    routes = {
        f"service-{number}": Route(f"service-{number}", tuple(server(n) for n in range(10))) for number in range(1000)
    }
    layout, _, _ = lay_out(routes, fresh_layout(routes))
    taken = []
    for number in range(9):
        routes["service-500"] = Route("service-500", (server(number),))
        begun = time.thread_time()
        layout, _, _ = lay_out(routes, layout)
        taken.append(time.thread_time() - begun)
    assert min(taken) < 0.001


def test_a_map_goes_by_the_same_name_on_every_host() -> None:
    """Relative to the file, so that commands need not know the directory."""
    assert map_file("routes") == "maps/routes.map"


def test_a_route_that_may_not_be_written_is_refused_and_nothing_is_half_done() -> None:
    """The layout of before is still good."""
    routes = routes_of(Route("identity", (server(1),)))
    layout, state, _ = lay_out(routes, fresh_layout(routes))
    with pytest.raises(ValidationFailed, match="timeout_ms"):
        lay_out({**routes, "orders": Route("orders", timeout_ms=-1)}, layout)
    assert lay_out(routes, layout)[1] is state
