"""The documentation says what the code does: every setting, header, code, command and exit code is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import settings_reference
from skeleton import errors as skeleton_errors
from smartrealm import errors, headers
from smartservice import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = sorted(path for path in [*DOCS.rglob("*.md"), *ROOT.glob("*.md")])


def test_every_setting_is_in_the_reference() -> None:
    """The page is what the script writes from the defaults: run scripts/settings_reference.py after a change."""
    assert (REFERENCE / "settings.md").read_text() == settings_reference.page()


def test_every_setting_is_described() -> None:
    """No line of the table is without a sentence."""
    table = settings_reference.page().partition("## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert [row[0] for row in rows if not row[3].strip()] == []


def test_every_header_is_in_the_reference() -> None:
    """Each header that we read or write is explained."""
    text = (REFERENCE / "headers.md").read_text()
    names = [value for name, value in vars(headers).items() if name.isupper() and isinstance(value, str)]
    assert len(names) >= 7
    assert [name for name in names if f"`{name}`" not in text] == []


def every_error(root: type[errors.SmartError]) -> list[type[errors.SmartError]]:
    return [root, *(below for child in root.__subclasses__() for below in every_error(child))]


def test_every_error_code_is_in_the_reference() -> None:
    """Whoever meets a code in a reply can look it up."""
    text = (REFERENCE / "errors.md").read_text()
    codes = {error.code for error in every_error(errors.SmartError) if error.__module__ == errors.__name__}
    assert {code for code in codes if f"`{code}`" not in text} == set()


def test_every_command_is_in_the_reference() -> None:
    """Each command and each of its options is on the page of commands or on its own."""
    text = (REFERENCE / "commands.md").read_text()
    for command in (cli.doctor, cli.debug_header, cli.config.commands["explain"]):
        assert command.name is not None
        assert command.name in text
        for option in command.params:
            for word in option.opts:
                if word.startswith("--"):
                    assert word in text


def test_every_exit_code_of_the_generator_is_in_the_reference() -> None:
    """The codes that the program may end with stand on both pages, with the same meaning."""
    codes = {error.exit_code for error in skeleton_errors.GenerateError.__subclasses__()} | {0}
    for page in ("generate-service.md", "commands.md"):
        text = (REFERENCE / page).read_text()
        assert [code for code in codes if not re.search(rf"\b{code}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """No page points to a file or a heading that is not there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor and there.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name} links to {target}"


def test_every_page_is_in_the_index() -> None:
    """Whoever begins at docs/README.md finds each page."""
    index = (DOCS / "README.md").read_text()
    pages = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.name != "README.md"]
    assert [page for page in pages if f"({page})" not in index] == []
