"""Commands take a running HAProxy from one state to another, and no request is lost meanwhile."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from sidecar.diff import commands, removals
from sidecar.layout import lay_out
from sidecar.model import Route, Server, Side, State
from tests.live.sidecar.rendered import Instance, Load, Proxy, quick_instances, running, server
from tests.processes import wait_until

pytestmark = pytest.mark.needs("haproxy")


@pytest.fixture
def instances() -> Iterator[dict[str, Instance]]:
    """A few instances."""
    with Instance("one") as one, Instance("two") as two, Instance("new") as new:
        yield {"one": one, "two": two, "new": new}


SERVICES = ("alpha", "beta", "gamma", "delta", "steady", "firm")


def _some_routes(ports: tuple[int, ...], chance: random.Random) -> dict[str, Route]:
    """Routes by lot; `steady` and `firm` can always be called."""
    routes = {}
    for service in SERVICES:
        always = service in ("steady", "firm")
        if not always and chance.random() < 0.3:
            continue

        def some(least: int) -> tuple[Server, ...]:
            chosen = chance.sample(ports, chance.randint(least, len(ports)))
            return tuple(
                server(
                    port,
                    weight=chance.choice([1, 50, 256]),
                    backup=chance.random() < 0.2,
                    draining=number > 0 and chance.random() < 0.3,
                )
                for number, port in enumerate(chosen)
            )

        limits = sorted(chance.sample(range(1, 10_001), chance.randint(0, 3)))
        routes[service] = Route(
            service,
            some(1 if always else 0),
            tuple(Side(limit, some(0)) for limit in limits),
            timeout_ms=chance.choice([5000, 10_000]),
            repeatable=chance.random() < 0.5,
            callers=None if always or chance.random() < 0.5 else ("orders",),
        )
    return routes


def test_commands_take_a_running_haproxy_from_any_state_to_any_other() -> None:
    """What it then knows and routes is what is wanted, and no request to a service that could be called is lost meanwhile."""
    chance = random.Random(4)
    with quick_instances(4) as ports, running(_some_routes(ports, chance), spare_backends=20) as proxy:
        layout, state = proxy.layout, proxy.state
        proxy.runtime.run(commands(proxy.runtime.read(proxy.settings.proxy_maps).state, state))
        with Load(proxy.port, ["steady", "firm"]) as load:
            for _ in range(12):
                routes = _some_routes(ports, chance)
                layout, state, reload = lay_out(routes, layout)
                assert not reload
                reading = proxy.runtime.read(proxy.settings.proxy_maps)
                assert proxy.runtime.run(commands(reading.state, state, leaving=reading.leaving)) == []
                proxy.runtime.run(removals(reading.leaving, state))
                _check_knows(proxy, state)
                _check_routes(proxy, routes)
        assert load.lost == []
        assert load.good > 100
        wait_until(lambda: _is_tidy(proxy, state), what="every server that left being deleted")


def test_a_server_that_came_at_run_time_is_ejected_like_any_other(instances: dict[str, Instance]) -> None:
    """After five bad answers in a row it gets no more; what is said to it of its health is not lost."""
    one, two = server(instances["one"].port), server(instances["two"].port)
    with running({"identity": Route("identity", (one,))}) as proxy:
        _, state, _ = lay_out({"identity": Route("identity", (one, two))}, proxy.layout)
        assert proxy.runtime.run(commands(proxy.state, state)) == []
        proxy.runtime.ask(f"set server identity/{one.name} state maint")
        assert [proxy.ask("identity", "/500").status for _ in range(6)] == [500] * 5 + [503]
        assert proxy.runtime.conditions()["identity"][two.name] == "down"
        proxy.runtime.ask(f"set server identity/{two.name} health up")
        assert proxy.ask("identity").body["instance"] == "two"


def _check_knows(proxy: Proxy, state: State) -> None:
    reading = proxy.runtime.read(proxy.settings.proxy_maps)
    assert commands(reading.state, state) == []
    assert reading.state.backends == state.backends
    assert reading.state.maps == {name: entries for name, entries in state.maps.items() if name != "tokens"}


def _is_tidy(proxy: Proxy, state: State) -> bool:
    leaving = proxy.runtime.read(proxy.settings.proxy_maps).leaving
    proxy.runtime.run(removals(leaving, state))
    return not leaving


def _check_routes(proxy: Proxy, routes: dict[str, Route]) -> None:
    """Each service is answered by one of those that may answer, whatever the bucket."""
    for service in SERVICES:
        route = routes.get(service)
        for bucket in (0, 5000, 9999):
            answer = proxy.ask(service, headers=[("Smart-Bucket", str(bucket)), ("Smart-Caller", "orders")])
            if route is None:
                assert answer.status == 404
                continue
            side = next((side.servers for side in route.sides if bucket < side.limit), ())
            expected = _usable(side) or _usable(route.servers)
            if not expected:
                assert answer.status == 503
            else:
                assert answer.status == 200
                assert int(answer.content.split()[0]) in expected


def _usable(servers: tuple[Server, ...]) -> set[int]:
    usable = [each for each in servers if not each.draining]
    return {each.port for each in usable if not each.backup} or {each.port for each in usable}


def test_the_backups_share_the_calls_that_fall_to_them(instances: dict[str, Instance]) -> None:
    """Nobody of this zone takes calls any more, by command or for bad answers: all of the others step in, not one of them alone."""
    one, two, new = (instances[name].port for name in ("one", "two", "new"))
    near, far = server(one), (server(two, backup=True), server(new, backup=True))
    with running({"alpha": Route("alpha", (near, *far))}) as proxy:
        assert proxy.ask("alpha").body["instance"] == "one"
        proxy.runtime.ask(f"set server alpha/{near.name} state drain")
        assert {proxy.ask("alpha").body["instance"] for _ in range(10)} == {"two", "new"}


@pytest.mark.skipif(not os.environ.get("HAPROXY_NEWER"), reason="HAPROXY_NEWER names no HAProxy of 3.4 or later")
def test_a_newer_haproxy_takes_new_services_without_spare_backends(instances: dict[str, Instance]) -> None:
    """It makes a backend of the service's own name, and the service is called at once."""
    one = server(instances["one"].port)
    routes = {"identity": Route("identity", (one,))}
    with running(routes, program=os.environ["HAPROXY_NEWER"]) as proxy:
        routes["orders"] = Route("orders", (one,), sides=(Side(5000, (server(instances["new"].port),)),))
        _, state, reload = lay_out(routes, replace(proxy.layout, spares=()), dynamic=True)
        assert not reload
        known = proxy.runtime.read(proxy.settings.proxy_maps).state
        assert proxy.runtime.run(commands(known, state, dynamic=True)) == []
        answers = [
            proxy.ask("orders", headers=[("Smart-Bucket", str(bucket))]).body["instance"] for bucket in (0, 5000)
        ]
        assert answers == ["new", "one"]
