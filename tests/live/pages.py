"""What the tests of Atlas's page and of a sidecar's share: a browser, and what is asked of any page of rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.browser import Browser, browser_or_skip

EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
ROW = "document.querySelector('[data-service=\"{}\"]')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a file; each looks at another page."""
    with Browser(browser_or_skip()) as opened:
        yield opened


@pytest.fixture(autouse=True)
def as_on_a_desk(browser: Browser) -> None:
    """Every test begins wide, light, and with nothing complained about."""
    browser.open("about:blank")
    browser.resize(1280, 900)
    browser.dark(False)
    browser.console.clear()
    browser.requested.clear()


def look_at(browser: Browser, base: str) -> None:
    """Open the page, and wait until it shows its services."""
    browser.open(f"{base}/")
    browser.wait_for("document.querySelectorAll('#service-list > li').length > 1")


def expand(browser: Browser, name: str) -> str:
    """Open the row of a service and go there, since what is not in sight is not laid out; gives what is in it."""
    browser.evaluate(f"{ROW.format(name)}.querySelector('details').open = true")
    browser.evaluate(f"{ROW.format(name)}.scrollIntoView()")
    text: str = browser.wait_for(f"{ROW.format(name)}.querySelector('.inside').innerText")
    return text


def nameless_controls(browser: Browser) -> list[str]:
    """The ids of the fields and buttons in sight of which a screen reader could not tell what they are for."""
    controls = "[...document.querySelectorAll('input, button, summary')].filter(one => !one.closest('[hidden]'))"
    name = "(one.labels && one.labels[0] || one).innerText || one.getAttribute('aria-label') || ''"
    found: list[str] = browser.evaluate(f"{controls}.filter(one => !({name}).trim()).map(one => one.id)")
    return found


def brightness(colour: str) -> float:
    """From 0 to 255, of `rgb(...)`."""
    parts = [float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    return sum(parts) / 3


def milliseconds(browser: Browser, work: str) -> float:
    """How long this piece of the page's code and the layout after it take."""
    timed = (
        f"{{ const begun = performance.now(); {work}; document.body.offsetHeight; return performance.now() - begun; }}"
    )
    took: float = browser.evaluate(f"(() => {timed})()")
    return took
