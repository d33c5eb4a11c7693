"""The page of a sidecar in a real browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.admin import Admin
from sidecar.control import Control
from sidecar.facts import Facts, OwnInstance, Rate
from sidecar.model import Plan
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
from tests.processes import free_port
from tests.unit.sidecar.scene import BILLING, NOW, WELL, FakeSource, decision, guarded, many, plan_of, service, troubled

__all__ = ["as_on_a_desk", "browser"]

STATE = "document.getElementById('state').innerText"


class Running:
    """A sidecar whose facts and plan the test changes, behind a real admin server."""

    def __init__(self, folder: Path, facts: Facts = WELL, plan: Plan | None = None) -> None:
        self.source = FakeSource(
            folder, facts, plan or plan_of(service("identity", decision("10.0.0.7:8000")), BILLING)
        )
        self.source.settings = replace(self.source.settings, admin_port=free_port())
        self.base = f"http://127.0.0.1:{self.source.settings.admin_port}"
        self.start()

    def start(self) -> None:
        self.admin = Admin(self.source, wall_clock=lambda: NOW).start()

    def stop(self) -> None:
        self.admin.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def look(browser: Browser, running: Running) -> None:
    look_at(browser, running.base)


def test_one_sentence_says_how_it_stands(browser: Browser, running: Running) -> None:
    """Well at first; when the guard holds something, what and since when, with the command that lets go; without a reload."""
    look(browser, running)
    browser.evaluate("window.loadedOnce = true")
    assert browser.evaluate(STATE) == "All is well: 2 services with 2 instances, Atlas answered 2 s ago."
    assert browser.evaluate("document.getElementById('trouble').hidden")
    running.source.now_plan = guarded()
    browser.wait_for(f"{STATE}.includes('2 of 3 instances vanished')", 6)
    assert 'sidecar accept identity --why "..."' in browser.evaluate(
        "document.getElementById('trouble-list').innerText"
    )
    assert browser.evaluate("document.getElementById('number-held').innerText") == "2"
    assert "2 held" in browser.evaluate(f"{ROW.format('identity')}.innerText")
    assert browser.evaluate("window.loadedOnce")


def test_an_instance_says_who_decided(browser: Browser, running: Running) -> None:
    """State, decision, age, weight, version, zone, rate and errors of each; an open row stays open when something changes."""
    look(browser, running)
    inside = expand(browser, "identity")
    assert "10.0.0.7:8000" in inside
    assert "the map" in inside
    browser.wait_for(f"{ROW.format('identity')}.querySelector('.inside').innerText.includes('12.5/s')")
    out = decision("10.0.0.7:8000", "out", "ruling", "bert disabled it: loses requests.")
    running.source.now_plan = plan_of(service("identity", out), BILLING)
    browser.wait_for(f"{ROW.format('identity')}.querySelector('.inside').innerText.includes('loses requests')", 6)
    assert "an operator\u2019s word" in browser.evaluate(f"{ROW.format('identity')}.querySelector('table').innerText")


def test_errors_of_now_are_told_apart_from_those_of_before(browser: Browser, running: Running) -> None:
    """HAProxy counts them since it was loaded; the row, and the number of all, tell those of the last seconds."""
    look(browser, running)
    flow = f"{ROW.format('identity')}.querySelector('.flow').innerText"
    assert browser.wait_for(flow) == "12.5/s"
    errors = "document.getElementById('number-errors').innerText"
    assert browser.evaluate(errors) == "0"
    running.source.now_rates = {"identity": Rate(12.5, 2, 3100, 44)}
    assert "errors/s" in browser.wait_for(f"{flow}.includes('errors/s') && {flow}", 8)
    assert browser.evaluate(errors) != "0"


def test_an_agent_that_is_away(browser: Browser, running: Running) -> None:
    """The page says so and since when, that HAProxy goes on, keeps what it knew, and goes on by itself afterwards."""
    look(browser, running)
    running.stop()
    told = browser.wait_for("!document.getElementById('away').hidden && document.getElementById('away').innerText", 8)
    assert "The agent is away since" in told
    assert "HAProxy goes on with what it knew" in told
    assert "identity" in browser.text()
    running.start()
    browser.wait_for("document.getElementById('away').hidden", 8)
    assert browser.evaluate("document.getElementById('connection').innerText") == "live"


def test_what_is_in_the_map_is_text(browser: Browser, running: Running) -> None:
    """Script tags in reasons, versions, zones and failures are shown, and do nothing."""
    evil = decision("10.0.0.7:8000", "out", "ruling", EVIL, version=EVIL, zone=EVIL)
    running.source.now_plan = replace(plan_of(service("identity", evil), BILLING), quarantined={"teams": EVIL})
    own = OwnInstance("identity", "10.0.0.7:8000", "not ready", EVIL, NOW)
    running.source.now_facts = replace(WELL, host=EVIL, map_failure=EVIL, map_age_seconds=99.0, own=(own,))
    look(browser, running)
    assert EVIL in expand(browser, "identity")
    expand(browser, "teams")
    browser.evaluate("document.getElementById('own').open = true")
    browser.wait_for("document.getElementById('own-list').innerText.includes('onerror')")
    assert EVIL in browser.evaluate("document.title")
    assert browser.evaluate("document.querySelectorAll('main script, main img').length") == 0
    assert browser.console == []


def test_everything_comes_from_here(browser: Browser, running: Running) -> None:
    """Nothing is asked of another origin, and the browser would not let it."""
    look(browser, running)
    assert browser.requested
    assert [url for url in browser.requested if not url.startswith(f"{running.base}/")] == []
    refused = "fetch('http://127.0.0.1:1/').then(() => 'asked', error => error.name)"
    assert browser.evaluate(refused) == "TypeError"
    assert any("Content Security Policy" in line for line in browser.console)


def test_a_page_from_elsewhere_learns_nothing(browser: Browser, running: Running, tmp_path: Path) -> None:
    """Neither by asking in the name of its visitor, nor by showing it in a frame, nor by making it do something."""
    running.source.now_plan = guarded()
    (tmp_path / "elsewhere").mkdir()
    other = Running(tmp_path / "elsewhere")
    try:
        # Another port of this host is another origin, and one that the page's own policy does not let out of.
        browser.open(f"{other.base}/healthcheck/live")
        browser.wait_for("document.body.innerText.includes('agent')")
        ask = "fetch('{}', {}).then(answer => answer.type === 'opaque' ? 'opaque' : answer.text(), error => error.name)"
        assert browser.evaluate(ask.format(f"{running.base}/v1/status", "{}")) == "TypeError"
        accept = '{method: \'POST\', mode: \'no-cors\', body: \'{"service": "identity", "why": "x"}\'}'
        assert browser.evaluate(ask.format(f"{running.base}/v1/accept", accept)) == "opaque"
        assert running.source.told == []
    finally:
        other.stop()


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_wider_than_a_phone(browser: Browser, running: Running, width: int) -> None:
    """No horizontal scrolling, closed or open, with long names and a bad night."""
    facts, plan = troubled()
    long = "a-" + "long-" * 10 + "name"
    host = f"{'host' * 20}.example.org:8000"
    wide = (service(long)[0], {host: decision(host, "out", "invalid", "word" * 60, version="1.2.3+" + "build" * 10)})
    running.source.now_plan = replace(
        plan, routes={**plan.routes, long: wide[0]}, decisions={**plan.decisions, long: wide[1]}
    )
    running.source.now_facts = facts
    browser.resize(width, 844)
    look(browser, running)
    expand(browser, long)
    expand(browser, "identity")
    browser.evaluate("document.getElementById('own').open = true")
    browser.wait_for("document.querySelector('#own-list table')")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    all_shown = "[...document.querySelectorAll('main *')].filter(one => !one.closest('thead'))"
    outside = "one => one.getBoundingClientRect().right > innerWidth + 1 || one.scrollWidth > one.clientWidth + 1"
    too_wide = f"{all_shown}.filter({outside}).filter(one => getComputedStyle(one).display !== 'inline')"
    assert "\n".join(browser.evaluate(f"{too_wide}.map(one => one.outerHTML.slice(0, 120))")) == ""


def test_the_keyboard_is_enough(browser: Browser, running: Running) -> None:
    """A slash goes to the filter, Tab to a service, Enter opens it, Escape shows all again; a link opens one."""
    look(browser, running)
    browser.press("/")
    assert browser.evaluate("document.activeElement.id") == "filter"
    browser.type("8000 1.4")
    shown = "[...document.querySelectorAll('#service-list > li')].filter(row => !row.hidden).map(row => row.dataset.service)"
    browser.wait_for(f"{shown}.length === 1")
    assert browser.evaluate("document.getElementById('filtered').innerText") == "1 of 2 services"
    browser.press("Tab")
    browser.press("Enter")
    browser.wait_for(f"{ROW.format('identity')}.querySelector('table')")
    browser.evaluate("document.getElementById('filter').focus()")
    browser.press("Escape")
    assert browser.evaluate(shown) == ["billing", "identity"]
    browser.evaluate("location.hash = '#service-billing'")
    browser.wait_for(f"{ROW.format('billing')}.querySelector('table')")


def test_every_control_has_a_name(browser: Browser, running: Running) -> None:
    """A screen reader tells what each field is for, and what is live."""
    look(browser, running)
    expand(browser, "identity")
    assert nameless_controls(browser) == []
    assert browser.evaluate("document.querySelectorAll('[aria-live=polite]').length") >= 3
    assert browser.evaluate("document.querySelectorAll('table:not(:has(caption)), th:not([scope])').length") == 0


@pytest.mark.parametrize("dark", [False, True])
def test_dark_and_light(browser: Browser, running: Running, dark: bool) -> None:
    """It follows what the viewer prefers; the sentence can be read in both, well and wrong."""
    browser.dark(dark)
    look(browser, running)
    assert contrast(browser) > 120
    running.source.now_facts, running.source.now_plan = troubled()
    browser.wait_for("document.getElementById('state').dataset.state === 'wrong'", 6)
    assert contrast(browser) > 120


def contrast(browser: Browser) -> float:
    of = "getComputedStyle(document.getElementById('state'))"
    paper, ink = (brightness(colour) for colour in browser.evaluate(f"[{of}.backgroundColor, {of}.color]"))
    return abs(paper - ink)


def test_a_thousand_services_do_not_freeze_it(browser: Browser, tmp_path: Path) -> None:
    """1,000 services of 10 instances: shown folded, a change and the filter are answered without a pause, and the routes are
    sent only when they changed."""
    running = Running(tmp_path, plan=many(1000, 10))
    try:
        browser.open(f"{running.base}/")
        browser.wait_for("document.querySelectorAll('#service-list > li').length === 1000", 60)
        assert browser.evaluate("document.querySelectorAll('#service-list table').length") == 0
        assert browser.evaluate("document.getElementById('number-instances').innerText") == "10,000"
        browser.wait_for("performance.getEntriesByName(location.href + 'v1/status').length >= 3")
        assert len([url for url in browser.requested if url.endswith("/v1/routes")]) == 1
        browser.evaluate("document.getElementById('filter').value = 'service-77'")
        assert min(milliseconds(browser, "applyFilter()") for _ in range(3)) < 3000
        assert browser.evaluate("document.getElementById('filtered').innerText") == "11 of 1,000 services"
    finally:
        running.stop()


def test_the_status_of_ten_thousand_instances_is_made_at_once(tmp_path: Path) -> None:
    """What the page asks every two seconds costs the agent little: at most a tenth of a second here, where others work too."""
    running = Running(tmp_path, plan=many(1000, 10))
    try:
        control = Control(running.source.settings.control_socket)
        took = []
        for _ in range(10):
            begun = time.monotonic()
            control.get("/v1/status")
            took.append(time.monotonic() - begun)
        assert min(took) < 0.1
    finally:
        running.stop()
