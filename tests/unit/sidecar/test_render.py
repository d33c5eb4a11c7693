"""HAProxy's file and maps as text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar import template
from sidecar.diff import CHECK
from sidecar.layout import MAPS, Layout, fresh_layout, lay_out
from sidecar.model import Route, Server, Side, State
from sidecar.render import Files, connections, render
from sidecar.settings import Settings
from smartrealm.errors import ConfigurationError, ValidationFailed

ONE = Server("10.0.0.1:8000", "10.0.0.1", 8000)
SIX = Server("fd00::2:8000", "fd00::2", 8000, weight=7, backup=True)
SETTINGS = Settings(directory=Path("/run/s/local"), state=Path("/var/lib/s"))


def rendered(*routes: Route, settings: Settings = SETTINGS, **more: Any) -> Files:
    by_name = {route.service: route for route in routes}
    layout, state, _ = lay_out(by_name, fresh_layout(by_name, 1))
    return render(state, layout, settings, **more)


def lines_of(text: str, section: str) -> list[str]:
    """The lines of one section, without indent and comments."""
    body = text.split(f"\n{section}\n", 1)[1].split("\n\n" if section.startswith("backend") else "\nfrontend", 1)[0]
    return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_each_service_has_a_backend_that_differs_by_its_servers_alone() -> None:
    """Everything else is in the defaults, so that a spare one is as good."""
    text = rendered(Route("identity", (ONE, SIX), (Side(5, (ONE,)),)), Route("billing")).config
    assert lines_of(text, "backend identity from _service") == [
        f"server 10.0.0.1:8000 10.0.0.1:8000 {CHECK} weight 100",
        f"server fd00::2:8000 [fd00::2]:8000 {CHECK} weight 7 backup",
    ]
    backends = re.findall(r"^backend (\S+) from _service$", text, re.MULTILINE)
    assert backends == ["billing", "identity", "identity:1", "_spare_001"]
    assert "\nbackend billing from _service\n\nbackend " in text


def test_a_server_that_drains_takes_no_calls_from_a_new_process() -> None:
    """The file has no word for it but the weight 0."""
    text = rendered(Route("identity", (replace(ONE, draining=True),))).config
    assert lines_of(text, "backend identity from _service")[0].endswith(" weight 0")


def test_a_spare_backend_says_whose_it_is() -> None:
    """To the one who reads the file."""
    layout, _, _ = lay_out({}, fresh_layout({}, 1))
    layout, state, _ = lay_out({"orders": Route("orders", (ONE,))}, layout)
    assert (
        "backend _spare_001 from _service\n    # holds orders\n    server 10.0.0.1:8000 "
        in render(state, layout, SETTINGS).config
    )


def test_the_same_is_written_the_same_way() -> None:
    """Whatever the order in which services came."""
    one, two = Route("identity", (ONE,)), Route("billing", (ONE,))
    assert rendered(one, two) == rendered(two, one)


def test_every_map_of_the_file_is_written_and_no_other() -> None:
    """HAProxy refuses to start without one of them."""
    for settings in (SETTINGS, replace(SETTINGS, tokens_file=Path("/etc/tokens"))):
        files = rendered(Route("identity", (ONE,), timeout_ms=500), settings=settings)
        asked = set(re.findall(r"maps/([a-z0-9-]+)\.map", files.config))
        assert asked <= set(files.maps) == set(MAPS)
        assert set(files.maps) - asked == (set() if settings.tokens_file else {"tokens"})
    assert files.maps["routes"] == "identity identity\n"
    assert files.maps["timeouts"] == "identity 500\n"


def test_settings_reach_their_lines() -> None:
    """Each one of those that HAProxy must know."""
    settings = replace(
        SETTINGS, port=4123, salt="s1", key_headers=("X-Who",), key_cookies=("sid",), max_connections=700
    )
    text = rendered(settings=settings, descriptors=5000, threads=3).config
    for line in (
        "bind 127.0.0.1:4123",
        "bind 'unix@/run/s/local/calls.sock' mode 660",
        "stats socket '/run/s/local/haproxy.sock' mode 600 level admin expose-fd listeners",
        "log '/run/s/local/events.sock' len 8192 format rfc5424 local0 notice",
        "maxconn 700",
        "fd-hard-limit 5000",
        "nbthread 3",
        "http-request set-var(txn.key) req.fhdr(X-Who) if !placed",
        "http-request set-var(txn.key) req.cook(sid) if !placed !{ var(txn.key),length gt 0 }",
        "http-request set-var(txn.bucket) str(s1:),concat(,txn.key),crc32(0),mod(10000)"
        " if !placed { var(txn.key),length gt 0 }",
    ):
        assert f"    {line}\n" in text
    assert "127.0.0.1" not in rendered(settings=replace(SETTINGS, loopback=False)).config
    assert "calls.sock" not in rendered(settings=replace(SETTINGS, socket=False)).config
    bare = rendered(settings=replace(SETTINGS, key_headers=(), key_cookies=())).config
    assert "set-var(txn.bucket) rand(10000) if !placed" in bare
    assert "txn.key" not in bare


@pytest.mark.parametrize(
    ("most", "descriptors", "servers", "expected"),
    [
        (20_000, 0, 9, 20_000),
        (20_000, 1_048_576, 10_000, 20_000),
        (20_000, 20_000, 1000, 8750),
        (500, 1024, 10_000, 100),
    ],
)
def test_there_are_never_more_connections_than_descriptors_allow(
    most: int, descriptors: int, servers: int, expected: int
) -> None:
    """HAProxy would refuse to start."""
    assert connections(most, descriptors, servers) == expected


def test_haproxy_runs_without_root_and_without_a_log_of_requests() -> None:
    """Neither user nor group nor daemon; only the backends log, and they log servers that come and go."""
    text = rendered(Route("identity", (ONE,))).config
    words = {line.split()[0] for line in text.splitlines() if line.strip()}
    assert words.isdisjoint(["user", "group", "daemon", "chroot", "uid", "gid"])
    assert text.count("log global") == 1
    assert "option httplog" not in text


def test_every_body_is_a_problem() -> None:
    """Also when there is no request id, and when there is one."""
    text = rendered(settings=replace(SETTINGS, tokens_file=Path("/t"))).config
    bodies = re.findall(r"status (\d+) content-type application/problem\+json (?:lf-)?string '([^']*)'", text)
    assert len(bodies) == len(template.NAMED) + len(template.UNNAMED) + 7
    for status, body in bodies:
        for instance in ("", '"instance":"r1",'):
            said = body.replace("%[var(txn.instance)]", instance).replace("%[var(txn.service)]", "identity")
            problem = json.loads(said)
            assert "%" not in said
            assert problem["status"] == int(status)
            assert problem["type"] == "about:blank"
            assert problem["title"]
            assert problem["code"]


ATTACKS = [
    "a b",
    "a\nserver evil 6.6.6.6:80",
    "a\r\nb",
    "a;b",
    "a'b",
    'a"b',
    "a%[env(HOME)]",
    "a#b",
    "a{b}",
    "a\\ b",
    "a\x00",
    "a\x7f",
    "é",
    "\uff41",
    "",
    " ",
    "../../etc/passwd",
    "$HOME",
    "a" * 200,
    "a\u2028b",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_hostile_reaches_the_files(text: str) -> None:
    """Wherever in a route it stands; the message names service and field."""
    bad = [
        (Route("orders", (replace(ONE, name=text),)), "servers.name"),
        (Route("orders", (replace(ONE, host=text),)), "servers.host"),
        (Route("orders", (), (Side(1, (replace(ONE, host=text),)),)), "servers.host"),
        (Route("orders", callers=("billing", text)), "callers"),
        (Route(text, (ONE,)), "service"),
    ]
    for route, field in bad:
        with pytest.raises(ValidationFailed) as caught:
            rendered(route)
        assert caught.value.details == {"service": route.service, "field": field}
        assert repr(route.service) in str(caught.value)


def _no_bool(value: Any) -> Any:
    return 1 if isinstance(value, bool) else value


@pytest.mark.parametrize("value", ["1", 1.5, True, None, -1, 65_536, 2**40, "1\n", float("nan")])
def test_a_number_is_a_number(value: Any) -> None:
    """In its limits: neither a text that looks like one, nor a bool."""
    for route in (
        Route("orders", (replace(ONE, port=value),)),
        Route("orders", (replace(ONE, weight=257 if value == 1 else value),)),
        Route("orders", (), (Side(value if value != 1 else 0, ()),)),
        Route("orders", timeout_ms=0 if value == 65_536 else value),
        Route("orders", (replace(ONE, backup=_no_bool(value)),)),
        Route("orders", (replace(ONE, draining=_no_bool(value)),)),
    ):
        with pytest.raises(ValidationFailed, match="orders"):
            rendered(route)


@pytest.mark.parametrize(
    "host", ["10.0.0.256", "10.0.0.1/8", "fe80::1%eth0", "localhost", "[::1]", "10.0.0.1:80", "0x7f.1"]
)
def test_an_address_is_an_address(host: str) -> None:
    """Names are resolved before; HAProxy would wait for them at its start."""
    with pytest.raises(ValidationFailed, match=r"'orders' .* servers\.host"):
        rendered(Route("orders", (replace(ONE, host=host),)))


def test_two_servers_of_one_name_and_sides_out_of_order_are_refused() -> None:
    """HAProxy would refuse the whole file."""
    with pytest.raises(ValidationFailed, match="another server"):
        rendered(Route("orders", (ONE, replace(ONE, port=1))))
    with pytest.raises(ValidationFailed, match=r"sides\.limit"):
        rendered(Route("orders", (), (Side(500, ()), Side(400, ()))))
    with pytest.raises(ValidationFailed, match="more than 3"):
        rendered(Route("orders", (), tuple(Side(limit, ()) for limit in (1, 2, 3, 4))))


def test_a_state_that_was_made_by_hand_is_checked_as_well() -> None:
    """render takes nobody's word."""
    layout = Layout({"orders": "orders"})
    for state in (
        State({"orders": {"x": replace(ONE, host="1.2.3.4 backup")}}, {}),
        State({"orders\n": {}}, {}),
        State({"a b": {}}, {}),
        State({}, {"routes": {"orders": "x\ny z"}}),
        State({}, {"timeouts": {"orders": "1000s"}}),
        State({}, {"tokens": {"orders": "orders"}}),
    ):
        with pytest.raises(ValidationFailed):
            render(state, layout, SETTINGS)


@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, salt="a b"),
        replace(SETTINGS, salt="a)"),
        replace(SETTINGS, realm="a\nb"),
        replace(SETTINGS, key_headers=("X-A)",)),
        replace(SETTINGS, key_cookies=("a b",)),
        replace(SETTINGS, directory=Path("/tmp/it's")),
        replace(SETTINGS, directory=Path("/tmp/a\nb")),
        replace(SETTINGS, directory=Path("relative")),
        replace(SETTINGS, directory=Path("/" + "x" * 90)),
    ],
)
def test_a_setting_that_cannot_be_written_is_named(settings: Settings) -> None:
    """ConfigurationError, with the setting first."""
    with pytest.raises(ConfigurationError, match=r"^(salt|realm|key_headers|key_cookies|directory): "):
        rendered(settings=settings)
