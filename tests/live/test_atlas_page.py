"""The page of the map in a real browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from atlas import Author, Instance, Lease, Service
from atlas.model import Change, Edit, Ruling
from tests.live.atlas_server import AtlasServer
from tests.live.browser import Browser
from tests.live.pages import (
    EVIL,
    ROW,
    as_on_a_desk,
    brightness,
    browser,
    expand,
    look_at,
    milliseconds,
    nameless_controls,
)

__all__ = ["as_on_a_desk", "browser"]

ANNA = Author("anna")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AtlasServer]:
    """A server over a map with two services that run."""
    one = AtlasServer(tmp_path)
    fill(one)
    try:
        yield one.start()
    finally:
        one.close()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AtlasServer]:
    """A server for the tests that only look."""
    one = AtlasServer(tmp_path_factory.mktemp("calm"))
    fill(one)
    try:
        yield one.start()
    finally:
        one.close()


def fill(server: AtlasServer) -> None:
    server.map.put_service(Service("identity", owner="accounts", port=8010, description=EVIL), by=ANNA)
    server.map.put_service(Service("teams", owner=EVIL), by=ANNA)
    for number in (1, 2):
        host = f"web-{number}"
        instances = (Instance("identity", host, 8010, version="1.4", zone="a"), Instance("teams", host, 8011))
        server.map.hold(Lease(host, "first", ttl_seconds=600.0, instances=instances, opened_at=time.time()))


def look(browser: Browser, server: AtlasServer) -> None:
    look_at(browser, server.base)


def test_a_change_appears_without_a_reload(browser: Browser, server: AtlasServer) -> None:
    """A disable through the API is on the page within a second or two: state, author, reason, history."""
    look(browser, server)
    browser.evaluate("window.loadedOnce = true")
    assert "2 enabled" in browser.evaluate(f"{ROW.format('identity')}.innerText")
    assert "web-1:8010" in expand(browser, "identity")
    answer = requests.put(
        f"{server.base}/v1/rulings/identity/web-1:8010",
        json={"state": "disabled", "reason": "loses requests"},
        headers={"Atlas-Author": "bert"},
        timeout=10,
    )
    assert answer.status_code == 200, answer.text
    begun = time.monotonic()
    browser.wait_for(f"{ROW.format('identity')}.innerText.includes('1 disabled')")
    assert time.monotonic() - begun < 10  # a second or two on an idle machine
    browser.wait_for("document.getElementById('change-list').innerText.includes('loses requests')")
    text = browser.text()
    assert "disabled by bert" in text
    assert browser.evaluate("window.loadedOnce")
    assert browser.evaluate("document.getElementById('number-disabled').innerText") == "1"


def test_sidecars_and_splits_are_shown(browser: Browser, server: AtlasServer) -> None:
    """How far each sidecar is, what it holds, the calls under way to what leaves, and who reaches which version."""
    service = server.map.world().services["identity"]
    server.map.put_service(replace(service, split="1.4=5%", callers="teams"), by=ANNA)
    revision = server.map.rule(Ruling("identity", "web-1", 8010, "draining"), by=ANNA)
    told = {"revision": revision, "sessions": {"identity/web-1:8010": 4}}
    server.map.hold(Lease("sidecar@web-1", "i", 600.0, report=told))
    server.map.hold(Lease("sidecar@web-2", "i", 600.0, report={"revision": 1, "holding": 2}))
    look(browser, server)
    browser.wait_for("document.getElementById('sidecars-summary').textContent === '2, 1 behind'")
    trouble = browser.evaluate("document.getElementById('trouble-list').innerText")
    assert "The sidecar of web-2 goes by revision 1." in trouble
    assert "The sidecar of web-2 calls 2 instances that vanished all at once." in trouble
    assert "identity is split: 1.4=5% of its callers." in trouble
    assert "4 calls under way" in (inside := expand(browser, "identity"))
    assert "called by teams only" in inside
    browser.evaluate("document.getElementById('sidecars-row').open = true")
    assert "behind" in browser.wait_for("document.getElementById('sidecar-list').innerText")


def test_instances_come_and_go(browser: Browser, server: AtlasServer) -> None:
    """A service that starts and one that stops are seen, the rows stay in order."""
    look(browser, server)
    server.map.hold(Lease("web-3", "x", 600.0, (Instance("billing", "web-3", 8012, version="3"),), time.time()))
    browser.wait_for(ROW.format("billing"))
    server.map.release("web-2", "first")
    browser.wait_for(f"{ROW.format('teams')}.innerText.includes('1 enabled')")
    rows = "[...document.querySelectorAll('#service-list > li')].map(row => row.dataset.service)"
    assert browser.evaluate(rows) == ["billing", "identity", "teams"]
    assert "not registered" in browser.evaluate(f"{ROW.format('billing')}.innerText")


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_wider_than_a_phone(browser: Browser, server: AtlasServer, width: int) -> None:
    """No horizontal scrolling, closed or open, with long names and long values."""
    long = "a-" + "long-" * 10 + "name"
    server.map.put_service(Service(long, owner="team-" * 20, description="word" * 60), by=ANNA)
    server.map.set_override(long, "A" * 100, "value" * 40, by=ANNA)
    instance = Instance(long, f"{'host' * 20}.example.org", 8010, version="1.2.3+" + "build" * 10)
    server.map.hold(Lease("web-9", "x", 600.0, (instance,), time.time()))
    browser.resize(width, 844)
    look(browser, server)
    browser.wait_for("document.querySelectorAll('#change-list li').length > 2")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    expand(browser, long)
    expand(browser, "identity")
    browser.evaluate("document.getElementById('leases').open = true")
    time.sleep(0.1)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    all_shown = "[...document.querySelectorAll('main *')].filter(one => !one.closest('thead'))"
    outside = "one => one.getBoundingClientRect().right > innerWidth + 1 || one.scrollWidth > one.clientWidth + 1"
    too_wide = f"{all_shown}.filter({outside}).filter(one => getComputedStyle(one).display !== 'inline')"
    assert "\n".join(browser.evaluate(f"{too_wide}.map(one => one.outerHTML.slice(0, 120))")) == ""


def test_what_is_in_the_map_is_text(browser: Browser, server: AtlasServer) -> None:
    """Script tags in a description, an owner, a value, a reason, a version and an author are shown, and do nothing."""
    evil = Author(EVIL[:190], EVIL)
    server.map.set_override("identity", "GREETING", EVIL, by=evil)
    evil_instance = Instance("identity", "web-9", 8010, version=EVIL[:150], zone=EVIL[:150])
    server.map.hold(Lease("web-9", "x", 600.0, (evil_instance,), time.time()))
    requests.put(
        f"{server.base}/v1/rulings/identity/web-9:8010", json={"state": "disabled", "reason": EVIL}, timeout=10
    )
    look(browser, server)
    browser.wait_for("document.getElementById('change-list').innerText.includes('GREETING')")
    inside = expand(browser, "identity")
    expand(browser, "teams")
    time.sleep(0.2)
    assert EVIL in inside
    assert browser.evaluate("document.title") == "Atlas: local"
    assert browser.evaluate("document.querySelectorAll('main script, main img').length") == 0
    assert browser.console == []


def test_everything_comes_from_here(browser: Browser, calm: AtlasServer) -> None:
    """Nothing is asked of another origin, and the browser would not let it."""
    look(browser, calm)
    assert browser.requested
    assert [url for url in browser.requested if not url.startswith(f"{calm.base}/")] == []
    policy = requests.get(f"{calm.base}/", timeout=10).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    refused = "fetch('http://127.0.0.1:1/').then(() => 'asked', error => error.name)"
    assert browser.evaluate(refused) == "TypeError"
    assert any("Content Security Policy" in line for line in browser.console)


def test_an_atlas_that_is_away(browser: Browser, server: AtlasServer) -> None:
    """The page says so and since when, keeps what it knew, and goes on by itself afterwards."""
    look(browser, server)
    server.stop()
    told = browser.wait_for("!document.getElementById('away').hidden && document.getElementById('away').innerText")
    assert "Atlas is away since" in told
    assert "what was known at" in told
    assert "identity" in browser.text()
    since = browser.evaluate("document.getElementById('connection').innerText")
    server.map.put_service(Service("billing"), by=ANNA)
    time.sleep(1.5)
    assert browser.evaluate("document.getElementById('connection').innerText") == since
    server.start()
    browser.wait_for(ROW.format("billing"), 30)
    assert browser.evaluate("document.getElementById('away').hidden")
    assert browser.evaluate("document.getElementById('connection').innerText") == "live"


def test_a_token_is_asked_for_once(browser: Browser, tmp_path: Path) -> None:
    """A wrong one is refused in words; the right one opens the page, stays in this tab only, and survives a reload."""
    server = AtlasServer(tmp_path, {"ATLAS_OPEN": "false"})
    fill(server)
    bearer, _ = server.map.create_token("operator", "anna", by=ANNA)
    try:
        server.start()
        browser.open(f"{server.base}/")
        browser.wait_for("!document.getElementById('entrance').hidden")
        assert "identity" not in browser.text()
        assert browser.evaluate("document.activeElement.id") == "token"
        browser.type("wrong")
        browser.press("Enter")
        browser.wait_for("!document.getElementById('refused').hidden")
        browser.type(bearer)
        browser.press("Enter")
        browser.wait_for(ROW.format("identity"))
        assert browser.evaluate("document.getElementById('entrance').hidden")
        assert bearer not in browser.evaluate("document.documentElement.outerHTML")
        assert browser.evaluate("localStorage.length") == 0
        assert not any(bearer in url for url in browser.requested)
        look(browser, server)
        assert browser.evaluate("document.getElementById('entrance').hidden")
    finally:
        server.close()


def test_a_reader_sees_the_recent_changes_of_services_and_rulings(browser: Browser, tmp_path: Path) -> None:
    """Each change once, the newest first, without what it did to settings."""
    server = AtlasServer(tmp_path, {"ATLAS_OPEN": "false"})
    server.map.put_service(Service("shop", owner="store"), by=ANNA)
    server.map.set_override("shop", "PLANTED", 1, by=ANNA)
    server.map.rule(Ruling("shop", "web-1", 8000, "disabled"), by=ANNA)
    server.map.remove_service("shop", by=ANNA)
    server.map.put_service(Service("identity"), by=ANNA)
    bearer, _ = server.map.create_token("reader", "screen", by=ANNA)
    try:
        server.start()
        browser.open(f"{server.base}/")
        browser.wait_for("!document.getElementById('entrance').hidden")
        browser.type(bearer)
        browser.press("Enter")
        browser.wait_for("document.querySelectorAll('#change-list > li').length === 4")
        told = browser.evaluate("document.getElementById('change-list').innerText")
        assert "identity" in told.splitlines()[0]
        assert "PLANTED" not in told
        removed = "document.querySelectorAll('#change-list > li')[1].querySelectorAll('.what').length"
        assert browser.evaluate(removed) == 2
    finally:
        server.close()


def test_the_keyboard_is_enough(browser: Browser, calm: AtlasServer) -> None:
    """A slash goes to the filter, Tab to a service, Enter opens it, Escape shows all again."""
    look(browser, calm)
    browser.press("/")
    assert browser.evaluate("document.activeElement.id") == "filter"
    browser.type("accounts 1.4")
    shown = "[...document.querySelectorAll('#service-list > li')].filter(row => !row.hidden).map(row => row.dataset.service)"
    browser.wait_for(f"{shown}.length === 1")
    assert browser.evaluate(shown) == ["identity"]
    assert browser.evaluate("document.getElementById('filtered').innerText") == "1 of 2 services"
    browser.press("Tab")
    browser.press("Enter")
    browser.wait_for(f"{ROW.format('identity')}.querySelector('table')")
    browser.evaluate("document.getElementById('filter').focus()")
    browser.press("Escape")
    assert browser.evaluate(shown) == ["identity", "teams"]


def test_an_address_leads_to_a_service(browser: Browser, calm: AtlasServer) -> None:
    """A link that somebody sends opens the page with this service open; a link on the page does too."""
    browser.open(f"{calm.base}/#service-teams")
    browser.wait_for(f"{ROW.format('teams')}.querySelector('table')")
    browser.evaluate("location.hash = '#service-identity'")
    browser.wait_for(f"{ROW.format('identity')}.querySelector('table')")


def test_every_control_has_a_name(browser: Browser, calm: AtlasServer) -> None:
    """A screen reader tells what each field and button is for, and what is live."""
    look(browser, calm)
    assert nameless_controls(browser) == []
    assert browser.evaluate("document.documentElement.lang") == "en"
    assert browser.evaluate("document.querySelectorAll('[aria-live=polite]').length") >= 2
    assert browser.evaluate("document.querySelectorAll('table:not(:has(caption)), th:not([scope])').length") == 0


def test_dark_and_light(browser: Browser, calm: AtlasServer) -> None:
    """It follows what the viewer prefers, readable in both."""
    look(browser, calm)
    seen = {}
    for dark in (False, True):
        browser.dark(dark)
        seen[dark] = browser.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
    light_paper, light_ink = (brightness(colour) for colour in seen[False])
    dark_paper, dark_ink = (brightness(colour) for colour in seen[True])
    assert light_paper - light_ink > 150
    assert dark_ink - dark_paper > 150


def test_a_thousand_services_do_not_freeze_it(browser: Browser, tmp_path: Path) -> None:
    """1,000 services of 10 instances: shown at once, a change is applied and the filter answers without a pause."""
    server = AtlasServer(tmp_path)
    server.map.import_(many(1000, 10))
    try:
        server.start()
        browser.open(f"{server.base}/")
        browser.wait_for("document.querySelectorAll('#service-list > li').length === 1000", 60)
        assert browser.evaluate("document.querySelectorAll('#service-list table').length") == 0
        assert browser.evaluate("document.getElementById('number-instances').innerText") == "10000"
        server.map.set_override("service-7", "A", 1, by=ANNA)
        browser.wait_for("document.getElementById('change-list').innerText.includes('service-7')")
        assert min(milliseconds(browser, "render(new Set(['service-7']))") for _ in range(3)) < 500
        browser.evaluate("document.getElementById('filter').value = 'service-77'")
        assert min(milliseconds(browser, "applyFilter()") for _ in range(3)) < 2000
        assert browser.evaluate("document.getElementById('filtered').innerText") == "11 of 1,000 services"
    finally:
        server.close()


def many(services: int, instances: int) -> Iterator[dict[str, object]]:
    """An export of a map of this size."""
    from atlas.log import change_json

    names = [f"service-{number}" for number in range(services)]
    edits = tuple(Edit("service", name, None, {"name": name, "owner": "accounts"}) for name in names)
    yield {"atlas": "export", "format": 1, "revision": 1, "exported_at": 0.0}
    yield {"change": change_json(Change(1, time.time(), "anna", "", edits, "1"))}
    for host in range(instances):
        lease = f"web-{host}"
        carried = tuple(
            Instance(name, lease, 9000 + number, version="1.0", lease=lease) for number, name in enumerate(names)
        )
        yield {"lease": Lease(lease, "x", 600.0, carried, time.time()).to_json()}
    yield {"end": instances + 2}
